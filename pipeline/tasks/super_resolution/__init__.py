"""Video super-resolution: low-resolution frames in, frames four times as large out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field

from pipeline import params
from pipeline.registry import registry

if TYPE_CHECKING:
    from pipeline.plan import Build, Inputs


SCALE = 4
BORDER = 4  # high-resolution pixels at each side of a training crop that only the blur sees


class Train(params.Train):
    """Keys that every trained super-resolution model has: how a scene becomes clips."""

    windows: Literal["all"] = Field("all", description="every start of every scene is a training window")
    moving_first_frame: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of clips that are the first frame alone, moved by up to 4 px a frame (published: 0.3)",
    )


class Protocol(params.Task):
    """Video super-resolution by 4: every scene of the test split is upscaled whole.

    Low resolution is the dataset's own where it has a split `test_lr`; else the test split's, degraded.
    """

    NEEDS = ("frames", "pairs")
    BRINGS = True
    HOOKS = ("predict",)
    CURVE = ("frame", "value")

    saved: Literal["truncated", "rounded"] = Field(
        "rounded",
        description="how outputs become the 8-bit images that are scored: truncated (published), or rounded",
    )
    trim: int = Field(0, ge=0, description="frames at both ends of a scene that are not scored (published: 2)")
    border: Literal["cropped", "kept"] = Field(
        "kept",
        description="cropped: only a centred part is scored, its sides multiples of 32 and at least 16 px shorter "
        "than the frame's (published); kept: whole frames",
    )


def test_inputs(build: Build, e: params.Experiment, model: params.Model | None) -> dict[str, Inputs]:
    """Return what each test stage of a row reads; `low` is the dataset's own low resolution, None where it is made."""
    low = None
    if "test_lr" in registry("datasets")[build.p.datasets[e.dataset].kind].SPLITS:
        low = build.frames(e.dataset, "test_lr")
    stores: Inputs = {"frames": build.frames(e.dataset, "test"), "low": low}
    return dict.fromkeys(("predict", "bring", "score", "table"), stores)


def training_inputs(build: Build, model: params.Model, dataset: str) -> Inputs:
    """Return what training a model on a dataset reads."""
    return build.splits(model, dataset)
