"""The task super_resolution: protocol, prediction, brought scenes, scores, table, pictures; and what wrong input is told."""

from __future__ import annotations

import csv
import json
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import parity_tecogan
import pyarrow.parquet as pq
import pytest
import torch
from parity_tecogan import arrays, state_dict

from pipeline import bring, params, plan, predict, score, table, view, weights
from pipeline.drawing import sheets
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError
from pipeline.metrics import temporal
from pipeline.models.base import Network
from pipeline.sources.images import read_image
from pipeline.store.frames import Store, Writer
from pipeline.tables import measured
from pipeline.tasks.super_resolution import clips, grid, warm_up
from pipeline.tasks.super_resolution import predict as scene_predict
from pipeline.tasks.super_resolution import table as scene_table
from pipeline.tasks.super_resolution import view as scene_view
from tests.conftest import furnish, in_parts, resolved

ROOT = Path(__file__).resolve().parents[1]
HIGH, LOW = Path("data/frames/toy/test.arrow"), Path("data/frames/toy/test_lr.arrow")
SCENES = {"a": (7, 64, 80), "b c": (6, 56, 96)}  # frames, height, width
TINY = {
    "kind": "tecogan",
    "network": {"blocks": 1},
    "train": None,
    "checkpoint": "a.pt",
    "predict": {"tile": None, "quirks": []},
}
METRICS: dict[str, Any] = {"psnr_y": {"kind": "psnr_y"}, "ssim_y": {"kind": "ssim_y"}, "tof": {"kind": "tof"}}


def toy(kind: str = "vid4", **changes: Any) -> params.Params:
    """Parameters of one experiment on a dataset with pairs (vid4), or with high resolution alone (davis2017)."""
    tree = resolved() | {"reproduce": []}
    tree["tracking"] = {"mlflow": False}
    tree["compute"] |= {"device": "cpu", "threads": 1, "workers": 0}
    tree["datasets"]["toy"] = (
        tree["datasets"][kind] | {"height": None, "width": None} | ({"fit": "resize"} if kind == "davis2017" else {})
    )
    tree["models"]["tiny"] = TINY
    tree["experiments"] = {
        "toy": {
            "dataset": "toy", "trained_on": "toy", "protocol": "scenes", "models": {"nearest": "Nearest", "bicubic": "Bicubic"},
            "metrics": METRICS, "report": [], "predictions": {"mine": "results_of_mine"}, "missing_weights": "error",
            "published": None,
        }
    }  # fmt: skip
    for key, value in changes.items():
        section, _, leaf = key.partition("__")
        tree["protocols"]["scenes"] |= {leaf: value} if section == "protocol" else {}
        tree["experiments"]["toy"] |= {leaf: value} if section == "experiment" else {}
    return params.validate(tree)


