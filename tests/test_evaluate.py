"""pipeline.evaluate: folders, videos and arrays give one table; what does not fit is refused in words."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
import tracemalloc
import unicodedata
import zipfile
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import ROOT

from pipeline import evaluate as stage
from pipeline import weights
from pipeline.errors import RetakeError
from pipeline.evaluate import evaluate
from pipeline.sources import limits
from pipeline.sources.clips import clips as clips_of


def images(frames: int = 3, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def noisy(clip: np.ndarray, by: int = 9) -> np.ndarray:
    noise = np.random.default_rng(5).integers(-by, by + 1, clip.shape)
    return np.clip(clip.astype(int) + noise, 0, 255).astype(np.uint8)


def write(folder: Path, clip: np.ndarray, name: str = "frame{}.png") -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(clip):
        # OpenCV's own writing ends the process at a name that is not UTF-8
        (folder / name.format(number)).write_bytes(cv2.imencode(".png", image[..., ::-1])[1].tobytes())
    return folder


def video(path: Path, clip: np.ndarray, rate: Fraction | int = 25) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264rgb", rate=Fraction(rate), options={"crf": "0"})
        stream.height, stream.width, stream.pix_fmt = clip.shape[1], clip.shape[2], "rgb24"
        for image in clip:
            for packet in stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)
    return path


def saved(path: Path, array: np.ndarray) -> Path:
    np.save(path, array)
    return path


def row(table: str, name: str) -> list[float]:
    line = next(line for line in table.splitlines() if line.startswith(name))
    return [float(cell) for cell in re.split(r"\s{2,}", line)[1:]]


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    mse = ((a / 255 - b / 255) ** 2).mean(axis=(1, 2, 3))
    return float((-10 * np.log10(mse)).mean())


def test_the_same_clip_as_folder_video_and_array(tmp_path: Path) -> None:
    truth = images(12)
    predicted = noisy(truth)
    kinds = [
        (write(tmp_path / "a", truth), write(tmp_path / "b", predicted, "output_{}.png")),  # 10 comes behind 9
        (video(tmp_path / "a.mp4", truth), video(tmp_path / "b.mp4", predicted)),
        (saved(tmp_path / "a.npy", truth), saved(tmp_path / "b.npy", predicted)),
        (saved(tmp_path / "af.npy", truth / 255), saved(tmp_path / "bf.npy", (predicted / 255).astype(np.float32))),
    ]
    for true, ours in kinds:
        found = row(evaluate(ours, true, ["psnr"]), "all 1")
        assert found == [pytest.approx(psnr(truth, predicted), abs=1e-3)], ours


def test_clips_are_paired_by_name_and_averaged_by_frame(tmp_path: Path) -> None:
    for name, frames in (("x/one", 2), ("x/two", 6)):
        clip = images(frames, seed=frames)
        write(tmp_path / "truth" / name, clip)
        write(tmp_path / "ours" / name, noisy(clip, 3 * frames))
    table = evaluate(tmp_path / "ours", tmp_path / "truth", ["psnr", "ssim", "ms_ssim"])
    one, two, both = (re.split(r"\s{2,}", line)[1:] for line in table.splitlines()[1:4])
    assert float(both[0]) == pytest.approx((2 * float(one[0]) + 6 * float(two[0])) / 8, abs=1e-3)
    assert len(both) == 2  # MS-SSIM is empty, and the table says why
    assert "ms_ssim: no values: MS-SSIM needs sides of more than 160 px, the frames are 32x24" in table
    assert "psnr: PSNR, range 1.0, unit dB, reduction mean of finite frames in dB" in table


def test_equal_images(tmp_path: Path) -> None:
    clips = saved(tmp_path / "a.npy", np.stack([images(2), images(2, seed=1)]))
    table = evaluate(clips, clips, ["psnr", "ssim"])
    assert row(table, "000001") == row(table, "all 2") == [np.inf, 1]


def test_the_command(tmp_path: Path) -> None:
    a = saved(tmp_path / "a.npy", images())
    command = [sys.executable, "-m", "pipeline.evaluate", str(a), str(a), "--metrics"]
    done = subprocess.run([*command, "psnr"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout.splitlines()[1].split() == ["all", "1", "inf"], done.stderr
    done = subprocess.run([*command, "pnsr"], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 1 and "no metric 'pnsr' in profile clean (did you mean 'psnr'?)" in done.stderr
    assert "Traceback" not in done.stderr


def test_names_are_those_of_a_profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A bare name is the profile's; others by PROFILE.NAME; what a metric is stands below the table."""
    a, b = saved(tmp_path / "a.npy", images(64, 64)), saved(tmp_path / "b.npy", noisy(images(64, 64)))
    table = evaluate(b, a, ["psnr", "dtvnet.psnr", "psnr_of_mean"])
    ours, ffmpegs, of_mean = row(table, "all 1")
    assert ours != pytest.approx(ffmpegs, abs=0.01)
    assert round(ffmpegs, 2) == pytest.approx(ffmpegs, abs=0.01) and of_mean <= ours
    assert "dtvnet.psnr: PSNR (FFmpeg), " in table
    assert row(evaluate(b, a, ["psnr"], "dtvnet"), "all 1") == [ffmpegs]
    assert evaluate(b, a, [], "dtvnet").splitlines()[0].split() == ["clip", "psnr", "ssim", "flow_mse"]
    for names, profile, words in [
        (["pfvd"], "clean", r"no metric 'pfvd' in profile clean: name it cinn\.pfvd"),
        (["psnr"], "dmvnf", r"no profile 'dmvnf' \(did you mean 'dmvfn'\?\)"),
        (["cinn.diversity_vgg"], "clean", "diversity_vgg compares several samples of a start, not two sets of clips"),
        (["epe"], "arflow", "epe compares flow fields"),
        ([], "arflow", "profile arflow has no metric of frames"),
    ]:
        with pytest.raises(RetakeError, match=words):
            evaluate(b, a, names, profile)


