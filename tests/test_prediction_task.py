"""Prediction over a small test set: what is stored for each window, step and sample, and values that are not finite."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from test_score import FRAMES, toy, write_frames
from torch import nn

from pipeline import params, predict, tasks
from pipeline.errors import RetakeError
from pipeline.models.base import Network
from pipeline.store.frames import Store
from pipeline.tasks.prediction import clips
from pipeline.tasks.prediction.predict import next_frame
from tests.conftest import furnish

OUTPUT = Path("data/predictions/toy/copy_last.arrow")


class Dimmed(nn.Module, Network):
    """Repeats the last frame, darker by 1/16 a step and 1/4 a sample; `spoilt`: (sample, step from 0, channel, value)."""

    stochastic = True

    def __init__(self, spoilt: tuple[int, int, int, float] | None = None) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.spoilt = spoilt
        self.batches: list[int] = []

    def predict(self, frames: torch.Tensor, horizon: int, *, seeds: list[int], flow: None) -> torch.Tensor:
        self.batches.append(len(frames))
        steps = torch.arange(1, horizon + 1).view(1, -1, 1, 1, 1) / 16
        samples = torch.tensor([seed >> 32 for seed in seeds]).view(-1, 1, 1, 1, 1) / 4
        images = frames[:, -1:] * (1 - steps - samples)
        if self.spoilt is not None and horizon > 1:
            sample, step, channel, value = self.spoilt
            for i, seed in enumerate(seeds):
                if seed >> 32 == sample and i == len(seeds) - 1:
                    images[i, step, channel, 5, 7] = value
        return images

    def notes(self) -> list[str]:
        made, self.batches = len(self.batches), []
        return [f"{made} batches were predicted"]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_frames()
    return toy()


def use(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    monkeypatch.setattr(params.registry("models")["copy_last"], "build", lambda p: network)


def test_every_window_step_and_sample_is_stored(
    project: params.Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    use(monkeypatch, Dimmed())
    with caplog.at_level(logging.INFO):
        predict.predict(project, "toy", "copy_last")
    protocol, frames, store = project.protocols["next3"], Store(FRAMES), Store(OUTPUT)
    windows = clips.windows(frames, protocol)  # type: ignore[arg-type]
    assert list(store.clips) == [clips.key(window) for window in windows]
    for window in windows:
        last = clips.inputs(frames, window, protocol)[-1] / 255  # type: ignore[arg-type]
        for row in store.clips[clips.key(window)]:
            expected = last * (1 - store.frame[row] / 16 - store.sample[row] / 4)
            np.testing.assert_allclose(store.image(row) / 65535, expected, atol=1e-5)
    assert len(store) == len(windows) * 3 * 2
    assert (store.meta["samples"], store.meta["parameters"], store.meta["gmacs"]) == (2, 3, 0)
    assert json.loads(OUTPUT.with_suffix(".speed.json").read_text())["batch"] == 2
    # two windows at a time, two samples; the batches in which operations were counted are not told of
    assert f"copy_last: {2 * math.ceil(len(windows) / 2)} batches were predicted" in caplog.text


@pytest.mark.parametrize(
    "spoilt",
    [(0, 0, 0, math.nan), (0, 2, 1, math.nan), (1, 1, 2, math.inf), (1, 2, 0, -math.inf)],
    ids=["first", "of the first sample", "infinite", "last"],
)
def test_values_that_are_not_finite_are_named_before_anything_is_written(
    project: params.Params, monkeypatch: pytest.MonkeyPatch, spoilt: tuple[int, int, int, float]
) -> None:
    use(monkeypatch, Dimmed(spoilt))
    second = clips.key(clips.windows(Store(FRAMES), project.protocols["next3"])[1])  # type: ignore[arg-type]
    sample, step, *_ = spoilt
    words = f"copy_last predicts NaN or infinity: window {second}, sample {sample}, step {step + 1}"
    with pytest.raises(RetakeError, match=words):
        predict.predict(project, "toy", "copy_last")
    assert not OUTPUT.exists()


def test_a_next_frame_that_is_not_finite_is_refused(project: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Dimmed()
    network.predict = lambda frames, *_, **__: frames[:, -1:] * math.nan  # type: ignore[method-assign]
    use(monkeypatch, network)
    from pipeline.drawing.images import write_image

    for name in ("a.png", "b.png"):
        write_image(name, Store(FRAMES).image(0))
    with pytest.raises(RetakeError, match=r"copy_last predicts NaN or infinity for the frame after b\.png"):
        next_frame(project, "copy_last", [Path("a.png"), Path("b.png")], None, Path("next.png"))
    assert not Path("next.png").exists()
    inputs = [Path("a.png"), Path("b.png")]
    with pytest.raises(RetakeError, match=r"b\.png exists: nothing is overwritten"):
        next_frame(project, "copy_last", inputs, None, inputs[1])
    with pytest.raises(RetakeError, match="dis is a flow model: name one of the task prediction"):
        next_frame(project, "dis", [Path("a.png")], None, Path("next.png"))


@pytest.mark.parametrize("task", ["prediction", "animation", "flow", "super_resolution"])
def test_a_task_has_a_part_for_each_stage(task: str) -> None:
    parts = {"train": ("TrainingClips", "Validation"), "predict": ("predict",), "score": ("score",),
             "table": ("LAYOUT",), "view": ("show", "picture")}  # fmt: skip
    for stage, names in parts.items():
        module = tasks.part(task, stage)
        assert all(hasattr(module, name) for name in names), stage
