"""The score stage and brought predictions, on small stores; what they say when a store or a folder is wrong."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

from pipeline import bring, params, score, weights
from pipeline.errors import RetakeError
from pipeline.metrics import epe, ms_ssim, ssim
from pipeline.params import Params
from pipeline.store import sealed
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common import score as common
from pipeline.tasks.prediction import clips as prediction
from tests.conftest import furnish

FRAMES = Path("data/frames/toy/test.arrow")
CLIPS = {"drive_a/image_02": (3, 8), "drive_b/image_02": (0, 6)}  # first frame number, frames
SIZE = (168, 176)
NONE: dict[str, Any] = {"network": None, "train": None, "checkpoint": None, "predict": None}


def toy(**changes: Any) -> Params:
    """Parameters of one small experiment; dotted keys with __ change them."""
    tree: dict[str, Any] = {
        "reproduce": ["toy"],
        "tracking": {"mlflow": False},
        "compute": {
            "device": "cpu", "precision": "32-true", "channels_last": False, "threads": 1, "batch": 2, "workers": 0,
        },
        "datasets": {"toy": {"kind": "demo", "height": SIZE[0], "width": SIZE[1], "codec": "raw", "archives": "all"}},
        "models": {
            "copy_last": {"kind": "copy_last"} | NONE,
            "flow_warp": {"kind": "flow_warp"} | NONE | {"predict": {"flow": "dis"}},
            "dis": {"kind": "dis"} | NONE | {"predict": {"export": "pairs", "preset": "medium"}},
            "truth": {"kind": "truth"} | NONE,
        },
        "protocols": {
            "next3": {
                "task": "prediction", "window": 6, "windows": "all", "first": 1, "context": 2, "horizon": 3,
                "samples": 2,
            },
        },
        "profiles": {},
        "experiments": {
            "toy": {
                "dataset": "toy", "trained_on": "toy", "protocol": "next3",
                "models": {"copy_last": "Copy last", "flow_warp": "Flow & warp_1"},
                "metrics": {"psnr": {"kind": "psnr"}, "ssim": {"kind": "ssim"}, "ms_ssim": {"kind": "ms_ssim"},
                            "epe": {"kind": "epe"}},
                "report": [1, 3], "predictions": {"brought": "brought"}, "missing_weights": "error", "published": None,
            },
        },
    }  # fmt: skip
    for key, value in changes.items():
        *parents, leaf = key.split("__")
        node = tree
        for parent in parents:
            node = node[parent]
        node[leaf] = value
    return params.validate(tree)


def picture(clip: int, number: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """A texture that pans by 3 px a frame, uint8."""
    noise = np.random.default_rng(clip).normal(size=(size[0], size[1] + 60, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 2)[:, 3 * number :][:, : size[1]]
    return np.clip(128 + image / image.std() * 45, 0, 255).astype(np.uint8)


def write_frames(size: tuple[int, int] = SIZE) -> Store:
    meta = {"dataset": "toy", "split": "test", "licence": "CC0 of the toy", "partial": "1 of 2 archives"}
    with Writer(FRAMES, codec="raw", meta=meta) as out:
        for i, (clip, (first, count)) in enumerate(CLIPS.items()):
            for number in range(first, first + count):
                out.add(clip, number, picture(i, number, size))
    return Store(FRAMES)


def write_predictions(
    p: Params, name: str, guess: Any, *, samples: int = 2, dtype: str = "uint16", **meta: Any
) -> Store:
    """A prediction store of `guess(context (2, H, W, 3) uint8, step, sample)`; None leaves the image out."""
    frames, protocol = Store(FRAMES), p.protocols["next3"]
    keys = {k: getattr(protocol, k) for k in ("window", "windows", "first", "context", "horizon")}
    meta = {
        "experiment": "toy", "model": name, "frames": str(FRAMES), "data": frames.identity, "checkpoint": "",
        "params": "ab" * 32, "protocol": keys, "samples": samples, "parameters": 12345, "gmacs": 0.5,
        "licence": frames.meta["licence"], "partial": frames.meta["partial"],
    } | meta  # fmt: skip
    path = Path(f"data/predictions/toy/{name}.arrow")
    with Writer(path, codec="raw", dtype=dtype, meta=meta) as out:
        for window in prediction.windows(frames, protocol):
            context = prediction.inputs(frames, window, protocol)
            for sample in range(samples):
                for step in range(1, protocol.horizon + 1):
                    image = guess(context, step, sample)
                    if image is not None:
                        out.add(prediction.key(window), step, image, sample=sample)
    speed = {
        "ms_per_frame": 1.5,
        "frames_per_s": 666.0,
        "peak_memory_mib": 99.5,
        "device": "cpu",
        "threads": 1,
        "batch": 2,
    }
    sealed.write(path.with_suffix(".speed.json"), speed)
    return Store(path)


def copy(context: np.ndarray, step: int, sample: int) -> np.ndarray:
    """The last frame; the second sample is a little darker."""
    return context[-1].astype(np.uint16) * (257 - 3 * sample)


def pan(context: np.ndarray, step: int, sample: int) -> np.ndarray:
    return np.roll(context[-1], -3 * step, axis=1).astype(np.uint16) * 257


def write_flows(wrong_by: float = 0.5) -> None:
    for estimator, flow in (("dis", (-3 + wrong_by, 0)), ("truth", (-3, 0))):
        with Writer(f"data/flow/{estimator}/toy/test.arrow", codec="raw", dtype="float32", channels=2, meta={}) as out:
            for clip, (first, count) in CLIPS.items():
                for number in range(first, first + count - 1):
                    field = np.full((*SIZE, 2), flow, np.float32)
                    field[0] = 99 if estimator == "dis" else np.nan
                    out.add(clip, number, field)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A folder with frames, flow and predictions of both models."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    p = toy()
    write_frames()
    write_flows()
    write_predictions(p, "copy_last", copy)
    write_predictions(p, "flow_warp", pan, samples=1)
    return p


def read(path: Path) -> tuple[dict[tuple[str, str, int, int], float], dict[str, Any]]:
    """Return {(window, metric, horizon, sample): value} and the metadata."""
    table = pq.read_table(path)
    assert table.column_names == ["window", "horizon", "sample", "metric", "value", "weight"]
    rows = {(r["window"], r["metric"], r["horizon"], r["sample"]): r["value"] for r in table.to_pylist()}
    assert len(rows) == table.num_rows
    return rows, json.loads(table.schema.metadata[b"retake"])


def test_scores_are_the_metrics_of_each_step_of_each_window(project: Params) -> None:
    rows, meta = read(score.score(project, "toy", "copy_last"))
    frames, protocol = Store(FRAMES), project.protocols["next3"]
    windows = prediction.windows(frames, protocol)
    assert [prediction.key(w) for w in windows] == [f"drive_a/image_02:{i}" for i in range(3)] + ["drive_b/image_02:0"]
    assert len(rows) == 4 * 3 * 2 * 3
    clip, start = windows[1]
    images = frames.read(clip, range(start, start + 6)).astype(np.float64) / 255
    for sample, dim in enumerate((1, 254 / 257)):
        for step in (1, 2, 3):
            mse = ((images[2] * dim - images[2 + step]) ** 2).mean()
            assert rows[f"{clip}:{start}", "psnr", step, sample] == pytest.approx(-10 * np.log10(mse), abs=1e-5)
    x, y = (a[None].astype(np.float32) for a in (images[2], images[5]))
    for module, name in ((ssim, "ssim"), (ms_ssim, "ms_ssim")):
        value = module.build(module.Params(kind=name), "cpu")(x, y)[0]
        assert rows[f"{clip}:{start}", name, 3, 0] == pytest.approx(value, abs=1e-9)
    assert meta["skipped"] == {"epe": "the row's model reads no precomputed flow"}
    assert meta["metrics"]["ms_ssim"]["settings"] == ms_ssim.settings(ms_ssim.Params(kind="ms_ssim"))
    assert {meta["metrics"][m]["better"] for m in ("psnr", "ssim", "ms_ssim")} == {"higher"}
    assert meta["identity"] == Store("data/predictions/toy/copy_last.arrow").identity
    assert meta["predictions"]["data"] == frames.identity
    assert (meta["windows"], meta["samples"]) == (4, 2)


def test_epe_is_of_the_flow_that_the_model_reads(project: Params) -> None:
    rows, meta = read(score.score(project, "toy", "flow_warp"))
    found = {key: value for key, value in rows.items() if key[1] == "epe"}
    assert found == {(w, "epe", 0, 0): 0.5 for w in dict.fromkeys(key[0] for key in rows)}  # row 0 has no exact flow
    assert meta["skipped"] == {}
    assert meta["metrics"]["epe"]["needs"] == epe.NEEDS == "flow"


def test_padding_is_not_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stands in the padding of frames, predictions and flow, the values are those without it."""
    kept, values = (164, 170), np.array([164, 170], np.float32)
    found = []
    for padded in (False, True):
        (tmp_path / str(padded)).mkdir()
        furnish(tmp_path / str(padded))
        monkeypatch.chdir(tmp_path / str(padded))
        p = toy(experiments__toy__metrics={k: {"kind": k} for k in ("psnr", "ssim", "ms_ssim", "epe", "tof")})
        write_frames()
        write_flows()
        whole = Store(FRAMES)
        meta = {**whole.meta, **({"fit": "pad", "values": "unpadded"} if padded else {})}
        with Writer(FRAMES, codec="raw", meta=meta) as out:
            for clip, rows in whole.clips.items():
                for row in rows:
                    image = whole.image(row).copy()
                    image[kept[0] :], image[:, kept[1] :] = 7, 7
                    image = image if padded else image[: kept[0], : kept[1]]
                    out.add(clip, int(whole.frame[row]), image, values=values if padded else None)
        flows = [Path(f"data/flow/{name}/toy/test.arrow") for name in ("dis", "truth")]
        for path in flows:
            fields = Store(path)
            with Writer(path, codec="raw", dtype="float32", channels=2, meta={}) as out:
                for clip, rows in fields.clips.items():
                    for row in rows:
                        field = fields.image(row).copy()
                        field[kept[0] :], field[:, kept[1] :] = 1000 * len(path.name), -50
                        out.add(clip, int(fields.frame[row]), field if padded else field[: kept[0], : kept[1]])

        def guess(context: np.ndarray, step: int, sample: int) -> np.ndarray:
            image = context[-1].astype(np.uint16) * 250
            image[kept[0] :], image[:, kept[1] :] = 65535, 0
            return image

        write_predictions(p, "flow_warp", guess, samples=1, fit="pad" if padded else None)
        found.append(read(score.score(p, "toy", "flow_warp"))[0])
    assert len(found[0]) == 4 * (3 * 3 + 2)
    assert found[0] == pytest.approx(found[1], abs=1e-9)