def test_a_protocol_leaves_out_the_ends_and_the_border(tmp_path: Path) -> None:
    """TecoGAN's: two frames at both ends, sides of multiples of 32 that are at least 16 px shorter, centred."""
    true = images(6, 100, 120)
    prediction = noisy(true)
    inside = (slice(2, 4), slice(18, 82), slice(12, 108))
    elsewhere = np.full_like(prediction, 7)  # far off, where nothing is scored
    elsewhere[inside] = prediction[inside]
    files = [saved(tmp_path / f"{i}.npy", array) for i, array in enumerate((elsewhere, true))]
    table = evaluate(*files, ["psnr", "tecogan.psnr_y"], protocol="scenes")
    assert row(table, "all")[0] == pytest.approx(psnr(prediction[inside], true[inside]), abs=1e-3)
    assert "scored: protocol scenes: 2 frames at both ends of a clip and a border left out" in table
    assert row(evaluate(*files, ["psnr"]), "all")[0] < 15
    for metrics, protocol, words in (
        (["psnr"], "scene", "no protocol 'scene' of super-resolution: params.yaml has scenes"),
        (["psnr"], "pairs", "no protocol 'pairs' of super-resolution"),
        (["fid"], "scenes", "fid compares whole sets of clips: leave --protocol out"),
    ):
        with pytest.raises(RetakeError, match=re.escape(words)):
            evaluate(*files, metrics, protocol=protocol)
    with pytest.raises(RetakeError, match="at least 5 are needed"):
        short = [saved(tmp_path / f"short{i}.npy", true[:4]) for i in (0, 1)]
        evaluate(*short, ["psnr"], protocol="scenes")


def test_psnr_of_mean_averages_errors_before_the_logarithm(tmp_path: Path) -> None:
    truth = np.zeros((2, 2, 16, 16, 3), np.float32)
    ours = truth.copy()
    ours[0, 0], ours[1] = 0.2, 0.1
    table = evaluate(saved(tmp_path / "b.npy", ours), saved(tmp_path / "a.npy", truth), ["psnr", "psnr_of_mean"])
    first, others = -10 * np.log10(0.04), -10 * np.log10(0.01)  # dB; the frame that equals the truth has none
    assert row(table, "000000") == pytest.approx([first, -10 * np.log10(0.04 / 2)], abs=1e-4)
    mean = (first + 2 * others) / 3
    assert row(table, "all 2") == pytest.approx([mean, -10 * np.log10((0.04 + 2 * 0.01) / 4)], abs=1e-4)


