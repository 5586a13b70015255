"""Animation: one start frame in, a clip out; a model may also be given the motion of a clip, or where motion shall end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from pipeline import params

if TYPE_CHECKING:
    from pipeline.plan import Build, Inputs


# Distances of sets of clips that choose the best weights: {name: (kind of metric, its settings)}
DISTANCES: dict[str, tuple[str, dict[str, Any]]] = {
    "pfvd": ("fvd", {"variant": "kinetics", "drop": 20}),
    "dtfvd": ("dtfvd", {"drop": 40}),
}


class Train(params.Train):
    """Training whose best weights may be chosen by a distance of sets of clips."""

    best: Literal["loss", "pfvd", "dtfvd"] = Field(
        "loss",
        description="what the best weights are chosen by. loss: the validation's loss; pfvd, dtfvd: the Fréchet distance of "
        "validation clips, or the loss where its I3D's weights are not here",
    )

    @property
    def distance(self) -> params.Metric | None:
        """The metric that chooses the best weights; None: the loss does."""
        if self.best == "loss" or self.validation is None:
            return None
        kind, settings = DISTANCES[self.best]
        return params.registry("metrics")[kind].Params(kind=kind, **settings)

    @property
    def pretrained(self) -> list[str]:
        """The published files that validation reads: names in workflow/weights.csv."""
        metric = self.distance
        return params.registry("metrics")[metric.kind].needs_weights(metric) if metric is not None else []


class Protocol(params.Task):
    """Animation: which frame is given, how long the clip is, whose motion it has, and what it is compared with.

    A window is a run of frames of a clip, the start frame first. A generated frame's time is its distance from the start.
    """

    NEEDS = ("frames", "pairs", "features", "samples")
    BRINGS = True
    HOOKS = ("predict",)

    window: int = Field(ge=2, description="consecutive frames of one test window, the start frame first")
    windows: Literal["all", "first", "random"] = Field(
        "all",
        description="all: every start in a clip; first: its beginning; random: starts drawn once, from a fixed seed",
    )
    starts: int = Field(
        1, ge=1, description="windows first, random: windows of each clip; a start may come more than once"
    )
    items: int | None = Field(
        None,
        ge=1,
        description="windows first, random: windows in all, which the clips give in turn; null: `starts` of each",
    )
    horizon: int = Field(ge=1, description="frames of a scored clip")
    samples: int = Field(
        1, ge=1, description="clips of each start with other random motion; the table prints their spread"
    )
    start: Literal["given", "drawn", "left_out"] = Field(
        "left_out",
        description="what a scored clip begins with. given: the start frame as it is; drawn: as the model draws it, where "
        "it does; left_out: the frame after it",
    )
    lag: int = Field(
        0,
        ge=0,
        description="generated frames are compared with true ones so many frames earlier (cINN's landscapes, published: 1)",
    )
    motion: Literal["clip", "other", "random", "zero"] = Field(
        "random",
        description="what the model is given beside the start. clip: the motion of the window itself, reconstructed; "
        "other: that of the next clip; zero: none at all; random: nothing, it draws its own",
    )

    @model_validator(mode="after")
    def _fits(self) -> Protocol:
        first = self.first_time - self.lag
        if first < 0:
            raise ValueError(f"lag {self.lag} with start {self.start}: the first true frame would be before the start")
        if first + self.horizon > self.window:
            raise ValueError(
                f"horizon {self.horizon} from frame {first} on is more than window {self.window}: raise window"
            )
        if self.windows == "all" and (self.starts > 1 or self.items is not None):
            raise ValueError("windows all: starts must be 1 and items null, every start of a clip is a window")
        return self

    @property
    def first_time(self) -> int:
        """The time of a scored clip's first frame: 0 is the start."""
        return int(self.start == "left_out")

    @property
    def reads_motion(self) -> bool:
        """Whether models are given the motion of a true clip."""
        return self.motion in ("clip", "other")


def test_inputs(build: Build, e: params.Experiment, model: params.Model | None) -> dict[str, Inputs]:
    """Return what each test stage of a row reads; `flow`: the motion that the model is given, where it reads flow."""
    frames = {"frames": build.frames(e.dataset, "test")}
    protocol: Protocol = build.p.protocols[e.protocol]  # type: ignore[assignment]
    flow = None
    if model is not None and model.flow is not None and protocol.reads_motion:
        flow = build.flow(model.flow, model.flow_of or e.dataset, "test", model.flow_of or e.trained_on)
    return {"predict": {**frames, "flow": flow}, "bring": frames, "score": frames, "table": frames}


def training_inputs(build: Build, model: params.Model, dataset: str) -> Inputs:
    """Return what training a model on a dataset reads; `flow` and `validation_flow` where it reads flow."""
    inputs = build.splits(model, dataset)
    flow: Inputs = {"flow": None, "validation_flow": None}
    if model.flow is not None:
        source = model.flow_of or dataset
        validation = model.train.validation if model.train is not None else None
        flow["flow"] = build.flow(model.flow, source, "train", source)
        if validation is not None:
            flow["validation_flow"] = build.flow(model.flow, source, validation, source)
    return {**inputs, **flow}
