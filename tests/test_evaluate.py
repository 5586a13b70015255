"""pipeline.evaluate: folders, videos and arrays give one table; what does not fit is refused in words."""

from __future__ import annotations

import re
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from conftest import ROOT

from pipeline.errors import RetakeError
from pipeline.evaluate import evaluate


def images(frames: int = 3, height: int = 24, width: int = 32, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, height, width, 3), np.uint8)


def noisy(clip: np.ndarray, by: int = 9) -> np.ndarray:
    noise = np.random.default_rng(5).integers(-by, by + 1, clip.shape)
    return np.clip(clip.astype(int) + noise, 0, 255).astype(np.uint8)


def write(folder: Path, clip: np.ndarray, name: str = "frame{}.png") -> Path:
    folder.mkdir(parents=True)
    for number, image in enumerate(clip):
        cv2.imwrite(str(folder / name.format(number)), image[..., ::-1])
    return folder


def video(path: Path, clip: np.ndarray, rate: int = 25) -> Path:
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
    assert '"reduction": "mean of frames in dB"' in table


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
    assert 'dtvnet.psnr: {"name": "PSNR (FFmpeg)"' in table
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
    assert row(table, "000000") == [np.inf, pytest.approx(-10 * np.log10(0.04 / 2), abs=1e-4)]
    assert row(table, "all 2") == [np.inf, pytest.approx(-10 * np.log10((0.04 + 2 * 0.01) / 4), abs=1e-4)]


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