def float_with(value: float) -> np.ndarray:
    clip = (images() / 255).astype(np.float32)
    clip[1, 3, 4, 0] = value
    return clip


@pytest.mark.parametrize(
    ("prediction", "words"),
    [
        (images()[:2], r"ours\.npy has 2 frames of 32x24, .*truth\.npy has 3 frames of 32x24"),
        (images(3, 24, 40), "3 frames of 40x24"),
        (float_with(1.7), r"ours\.npy, frame 1: values from .* to 1\.7, \[0,1\] is needed"),
        (float_with(np.nan), "frame 1: NaN"),
        (images().astype(np.float32), "frame 0: values from .* to 255"),
        (images()[0], r"has the shape \(24, 32, 3\)"),
        (images().astype(np.int32), "is int32: uint8, or float"),
        (images()[:0], r"has the shape \(0, 24, 32, 3\)"),
        (np.array([{"a": 1}]), "cannot be read as an array"),
    ],
)  # fmt: skip
def test_arrays_that_do_not_fit(tmp_path: Path, prediction: np.ndarray, words: str) -> None:
    truth = saved(tmp_path / "truth.npy", images())
    with pytest.raises(RetakeError, match=words):
        evaluate(saved(tmp_path / "ours.npy", prediction), truth, ["psnr"])


