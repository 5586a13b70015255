"""Optical flow: two consecutive frames in, the motion from the first to the second out."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline import params
from pipeline.registry import registry

if TYPE_CHECKING:
    from pipeline.plan import Build, Inputs


class Protocol(params.Task):
    """Optical flow: every pair of the test split that has ground truth is estimated."""

    NEEDS = ("fields",)
    BRINGS = False
    HOOKS = ("estimate",)


def test_inputs(build: Build, e: params.Experiment, model: params.Model | None) -> dict[str, Inputs]:
    """Return what each test stage of a row reads.

    `truth` is the exact flow of all pixels; `truth_noc`, where a metric asks for it, of those that both frames show.
    """
    frames, truth = build.frames(e.dataset, "test"), build.flow("truth", e.dataset, "test", e.trained_on)
    visible = None
    if any(getattr(metric, "pixels", "all") != "all" for metric in e.metrics.values()):
        visible = build.flow("truth_noc", e.dataset, "test", e.trained_on)
    stores: Inputs = {"frames": frames, "truth": truth}
    return {"predict": stores, "score": {**stores, "truth_noc": visible}, "table": stores}


def training_inputs(build: Build, model: params.Model, dataset: str) -> Inputs:
    """Return what training a model on a dataset reads; `truth` of the validation split, where the dataset has exact flow."""
    split = model.train.validation if model.train is not None else None
    truth = None
    if split is not None and registry("datasets")[build.p.datasets[dataset].kind].truth is not None:
        truth = build.flow("truth", dataset, split, dataset)
    return {**build.splits(model, dataset), "truth": truth}
