"""The viewer: listings, pictures, sheets, videos and exports of real stores, and the table's picture."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import av
import cv2
import numpy as np
import pytest
from conftest import ROOT

from pipeline import view
from pipeline.drawing import sheets
from pipeline.drawing.encode import write_video
from pipeline.errors import RetakeError
from pipeline.sources.clips import clips
from pipeline.sources.images import read_image
from pipeline.store import flow as files
from pipeline.store.frames import Store, Writer
from pipeline.tasks.prediction import view as prediction_view

PROTOCOL = {"window": 6, "windows": "all", "first": 1, "context": 2, "horizon": 3}
CLIP = "drive/image_02"


def drawing(number: int, height: int = 65, width: int = 127) -> np.ndarray:
    """A square that moves over a ramp; odd sides."""
    image = np.zeros((height, width, 3), np.uint8)
    image[...] = np.linspace(0, 200, width, dtype=np.uint8)[:, None]
    image[20:40, 4 * number : 4 * number + 20] = (250, 30, 60)
    return image


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Frame, flow and prediction stores in a folder of their own."""
    monkeypatch.chdir(tmp_path)
    with Writer("data/frames/toy/test.arrow", codec="png", meta={"dataset": "toy", "split": "test"}) as out:
        for number in range(3, 13):
            out.add(CLIP, number, drawing(number))
        out.add("other", 0, drawing(0))
    frames = Store("data/frames/toy/test.arrow")
    meta = {"frames": "data/frames/toy/test.arrow", "data": frames.identity}
    with Writer("data/flow/dis/toy/test.arrow", codec="flow64", dtype="float32", channels=2, meta=meta) as out:
        for number in range(3, 12):
            flow = np.full((65, 127, 2), (4, -number / 64), np.float32)
            flow[:5] = np.nan
            out.add(CLIP, number, flow)
    predict("copy_last", frames, lambda start, _: frames.image(start + 2))
    predict("perfect", frames, lambda start, step: frames.image(start + 2 + step), samples=2)
    return tmp_path


