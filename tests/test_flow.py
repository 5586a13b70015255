"""Flow at rest (codec, .flo, KITTI PNG, colours), the estimators, and the stage that runs them."""

from __future__ import annotations

import contextlib
import json
import os
import re
import struct
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import yaml
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from pipeline import flow as stage
from pipeline import params, plan, weights
from pipeline.drawing import colours
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError
from pipeline.models import dis, farneback, truth
from pipeline.models.base import Network
from pipeline.sources.images import read_image
from pipeline.store import flow as files
from pipeline.store import sealed
from pipeline.store.frames import Store, Writer
from pipeline.tasks.flow import view as flow_view
from tests.conftest import furnish, handed_over, resolved

NONE: dict[str, Any] = {"network": None, "train": None, "checkpoint": None}
MODELS = {
    "dis": dis.Params(kind="dis", **NONE, predict={"export": "pairs", "preset": "medium"}),
    "quick": dis.Params(kind="dis", **NONE, predict={"export": "pairs", "preset": "ultrafast"}),
    "sky": dis.Params(kind="dis", **NONE, predict={"export": "sky", "preset": "medium"}),
    "farneback": farneback.Params(
        kind="farneback",
        **NONE,
        predict={
            "export": "pairs",
            "pyr_scale": 0.5,
            "levels": 3,
            "winsize": 15,
            "iterations": 3,
            "poly_n": 5,
            "poly_sigma": 1.2,
        },
    ),
    "truth": truth.Params(kind="truth", **NONE, predict=None),
}


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Smooth random colours, (height, width, 3) uint8."""
    noise = np.random.default_rng(seed).normal(size=(height, width, 3)).astype(np.float32)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2) + 0.7 * cv2.GaussianBlur(noise, (0, 0), 6)
    return np.clip(128 + blurred / blurred.std() * 50, 0, 255).astype(np.uint8)


def moving(frames: int, shift: tuple[int, int], size: tuple[int, int] = (64, 96), seed: int = 0) -> list[np.ndarray]:
    """A texture whose content moves by `shift` (right, down) px a frame: the exact flow is `shift` everywhere."""
    margin = 8 * frames
    large = texture(size[0] + 2 * margin, size[1] + 2 * margin, seed)
    corners = [(margin - i * shift[1], margin - i * shift[0]) for i in range(frames)]
    return [large[y : y + size[0], x : x + size[1]] for y, x in corners]


def endpoint_error(flow: np.ndarray, expected: Any) -> np.ndarray:
    return np.linalg.norm(flow.astype(np.float64) - np.asarray(expected, np.float64), axis=-1)


# Fields with holes, between small and beyond int16's 512 px.
fields = st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1.0, 40.0, 511.0, 700.0, 1e5])).flatmap(
    lambda s: arrays(
        np.float32,
        (s[0], s[1], 2),
        elements=st.one_of(st.floats(-s[2], s[2], width=32), st.just(float("nan"))),
        fill=st.just(0.0),
    )
)


def holes(flow: np.ndarray) -> np.ndarray:
    return np.isnan(flow).any(axis=-1)


def unpack(data: bytes, flow: np.ndarray) -> np.ndarray:
    return files.decode(memoryview(data), flow.shape, np.dtype(np.float32))


@given(fields)
def test_codec_keeps_vectors_within_the_declared_error_and_holes_exactly(flow: np.ndarray) -> None:
    data = files.encode(flow)
    back = unpack(data, flow)
    assert back.dtype == np.float32
    np.testing.assert_array_equal(holes(back), holes(flow))
    known = ~holes(flow)
    assert endpoint_error(back[known], flow[known]).max(initial=0) <= files.ERROR
    assert files.encode(back) == data  # what was rounded once stays as it is, to the byte
    np.testing.assert_array_equal(unpack(files.encode(back), flow), back)


def test_codec_takes_two_bytes_below_512_px_and_four_from_there() -> None:
    flow = np.full((4, 6, 2), 511.98, np.float32)
    assert files.encode(flow)[0] == 2
    flow[2, 3, 1] = -512
    assert files.encode(flow)[0] == 4
    assert unpack(files.encode(flow), flow)[2, 3, 1] == -512


def test_codec_is_small_on_smooth_flow() -> None:
    y, x = np.mgrid[:128, :256].astype(np.float32)
    flow = np.dstack([(x - 128) / 20, (y - 64) / 20])
    assert len(files.encode(flow)) < flow.nbytes / 8


@pytest.mark.parametrize("value", [np.inf, -np.inf, 2.0**17])
def test_codec_refuses_flow_that_is_no_motion(value: float) -> None:
    flow = np.zeros((3, 3, 2), np.float32)
    flow[1, 1] = value
    with pytest.raises(RetakeError, match="131072 px"):
        files.encode(flow)


@pytest.mark.parametrize("damage", [lambda d: b"\x07" + d[1:], lambda d: d[:-3], lambda d: d[:1], lambda d: b""])
def test_a_damaged_field_is_named(damage: Any) -> None:
    flow = np.ones((4, 4, 2), np.float32)
    with pytest.raises(RetakeError, match="its store is damaged"):
        unpack(damage(files.encode(flow)), flow)


def test_flo_has_the_published_layout(tmp_path: Path) -> None:
    flow = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    files.write_flo(tmp_path / "a.flo", flow)
    data = (tmp_path / "a.flo").read_bytes()
    assert data[:4] == b"PIEH"
    assert struct.unpack("<ii", data[4:12]) == (3, 2)
    assert struct.unpack("<12f", data[12:]) == tuple(range(12))


@given(fields)
def test_flo_round_trip_is_exact(tmp_path_factory: pytest.TempPathFactory, flow: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "round.flo"
    files.write_flo(path, flow)
    expected = flow.copy()
    expected[holes(flow)] = np.nan
    np.testing.assert_array_equal(files.read_flo(path), expected)


def flo(width: int, height: int, values: np.ndarray, magic: float = 202021.25) -> bytes:
    return struct.pack("<fii", magic, width, height) + values.astype("<f4").tobytes()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (flo(3, 2, np.zeros(12), magic=1.5), "not a .flo file"),
        (b"PIEH", "not a .flo file"),
        (flo(3, 2, np.zeros(12))[:-5], "3x2 flow takes 60 bytes, the file has 55: it is cut off"),
        (flo(3, 2, np.zeros(14)), "takes 60 bytes, the file has 68"),
        (flo(-3, 2, np.zeros(12)), "claims to be -3x2, frames of 1 to"),
        (flo(3, 2, np.r_[np.zeros(8), np.nan, np.zeros(3)]), "NaN at 1 pixels, the first at x 1, y 1"),
    ],
)
def test_flo_bad_input(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.flo"
    path.write_bytes(data)
    with pytest.raises(RetakeError, match=message) as error:
        files.read_flo(path)
    assert str(path) in str(error.value)


@given(fields)
def test_kitti_round_trip(tmp_path_factory: pytest.TempPathFactory, flow: np.ndarray) -> None:
    path = tmp_path_factory.getbasetemp() / "round.png"
    known = flow[~holes(flow)]
    if (np.rint(known * 64) >= 2**15).any() or (np.rint(known * 64) < -(2**15)).any():
        with pytest.raises(RetakeError, match=r"does not fit KITTI's format.*use \.flo"):
            files.write_kitti(path, flow)
        return
    files.write_kitti(path, flow)
    back = files.read_kitti(path)
    np.testing.assert_array_equal(holes(back), holes(flow))
    assert endpoint_error(back[~holes(flow)], known).max(initial=0) <= files.ERROR


def test_kitti_channels_are_u_v_valid_in_rgb_order(tmp_path: Path) -> None:
    flow = np.zeros((2, 2, 2), np.float32)
    flow[0, 0] = 3, -5
    flow[1, 1] = np.nan
    files.write_kitti(tmp_path / "a.png", flow)
    raw = cv2.imread(str(tmp_path / "a.png"), cv2.IMREAD_UNCHANGED)
    assert raw.dtype == np.uint16
    assert raw[0, 0].tolist() == [1, 32768 - 5 * 64, 32768 + 3 * 64]  # OpenCV's order: B, G, R
    assert raw[1, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 5, 3), np.uint8), "3 channels of 16 bits, this has 3 of 8"),
        (np.zeros((4, 5), np.uint16), "this has 1 of 16"),
        (None, "cannot be read as an image: it is cut off or damaged"),
    ],
)
def test_kitti_bad_input(tmp_path: Path, image: np.ndarray | None, message: str) -> None:
    path = tmp_path / "bad.png"
    if image is None:
        path.write_bytes(b"\x89PNG\r\n\x1a\n and then nothing")
    else:
        cv2.imwrite(str(path), image)
    with pytest.raises(RetakeError, match=message):
        files.read_kitti(path)
    with pytest.raises(RetakeError, match="no flow file"):
        files.read_kitti(tmp_path / "absent.png")


def test_real_kitti_flow_reads_as_its_readme_says(shared: Path, tmp_path: Path) -> None:
    source = shared / "data/kitti_flow_sample/training/flow_occ/000000_10.png"
    flow = files.read_kitti(source)
    known = flow[~holes(flow)]
    assert len(known) == 75453
    np.testing.assert_allclose([known.min(0), known.max(0)], [[-184.25, -7.17], [74.61, 53.27]], atol=0.006)
    files.write_kitti(tmp_path / "again.png", flow)
    original, again = (cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (source, tmp_path / "again.png"))
    np.testing.assert_array_equal(again[original[..., 0] > 0], original[original[..., 0] > 0])


def test_colours_follow_the_published_wheel() -> None:
    flow = np.zeros((1, 7, 2), np.float32)
    flow[0, :6] = [[0, 0], [2, 0], [-2, 0], [0, 2], [0, -2], [4, 0]]  # still, right, left, down, up, too fast
    flow[0, 6] = np.nan
    still, right, left, down, up, fast, unknown = colours.colours(flow, 2)[0].astype(int)
    assert still.tolist() == [255, 255, 255]
    assert right.tolist() == [255, 0, 0]
    assert down[0] == 255
    assert 200 < down[1] < 255  # between red and yellow, near yellow
    assert down[2] == 0
    assert left[0] == 0
    assert min(left[1:]) > 200  # cyan
    assert up[2] == 255
    assert up[1] == 0  # between blue and magenta
    assert fast.tolist() == [191, 0, 0]
    assert unknown.tolist() == [0, 0, 0]


def test_half_the_length_is_half_the_saturation() -> None:
    colour = colours.colours(np.array([[[1.0, 0.0]]], np.float32), 2)[0, 0]
    assert colour.tolist() == [255, 127, 127]


@pytest.mark.parametrize(("name", "worst"), [("dis", 0.05), ("quick", 0.3), ("farneback", 0.05)])
@pytest.mark.parametrize("shift", [(3, 0), (-2, 4)])
def test_estimators_find_the_shift_of_a_texture(name: str, worst: float, shift: tuple[int, int]) -> None:
    first, second = moving(2, shift, (96, 160))
    model = MODELS[name]
    flow = params.registry("models")[model.kind].build(model).estimate(first, second)
    assert flow.dtype == np.float32
    assert flow.shape == (96, 160, 2)
    inside = endpoint_error(flow, shift)[12:-12, 12:-12]
    assert inside.mean() < worst


@pytest.mark.parametrize(("preset", "least"), [("ultrafast", 32), ("fast", 32), ("medium", 16)])
def test_dis_works_from_its_smallest_size_on_and_refuses_smaller(preset: str, least: int) -> None:
    """Below, OpenCV chooses pyramid levels by the width alone and dies of a segmentation fault on wide images."""
    model = dis.Params(kind="dis", **NONE, predict={"export": "pairs", "preset": preset})
    for size in ((least, least), (least, 2000), (900, least)):
        model.check(*size)
        image = texture(*size)
        assert np.isfinite(dis.build(model).estimate(image, image)).all()
    with pytest.raises(ValueError, match=f"sides of at least {least} px"):
        model.check(least - 1, 300)


def test_dis_on_a_real_pair_beats_no_motion_by_far(shared: Path) -> None:
    folder = shared / "data/kitti_flow_sample/training"
    exact = files.read_kitti(folder / "flow_occ/000000_10.png")
    first, second = (read_image(folder / f"image_2/000000_{n}.png") for n in (10, 11))
    flow = dis.build(MODELS["dis"]).estimate(first, second)  # type: ignore[arg-type]
    known = ~holes(exact)
    assert np.median(endpoint_error(flow[known], exact[known])) < 0.25 * np.median(endpoint_error(exact[known], 0))


# The stage, in a folder of its own.


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.chdir(tmp_path)
    real, toy = params.registry, SimpleNamespace(SPLITS=("train", "test"), truth=exact)
    monkeypatch.setattr(params, "registry", lambda package: {"toy": toy} if package == "datasets" else real(package))
    names = {"toy": SimpleNamespace(kind="toy"), "toys": SimpleNamespace(kind="toy")}
    models = {**MODELS, "copy_last": SimpleNamespace(task="prediction")}
    return SimpleNamespace(models=models, datasets=names, toy=toy, compute=SimpleNamespace(batch=2, shards=1))


def store_frames(clips: dict[str, dict[int, np.ndarray]], dataset: str = "toy", source: str = "") -> Store:
    path = Path("data/frames") / dataset / "test.arrow"
    meta = {"dataset": dataset, "split": "test", "height": 64, "width": 96, "licence": "none", "partial": "1 of 2"}
    with Writer(path, codec="png", meta=meta) as out:
        for clip, frames in clips.items():
            for number, image in frames.items():
                out.add(clip, number, image, source=source or f"toy.zip/{clip}/{clip[0]}_frames_{number:08d}.jpg")
    return Store(path)


def two_clips(gap: bool = True) -> dict[str, dict[int, np.ndarray]]:
    numbers = (4, 5, 6, 9, 10) if gap else range(5)
    return {
        "a/left": dict(zip(numbers, moving(5, (2, 1)), strict=True)),
        "b/left": dict(enumerate(moving(4, (-1, 0), seed=1))),
    }


def test_stage_pairs_follow_the_frame_numbers(project: Any) -> None:
    frames = store_frames(two_clips())
    path = stage.make(project, "dis", "toy", "test")
    assert path == Path("data/flow/dis/toy/test.arrow")
    store = Store(path)
    found = {clip: store.frame[rows.start : rows.stop].tolist() for clip, rows in store.clips.items()}
    assert found == {"a/left": [4, 5, 9], "b/left": [0, 1, 2]}
    estimate = dis.build(MODELS["dis"]).estimate  # type: ignore[arg-type]
    expected = estimate(*frames.read("a/left", [3, 4]))
    assert endpoint_error(store.image(2), expected).max() <= files.ERROR
    assert endpoint_error(store.image(2), (2, 1))[8:-8, 8:-8].mean() < 0.2
    assert store.image(2).shape == (64, 96, 2)
    assert store.meta["data"] == frames.identity
    assert store.meta["frames"] == "data/frames/toy/test.arrow"
    assert store.meta["partial"] == "1 of 2"
    assert store.meta["error"] == pytest.approx(0.0111, abs=1e-4)


def test_stage_writes_the_same_bytes_for_any_number_of_cores(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store_frames(two_clips())
    written = []
    for cores in (1, 5):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
        written.append(stage.make(project, "quick", "toy", "test").read_bytes())
    assert written[0] == written[1]


def test_few_pairs_are_in_flight(monkeypatch: pytest.MonkeyPatch) -> None:
    from concurrent.futures import ThreadPoolExecutor

    taken = 0

    def jobs() -> Any:
        nonlocal taken
        for i in range(60):
            taken += 1
            yield "clip", i, lambda i=i: np.full((4, 4, 2), i, np.float32)

    with ThreadPoolExecutor(2) as pool:
        for given_back, (_, frame, (data, size)) in enumerate(stage._encoded(jobs(), pool, 4)):
            assert frame == given_back
            assert size == (4, 4)
            assert unpack(data, np.empty((4, 4, 2)))[0, 0, 0] == frame
            assert taken <= given_back + 5


def test_sky_export_begins_with_a_frame_to_itself_and_leaves_the_last_out(project: Any, tmp_path: Path) -> None:
    """Fields are named like their second frame, also in the files that DTVNet reads; gaps in the numbers are gone over."""
    clips = two_clips()
    frames = store_frames(clips)
    path = stage.make(project, "sky", "toy", "test")
    store = Store(path)
    assert {clip: store.frame[rows.start : rows.stop].tolist() for clip, rows in store.clips.items()} == {
        "a/left": [4, 5, 6, 9], "b/left": [0, 1, 2],
    }  # fmt: skip
    assert store.image(0).shape == (128, 128, 2)
    assert (store.meta["export"], store.meta["height"], store.meta["width"]) == ("sky", 128, 128)
    assert np.abs(store.image(0)).max() < 0.1  # DIS sees that nothing moves
    estimate = dis.build(MODELS["dis"]).estimate  # type: ignore[arg-type]
    images = list(clips["a/left"].values())
    for row, (first, second) in enumerate(((0, 0), (0, 1), (1, 2), (2, 3))):
        expected = files.resize(estimate(images[first], images[second]), 128, 128)
        assert endpoint_error(store.image(row), expected).max() <= files.ERROR
    assert endpoint_error(store.image(1), (2 * 128 / 96, 1 * 128 / 64))[12:-12, 12:-12].mean() < 0.3
    assert [store.source(row) for row in range(4)] == [frames.source(row) for row in range(4)]
    flow_view.export(store, "a/left", "npy", tmp_path / "npy")
    assert sorted(p.name for p in (tmp_path / "npy").iterdir()) == [f"a_frames_{n:08d}.npy" for n in (4, 5, 6, 9)]
    array = np.load(tmp_path / "npy/a_frames_00000005.npy")
    assert (array.shape, array.dtype) == ((128, 128, 2), np.float32)
    np.testing.assert_array_equal(array, store.image(1))
    flow_view.show(store, "a/left", tmp_path / "seen", tmp_path / "beside")
    assert read_image(tmp_path / "beside/sheet.png").shape[1] > 4 * 128


def test_fields_of_images_with_one_name_are_numbered(project: Any, tmp_path: Path) -> None:
    store_frames({"a": dict(enumerate(moving(3, (1, 0))))}, source="film.mp4")
    store = Store(stage.make(project, "dis", "toy", "test"))
    flow_view.export(store, "a", "npy", tmp_path / "npy")
    assert sorted(p.name for p in (tmp_path / "npy").iterdir()) == ["0000000000.npy", "0000000001.npy"]


@settings(deadline=None, max_examples=25)
@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 40), st.integers(1, 40))
def test_resize_is_bilinear_with_aligned_corners(height: int, width: int, to_height: int, to_width: int) -> None:
    import torch

    from pipeline.models.arflow.transform import resize_flow

    flow = np.random.default_rng(0).normal(size=(height, width, 2)).astype(np.float32)
    exact = torch.from_numpy(flow).double().permute(2, 0, 1)[None]
    expected = resize_flow(exact, to_height, to_width)[0].permute(1, 2, 0)
    found = files.resize(flow, to_height, to_width)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-4)


def test_stage_bad_input(project: Any) -> None:
    with pytest.raises(RetakeError, match=r"no store at data/frames/toy/test\.arrow: make it with `snakemake"):
        stage.make(project, "dis", "toy", "test")
    with pytest.raises(RetakeError, match=r"unknown flow model 'diss'.*'dis'"):
        stage.make(project, "diss", "toy", "test")
    with pytest.raises(RetakeError, match=r"copy_last is a prediction model.*known: dis, farneback, quick, sky, truth"):
        stage.make(project, "copy_last", "toy", "test")
    with pytest.raises(RetakeError, match=r"unknown dataset 'toyz'.*'toys?'"):
        stage.make(project, "dis", "toyz", "test")
    with pytest.raises(RetakeError, match=r"dataset toy has no split 'tset' \(did you mean 'test'\?\)"):
        stage.make(project, "dis", "toy", "tset")
    store_frames({"a": dict(zip((1, 3, 5), moving(3, (1, 0)), strict=True))})
    with pytest.raises(RetakeError, match="no two consecutive frames in any of 1 clips"):
        stage.make(project, "dis", "toy", "test")
    first, second = moving(2, (1, 0))
    store_frames({"a": {0: first, 1: second[:-2]}})
    with pytest.raises(RetakeError, match=r"test\.arrow, a frame 0: the next frame has another size"):
        stage.make(project, "dis", "toy", "test")
    store_frames({"a": {7: first[:20], 8: second[:20]}})
    with pytest.raises(RetakeError, match=r"a frame 7: DIS ultrafast needs sides of at least 32 px, not 96x20"):
        stage.make(project, "quick", "toy", "test")
    assert not list(Path("data").rglob("flow/**/*.arrow*"))


def test_nan_from_an_estimator_names_clip_and_frame(project: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    store_frames(two_clips())
    real = dis.Dis.estimate

    def broken(self: Any, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        flow = real(self, first, second)
        flow[0, 0] = np.nan if (first == frames["b/left"][1]).all() else flow[0, 0]
        return flow

    frames = two_clips()
    monkeypatch.setattr(dis.Dis, "estimate", broken)
    with pytest.raises(RetakeError, match="b/left frame 1: dis gives flow that is not finite at 1 pixels"):
        stage.make(project, "dis", "toy", "test")
    assert not list(Path("data/flow").rglob("*.arrow*"))


def exact(p: Any, split: str, archives: list[Path]) -> Any:
    """A dataset's `truth`: a shift that the archive's text names, valid but for one corner."""
    shift = np.array(json.loads(archives[0].read_text()), np.float32)
    valid = np.ones((64, 96), bool)
    valid[:10, :10] = False
    for frame in (4, 5, 9):
        yield "a/left", frame, np.broadcast_to(shift, (64, 96, 2)), valid


@pytest.fixture
def archive(project: Any) -> None:
    Path("data/raw/toy").mkdir(parents=True)
    Path("data/raw/toy/drive.zip").write_text("[2, 1]")
    manifest = {"dataset": "toy", "split": "test", "archives": [{"file": "drive.zip"}], "missing": []}
    sealed.write("data/raw/toy/test.json", manifest)


def test_truth_comes_from_the_archives_with_holes_where_it_is_not_valid(project: Any, archive: None) -> None:
    store_frames(two_clips())
    store = Store(stage.make(project, "truth", "toy", "test"))
    assert list(store.clips) == ["a/left"]
    assert store.frame.tolist() == [4, 5, 9]
    flow = store.image(1)
    assert holes(flow)[:10, :10].all()
    assert holes(flow).sum() == 100
    assert (flow[~holes(flow)] == [2, 1]).all()
    estimate = Store(stage.make(project, "dis", "toy", "test"))
    assert np.nanmean(endpoint_error(estimate.image(1), flow)[8:-8, 8:-8]) < 0.2


def test_truth_bad_input(project: Any, archive: None) -> None:
    store_frames(two_clips())
    store_frames(two_clips(), "toys")
    with pytest.raises(RetakeError, match=r"no file data/raw/toys/test\.json: make it with `snakemake"):
        stage.make(project, "truth", "toys", "test")
    store_frames(two_clips(gap=False))
    with pytest.raises(RetakeError, match=r"exact flow of a/left frame 4, size \(64, 96\), but .* has no such pair"):
        stage.make(project, "truth", "toy", "test")
    project.toy.truth = lambda *_: iter(())
    with pytest.raises(RetakeError, match="toy has no exact flow of any pair"):
        stage.make(project, "truth", "toy", "test")
    project.toy.truth = None
    with pytest.raises(RetakeError, match=r"dataset toy \(toy\) has no exact flow: estimate it"):
        stage.make(project, "truth", "toy", "test")
    assert not list(Path("data").rglob("flow/**/*.arrow*"))


# Networks: pairs in batches, after their weights came through the import of a published file.


PUBLISHED = "arflow_kitti15_ar_published"


def network_project(folder: Path, frames: int = 2) -> params.Params:
    """Return the project's parameters, at small sizes, with a dataset of two clips of two sizes in `folder`."""
    tree = resolved() | {"reproduce": [], "experiments": {}}
    tree["compute"] |= {"device": "cpu", "threads": 1, "batch": 3}
    tree["datasets"] = {"toy": tree["datasets"]["sintel"]}
    tree["models"] = {PUBLISHED: tree["models"][PUBLISHED]}
    tree["models"][PUBLISHED]["predict"] |= {"height": 64, "width": 128}
    tree["models"][PUBLISHED]["network"]["frames"] = frames
    furnish(folder)
    (folder / "params.yaml").write_text(yaml.safe_dump(tree))
    clips = {"a": dict(enumerate(moving(6, (2, 1)))), "b": dict(enumerate(moving(3, (1, 0), (48, 80))))}
    store_frames(clips)
    return params.validate(tree)