def picture(scene: int, number: int, height: int, width: int) -> np.ndarray:
    """A smooth texture that pans by 2 px a frame, uint8."""
    noise = np.random.default_rng(scene).normal(size=(height, width + 40, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 1.5)[:, 2 * number :][:, :width]
    return np.clip(128 + image / image.std() * 45, 0, 255).astype(np.uint8)


def write_stores(low: bool = True, scenes: dict[str, tuple[int, int, int]] = SCENES) -> None:
    """Write high resolution, and low resolution as published: degraded, in 8 bits."""
    stores = {
        HIGH: lambda image: image,
        LOW: lambda image: np.rint(255 * grid.degrade_frame(image)).astype(np.uint8),
    }
    for path, made in stores.items():
        if path == LOW and not low:
            continue
        with Writer(path, codec="png", meta={"partial": "2 of 4 clips", "licence": "CC0 of the toy"}) as out:
            for i, (scene, (count, height, width)) in enumerate(scenes.items()):
                for number in range(count):
                    out.add(scene, number, made(picture(i, number, height, width)))


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """A folder with both stores."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_stores()
    return toy()


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def values(name: str) -> dict[tuple[str, str, int], float]:
    """Return {(metric, scene, frame): value} of a row's scores."""
    rows = pq.read_table(f"data/scores/toy/{name}.parquet").to_pylist()
    found = {(r["metric"], r["window"], r["horizon"]): r["value"] for r in rows}
    assert len(found) == len(rows)
    return found


def lines(path: str) -> list[dict[str, str]]:
    with Path(path).open(newline="") as file:
        return list(csv.DictReader(file))


# Enlargement and saving


@pytest.mark.parametrize("name", ["nearest", "bicubic"])
def test_baselines_lie_on_the_grid_of_the_degradation(name: str, project: params.Params) -> None:
    """Enlarging a ramp gives the ramp where no border is near: no shift, unlike resizers that align centres."""
    ramp = np.tile(np.arange(20, dtype=np.float32), (3, 16, 1)) / 20
    network = params.registry("models")["interpolation"].build(project.models[name])
    (output,) = network.predict(iter([torch.from_numpy(ramp)[None]]))
    assert output.shape == (1, 3, 64, 80)
    inside = output[0, 0, 30, 8:-16].numpy() * 20
    error = inside - np.arange(8, 64) / 4
    assert np.abs(error).max() < {"nearest": 0.501, "bicubic": 0.06}[name]
    assert error[::4] == pytest.approx(0, abs=1e-5)  # a sample keeps its value at its own place


def test_eight_bits_are_truncated_or_rounded() -> None:
    levels = (
        torch.tensor([-0.1, 0.0, 0.499 / 255, 0.999 / 255, 127.5 / 255, 254.9 / 255, 1.2])
        .view(1, 1, 1, -1)
        .repeat(1, 3, 1, 1)
    )
    assert clips.eight_bits(levels, "truncated")[0, :, 0].tolist() == [0, 0, 0, 0, 127, 254, 255]
    assert clips.eight_bits(levels, "rounded")[0, :, 0].tolist() == [0, 0, 0, 1, 128, 255, 255]
    every = torch.arange(256).view(1, 1, 1, -1).repeat(1, 3, 1, 1) / 255
    assert clips.eight_bits(every, "truncated")[0, :, 1].tolist() == list(range(256))


# Prediction


def test_a_recurrent_network_s_frames_are_stored_as_8_bits(
    project: params.Params, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    network = params.registry("models")["tecogan"].build(project.models["tiny"])
    network.discriminator = torch.nn.Linear(9, 9)  # trained along, no part of the row
    monkeypatch.setattr(weights, "load_model", lambda *_: (network, "ab" * 32))
    monkeypatch.setattr(weights, "origin_of", lambda _: {})
    predict.predict(toy(experiment__models={"tiny": "Tiny"}), "toy", "tiny")
    store, low = Store("data/predictions/toy/tiny.arrow"), Store(LOW)
    assert {c: store.frame[r].tolist() for c, r in store.clips.items()} == {
        c: list(range(n)) for c, (n, *_) in SCENES.items()
    }
    given = (torch.from_numpy(low.image(r) / np.float32(255)).permute(2, 0, 1)[None] for r in low.clips["b c"])
    for row, output in zip(store.clips["b c"], network.predict(given), strict=True):
        image = (output[0].permute(1, 2, 0) * 255).clamp(0, 255).byte().numpy()
        np.testing.assert_array_equal(store.image(row), image)
    assert store.meta["protocol"] == {"saved": "truncated", "trim": 2, "border": "cropped"}
    assert (store.meta["low"], store.meta["input"]) == (low.identity, "the dataset's")
    assert (store.meta["partial"], store.meta["checkpoint"], store.meta["samples"]) == ("2 of 4 clips", "ab" * 32, 1)
    assert store.meta["parameters"] == 1_745_506 + sum(w.numel() for w in network.generator.parameters())
    speed = json.loads(Path("data/predictions/toy/tiny.speed.json").read_text())
    assert speed["batch"] == 1
    assert speed["ms_per_frame"] > 0


def test_a_scene_too_small_for_the_network_is_named(project: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stores(scenes={"a": (6, 64, 28)})
    network = params.registry("models")["tecogan"].build(project.models["tiny"])
    monkeypatch.setattr(weights, "load_model", lambda *_: (network, ""))
    monkeypatch.setattr(weights, "origin_of", lambda _: {})
    monkeypatch.setattr(scene_predict, "_gmacs", lambda *_: 0.0)
    with pytest.raises(
        RetakeError, match=r"frames/toy/test_lr.arrow, a: low-resolution frames of 7x16 pixels: .* at least 8"
    ):
        predict.predict(toy(experiment__models={"tiny": "Tiny"}, protocol__border="kept"), "toy", "tiny")


def test_multiply_adds_are_those_of_a_frame_in_a_running_scene(project: params.Params) -> None:
    """By hand, of the layers' sizes: FNet on 8 x 8 multiples, then the generator; no device's way round them counts."""
    network = params.registry("models")["tecogan"].build(project.models["tiny"])
    found = scene_predict._gmacs(network, Store(HIGH), ["a"])
    height, width = 16, 20
    pixels = height * width
    fnet = sum(
        9 * a * b * (height // s) * (width // s)
        for a, b, s in [(6, 32, 1), (32, 32, 1), (32, 64, 2), (64, 64, 2), (64, 128, 4), (128, 128, 4)]
    )
    fnet += sum(
        9 * a * b * (8 * (height // 8) // s) * (8 * (width // 8) // s)
        for a, b, s in [(128, 256, 8), (256, 256, 8), (256, 128, 4), (128, 128, 4), (128, 64, 2), (64, 64, 2), (64, 32, 1), (32, 2, 1)]
    )  # fmt: skip
    generator = 9 * pixels * (51 * 64 + 2 * 64 * 64 + 64 * 64 + 4 * 64 * 64 + 16 * 64 * 3)
    assert found == pytest.approx((fnet + generator) / 1e9, abs=1e-4)
    bicubic = params.registry("models")["interpolation"].build(project.models["bicubic"])
    assert scene_predict._gmacs(bicubic, Store(HIGH), ["a", "b c"]) == 0


class Lazy(Network):
    """A network that says how far it has read when it is asked for its next output."""

    def __init__(self) -> None:
        self.read: list[int] = []

    def predict(self, frames: Any) -> Iterator[torch.Tensor]:
        for number, (frame, keep) in enumerate(warm_up.warmed(frames)):
            if keep:
                self.read.append(number)
                yield frame.repeat_interleave(4, 2).repeat_interleave(4, 3)


def test_frames_are_streamed(project: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    held: list[int] = []
    source = clips.low_resolution

    def watched(*arguments: Any) -> Iterator[np.ndarray]:
        for frame in source(*arguments):
            held.append(sum(1 for _ in held))
            yield frame

    write_stores(scenes={"a": (30, 64, 64)})
    monkeypatch.setattr(clips, "low_resolution", watched)
    network = Lazy()
    monkeypatch.setattr(weights, "load_model", lambda *_: (network, ""))
    monkeypatch.setattr(weights, "origin_of", lambda _: {})
    write = Writer.add
    ahead: list[int] = []
    monkeypatch.setattr(Writer, "add", lambda self, *a, **k: ahead.append(len(held)) or write(self, *a, **k))
    predict.predict(project, "toy", "nearest")
    assert len(ahead) == 30
    assert max(read - made for made, read in enumerate(ahead, 1)) == warm_up.WARM_UP


def test_high_resolution_alone_is_degraded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sides that are no multiples of 4: the output is cut from the top left."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_stores(low=False, scenes={"a": (5, 66, 83)})
    p = toy("davis2017")
    assert plan.fields_of(p, "predict", experiment="toy", model="bicubic")["low"] is None
    predict.predict(p, "toy", "bicubic")
    store = Store("data/predictions/toy/bicubic.arrow")
    assert set(map(tuple, store.size.tolist())) == {(66, 83)}
    assert store.meta["input"].startswith("degraded: blur of sigma 1.5, 13 taps, every 4th pixel, not rounded")
    low = grid.degrade_frame(Store(HIGH).image(0))
    np.testing.assert_allclose(store.image(0)[::4, ::4] / 255, low, atol=1 / 255)
    score.score(p, "toy", "bicubic")
    assert values("bicubic")["psnr_y", "a", 2] > 20


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda frames: iter([next(frames).repeat(1, 1, 4, 4)]), "nearest gives fewer frames of a than the 7 it has: .*published_dropping"),
        (lambda frames: (f.repeat(1, 1, 4, 4) * np.nan for f in frames), "nearest gives NaN or infinity for a frame 0"),
        (lambda frames: frames, "nearest gives frames of a that are smaller than those of data/frames/toy/test.arrow"),
    ],
    ids=["dropped", "nan", "small"],
)  # fmt: skip
def test_a_network_that_does_not_keep_its_word(
    project: params.Params, monkeypatch: pytest.MonkeyPatch, network: Any, words: str
) -> None:
    class Bad(Lazy):
        def predict(self, frames: Any) -> Any:
            return network(frames)

    monkeypatch.setattr(weights, "load_model", lambda *_: (Bad(), ""))
    monkeypatch.setattr(weights, "origin_of", lambda _: {})
    monkeypatch.setattr(scene_predict, "_gmacs", lambda *_: 0.0)
    with pytest.raises(RetakeError, match=words):
        predict.predict(project, "toy", "nearest")
    assert not Path("data/predictions/toy/nearest.arrow").exists()


@pytest.mark.parametrize(
    ("scenes", "low", "words"),
    [
        ({"a": (4, 64, 64)}, {"a": (4, 64, 64)}, r"a: a scene of 4 frames, of which trim 2 leaves out 2 at both ends: at least 5"),
        ({"a": (6, 64, 64)}, {"a": (5, 64, 64)}, r"test_lr.arrow, a: 5 frames, data/frames/toy/test.arrow has 6, or other numbers"),
        ({"a": (6, 64, 64)}, {"b": (6, 64, 64)}, r"test.arrow has a, data/frames/toy/test_lr.arrow has b: no scene to upscale"),
    ],
    ids=["short", "frames", "names"],
)  # fmt: skip
def test_stores_that_do_not_belong_together(project: params.Params, scenes: Any, low: Any, words: str) -> None:
    write_stores(scenes=low)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "LOW", Path("elsewhere.arrow"))
        write_stores(scenes=scenes)
    with pytest.raises(RetakeError, match=words):
        predict.predict(project, "toy", "bicubic")


def test_scenes_without_low_resolution_are_left_out_and_said(project: params.Params) -> None:
    write_stores(scenes={"a": SCENES["a"]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(globals(), "LOW", Path("elsewhere.arrow"))
        write_stores()
    predict.predict(project, "toy", "nearest")
    store = Store("data/predictions/toy/nearest.arrow")
    assert list(store.clips) == ["a"]
    assert store.meta["partial"] == "2 of 4 clips; 1 of 2 scenes have low resolution"


# Scores


def test_scores_are_the_published_script_s(project: params.Params) -> None:
    predict.predict(project, "toy", "bicubic")
    score.score(project, "toy", "bicubic")
    found = values("bicubic")
    frames, made = Store(HIGH), Store("data/predictions/toy/bicubic.arrow")
    for scene, (count, *_) in SCENES.items():
        wanted = parity_tecogan.scene(*(s.read(scene, range(count)) for s in (frames, made)), None)
        for metric, name in (("psnr_y", "PSNR"), ("ssim_y", "SSIM"), ("tof", "tOF")):
            mine = [v for (m, s, _), v in found.items() if (m, s) == (metric, scene)]
            assert mine == pytest.approx(wanted[name], rel=1e-12)
        assert [f for m, s, f in found if (m, s) == ("psnr_y", scene)] == list(range(2, count - 2))
        assert [f for m, s, f in found if (m, s) == ("tof", scene)] == list(range(3, count - 2))
    meta = json.loads(pq.read_schema("data/scores/toy/bicubic.parquet").metadata[b"retake"])
    assert meta["metrics"]["tof"]["settings"]["settings"] == temporal.FARNEBACK
    assert (meta["metrics"]["tof"]["values"], meta["metrics"]["tof"]["needs"], meta["windows"]) == (2 + 1, "pairs", 2)


def test_whole_scenes_can_be_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_stores(scenes={"a": (5, 40, 44)})
    with pytest.raises(
        RetakeError, match=r"44x40 pixels: the metrics need sides .*; set the protocol's `border` to kept"
    ):
        predict.predict(toy(), "toy", "bicubic")  # before hours are spent on what cannot be scored
    p = toy(protocol__trim=0, protocol__border="kept", experiment__metrics=METRICS | {"psnr": {"kind": "psnr"}})
    predict.predict(p, "toy", "bicubic")
    score.score(p, "toy", "bicubic")
    found = values("bicubic")
    assert [f for m, _, f in found if m == "psnr_y"] == list(range(5))
    frames, made = Store(HIGH), Store("data/predictions/toy/bicubic.arrow")
    mse = ((frames.image(3) / 255.0 - made.image(3) / 255.0) ** 2).mean()
    assert found["psnr", "a", 3] == pytest.approx(-10 * np.log10(mse), rel=1e-6)


def test_a_metric_that_one_scene_is_too_small_for_has_values_of_the_others(project: params.Params) -> None:
    write_stores(scenes={"a": (5, 192, 208), "b c": (5, 64, 80)})
    p = toy(experiment__metrics={"psnr_y": {"kind": "psnr_y"}, "ms_ssim": {"kind": "ms_ssim"}}, protocol__border="kept")
    for name in ("nearest", "bicubic"):
        predict.predict(p, "toy", name)
        score.score(p, "toy", name)
    similarity = {(scene, frame): v for (m, scene, frame), v in values("bicubic").items() if m == "ms_ssim"}
    assert {scene for (scene, _), v in similarity.items() if not np.isnan(v)} == {"a"}
    row = measured.row(p, "toy", "bicubic")
    reason = "MS-SSIM needs sides of more than 160 px, the frames are 80x64"
    assert row.facts["note"] == f"ms_ssim: mean of 1 of 2 values, left out: 1 without a value ({reason})"


def test_tlp_compares_changes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a distance that is the mean difference, on the scored part alone."""
    from pipeline.metrics import tlp
    from pipeline.metrics.networks import perceptual

    monkeypatch.setattr(perceptual, "distance", lambda *_: lambda a, b: np.abs(a - b).mean(axis=(1, 2, 3)))
    metric = tlp.build(tlp.Params(kind="tlp", net="alex"), "cpu")
    target, output = np.zeros((2, 2, 8, 8, 3), np.float32)
    target[1, 2:6] = 0.5
    output[1, 2:6] = 0.25
    assert metric(output, target, (slice(2, 6), slice(0, 8))) == pytest.approx(25)
    assert metric(output, target, (slice(0, 8), slice(0, 8))) == pytest.approx(12.5)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"data": "0" * 64}, "was not made from today's data/frames/toy/test.arrow and data/frames/toy/test_lr.arrow: make it"),
        ({"low": "0" * 64}, "was not made from today's data/frames/toy/test.arrow and"),
        ({"protocol": {"saved": "rounded"}}, "was not saved as protocol 'truncated' says: make it again"),
        ({"scenes": {"a": 7}}, "has the scenes a, not a, b c: make it again"),
        ({"scenes": {"a": 7, "b c": 5}}, "b c: 5 frames for 6, or other numbers: make it again"),
        ({"size": (56, 92)}, "b c: frames are 92x56, the true ones 96x56: make it again"),
    ],
    ids=["high", "low", "saved", "scenes", "frames", "size"],
)  # fmt: skip
def test_wrong_predictions_are_named(project: params.Params, wrong: dict[str, Any], words: str) -> None:
    meta = {"data": Store(HIGH).identity, "low": Store(LOW).identity, "protocol": {"saved": "truncated"}} | wrong
    scenes = meta.pop("scenes", {c: n for c, (n, *_) in SCENES.items()})
    size = meta.pop("size", None)
    with Writer("data/predictions/toy/bicubic.arrow", codec="png", meta=meta) as out:
        for clip, count in scenes.items():
            for number in range(count):
                shape = size if size and clip == "b c" else SCENES[clip][1:]
                out.add(clip, number, np.zeros((*shape, 3), np.uint8))
    with pytest.raises(RetakeError, match=words):
        score.score(project, "toy", "bicubic")


# Brought scenes


def save(folder: Path = Path("results_of_mine"), larger: int = 0) -> None:
    """Write a folder as the published script leaves it; unpadded numbers, to be sorted as integers."""
    rng = np.random.default_rng(5)
    for scene, (count, height, width) in SCENES.items():
        for number in range(count):
            image = rng.integers(0, 256, (height + larger, width + larger, 3), dtype=np.uint8)
            image[0, 0] = number + 7
            write_image(folder / scene / f"output_{number + 7}.png", image)


def test_brought_scenes_are_paired_by_position(project: params.Params) -> None:
    save(larger=4)
    (Path("results_of_mine") / "a" / "IB_1.png").write_bytes(b"no image")
    (Path("results_of_mine") / "metric_log").mkdir()
    store = Store(bring.bring(project, "toy", "mine"))
    assert [store.image(r)[0, 0, 0] for r in store.clips["a"]] == list(range(7, 14))  # 9 before 10
    assert store.source(3) == "a/output_10.png"
    assert set(map(tuple, store.size.tolist())) == {(64, 80), (56, 96)}
    score.score(project, "toy", "mine")
    assert len(values("mine")) == 2 * (3 + 2) + 2 + 1


def test_a_wrong_folder_of_scenes_is_refused_with_all_that_is_wrong(project: params.Params) -> None:
    with pytest.raises(
        RetakeError,
        match=r"no results_of_mine .*; expected in .*: a/ with 7 PNGs of at least 80x64, b c/ with 6",
    ):
        bring.bring(project, "toy", "mine")
    save()
    folder = Path("results_of_mine")
    (folder / "a/output_9.png").unlink()
    shutil.move(folder / "b c", folder / "bc")
    with pytest.raises(RetakeError) as error:
        bring.bring(project, "toy", "mine")
    for words in (
        "a has 6 PNGs, not 7",
        "b c is missing",
        "bc is no scene of the test set",
        "expected in results_of_mine: a/ with 7",
    ):
        assert words in str(error.value)
    shutil.rmtree(folder)
    save()
    shutil.move(folder / "a/output_9.png", folder / "a/output_14.png")
    with pytest.raises(
        RetakeError, match=r"a: output_10\.png comes after output_8\.png: by their names these are not the frames"
    ):
        bring.bring(project, "toy", "mine")
    shutil.rmtree(folder)
    save()
    write_image(folder / "a/output_8.png", np.zeros((64, 79, 3), np.uint8))
    cv2.imwrite(str(folder / "b c/output_8.png"), np.zeros((56, 96), np.uint8))
    with pytest.raises(RetakeError) as error:
        bring.bring(project, "toy", "mine")
    for words in ("a/output_8.png is 79x64, not 80x64", "b c/output_8.png is a 8-bit grey image"):
        assert words in str(error.value)
    assert not Path("data/predictions/toy/mine.arrow").exists()


# Table


@pytest.fixture(scope="module")
def scored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the scores of both baselines and of brought scenes."""
    folder = tmp_path_factory.mktemp("scored")
    with pytest.MonkeyPatch.context() as patch:
        furnish(folder)
        patch.chdir(folder)
        p = toy()
        write_stores()
        save()
        bring.bring(p, "toy", "mine")
        for name in ("nearest", "bicubic"):
            predict.predict(p, "toy", name)
        for name in ("nearest", "bicubic", "mine"):
            score.score(p, "toy", name)
        shutil.copytree(ROOT / "results/published", "results/published")
    return folder


@pytest.fixture
def made(scored: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> params.Params:
    """A copy of it, and its parameters."""
    shutil.copytree(scored, tmp_path / "project")
    furnish(tmp_path / "project")
    monkeypatch.chdir(tmp_path / "project")
    return toy()


def test_cells_are_folder_and_frame_averages_and_scenes(made: params.Params) -> None:
    table.make(made, "toy")
    rows = {r["model"]: r for r in lines("results/toy_metrics.csv")}
    assert list(rows) == ["Nearest", "Bicubic", "mine"]
    for name, label in (("bicubic", "Bicubic"), ("mine", "mine")):
        for metric, scale in (("psnr_y", 1), ("ssim_y", 100), ("tof", 1)):
            scenes = [np.array([v for (m, s, _), v in values(name).items() if (m, s) == (metric, c)]) for c in SCENES]
            folder, frame = parity_tecogan.averages(scenes)
            assert float(rows[label][metric]) == pytest.approx(scale * folder, rel=1e-5)
            assert float(rows[label][f"{metric}_frames"]) == pytest.approx(scale * frame, rel=1e-5)
            for scene, found in zip(("a", "b_c"), scenes, strict=True):
                assert rows[label][f"{metric}_{scene}"] == f"{scale * found.mean():.6g}"
            ends = [f"{metric}{of}_{end}" for of in ("", "_frames", "_a", "_b_c") for end in ("low", "high")]
            assert {rows[label][end] for end in ends} == {""}
    assert rows["mine"]["note"].startswith("brought as 8-bit images; psnr_y, ssim_y, tof, psnr_y_frames, ")
    assert "_frames: no interval: fewer than 4 scenes; psnr_y_a, " in rows["mine"]["note"]
    assert "ssim_y_b_c: no interval: fewer than 4 scenes, and too few independent frames; " in rows["mine"]["note"]
    assert rows["mine"]["note"].endswith("; tof_b_c: no interval: fewer than 4 frames")  # one pair of frames
    assert (rows["Bicubic"]["n"], rows["Bicubic"]["unit"], rows["Bicubic"]["units"]) == ("2", "scenes", "2")
    singles = lines("results/toy_steps.csv")
    assert list(singles[0]) == ["model", "metric", "scene", "frame", "value"]
    assert len(singles) == 3 * 13
    found = {(r["model"], r["metric"], r["scene"], r["frame"]): r["value"] for r in singles}
    assert found["Bicubic", "ssim_y", "b c", "3"] == f"{100 * values('bicubic')['ssim_y', 'b c', 3]:.6g}"
    text = Path("results/toy_metrics.md").read_text()
    for words in (
        "2 scenes, upscaled by 4 from low resolution (the dataset's) and saved as 8 bits (truncated)",
        "without the 2 frames at either end",
        "No cell has a 95 % interval over 2 scenes: the rows' notes say why.",
        "## All frames (FrameAvg)",
        "## b c",
        "**Partial data: 2 of 4 clips.**",
        "* tOF (`tof`): lower is better; flow Farneback of whole 8-bit grey frames, settings (iterations 3, levels 3,",
    ):
        assert words in text
    assert "t+" not in text
    latex = Path("results/toy_metrics.tex").read_text()
    assert latex.count(r"\begin{tabular}") == latex.count(r"\end{tabular}") == 4
    images = [
        f"results/toy{suffix}" for suffix in ("_metrics.csv", "_metrics.md", "_metrics.tex", "_steps.csv", ".png")
    ]
    before = [Path(name).read_bytes() for name in images]
    table.make(made, "toy")
    assert [Path(name).read_bytes() for name in images] == before


def test_tof_is_printed_with_three_digits(made: params.Params) -> None:
    table.make(made, "toy")
    row = next(line for line in Path("results/toy_metrics.md").read_text().splitlines() if line.startswith("| Bicubic"))
    cells = [cell.strip(" *") for cell in row.split("|")]
    assert re.fullmatch(r"\d+\.\d{2}", cells[3])
    assert re.fullmatch(r"\d+\.\d{3}", cells[5])


def test_published_rows_stand_under_the_scenes_means(made: params.Params) -> None:
    p = toy(experiment__published=dict.fromkeys(METRICS, "Vid4"))
    table.make(p, "toy")
    rows = {r["model"]: r for r in lines("results/toy_metrics.csv") if r["source"] != "measured"}
    teco = rows["TecoGAN (16 blocks)"]
    assert (teco["psnr_y"], teco["tof"], teco["ssim_y"], teco["psnr_y_frames"]) == ("25.57", "0.190", "", "")
    assert teco["parameters"] == "3000000"
    assert teco["note"].startswith("tof is 0.189 in README of github sony/nnabla-examples")
    assert rows["TecoGAN published weights"]["ssim_y"] == "78.700"
    assert "re-evaluation as read in" in rows["TecoGAN published weights"]["source"]
    assert {"FRVSR", "TecoGAN- (10 blocks)", "FRVSR PyTorch"} < set(rows)
    text = Path("results/toy_metrics.md").read_text()
    assert text.count("| TecoGAN (16 blocks)") == 1


def test_published_copy_is_the_given_one(shared: Path) -> None:
    given = (shared / "paper_tables/tecogan.csv").read_bytes()
    assert (ROOT / "results/published/tecogan.csv").read_bytes() == given


def test_the_published_script_s_golden_scenes_as_brought_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shared: Path
) -> None:
    """From its folders of PNGs to its two averages, with the case's own LPIPS trunk."""
    case = shared / "golden/tecogan_metrics"
    golden = arrays(case)
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    trunk = {name: torch.from_numpy(value) for name, value in state_dict(case, 0).items()}
    monkeypatch.setattr(weights, "load", lambda name: trunk)
    monkeypatch.setattr(weights, "here", lambda name: True)
    truth = [read_image(path) for path in sorted((case / "gt").glob("*.png"))]
    counts = {"jpeg20": 8, "bicubic4": 7}
    with Writer(HIGH, codec="png", meta={}) as out:
        for scene, count in counts.items():
            for number in range(count):
                out.add(scene, number, truth[number])
            (tmp_path / "results_of_mine" / scene).mkdir(parents=True)
            for path in sorted((case / scene).glob("*.png"))[:count]:
                shutil.copy(path, tmp_path / "results_of_mine" / scene / f"output_{path.name}")
    teco = params.validate(resolved()).experiments["vid4"].model_dump(mode="json")
    p = toy("davis2017", experiment__metrics=teco["metrics"])
    bring.bring(p, "toy", "mine")
    score.score(p, "toy", "mine")
    row = measured.row(p, "toy", "mine")
    measured.fill(row, scene_table.LAYOUT.columns(p.experiments["toy"], row.meta), "scenes")
    names = {"psnr_y": ("PSNR", 1, 1e-4), "ssim_y": ("SSIM", 100, 1e-3), "tof": ("tOF", 1, 1e-5)}
    names |= {"lpips": ("LPIPS", 100, 1e-4), "tlp": ("tLP100", 1, 1e-4)}
    for metric, (name, scale, tolerance) in names.items():
        for scene in counts:
            found = scale * row.meta["values"][metric][scene][0]
            np.testing.assert_allclose(found, scale * golden[f"{scene}/{name}"], atol=tolerance, rtol=1e-3)
        for column, average in ((metric, "folder_avg"), (f"{metric}_frames", "frame_avg")):
            assert row.cells[column].mean == pytest.approx(
                scale * float(golden[f"{average}/{name}"]), abs=tolerance, rel=1e-3
            )


# Pictures


def test_the_picture_has_low_resolution_each_row_and_the_truth(made: params.Params) -> None:
    table.make(made, "toy")
    picture = read_image("results/toy.png")
    assert picture.shape[1] <= sheets.WIDTH
    rows = {name: Store(f"data/predictions/toy/{name}.arrow") for name in ("bicubic", "mine")}
    scene_view.picture({"frames": str(HIGH), "low": None}, None, rows, "two.png")
    side = 64
    factor = ((sheets.WIDTH - sheets.GAP) // scene_view.ABREAST - sheets.GAP) // side
    image = read_image("two.png")[56 : 56 + side * factor : factor, sheets.GAP :]
    parts = [image[:, i * (side * factor + sheets.GAP) :][:, : side * factor : factor] for i in (0, 1, 2, 3)]
    low_part, *_, truth = parts
    frames = Store(HIGH)
    left = next(x for x in range(0, 17, 4) if np.array_equal(truth, frames.image(3)[:, x : x + side]))
    for part, store in zip(parts[1:3], rows.values(), strict=True):
        np.testing.assert_array_equal(part, store.image(3)[:, left : left + side])
    low = np.rint(255 * grid.degrade_frame(frames.image(3))).astype(np.uint8)
    np.testing.assert_array_equal(low_part[::4, ::4], low[:, left // 4 : (left + side) // 4])


def test_view_shows_a_scene_beside_the_truth(made: params.Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        sys, "argv", ["view", "data/predictions/toy/bicubic.arrow", "--clip", "b c", "--output", "here"]
    )
    view.main()
    frames, beside = (sorted(path.name for path in Path(folder).iterdir()) for folder in ("here", "here_sheets"))
    assert frames == [f"{n:010d}.png" for n in range(6)]
    assert beside == [*(f"{n:010d}_error.png" for n in range(6)), "clip.mp4", "sheet.png"]
    store = Store("data/predictions/toy/bicubic.arrow")
    np.testing.assert_array_equal(read_image("here/0000000002.png"), store.image(store.clips["b c"][2]))


# Parameters and the plan


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"experiment__report": [1]}, r"toy.report must be \[\]: the task super_resolution has no steps"),
        ({"experiment__metrics": {"epe": {"kind": "epe"}}}, "epe is no metric of the task super_resolution"),
        ({"experiment__models": {"dis": "DIS"}}, "dis is a flow model, the protocol's task is super_resolution"),
        (
            {"experiment__protocol": "next5", "experiment__report": [1], "experiment__models": {"copy_last": "x"},
             "experiment__metrics": {"f1": {"kind": "flow_f1", "average": "image", "clips": ""}}},
            r"toy.metrics.f1: flow_f1 is no metric of the task prediction",
        ),
        ({"protocol__saved": "floored"}, "saved: Input should be 'truncated' or 'rounded'"),
        ({"protocol__trim": -1}, "trim: Input should be greater than or equal to 0"),
    ],
)  # fmt: skip
def test_wrong_params_are_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(RetakeError, match=words):
        toy(**changes)


def test_the_plan_has_low_resolution_where_the_dataset_has() -> None:
    p = params.validate(resolved())
    for experiment in ("vid4", "tos"):
        stages = plan.plan(p, [experiment])
        low = f"data/frames/{experiment}/test_lr.arrow"
        assert f"{experiment}-test_lr" in stages["download"]
        assert stages["predict"][f"{experiment}-bicubic"]["low"] == low
        for stage, name in (
            ("predict", f"{experiment}-bicubic"),
            ("score", f"{experiment}-nearest"),
            ("table", experiment),
        ):
            assert low in plan.inputs(p, stage, stages[stage][name])
        assert p.experiments[experiment].published == dict.fromkeys(
            p.experiments[experiment].metrics, {"vid4": "Vid4", "tos": "ToS"}[experiment]
        )
    assert "low" not in plan.plan(p, ["demo"])["predict"]["demo-copy_last"]


def test_scenes_in_parts_give_the_same_bytes(project: params.Params) -> None:
    outputs = ("data/predictions/toy/nearest.arrow", "data/scores/toy/nearest.parquet")
    in_parts(project, "nearest", outputs)
