"""FID (Heusel et al. 2017) by pytorch-fid's Inception: Fréchet distance of 2048 features of frames behind the last pool.

Frames are resized to 299, bilinear at half-pixel centres and not antialiased, and taken to [-1,1]. torchmetrics antialiases,
clean-fid resizes by PIL's bicubic: other numbers. One value a set; every frame is a sample.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from pipeline import params
from pipeline.metrics import sets

LABEL = "FID"
BETTER = "lower"
SCALE = 1.0
NEEDS = "features"
AT_ONCE = 16  # frames
RESIZE = "299, bilinear, half-pixel, no antialiasing"


class Params(params.Metric):
    """FID of predicted frames against true ones."""

    drop: int | None = Field(
        None,
        ge=2,
        description="frames that do not fill a batch of so many are left out (i2v-cINN: 50); null: every frame counts",
    )


def label(p: Params) -> str:
    """Return the column's name for people."""
    return sets.label(LABEL, p.drop)


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    network = "Inception of pytorch-fid, pool3, 2048"
    return sets.settings(LABEL, drop=p.drop, network=network, resize=RESIZE, unit="frames")


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return ["inception"]


def build(p: Params, device: str) -> sets.Distance:
    """Return the distance; raises weights.Missing when the weights cannot be had."""
    import torch

    from pipeline import weights
    from pipeline.metrics.networks import inception

    state = weights.load("inception")
    network = inception.build(state).to(device)

    def features(frames: Any) -> Any:
        return torch.cat([network(part)[0][:, :, 0, 0] for part in frames.split(AT_ONCE)])

    return sets.Distance(features, sets.identity(state, "inception", RESIZE), device, "frames", drop=p.drop)