def test_epe_names_the_flow_that_is_not_there(project: Params) -> None:
    with Writer("data/flow/truth/toy/test.arrow", codec="raw", dtype="float32", channels=2, meta={}) as out:
        out.add("drive_a/image_02", 4, np.zeros((*SIZE, 2), np.float32))
    with pytest.raises(RetakeError, match=r"truth/toy/test.arrow has no drive_a/image_02 frame 5: make it again"):
        score.score(project, "toy", "flow_warp")


def test_the_same_input_gives_the_same_bytes(project: Params) -> None:
    first = score.score(project, "toy", "copy_last").read_bytes()
    assert score.score(project, "toy", "copy_last").read_bytes() == first


def test_a_perfect_prediction_has_infinite_psnr(project: Params) -> None:
    frames, protocol = Store(FRAMES), project.protocols["next3"]
    truth = iter([t for w in prediction.windows(frames, protocol) for t in prediction.targets(frames, w, protocol)])
    write_predictions(project, "flow_warp", lambda *_: next(truth).astype(np.uint16) * 257, samples=1)
    rows, _ = read(score.score(project, "toy", "flow_warp"))
    assert {v for k, v in rows.items() if k[1] == "psnr"} == {np.inf}
    assert min(v for k, v in rows.items() if k[1] in ("ssim", "ms_ssim")) == pytest.approx(1, abs=1e-12)