def published_file(folder: Path, views: int = 2, dense: bool = False, **changes: Any) -> Path:
    """Write a checkpoint as published: torch's pickle of `epoch` and `state_dict`."""
    import torch

    from pipeline.models.arflow.network import PWCLite

    torch.manual_seed(0)
    network = PWCLite(views, dense=dense)
    network.start_kaiming()
    path = folder / "data/weights/arflow_kitti15_ar.tar"
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"epoch": 7, "state_dict": {**network.state_dict(), **changes}}, path)
    return path


def imported(p: params.Params) -> Path:
    from pipeline import train

    fields = plan.fields_of(p, "train", model=PUBLISHED, dataset="toy")
    assert plan.inputs(p, "train", fields) == [
        f"data/weights/{p.models[PUBLISHED].checkpoint}.json"
    ]  # no frames are prepared for it
    train.import_published(p, fields)
    return plan.path("train", **fields)


def test_a_published_file_goes_through_the_stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In batches of three pairs: those of one pair to a rounding, and the same bytes on any number of cores."""
    monkeypatch.chdir(tmp_path)
    p = network_project(tmp_path)
    source = weights.load_file(published_file(tmp_path))
    tree = weights.load_tree(imported(p))
    assert weights.digest(tree["weights"]) == weights.digest(source)
    stores = {}
    for batch in (1, 3):
        p.compute.batch = batch
        written = []
        for cores in (1, 5):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _, n=cores: set(range(n)))
            written.append(stage.make(p, PUBLISHED, "toy", "test").read_bytes())
        assert written[0] == written[1]
        store = Store(plan.path("flow", estimator=PUBLISHED, dataset="toy", split="test"))
        assert store.meta["checkpoint"] == weights.digest(source)
        stores[batch] = [store.image(row) for row in range(len(store))]
    assert [field.shape for field in stores[1]] == [(64, 96, 2)] * 5 + [(48, 80, 2)] * 2
    for one, three in zip(stores[1], stores[3], strict=True):
        assert np.abs(one - three).max() <= 1 / files.UNIT  # float error, on two sides of a rounding
    frames = Store("data/frames/toy/test.arrow")
    network, _ = weights.load_model(p.models[PUBLISHED], plan.path("train", model=PUBLISHED, dataset="toy"), "cpu")
    assert endpoint_error(stores[3][4], network.estimate(*frames.read("a", [4, 5]))).max() < 2 * files.ERROR
    assert np.abs(stores[3][4]).mean() > 0.1
    for name, image in zip("AB", frames.read("a", [4, 5]), strict=True):
        write_image(f"{name}.png", image)
    checkpoint = Path("data/weights/arflow_kitti15_ar.tar")
    stage.make_pair(p.models[PUBLISHED], [Path("A.png"), Path("B.png")], Path("f.flo"), None, checkpoint=checkpoint)
    assert endpoint_error(files.read_flo("f.flo"), stores[3][4]).max() < 2 * files.ERROR


def test_frames_are_decoded_while_the_network_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    p = network_project(tmp_path)
    later, real = threading.Event(), Store.image

    def image(self: Store, row: int) -> np.ndarray:
        if row == 5:  # of the second batch
            later.set()
        return real(self, row)

    class Estimator(Network):
        def estimate_batch(self, frames: np.ndarray) -> np.ndarray:
            assert later.wait(60)
            return np.zeros((len(frames), *frames.shape[2:4], 2), np.float32)

    monkeypatch.setattr(Store, "image", image)
    monkeypatch.setattr(stage, "_build", lambda *_: (Estimator(), "digest"))
    assert len(Store(stage.make(p, PUBLISHED, "toy", "test"))) == 7


def test_batches_are_of_one_size_and_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    p = network_project(tmp_path, frames=3)
    seen = []

    class Estimator(Network):
        context = 3

        def estimate_batch(self, frames: np.ndarray) -> np.ndarray:
            seen.append(frames.shape)
            return (frames[:, 0, :1, :1, :2] + np.zeros((*frames.shape[2:4], 2))).astype(np.float32)

    monkeypatch.setattr(stage, "_build", lambda *_: (Estimator(), "digest"))
    path = stage.make(p, PUBLISHED, "toy", "test")
    assert seen == [(3, 3, 64, 96, 3), (2, 3, 64, 96, 3), (2, 3, 48, 80, 3)]
    store, frames = Store(path), Store("data/frames/toy/test.arrow")
    before = {"a": [0, 0, 1, 2, 3], "b": [0, 0]}  # where a clip begins, its first frame twice
    for clip, rows in store.clips.items():
        found = [store.image(row)[0, 0].tolist() for row in rows]
        assert found == [frames.read(clip, [n])[0, 0, 0, :2].tolist() for n in before[clip]]
    Estimator.estimate_batch = lambda self, frames: np.full((*frames.shape[:1], 64, 96, 2), np.nan, np.float32)  # type: ignore[method-assign]
    with pytest.raises(RetakeError, match="a frame 0: arflow gives flow that is not finite at 6144 pixels"):
        stage.make(p, PUBLISHED, "toy", "test")


@pytest.mark.parametrize(
    ("views", "dense", "extra", "message"),
    [
        (3, False, {}, r"3-frame reduced network: set network.frames 3"),
        (2, True, {}, r"2-frame dense network: set network.frames 2 and network.estimator dense"),
        (2, False, {"module.conv": "tensor"}, r"1 unknown: module.conv"),
        (2, False, {"run": os.getcwd}, r"was refused: loading it would run code \((posix|nt).getcwd\)"),
    ],
    ids=["views", "dense", "unknown", "code"],
)
def test_a_published_file_of_another_network_is_not_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, views: int, dense: bool, extra: dict[str, Any], message: str
) -> None:
    import torch

    monkeypatch.chdir(tmp_path)
    p = network_project(tmp_path)
    published_file(tmp_path, views, dense, **{k: torch.zeros(1) if v == "tensor" else v for k, v in extra.items()})
    with pytest.raises(RetakeError, match=message):
        imported(p)
    assert not Path("data/checkpoints").exists()


def test_published_weights_that_cannot_be_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    p = network_project(tmp_path)
    tree = yaml.safe_load((tmp_path / "params.yaml").read_text())
    tree["models"][PUBLISHED]["checkpoint"] = "arflow_sky"
    with pytest.raises(weights.Missing, match=r"no data/weights/sky_ckpt.pth.tar. Get sky_ckpt.pth.tar from https"):
        imported(params.validate(tree))
    with pytest.raises(RetakeError, match=r"no checkpoint data/checkpoints/.*toy.pt: check the name, or make it with"):
        stage.make(p, PUBLISHED, "toy", "test")


def test_a_killed_stage_leaves_nothing_and_repeats_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    p = network_project(tmp_path)
    published_file(tmp_path)
    imported(p)
    output = stage.make(p, PUBLISHED, "toy", "test")
    expected = output.read_bytes()
    output.unlink()
    # stops for ever before the second batch, as if the machine were slow
    code = (
        "import time; from pipeline import flow, params; from pipeline.models.arflow import model\n"
        "real, seen = model.ARFlow.estimate_batch, []\n"
        "def slow(self, frames):\n"
        "    seen.append(print('batch', flush=True) or (time.sleep(600) if seen else 0))\n"
        "    return real(self, frames)\n"
        f"model.ARFlow.estimate_batch = slow; flow.make(params.load(), {PUBLISHED!r}, 'toy', 'test')\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert [process.stdout.readline() for _ in range(2)] == ["batch\n"] * 2
        process.kill()
    assert not output.exists()
    assert stage.make(p, PUBLISHED, "toy", "test").read_bytes() == expected
    assert [path.name for path in output.parent.iterdir()] == [output.name]


# Two images on the command line.


@pytest.fixture
def two_images(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / "A.png", tmp_path / "B.png"]
    for path, image in zip(paths, moving(2, (3, -1), (80, 120)), strict=True):
        write_image(path, image)
    return paths


def test_two_images_give_flo_kitti_png_and_picture(tmp_path: Path, two_images: list[Path]) -> None:
    stage.make_pair(MODELS["dis"], two_images, tmp_path / "f.flo", tmp_path / "picture.png")
    flow = files.read_flo(tmp_path / "f.flo")
    assert endpoint_error(flow, (3, -1))[8:-8, 8:-8].mean() < 0.1
    assert read_image(tmp_path / "picture.png").shape == (80, 120, 3)
    stage.make_pair(MODELS["dis"], two_images, tmp_path / "f.png", None)
    assert endpoint_error(files.read_kitti(tmp_path / "f.png"), flow).max() <= files.ERROR
    stage.make_pair(MODELS["dis"], two_images, tmp_path / "f.npy", None)
    array = np.load(tmp_path / "f.npy")
    assert array.dtype == np.float32
    np.testing.assert_array_equal(array, flow)


def test_two_images_bad_input(tmp_path: Path, two_images: list[Path]) -> None:
    model, output = MODELS["dis"], tmp_path / "f.flo"
    image = read_image(two_images[0])
    bad = {
        "grey": image[..., 0],
        "deep": image.astype(np.uint16) * 257,
        "alpha": np.dstack([image, image[..., :1]]),
        "small": image[:-4],
    }
    for name, pixels in bad.items():
        cv2.imwrite(str(tmp_path / f"{name}.png"), pixels)
    (tmp_path / "cut.png").write_bytes(two_images[0].read_bytes()[:500])
    (tmp_path / "text.png").write_text("not an image")
    messages = {
        "grey": "8-bit grey image, 8-bit RGB is needed: ffmpeg",
        "deep": "16-bit RGB image, 8-bit RGB is needed",
        "alpha": r"alpha\.png has pixels that can be seen through",
        "small": r"A\.png is 120x80, .*small\.png is 120x76: flow needs two images of one size",
        "cut": r"cut\.png cannot be read as an image",
        "text": r"text\.png is no PNG or JPEG image",
        "absent": r"no image .*absent\.png",
    }
    for name, message in messages.items():
        with pytest.raises(RetakeError, match=message):
            stage.make_pair(model, [two_images[0], tmp_path / f"{name}.png"], output, None)
    for images in (two_images[:1], [*two_images, two_images[0]]):
        with pytest.raises(RetakeError, match=f"between two images, {len(images)} given"):
            stage.make_pair(model, images, output, None)
    with pytest.raises(RetakeError, match=r"f\.txt: flow is written as \.flo, \.png, \.npy"):
        stage.make_pair(model, two_images, tmp_path / "f.txt", None)
    with pytest.raises(RetakeError, match="truth is read from a dataset's archives"):
        stage.make_pair(MODELS["truth"], two_images, output, None)
    with pytest.raises(RetakeError, match=r"OpenCV writes no images with suffix '.xyz'"):
        stage.make_pair(model, two_images, None, tmp_path / "picture.xyz")
    assert not output.exists()


def test_command_line(tmp_path: Path, two_images: list[Path]) -> None:
    """With the project's own entry `dis`, in another folder."""
    tree = resolved()
    furnish(tmp_path)
    with contextlib.chdir(tmp_path):
        env = handed_over(tree)

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pipeline.flow", *words]
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)

    done = command("A.png", "B.png", "--output", "flow.flo", "--picture", "flow.png")
    assert done.returncode == 0, done.stderr
    assert files.read_flo(tmp_path / "flow.flo").shape == (80, 120, 2)
    assert (tmp_path / "flow.png").exists()
    failed = command("A.png", "--output", "other.flo")
    assert failed.returncode == 1
    assert failed.stderr.strip() == "error: flow is estimated between two images, 1 given: A.png"
    assert not (tmp_path / "other.flo").exists()


