"""PSNR and SSIM as others compute them, on real frames where they are at hand: equal, or apart by a stated cause."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
import torch

from pipeline.metrics import ffmpeg, flow_mse, ms_ssim, psnr, psnr_of_mean, psnr_y, squared, ssim, ssim_y, temporal, tof


def pair(shared: Path) -> tuple[np.ndarray, np.ndarray]:
    """Two neighbouring pairs of KITTI frames, (2, 256, 832, 3) uint8 each."""
    files = sorted((shared / "data" / "kitti_sample").rglob("*.png"))[:3]
    frames = np.stack([cv2.resize(cv2.imread(str(f))[..., ::-1], (832, 256)) for f in files])
    return frames[:-1], frames[1:]


def unit(images: np.ndarray) -> np.ndarray:
    return images.astype(np.float32) / np.float32(255)


def test_agreement_of_packages_on_kitti(shared: Path) -> None:
    """scikit-image's Wang settings, and torchmetrics' PSNR, are ours; its SSIM and skimage's default are others."""
    import torchmetrics.functional.image as theirs
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a, b = (unit(images) for images in pair(shared))
    values = built(ssim)(a, b)
    decibel = built(psnr)(a, b)
    x, y = (torch.from_numpy(images).permute(0, 3, 1, 2) for images in (a, b))
    for i in range(len(a)):
        wang = structural_similarity(
            b[i].astype(np.float64), a[i].astype(np.float64), channel_axis=2, data_range=1.0, gaussian_weights=True,
            sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert values[i] == pytest.approx(wang, abs=1e-4)
        assert decibel[i] == pytest.approx(peak_signal_noise_ratio(b[i], a[i], data_range=1.0), abs=1e-3)
        # Its mean is over all pixels, the borders mirrored
        mirrored = float(theirs.structural_similarity_index_measure(x[i : i + 1], y[i : i + 1], data_range=1.0))
        assert 1e-5 < abs(values[i] - mirrored) < 0.02
        # Windows of 7x7, uniform
        uniform = structural_similarity(b[i], a[i], channel_axis=2, data_range=1.0)
        assert 1e-4 < abs(values[i] - uniform) < 0.05
    # Ranges that are guessed, or forgotten
    guessed = float(theirs.structural_similarity_index_measure(x, y))
    assert abs(values.mean() - guessed) < 0.02
    forgotten = float(theirs.structural_similarity_index_measure(x, y, data_range=255.0))
    assert forgotten > 0.995
    # The same five scales; its windows at the borders are mirrored, and cropped only of the contrast term
    multi = built(ms_ssim)(a, b).mean()
    their_multi = float(theirs.multiscale_structural_similarity_index_measure(x, y, data_range=1.0))
    assert 1e-6 < abs(multi - their_multi) < 0.01
    # torchmetrics takes the mean of the errors first
    whole = squared.decibel(built(psnr_of_mean)(a, b).mean())
    assert whole == pytest.approx(float(theirs.peak_signal_noise_ratio(x, y, data_range=1.0)), abs=1e-3)
    assert whole <= decibel.mean()


def built(module: Any, **keys: Any) -> Any:
    return module.build(module.Params(kind=module.__name__.rpartition(".")[2], **keys), "cpu")


def clip(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    a = np.stack([cv2.GaussianBlur(rng.integers(0, 256, (64, 80, 3), np.uint8), (0, 0), 2) for _ in range(3)])
    return np.clip(a + rng.integers(-9, 10, a.shape), 0, 255).astype(np.uint8), a


def test_ffmpegs_psnr_is_that_of_the_planes() -> None:
    a, b = clip()

    def planes(images: np.ndarray) -> np.ndarray:
        frames = [av.VideoFrame.from_ndarray(i, format="rgb24").reformat(format="yuv444p").to_ndarray() for i in images]
        return np.stack(frames).astype(np.float64)

    mse = ((planes(a) - planes(b)) ** 2).mean(axis=(1, 2, 3))
    expected = 10 * np.log10(255**2 / mse)
    assert ffmpeg.compare(a, b, "psnr") == pytest.approx(expected, abs=1e-4)
    assert ffmpeg.compare(a, a, "psnr").tolist() == [np.inf] * 3
    assert ffmpeg.compare(a, a, "ssim") == pytest.approx([1, 1, 1])
    assert (ffmpeg.compare(a, b, "ssim") < 1).all()
    assert ffmpeg.compare(b, a, "ssim") == pytest.approx(ffmpeg.compare(a, b, "ssim"), abs=1e-6)
    # as a metric: of floats, rounded to 8 bits; DTVNet's log files keep two decimals
    logged = built(ffmpeg, measure="psnr", decimals=2)(unit(a), unit(b))
    assert logged.tolist() == expected.round(2).tolist()


def test_luma_is_skimages_default_with_the_outputs_range() -> None:
    from skimage.metrics import structural_similarity

    a, b = clip()
    psnrs = built(psnr_y)(unit(a), unit(b))
    for i, found in enumerate(built(ssim_y)(unit(a), unit(b))):
        x, y = (temporal.luma(k[i]) for k in (b, a))
        assert found == pytest.approx(structural_similarity(x, y, data_range=y.max() - y.min()), abs=1e-9)
        assert psnrs[i] == pytest.approx(10 * np.log10(255**2 / ((x - y) ** 2).mean()))


def moving(by: int, frames: int = 4) -> np.ndarray:
    """A texture that moves by so many px a frame to the right, float."""
    noise = np.random.default_rng(0).normal(size=(96, 160 + 64, 3)).astype(np.float32)
    wide = cv2.GaussianBlur(noise, (0, 0), 3)
    wide = np.clip(0.5 + 0.2 * wide / wide.std(), 0, 1)
    return np.stack([wide[:, 40 - by * t : 40 - by * t + 160] for t in range(frames)])


@pytest.mark.parametrize("by", [0, 1, 3])
def test_motion_of_a_translated_clip(by: int) -> None:
    """Against a clip that stands still, tOF is the translation and Flow-MSE half its square (two components, one moves)."""
    inner = (slice(24, 72), slice(24, 136))
    still, panned = moving(0), moving(by)
    for module, expected in ((tof, by), (flow_mse, by**2 / 2)):
        metric = built(module)
        for true, value in ((panned, 0), (still, expected)):
            motion = functools.partial(temporal.motion, *temporal.eight_bits(true[:2]))
            assert metric(panned[:2], true[:2], inner, motion) == pytest.approx(value, rel=0.05, abs=1e-3)