def test_an_undefined_metric_has_no_values_and_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    p = toy(datasets__toy__height=64, datasets__toy__width=96)
    write_frames((64, 96))
    write_predictions(p, "copy_last", copy)
    rows, meta = read(score.score(p, "toy", "copy_last"))
    assert {key[1] for key in rows} == {"psnr", "ssim"}
    assert meta["skipped"]["ms_ssim"] == "MS-SSIM needs sides of more than 160 px, the frames are 96x64"


def lose(key: tuple[int, int]) -> Any:
    return lambda context, step, sample: None if (sample, step) == key else copy(context, step, sample)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"data": "0" * 64}, "copy_last.arrow was not made from today's data/frames/toy/test.arrow: make it again"),
        ({"protocol": {"horizon": 4, "first": 1}}, r"made with another protocol \(\{'horizon': 4\}\): make it again"),
        ({"guess": lose((1, 3))}, r"window drive_a/image_02:0: .*steps 1 to 3, each once; wrong .*: \(1, 3\); make"),
        ({"samples": 3, "guess": lose((2, 1))}, r"expected 3 samples .*: \(2, 1\)"),
        ({"guess": lambda c, k, s: copy(c, k, s)[:, 1:]}, "drive_a/image_02:0, step 1: the image is 175x168, .* 176x"),
        (
            {"guess": lambda c, k, s: np.full(c[0].shape, (0.5, np.nan)[(k, s) == (2, 1)], "f4"), "dtype": "float32"},
            "copy_last.arrow, window drive_a/image_02:0, sample 1, step 2: values from nan to nan",
        ),
        (
            {"guess": lambda c, k, s: c[-1].astype(np.float32), "dtype": "float32"},
            r"sample 0, step 1: values from 0.0 to 255.0, \[0,1\] is needed",
        ),
    ],
    ids=["frames", "protocol", "step", "sample", "size", "nan", "range"],
)  # fmt: skip
def test_wrong_predictions_are_named(project: Params, wrong: dict[str, Any], words: str) -> None:
    write_predictions(project, "copy_last", **({"guess": copy} | wrong))
    with pytest.raises(RetakeError, match=words):
        score.score(project, "toy", "copy_last")
    assert not Path("data/scores").exists()