def test_names_that_do_not_fit_are_listed_with_the_expected_ones(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write(tmp_path / "truth" / name, images())
    write(tmp_path / "ours" / "one", images())
    write(tmp_path / "ours" / "tow", images())
    with pytest.raises(RetakeError) as error:
        evaluate(tmp_path / "ours", tmp_path / "truth", ["psnr"])
    for line in ("two is missing", "tow is not expected", "Expected 2: one, two"):
        assert line in str(error.value)


def test_folders_and_videos_that_do_not_fit(tmp_path: Path) -> None:
    clip = images(4)
    truth = video(tmp_path / "truth.mp4", clip)
    with pytest.raises(RetakeError, match=r"50 frames a second, .*truth\.mp4 25"):
        evaluate(video(tmp_path / "fast.mp4", clip, 50), truth, ["psnr"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RetakeError, match="empty holds no PNG or JPEG images, no folders of them and no videos"):
        evaluate(tmp_path / "empty", truth, ["psnr"])
    with pytest.raises(RetakeError, match="no file or folder"):
        evaluate(tmp_path / "absent", truth, ["psnr"])
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(RetakeError, match=r"text\.mp4 cannot be read as a video"):
        evaluate(tmp_path / "text.mp4", truth, ["psnr"])
    folder = write(tmp_path / "bad", clip)
    (folder / "frame2.png").write_bytes(b"\x89PNG cut")
    with pytest.raises(RetakeError, match=r"frame2\.png is no PNG or JPEG image"):
        evaluate(folder, truth, ["psnr"])
    cv2.imwrite(str(folder / "frame2.png"), clip[0, ..., 0])
    with pytest.raises(RetakeError, match=r"frame2\.png has 1 channels: write it as RGB"):
        evaluate(folder, truth, ["psnr"])


# Names, and what lies beside the clips


def test_what_is_meant_is_not_guessed(tmp_path: Path) -> None:
    clip = images()
    write(tmp_path / "stray/c1", clip)
    cv2.imwrite(str(tmp_path / "stray/preview.png"), clip[0])
    write(tmp_path / "both/c1", clip)
    video(tmp_path / "both/c1.mkv", clip)
    write(tmp_path / "mixed", clip)
    cv2.imwrite(str(tmp_path / "mixed/cover.jpg"), clip[0])
    for name, words in (
        ("stray", r"stray holds images \(preview\.png, 1 in all\) beside clips \(c1\): which are meant is not known"),
        ("both", r"c1 and c1\.mkv are both clip c1"),
        ("mixed", "mixed holds PNG and JPEG images"),
    ):
        with pytest.raises(RetakeError, match=words):
            evaluate(tmp_path / name, tmp_path / name, ["psnr"])


def test_single_clips_of_two_names_and_linked_folders(tmp_path: Path) -> None:
    clip = images()
    write(tmp_path / "ours/walk", clip)
    write(tmp_path / "theirs/run", clip)
    with pytest.raises(RetakeError, match=r"run is missing\n  walk is not expected"):
        evaluate(tmp_path / "ours", tmp_path / "theirs", ["psnr"])
    assert row(evaluate(tmp_path / "ours/walk", tmp_path / "theirs", ["psnr"]), "all 1") == [np.inf]
    for side, name in (("ours", "run"), ("theirs", "walk")):
        write(tmp_path / f"more/{side}/{name}", clip)
        (tmp_path / side / "more").symlink_to(f"../more/{side}")
    with pytest.raises(RetakeError, match=r"more/walk is missing\n  run is missing"):
        evaluate(tmp_path / "ours", tmp_path / "theirs", ["psnr"])


def test_names_of_all_kinds(tmp_path: Path) -> None:
    """Accents as a Mac spells them, bytes that are no UTF-8, colons, braces, line breaks; hidden files are not looked at."""
    names = ["for\u00eat", "a:b {0} {x}", "two\nlines", os.fsdecode(b"\xe9t\xe9")]
    clips = {name: images(2, seed=i) for i, name in enumerate(names)}
    for name, clip in clips.items():
        write(tmp_path / "truth" / name, clip)
        ours = write(tmp_path / "ours" / unicodedata.normalize("NFD", name), noisy(clip))
        (ours / "._frame0.png").write_bytes(b"a Mac's own")
    (tmp_path / "ours/.hidden").mkdir()
    cv2.imwrite(str(tmp_path / "ours/.hidden/0.png"), clips[names[0]][0])
    table = evaluate(tmp_path / "ours", tmp_path / "truth", ["psnr"])
    both = [np.concatenate(side) for side in zip(*((clip, noisy(clip)) for clip in clips.values()), strict=True)]
    assert row(table, "all 4") == [pytest.approx(psnr(both[0], both[1]), abs=1e-3)]
    for name in ("c:d.mp4", os.fsdecode(b"\xe9.mp4")):
        made = video(tmp_path / "plain.mp4", clips[names[0]]).rename(tmp_path / name)
        assert row(evaluate(made, made, ["psnr"]), "all 1") == [np.inf]


def test_a_name_that_no_encoding_knows_is_printed(tmp_path: Path) -> None:
    for name in (b"\xe9", b"plain"):
        write(tmp_path / os.fsdecode(b"clips/" + name), images())
    command = [
        sys.executable,
        "-m",
        "pipeline.evaluate",
        str(tmp_path / "clips"),
        str(tmp_path / "clips"),
        "--metrics",
        "psnr",
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and r"\udce9" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("ours", "theirs", "rule"),
    [
        (["f_0", "f_1", "f_2"], ["0000", "0001", "0002"], "equal"),
        (["c1_x4_8", "c1_x4_9", "c1_x4_10"], ["08", "09", "10"], "equal"),
        (["0", "1", "2"], ["1", "2", "3"], "counted from 0 and 1"),
        (["0", "1", "2"], ["2", "3", "4"], "refused"),
        (["0", "1", "3"], ["0", "1", "2"], "refused"),
        (["first", "second", "third"], ["0", "1", "2"], "names such as first and 0 do not say which frames they are"),
        (["a1_1", "a2_2", "a3_3"], ["0", "1", "2"], "names such as a1_1 and 0 do not say"),
    ],
)
def test_frames_are_paired_by_their_numbers(tmp_path: Path, ours: list[str], theirs: list[str], rule: str) -> None:
    clip = images()
    for side, names in (("ours", ours), ("theirs", theirs)):
        (tmp_path / side).mkdir()
        for name, image in zip(names, clip, strict=True):
            cv2.imwrite(str(tmp_path / side / f"{name}.png"), image)
    if rule == "refused":
        with pytest.raises(RetakeError, match=r"their names say other frames\. Give the frames of both"):
            evaluate(tmp_path / "ours", tmp_path / "theirs", ["psnr"])
        return
    table = evaluate(tmp_path / "ours", tmp_path / "theirs", ["psnr"])
    assert row(table, "all 1") == [np.inf]
    words = "one side counts from 0, the other from 1" if rule == "counted from 0 and 1" else rule
    assert ("frames paired: by position" in table) == (rule != "equal")
    assert rule == "equal" or f"frames paired: by position: {words}" in table


def test_rates_that_are_equal_but_for_rounding(tmp_path: Path) -> None:
    clip = images(4)
    ntsc = video(tmp_path / "ntsc.mp4", clip, Fraction(30000, 1001))
    assert row(evaluate(video(tmp_path / "cv.mp4", clip, Fraction(2997, 100)), ntsc, ["psnr"]), "all 1") == [np.inf]
    with pytest.raises(RetakeError, match=r"30 frames a second, .*ntsc\.mp4 29\.97"):
        evaluate(video(tmp_path / "thirty.mp4", clip, 30), ntsc, ["psnr"])


# Kinds of images, sizes, memory


def test_opaque_alpha_and_jpeg(tmp_path: Path) -> None:
    clip = images().repeat(4, axis=1).repeat(4, axis=2)
    (tmp_path / "rgba").mkdir()
    (tmp_path / "jpeg").mkdir()
    for number, image in enumerate(clip):
        alpha = np.full((*image.shape[:2], 1), 255, np.uint8)
        cv2.imwrite(str(tmp_path / f"rgba/{number}.png"), np.dstack([image[..., ::-1], alpha]))
        cv2.imwrite(str(tmp_path / f"jpeg/{number}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 100])
    truth = saved(tmp_path / "truth.npy", clip)
    assert row(evaluate(tmp_path / "rgba", truth, ["psnr"]), "all 1") == [np.inf]
    assert 20 < row(evaluate(tmp_path / "jpeg", truth, ["psnr"]), "all 1")[0] < 60


def test_frames_that_change_size(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", images())
    cv2.imwrite(str(folder / "frame1.png"), images(1, 20, 32)[0])
    with pytest.raises(RetakeError, match=r"a, frame frame1 is 32x20 uint8, the first one 32x24 uint8"):
        evaluate(folder, folder, ["psnr"])


def test_memory_is_that_of_a_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage, "BLOCK", 4 * 64 * 64 * 3)
    files = [saved(tmp_path / f"{i}.npy", images(400, 64, 64, i)) for i in (0, 1)]
    evaluate(*files, ["psnr"])  # imports
    tracemalloc.start()
    evaluate(*files, ["psnr", "ssim"])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 400 * 64 * 64 * 3  # one clip in 8 bits; as floats, both are eight times that


def test_blocks_do_not_change_the_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    true = images(9, 64, 64)
    files = [saved(tmp_path / f"{i}.npy", clip) for i, clip in enumerate((noisy(true), true))]
    names = ["psnr", "ssim", "tecogan.tof"]
    whole = evaluate(*files, names), evaluate(*files, names, protocol="scenes")
    monkeypatch.setattr(stage, "BLOCK", 1)
    assert (evaluate(*files, names), evaluate(*files, names, protocol="scenes")) == whole


def test_a_clip_that_is_too_large_to_be_held(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HELD", 10000)
    (clip,) = clips_of(saved(tmp_path / "a.npy", images(6))).values()
    with pytest.raises(RetakeError, match=r"a\.npy: its first 5 frames are more than the 10000 bytes .*: cut it into"):
        clip.read()
    assert len(list(clip.frames())) == 6


# Hostile arrays


def npy(shape: object, data: bytes = b"", kind: str = "|u1") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + data


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (npy((4, 60000, 60000, 3)), "takes .* bytes, the file has"),
        (npy((2**70, 2**70, 3, 3)), "takes .* bytes, the file has"),
        (npy((-1, 4, 4, 3)), "cannot be read as an array"),
        (npy("(" * 3000), "cannot be read as an array"),
        (npy("__import__('os')"), "cannot be read as an array"),
        (npy((1, 2, 2, 3), bytes(13)), "takes .* bytes, the file has"),
        (npy((1, 2, 2, 3), bytes(96), "|O"), "it holds objects"),
        (npy((True, 2, 2, 3), bytes(12), "|u1"), "it holds uint8"),
        (npy((99999, 1), b"", "|V0"), "not numbers"),
        (npy((1, 1, 1 << 26, 3), b""), "takes .* bytes, the file has"),
        (b"\x93NUMPY\x09\x00", "cannot be read as an array"),
        (b"", "cannot be read as an array"),
        (b"PK\x03\x04 no zip", "cannot be read as an array"),
    ],
)  # fmt: skip
def test_headers_of_arrays_are_not_believed(tmp_path: Path, data: bytes, words: str) -> None:
    (tmp_path / "a.npy").write_bytes(data)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as file:
        file.writestr("a.npy", data)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(RetakeError, match=rf"{name}.*({words})"):
            evaluate(tmp_path / name, tmp_path / name, ["psnr"])


def test_archives_of_arrays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = images()
    np.savez(tmp_path / "one.npz", clip)
    np.savez_compressed(tmp_path / "packed.npz", clip)
    np.savez(tmp_path / "two.npz", clip, clip)
    (tmp_path / "text.npz").write_text("no zip")
    for name in ("one", "packed"):
        assert row(evaluate(tmp_path / f"{name}.npz", saved(tmp_path / "a.npy", clip), ["psnr"]), "all 1") == [np.inf]
    for name, words in (("two", "holds 2 arrays"), ("text", "is not a whole zip archive")):
        with pytest.raises(RetakeError, match=rf"{name}\.npz {words}"):
            evaluate(tmp_path / f"{name}.npz", tmp_path / "a.npy", ["psnr"])
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("a.npy", npy((6, 2000, 2000, 3), bytes(6 * 2000 * 2000 * 3)))
    with pytest.raises(RetakeError, match=r"bomb\.npz: refused, its member 'a\.npy' declares .* over 100 times"):
        evaluate(tmp_path / "bomb.npz", tmp_path / "a.npy", ["psnr"])
    monkeypatch.setattr(limits, "HELD", 1000)
    with pytest.raises(RetakeError, match=r"one\.npz unpacks to .* save it as \.npy, which is read in place"):
        evaluate(tmp_path / "one.npz", tmp_path / "a.npy", ["psnr"])


def test_frames_without_a_value_are_left_out_and_counted(tmp_path: Path) -> None:
    """One frame equal to the truth has no finite PSNR; flat frames have no SSIM-Y."""
    true = images(4, 64, 64)
    ours = noisy(true)
    ours[1] = true[1]
    table = evaluate(saved(tmp_path / "b.npy", ours), saved(tmp_path / "a.npy", true), ["psnr"])
    assert row(table, "all 1") == [pytest.approx(psnr(ours[[0, 2, 3]], true[[0, 2, 3]]), abs=1e-3)]
    assert table.count("mean of 3 of 4 values, left out: 1 infinite (equal to the truth)") == 1
    ours[2] = 7
    table = evaluate(saved(tmp_path / "b.npy", ours), saved(tmp_path / "a.npy", true), ["tecogan.ssim_y"])
    assert np.isfinite(row(table, "all 1")).all() and "mean of 3 of 4 values, left out: 1 without a value" in table


def test_weights_that_cannot_be_had_cost_only_their_own_metric(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str, **_: bool) -> None:
        raise weights.Missing(f"weights {name} cannot be downloaded")

    monkeypatch.setattr(weights, "load", missing)
    true = images(2, 64, 64)
    paths = [str(saved(tmp_path / f"{name}.npy", array)) for name, array in (("b", noisy(true)), ("a", true))]
    monkeypatch.setattr(sys, "argv", ["evaluate", *paths, "--metrics", "psnr,lpips"])
    with pytest.raises(RetakeError, match=r"lpips has no value: weights .* cannot be downloaded"):
        stage.main()
    printed = capsys.readouterr().out
    assert row(printed, "all 1") == [pytest.approx(psnr(noisy(true), true), abs=1e-3)]
    assert printed.count("mean of finite frames") == 1
    with pytest.raises(RetakeError, match="lpips has no value") as error:
        evaluate(Path(paths[0]), Path(paths[1]), ["lpips"])
    assert not isinstance(error.value, stage.Incomplete)