def test_two_images_are_not_overwritten(tmp_path: Path, two_images: list[Path]) -> None:
    before = [path.read_bytes() for path in two_images]
    for output, picture in ((two_images[0], None), (tmp_path / "f.flo", two_images[1])):
        with pytest.raises(RetakeError, match=r"[AB]\.png exists: nothing is overwritten"):
            stage.make_pair(MODELS["dis"], two_images, output, picture)
    assert [path.read_bytes() for path in two_images] == before
    assert not (tmp_path / "f.flo").exists()


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.flo", struct.pack("<fii", 202021.25, 60000, 60000), "claims to be 60000x60000"),
        ("a.flo", struct.pack("<fii", 202021.25, -5, 3) + bytes(99), "claims to be -5x3"),
        ("a.png", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + struct.pack(">II", 60000, 60000) + bytes(20), "claims to be 60000x60000"),
        ("a.png", b"", "is no PNG or JPEG image"),
    ],
)  # fmt: skip
def test_headers_of_flow_files_are_not_believed(tmp_path: Path, name: str, data: bytes, words: str) -> None:
    (tmp_path / name).write_bytes(data)
    read = files.read_flo if name == "a.flo" else files.read_kitti
    with pytest.raises(RetakeError, match=rf"{re.escape(name)}:? {words}"):
        read(tmp_path / name)
