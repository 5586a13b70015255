"""Video prediction: context frames in, the following frames out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from pipeline import params
from pipeline.registry import registry

if TYPE_CHECKING:
    from pipeline.plan import Build, Inputs


class Protocol(params.Task):
    """Video prediction: which frames are given, which are predicted, and how steps are averaged."""

    NEEDS = ("frames", "pairs", "flow", "features", "samples")
    BRINGS = True
    HOOKS = ("predict",)

    window: int = Field(ge=2, description="consecutive frames of one test window")
    windows: Literal["all", "first"] = Field("all", description="all: every start in a clip; first: one window a clip")
    first: int = Field(0, ge=0, description="index of the first input frame in the window")
    context: int = Field(1, ge=1, description="input frames")
    horizon: int = Field(ge=1, description="predicted frames, recursively")
    samples: int = Field(
        1,
        ge=1,
        description="predictions of each window with other random draws (routing); the table prints their spread",
    )

    @property
    def steps(self) -> int:
        """The horizon."""
        return self.horizon

    @model_validator(mode="after")
    def _fits(self) -> Protocol:
        if self.first + self.context + self.horizon > self.window:
            raise ValueError(
                f"first {self.first} + context {self.context} + horizon {self.horizon} is more than window {self.window}"
            )
        return self


def test_inputs(build: Build, e: params.Experiment, model: params.Model | None) -> dict[str, Inputs]:
    """Return what each test stage of a row reads; `model` is None for brought predictions and for the table.

    `flow` is what the model's estimator says, `truth` the exact flow that it is scored by.
    """
    frames = {"frames": build.frames(e.dataset, "test")}
    flow = truth = None
    if model is not None and model.flow is not None:
        flow = build.flow(model.flow, e.dataset, "test", e.trained_on)
        if any(registry("metrics")[metric.kind].NEEDS == "flow" for metric in e.metrics.values()):
            truth = build.flow("truth", e.dataset, "test", e.trained_on)
    return {
        "predict": {**frames, "flow": flow},
        "bring": frames,
        "score": {**frames, "flow": flow, "truth": truth},
        "table": frames,
    }


def training_inputs(build: Build, model: params.Model, dataset: str) -> Inputs:
    """Return what training a model on a dataset reads."""
    return build.splits(model, dataset)