def predict(model: str, frames: Store, guess: Any, samples: int = 1, starts: Any = range(5)) -> None:
    meta = {
        "model": model,
        "experiment": "toy",
        "task": "prediction",
        "protocol": PROTOCOL,
        "frames": str(frames.path),
        "data": frames.identity,
    }
    with Writer(f"data/predictions/toy/{model}.arrow", codec="raw", dtype="uint16", meta=meta) as out:
        for start in starts:
            for sample in range(samples):
                for step in (1, 2, 3):
                    image = guess(start, step).astype(np.uint16) * 257
                    out.add(f"{CLIP}:{start}", step, image // (sample + 1), sample=sample)


def call(monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    monkeypatch.setattr(sys, "argv", ["view", *words])
    view.main()


def test_images_are_given_as_floats(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store("data/predictions/toy/perfect.arrow")
    call(monkeypatch, str(store.path), "--clip", f"{CLIP}:1", "--format", "npy", "--output", "out")
    assert names(data / "out") == [f"{n:010d}{s}.npy" for n in (1, 2, 3) for s in ("", "_sample1")]
    assert not (data / "out_sheets").exists()
    row = next(r for r in store.clips[f"{CLIP}:1"] if (store.frame[r], store.sample[r]) == (2, 1))
    given = np.load(data / "out/0000000002_sample1.npy")
    assert given.dtype == np.float32
    np.testing.assert_array_equal(np.rint(given.astype(float) * 65535), store.image(row))  # all 16 bits are there
    call(monkeypatch, "data/frames/toy/test.arrow", "--format", "npy")
    given = np.load(data / "data/view/as_npy/frames/toy/test/other/0000000000.npy")
    np.testing.assert_array_equal(given, drawing(0).astype(np.float32) / np.float32(255))


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264"
        assert stream.codec_context.pix_fmt == "yuv420p"
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(stream)]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_without_a_clip_the_store_is_described(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    call(monkeypatch, "data/frames/toy/test.arrow")
    text = capsys.readouterr().out
    assert '"dataset": "toy"' in text
    assert "11 images in 2 clips" in text
    assert "drive/image_02  10 frames  127x65" in text
    assert "other  1 frames  127x65" in text


def test_frames_become_pngs_a_sheet_and_a_video(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, "data/frames/toy/test.arrow", "--clip", CLIP)
    folder = Path("data/view/frames/toy/test/drive/image_02")
    beside = Path("data/view/frames/toy/test_sheets/drive/image_02")
    assert names(folder) == [f"{n:010d}.png" for n in range(3, 13)]
    assert names(beside) == ["clip.mp4", "sheet.png"]
    for number in range(3, 13):
        np.testing.assert_array_equal(read_image(folder / f"{number:010d}.png"), drawing(number))
    video = decode(beside / "clip.mp4")
    assert len(video) == 10
    assert video[0].shape == (66, 128, 3)  # even sides
    for number, frame in zip(range(3, 13), video, strict=True):
        assert np.abs(frame[:65, :127].astype(int) - drawing(number)).mean() < 6
    assert read_image(beside / "sheet.png").shape[1] <= sheets.WIDTH


def test_nothing_of_the_users_is_overwritten(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("mine", "other_sheets"):
        Path(folder).mkdir()
        Path(folder, "0000000003.png").write_text("mine")
    for name in ("mine", "other"):
        with pytest.raises(RetakeError, match="holds other files: give the name of a new or an empty folder"):
            call(monkeypatch, "data/frames/toy/test.arrow", "--clip", CLIP, "--output", name)
    assert Path("mine/0000000003.png").read_text() == Path("other_sheets/0000000003.png").read_text() == "mine"
    assert not Path("other").exists()
    with pytest.raises(RetakeError, match=r"0000000003\.png is no store"):
        call(monkeypatch, "mine/0000000003.png")


def test_what_is_shown_is_taken_by_other_commands(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, "data/frames/toy/test.arrow", "--clip", CLIP, "--output", "here")
    assert [clip.count for clip in clips(Path("here")).values()] == [10]


def test_the_video_is_the_same_bytes_each_time(tmp_path: Path) -> None:
    images = [drawing(n) for n in range(6)]
    for name in ("a.mp4", "b.mp4"):
        write_video(tmp_path / name, images, 10)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()


def test_flow_becomes_colours_with_a_legend(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, "data/flow/dis/toy/test.arrow", "--clip", CLIP, "--output", "here")
    folder = Path("here")
    assert names(folder) == [f"{n:010d}.png" for n in range(3, 12)]
    assert names(Path("here_sheets")) == ["clip.mp4", "legend.png", "sheet.png"]
    image = read_image(folder / "0000000005.png")
    assert (image[:5] == 0).all()  # no flow there
    assert (image[5:, :, 0] == 255).all()  # rightwards is red
    assert image[5:, :, 1:].max() < 60
    video = decode(Path("here_sheets/clip.mp4"))
    assert len(video) == 9
    assert video[0].shape == (130, 128, 3)  # the field below its frame
    legend = read_image("here_sheets/legend.png")
    assert (legend[55, 105] == [255, 0, 0]).all(where=[True, False, False])  # the wheel's right is red
    assert legend[55, 105, 1:].max() < 60


def test_flow_is_shown_without_its_frames(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("data/frames/toy/test.arrow").unlink()
    call(monkeypatch, "data/flow/dis/toy/test.arrow", "--clip", CLIP, "--output", "here")
    assert decode(Path("here_sheets/clip.mp4"))[0].shape == (66, 128, 3)


@pytest.mark.parametrize(("kind", "suffix"), [("flo", "flo"), ("kitti", "png"), ("png", "png")])
def test_a_whole_flow_store_is_exported(data: Path, monkeypatch: pytest.MonkeyPatch, kind: str, suffix: str) -> None:
    call(monkeypatch, "data/flow/dis/toy/test.arrow", "--format", kind)
    folder = Path(f"data/view/as_{kind}/flow/dis/toy/test/drive/image_02")
    assert names(folder) == [f"{n:010d}.{suffix}" for n in range(3, 12)]
    path = folder / f"0000000007.{suffix}"
    if kind == "png":
        assert read_image(path).shape == (65, 127, 3)
    else:
        flow = files.read_flo(path) if kind == "flo" else files.read_kitti(path)
        np.testing.assert_array_equal(flow, Store("data/flow/dis/toy/test.arrow").image(4))


def test_predictions_stand_beside_the_truth(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, "data/predictions/toy/copy_last.arrow", "--clip", f"{CLIP}:2", "--output", "here")
    folder, beside = Path("here"), Path("here_sheets")
    steps = [f"t+{k}{kind}.png" for k in (1, 2, 3) for kind in ("_error", "_truth")]
    assert names(folder) == [f"t+{k}.png" for k in (1, 2, 3)]
    assert names(beside) == sorted(["clip.mp4", "sheet.png", *steps])
    frames = Store("data/frames/toy/test.arrow")  # row 0 is the frame with number 3
    np.testing.assert_array_equal(read_image(folder / "t+1.png"), frames.image(2 + 1 + 1))
    np.testing.assert_array_equal(read_image(beside / "t+1_truth.png"), frames.image(2 + 1 + 2))
    error = read_image(beside / "t+1_error.png").astype(int).sum(axis=-1)
    assert error[60].max() < 30  # nothing moves there
    assert error[30].max() > 400
    assert len(decode(beside / "clip.mp4")) == 2 + 3


def test_further_samples_are_written_beside_the_first(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    call(monkeypatch, "data/predictions/toy/perfect.arrow", "--clip", f"{CLIP}:0", "--output", "here")
    first, second = (read_image(f"{s}.png").astype(int) for s in ("here/t+3", "here_sheets/t+3_sample1"))
    np.testing.assert_array_equal(first, read_image(Path("here_sheets/t+3_truth.png")))
    assert read_image(Path("here_sheets/t+3_error.png")).max() < 10
    assert np.abs(second - first / 2).max() <= 1


def test_bad_input(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = "data/frames/toy/test.arrow"
    with pytest.raises(RetakeError, match=r"no clip 'drive/image_03': did you mean 'drive/image_02'\? `python -m"):
        call(monkeypatch, frames, "--clip", "drive/image_03")
    with pytest.raises(RetakeError, match="not a flow store: --format flo is for those"):
        call(monkeypatch, frames, "--format", "flo")
    with pytest.raises(RetakeError, match=r"no store at data/frames/toy/train\.arrow"):
        call(monkeypatch, "data/frames/toy/train.arrow")
    Path("cut.arrow").write_bytes(Path(frames).read_bytes()[:900])
    with pytest.raises(RetakeError, match=r"cut\.arrow is not a complete frame store"):
        call(monkeypatch, "cut.arrow")
    with Writer(frames, codec="png", meta={}) as out:
        out.add(CLIP, 0, drawing(0))
    for store, clip in (("predictions/toy/copy_last", f"{CLIP}:0"), ("flow/dis/toy/test", CLIP)):
        with pytest.raises(RetakeError, match=rf"was made anew after data/{store}\.arrow: make that again"):
            call(monkeypatch, f"data/{store}.arrow", "--clip", clip, "--output", "here")
    assert not Path("here").exists()


def test_clip_names_stay_inside_the_folder() -> None:
    assert view._safe("../../etc/x:3") == Path("etc/x_3")
    assert view._safe("..") == Path("clip")


def test_every_clip_has_a_folder_of_its_own_with_its_own_frames_alone(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that are one when cleaned, or without capitals; and what an older store left."""
    path = Path("data/frames/toy/names.arrow")
    for names in (("a:1", "a_1", "A_1"), ("a_1",)):
        with Writer(path, codec="png", meta={"dataset": "toy", "split": "names"}) as out:
            for number, clip in enumerate(names):
                for frame in range(3 - len(names) + 1):
                    out.add(clip, frame, np.full((8, 8, 3), number, np.uint8))
        call(monkeypatch, str(path), "--format", "npy")
        folder = Path("data/view/as_npy/frames/toy/names")
        if len(names) == 3:
            values = {str(f.parent.relative_to(folder)): np.load(f).max() * 255 for f in folder.rglob("*.npy")}
            assert values == pytest.approx({"a_1": 0, "a_1_1": 1, "A_1_2": 2})
            np.save(folder / "a_1/0000000007.npy", np.zeros(3))
    assert sorted(f.name for f in (folder / "a_1").iterdir()) == [f"{n:010d}.npy" for n in range(3)]


def test_only_the_rows_of_the_clip_are_decoded(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    image = Store.image
    monkeypatch.setattr(Store, "image", lambda self, row: read.append(row) or image(self, row))
    call(monkeypatch, "data/frames/toy/test.arrow", "--clip", "other", "--output", "here")
    assert set(read) == {10}


# The table's picture.


def make_picture(path: str, protocol: dict[str, Any] = PROTOCOL, **stores: str) -> np.ndarray:
    predictions = {label: Store(f"data/predictions/toy/{name}.arrow") for label, name in stores.items()}
    prediction_view.picture({"frames": "data/frames/toy/test.arrow"}, SimpleNamespace(**protocol), predictions, path)
    return read_image(path)


def test_picture_has_a_row_for_each_model(data: Path) -> None:
    one = make_picture("one.png", Copy="copy_last")
    two = make_picture("two.png", Copy="copy_last", Perfect="perfect")
    again = make_picture("again.png", Copy="copy_last", Perfect="perfect")
    assert Path("two.png").read_bytes() == Path("again.png").read_bytes() == Path("again.png").read_bytes()
    assert again.shape == two.shape
    room = (sheets.WIDTH - sheets.GAP) // 4 - sheets.GAP
    factor = room // 127  # small frames are enlarged by a whole factor
    assert two.shape[1] == 4 * (127 * factor + sheets.GAP) + sheets.GAP
    assert two.shape[1] <= sheets.WIDTH
    row = two.shape[0] - one.shape[0]
    assert row == 65 * factor + 22 + sheets.GAP


def test_picture_shows_inputs_truth_predictions_and_errors(data: Path) -> None:
    image = make_picture("picture.png", Copy="copy_last", Perfect="perfect")
    factor = ((sheets.WIDTH - sheets.GAP) // 4 - sheets.GAP) // 127
    pitch = 65 * factor + 22 + sheets.GAP

    def cell(row: int, column: int) -> np.ndarray:
        y, x = 34 + row * pitch + 22, sheets.GAP + column * (127 * factor + sheets.GAP)
        return image[y : y + 65 * factor : factor, x : x + 127 * factor : factor]

    inputs, truths = [cell(0, 0), cell(0, 1)], [cell(0, 2), cell(0, 3)]
    numbers = [next(n for n in range(3, 13) if np.array_equal(drawing(n), c)) for c in (*inputs, *truths)]
    assert np.diff(numbers).tolist() == [1, 1, 2]  # t-1, t, t+1, t+3
    np.testing.assert_array_equal(cell(1, 2), inputs[1])
    np.testing.assert_array_equal(cell(1, 3), inputs[1])
    assert cell(1, 0).max() > 200
    np.testing.assert_array_equal(cell(2, 2), truths[0])
    np.testing.assert_array_equal(cell(2, 3), truths[1])
    assert cell(2, 0).max() < 10
    assert cell(2, 1).max() < 10


def test_picture_with_one_input_and_one_step(data: Path) -> None:
    frames = Store("data/frames/toy/test.arrow")
    protocol = {**PROTOCOL, "context": 1, "horizon": 1}
    predict("single", frames, lambda start, step: frames.image(start + 1 + step))
    image = make_picture("picture.png", protocol, Single="single")
    assert image.shape[1] <= sheets.WIDTH
    (three := {**PROTOCOL, "context": 1, "horizon": 3})
    assert make_picture("other.png", three, Copy="copy_last").shape[1] <= sheets.WIDTH


def test_picture_bad_input(data: Path) -> None:
    frames = Store("data/frames/toy/test.arrow")
    predict("late", frames, lambda start, step: frames.image(0), starts=range(9, 11))
    with pytest.raises(RetakeError, match="predictions of Copy, Late have no window in common"):
        make_picture("picture.png", Copy="copy_last", Late="late")
    with pytest.raises(RetakeError, match="drive/image_02 ends before the window 'drive/image_02:9': remake"):
        make_picture("picture.png", Late="late")
    predict("cropped", frames, lambda start, step: frames.image(start + 2)[:60])
    with pytest.raises(RetakeError, match=r"cropped\.arrow: drive/image_02:\d step 1 is \(60, 127, 3\), not the size"):
        make_picture("picture.png", Cropped="cropped")
    assert not Path("picture.png").exists()


def test_lines_below_a_picture_are_wrapped_to_its_width() -> None:
    picture = np.zeros((20, 300, 3), np.uint8)
    short, long = (sheets.with_lines(picture, ["word " * count]) for count in (2, 60))
    assert short.shape[1:] == long.shape[1:] == (300, 3)
    assert long.shape[0] > short.shape[0] > 20
    assert (short[:20] == 0).all()
    assert (long[:, :4] == 255).sum() + (long[:, -4:] == 255).sum() == 2 * 4 * 3 * (
        long.shape[0] - 20
    )  # margins are free


def test_long_captions_are_shortened() -> None:
    words = "a rather long label of a model that nobody can read in a narrow cell"
    short = sheets._shorten(words, 15, 150)
    assert short.startswith("a r")
    assert short.endswith("cell")
    assert "…" in short
    assert sheets._font(15).getlength(short) <= 150


def test_command_line_on_a_real_clip(shared: Path, tmp_path: Path) -> None:
    """As a user types it, on KITTI frames."""
    source = sorted((shared / "data/kitti_sample").rglob("*.png"))[:5]
    assert len(source) == 5
    with Writer(tmp_path / "data/frames/kitti/test.arrow", codec="png", meta={}) as out:
        for path in source:
            out.add("drive", int(path.stem), cv2.resize(read_image(path), (416, 128)))

    def command(*words: str) -> subprocess.CompletedProcess[str]:
        line = [sys.executable, "-m", "pipeline.view", "data/frames/kitti/test.arrow", *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)

    assert "drive  5 frames  416x128" in command().stdout
    done = command("--clip", "drive")
    assert done.returncode == 0, done.stderr
    assert len(decode(tmp_path / "data/view/frames/kitti/test_sheets/drive/clip.mp4")) == 5
    failed = command("--clip", "drift")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: data/frames/kitti/test.arrow has no clip 'drift': did you mean 'drive'?")
