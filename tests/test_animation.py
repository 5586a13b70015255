"""Animation: windows, what a model is given and what it is compared with, training clips, the plan's inputs, bad input."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pipeline import params, plan, predict
from pipeline.errors import RetakeError
from pipeline.models.base import Network
from pipeline.params import Params
from pipeline.store.frames import Store, Writer
from pipeline.tasks.animation import Protocol, clips

FRAMES = Path("data/frames/toy/test.arrow")
CLIPS = {"a/a_1": 8, "a/a_2": 6, "b/b_1": 7}  # frames
SIZE = (16, 20)


def protocol(**changes: Any) -> Protocol:
    return Protocol(**{"task": "animation", "window": 5, "horizon": 4} | changes)


def toy(**changes: Any) -> Params:
    """Params of one small experiment; `changes`: of its protocol."""
    return params.validate(
        {
            "tracking": {"mlflow": False},
            "compute": {"device": "cpu", "threads": 1, "batch": 2, "workers": 0},
            "datasets": {"toy": {"kind": "demo", "height": SIZE[0], "width": SIZE[1], "codec": "raw"}},
            "models": {
                "start": {"kind": "start"},
                "warp_start": {"kind": "warp_start", "predict": {"flow": "truth"}},
                "truth": {"kind": "truth"},
            },
            "protocols": {"short": {"task": "animation", "window": 5, "horizon": 4} | changes},
            "profiles": {},
            "experiments": {
                "toy": {
                    "dataset": "toy", "protocol": "short", "models": {"start": "Start", "warp_start": "Warp"},
                    "metrics": {"psnr": {"kind": "psnr"}, "tof": {"kind": "tof"}}, "predictions": {"mine": "mine"},
                }
            },
        }
    )  # fmt: skip


def picture(clip: int, number: int) -> np.ndarray:
    """A clip of colours that move to the right by 2 px a frame."""
    texture = np.random.default_rng(clip).integers(0, 256, (SIZE[0], SIZE[1], 3), np.uint8)
    return np.roll(texture, 2 * number, axis=1)


def write_frames(path: Path = FRAMES, gap: bool = False) -> Store:
    with Writer(path, codec="raw", meta={"dataset": "toy", "split": "test", "values": "position"}) as out:
        for i, (clip, count) in enumerate(CLIPS.items()):
            for number in range(count):
                values = np.array([i, number], np.float32)
                out.add(clip, number + (gap and number > 2), picture(i, number), values=values)
    return Store(path)


def write_flow(frames: Store, export: str = "pairs", **meta: Any) -> Path:
    """Flow whose x component tells the frame that it leads to, y the clip."""
    path = Path("data/flow/truth/toy/test.arrow")
    about = {"estimator": "truth", "dataset": "toy", "data": frames.identity, "export": export} | meta
    with Writer(path, codec="flow64", dtype="float32", channels=2, meta=about) as out:
        for i, (clip, count) in enumerate(CLIPS.items()):
            for number in range(count - 1):
                out.add(clip, number, np.full((*SIZE, 2), (number + (export == "pairs"), i), np.float32))
    return path


@pytest.fixture
def frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setattr(plan, "WEIGHTS", plan.WEIGHTS.absolute())
    monkeypatch.chdir(tmp_path)
    return write_frames()


class Recorder(nn.Module, Network):
    """Frame k of a clip is k / 16 everywhere, and a sample adds 1/2 of that; what it was given is kept."""

    def __init__(self, **about: Any) -> None:
        super().__init__()
        self.given: list[dict[str, Any]] = []
        for key, value in about.items():
            setattr(self, key, value)

    def predict(self, start: Tensor, horizon: int, *, seeds: list[int], **given: Tensor) -> Tensor:
        self.given.append({"start": start, "seeds": seeds, **given})
        times = torch.arange(horizon) + (not self.draws_start)
        samples = torch.tensor([seed >> 32 for seed in seeds]).view(-1, 1, 1, 1, 1)
        return (times / 16).view(1, -1, 1, 1, 1).expand(len(start), -1, *start.shape[2:]) + samples / 32


def use(monkeypatch: pytest.MonkeyPatch, kind: str, network: Network) -> None:
    monkeypatch.setattr(params.registry("models")[kind], "build", lambda p: network)


# Windows


def test_windows_are_all_starts_or_the_first(frames: Store) -> None:
    names = [w.name for w in clips.windows(frames, protocol())]
    assert names == [*(f"a/a_1:{i}" for i in range(4)), "a/a_2:0", "a/a_2:1", *(f"b/b_1:{i}" for i in range(3))]
    assert [w.name for w in clips.windows(frames, protocol(windows="first"))] == ["a/a_1:0", "a/a_2:0", "b/b_1:0"]


def test_first_windows_may_come_again(frames: Store) -> None:
    names = [w.name for w in clips.windows(frames, protocol(windows="first", starts=2))]
    assert names == ["a/a_1:0", "a/a_2:0", "b/b_1:0", "a/a_1:0#1", "a/a_2:0#1", "b/b_1:0#1"]


def test_random_starts_are_drawn_once_for_each_clip(frames: Store) -> None:
    many = clips.windows(frames, protocol(windows="random", starts=200))
    assert many == clips.windows(frames, protocol(windows="random", starts=200))
    assert len({w.name for w in many}) == len(many) == 600
    for clip, count in CLIPS.items():
        assert {w.start for w in many if w.clip == clip} == set(range(count - 4))
    few = clips.windows(frames, protocol(windows="random", items=7))
    assert [w.clip for w in few] == [*CLIPS, *CLIPS, "a/a_1"]
    assert few == many[:7]


def test_a_clip_shorter_than_the_window_is_named(frames: Store) -> None:
    with pytest.raises(RetakeError, match=r"1 clips are shorter than the window of 7 frames: a/a_2 \(6\)"):
        clips.windows(frames, protocol(window=7))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizon": 5}, "horizon 5 from frame 1 on is more than window 5"),
        ({"horizon": 6, "start": "given"}, "horizon 6 from frame 0 on is more than window 5"),
        ({"lag": 1, "start": "drawn"}, "before the start"),
        ({"starts": 2}, "windows all: starts must be 1"),
        ({"items": 2}, "windows all: starts must be 1"),
    ],
)
def test_protocols_that_cannot_be_are_refused(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        protocol(**changes)


# What a clip is compared with


@pytest.mark.parametrize(
    ("changes", "first"),
    [
        ({}, 1),
        ({"start": "given"}, 0),  # cINN's BAIR and iPER
        ({"start": "drawn"}, 0),  # DTVNet
        ({"lag": 1}, 0),  # cINN's landscapes and DTDB
    ],
)
def test_generated_and_true_frames_are_paired_as_published(frames: Store, changes: dict[str, Any], first: int) -> None:
    rows = clips.target_rows(frames, clips.Window("a/a_2", 1), protocol(**changes))
    assert list(frames.frame[rows]) == [1 + first + i for i in range(4)]


@pytest.mark.parametrize("draws", [False, True])
@pytest.mark.parametrize(
    ("begin", "expected"),
    [
        ("left_out", [1, 2, 3, 4]),
        ("given", ["start", 1, 2, 3]),
        ("drawn", ["drawn", 1, 2, 3]),
    ],
)
def test_a_scored_clip_begins_as_the_protocol_says(
    frames: Store, monkeypatch: pytest.MonkeyPatch, draws: bool, begin: str, expected: list[Any]
) -> None:
    use(monkeypatch, "start", Recorder(draws_start=draws))
    predict.predict(toy(start=begin), "toy", "start")
    store = Store("data/predictions/toy/start.arrow")
    window = clips.windows(frames, protocol())[1]
    start = frames.read(window.clip, [window.start])[0] / 255
    for row, time in zip(store.clips[window.name], expected, strict=True):
        given = time == "start" or (time == "drawn" and not draws)
        level = 0 if time == "drawn" else time
        np.testing.assert_allclose(
            store.image(row) / 65535, start if given else np.full_like(start, level / 16), atol=1e-5
        )