@pytest.mark.parametrize(
    ("protocol", "words"),
    [
        ({"windows": "first"}, "lacks 2 of 4 windows (drive_a/image_02:1, drive_a/image_02:2): make it again"),
        ({"window": 5, "first": 0}, "has unknown 2 of 4 windows (drive_a/image_02:3, drive_b/image_02:1): make it"),
    ],
)
def test_missing_and_unknown_windows_are_named(project: Params, protocol: dict[str, Any], words: str) -> None:
    other = toy(**{f"protocols__next3__{k}": v for k, v in protocol.items()})
    write_predictions(other, "copy_last", copy, protocol={})
    with pytest.raises(RetakeError) as error:
        score.score(project, "toy", "copy_last")
    assert words in str(error.value)


def test_missing_weights_stop_or_are_skipped(
    project: Params, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(weights, "here", lambda name: name != "alexnet")
    lpips = {"psnr": {"kind": "psnr"}, "lpips": {"kind": "lpips", "net": "alex", "colour": "bgr"}}
    with pytest.raises(RetakeError, match=r"metric lpips: no weights alexnet\. .*experiments.toy.missing_weights"):
        score.score(toy(experiments__toy__metrics=lpips), "toy", "copy_last")
    p = toy(experiments__toy__metrics=lpips, experiments__toy__missing_weights="skip")
    rows, meta = read(score.score(p, "toy", "copy_last"))
    assert {key[1] for key in rows} == {"psnr"}
    assert meta["skipped"] == {"lpips": "no weights alexnet"}  # nothing in it that another run would not say
    assert "lpips: no values: no weights alexnet" in caplog.text


def test_a_gpu_that_is_not_there(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(RetakeError, match=r"compute\.device is cuda, but torch finds no GPU here"):
        score.score(toy(compute__device="cuda"), "toy", "copy_last")


def test_an_unknown_row_is_refused_with_the_nearest(project: Params) -> None:
    with pytest.raises(RetakeError, match="did you mean 'toy-copy_last'"):
        score.score(project, "toy", "copy_lats")


# Brought predictions


def save(folder: Path, guess: Any, windows: int = 4, steps: int = 3) -> None:
    """Write the published layout by OpenCV, as the published script does: BGR PNG."""
    frames, protocol = Store(FRAMES), toy().protocols["next3"]
    for number, window in enumerate(prediction.windows(frames, protocol)[:windows]):
        (folder / f"{number:06d}").mkdir(parents=True, exist_ok=True)
        context = prediction.inputs(frames, window, protocol)
        for step in range(1, steps + 1):
            image = np.ascontiguousarray(guess(context, step)[..., ::-1])
            assert cv2.imwrite(str(folder / f"{number:06d}" / f"pred_{step}.png"), image)


def blend(context: np.ndarray, step: int) -> np.ndarray:
    return (context[0] // 2 + context[1] // 2 + step).astype(np.uint8)


def test_brought_predictions_score_as_direct_ones(project: Params) -> None:
    save(Path("brought"), blend)
    (Path("brought") / ".DS_Store").write_bytes(b"")
    store = Store(bring.bring(project, "toy", "brought"))
    direct = write_predictions(project, "flow_warp", lambda c, k, _: blend(c, k).astype(np.uint16) * 257, samples=1)
    assert list(store.clips) == list(direct.clips)
    for row in range(len(store)):
        assert (store.image(row) == direct.image(row)).all()
    brought, meta = read(score.score(project, "toy", "brought"))
    expected, _ = read(score.score(project, "toy", "flow_warp"))
    assert brought == {key: value for key, value in expected.items() if key[1] != "epe"}
    assert meta["skipped"].keys() == {"epe"}
    assert store.meta["partial"] == "1 of 2 archives"
    assert store.source(3) == "000001/pred_1.png"


def test_every_8_bit_value_is_kept_exactly() -> None:
    levels = np.arange(256)
    stored = common.unit((levels * 257).astype(np.uint16), "")
    assert (stored == levels.astype(np.float32) / np.float32(255)).all()


def wreck(folder: Path, what: str) -> None:
    if what == "folder":
        shutil.rmtree(folder)
    elif what == "names":
        shutil.rmtree(folder / "000001")
        (folder / "000003").rename(folder / "000004")
        (folder / "000002" / "pred_3.png").rename(folder / "000002" / "pred_0.png")
    elif what == "images":
        cv2.imwrite(str(folder / "000000" / "pred_2.png"), np.zeros((*SIZE, 3), np.uint16))
        cv2.imwrite(str(folder / "000001" / "pred_1.png"), np.zeros(SIZE, np.uint8))
        cv2.imwrite(str(folder / "000002" / "pred_1.png"), np.zeros((SIZE[1], SIZE[0], 3), np.uint8))
        (folder / "000003" / "pred_3.png").write_bytes(b"PNG")


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("folder", ["no brought (experiments.toy.predictions.brought)"]),
        (
            "names",
            ["000001 is missing", "000003 is missing", "000004 is no test window", "000002/pred_3.png is missing",
             "000002/pred_0.png is no step of the protocol"],
        ),
        (
            "images",
            ["000000/pred_2.png is a 16-bit RGB image", "000001/pred_1.png is a 8-bit grey image",
             "000002/pred_1.png is 168x176, not 176x168", "000003/pred_3.png"],
        ),
    ],
)  # fmt: skip
def test_a_wrong_folder_is_refused_with_all_that_is_wrong(project: Params, what: str, words: list[str]) -> None:
    save(Path("brought"), blend)
    wreck(Path("brought"), what)
    with pytest.raises(RetakeError) as error:
        bring.bring(project, "toy", "brought")
    expected = (
        "expected in brought: one folder for each of the 4 test windows, 000000 to 000003, each with pred_1.png to"
    )
    for text in [*words, expected]:
        assert text in str(error.value)
    assert not Path("data/predictions/toy/brought.arrow").exists()


def test_long_lists_of_problems_are_cut(project: Params) -> None:
    Path("brought").mkdir()
    for number in range(30):
        Path(f"brought/x{number:02d}").mkdir()
    with pytest.raises(RetakeError, match=r"and 24 more\nexpected in brought"):
        bring.bring(project, "toy", "brought")


def written(path: str, guess: Any) -> np.ndarray:
    """All windows as one array, (4, 3, H, W, 3); saved as `path`."""
    frames, protocol = Store(FRAMES), toy().protocols["next3"]
    contexts = [prediction.inputs(frames, window, protocol) for window in prediction.windows(frames, protocol)]
    array = np.stack([[guess(context, step) for step in (1, 2, 3)] for context in contexts])
    np.savez(path, array) if path.endswith("z") else np.save(path, array)
    return array


def video(path: Path, clip: np.ndarray, rate: int | Fraction = 25) -> None:
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=rate, options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = clip.shape[1], clip.shape[2], "rgb24"
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode())


@pytest.mark.parametrize("kind", ["mine.npy", "mine.npz", "float.npy", "videos"])
def test_arrays_and_videos_are_brought_as_folders_are(project: Params, kind: str) -> None:
    save(Path("brought"), blend)
    expected = Store(bring.bring(project, "toy", "brought"))
    images = [expected.image(row).copy() for row in range(len(expected))]
    guess = (lambda c, k: (blend(c, k) / 255).astype(np.float32)) if kind == "float.npy" else blend
    if kind == "videos":
        Path("videos").mkdir()
        for number, clip in enumerate(written("mine.npy", guess)):
            video(Path(f"videos/{number:06d}.mp4"), clip)
    else:
        written(kind, guess)
    p = toy(experiments__toy__predictions={"brought": kind})
    store = Store(bring.bring(p, "toy", "brought"))
    assert list(store.clips) == list(expected.clips)
    for row, image in enumerate(images):
        assert (store.image(row) == image).all()
    what = {"float.npy": "float array", "videos": "video"}.get(kind, "8-bit array")
    assert store.meta["brought"] == what
    score.score(p, "toy", "brought")


def one_frame_fewer(array: np.ndarray) -> np.ndarray:
    return array[:, :2]


def out_of_range(array: np.ndarray) -> np.ndarray:
    array = array.astype(np.float32) / 255
    array[2, 1, 5, 5, 0], array[3, 0, 0, 0, 0] = 1.5, np.nan
    return array


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (one_frame_fewer, ["000000 has 2 frames of 176x168, not 3 frames of 176x168", "000003 has 2 frames"]),
        (lambda a: a[:3], ["000003 is missing"]),
        (lambda a: np.concatenate([a, a[:1]]), ["000004 is not expected"]),
        (lambda a: a[0], ["000000 is missing", "a single clip is not expected"]),
        (lambda a: a[:, :, 1:], ["000001 has 3 frames of 176x167, not 3 frames of 176x168"]),
        (out_of_range, ["clip 000002, frame 1: values from", "to 1.5, [0,1] is needed", "clip 000003, frame 0: NaN"]),
        (lambda a: a.astype(np.float32), ["values from", "to 255, [0,1] is needed: divide, or save uint8"]),
        (lambda a: a[..., :1], ["has the shape (4, 3, 168, 176, 1)"]),
        (lambda a: a.astype(np.int64), ["is int64: uint8, or float in [0,1], is needed"]),
    ],
)  # fmt: skip
def test_wrong_arrays_are_refused_with_what_was_expected(project: Params, change: Any, words: list[str]) -> None:
    np.save("mine.npy", change(written("mine.npy", blend)))
    with pytest.raises(RetakeError) as error:
        bring.bring(toy(experiments__toy__predictions={"brought": "mine.npy"}), "toy", "brought")
    for text in words:
        assert text in str(error.value)
    if "shape" not in words[0] and "int64" not in words[0]:
        assert "in the order 000000, 000001, 000002, … 000003; the first has 3 frames of 176x168" in str(error.value)
    assert not Path("data/predictions/toy/brought.arrow").exists()


def test_wrong_videos_are_refused(project: Params) -> None:
    Path("videos").mkdir()
    for number, clip in enumerate(written("mine.npy", blend)):
        video(Path(f"videos/{number:06d}.mp4"), clip, {1: Fraction(25_001, 1000), 2: 30}.get(number, 25))
    p = toy(experiments__toy__predictions={"brought": "videos"})
    with pytest.raises(RetakeError, match=r"000002\.mp4 has 30 frames a second, videos/000000\.mp4 25") as error:
        bring.bring(p, "toy", "brought")
    assert "000001.mp4 has" not in str(error.value), "25.001 is 25 but for rounding"
    Path("videos/000002.mp4").rename("videos/two.mp4")
    with pytest.raises(RetakeError, match=r"(?s)000002 is missing.*two is not expected"):
        bring.bring(p, "toy", "brought")
    Path("videos/two.mp4").write_bytes(b"no video")
    with pytest.raises(RetakeError, match=r"two\.mp4 cannot be read as a video"):
        bring.bring(p, "toy", "brought")
