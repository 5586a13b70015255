"""What TecoGAN's published metric script measures, PSNR-Y, SSIM-Y, tOF and tLP, and the motion that tOF and Flow-MSE compare.

Frames are 8-bit RGB. What of a scene is scored is the protocol's (pipeline/tasks/super_resolution.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from pipeline.metrics import cache

WINDOW = 7  # of SSIM
K1, K2 = 0.01, 0.03
FLAT = 1e-6  # of luma: two 8-bit images that differ do so by more, rounding by less
LUMA = (0.256788235294118, 0.504129411764706, 0.097905882352941)
Region = tuple[slice, slice]  # rows and columns of a frame
Motion = Callable[[], np.ndarray]  # gives the flow of the truth's pair, (h, w, 2) px
FARNEBACK: dict[str, Any] = {
    "pyr_scale": 0.5,
    "levels": 3,
    "winsize": 15,
    "iterations": 3,
    "poly_n": 5,
    "poly_sigma": 1.2,
}
SETTINGS: dict[str, Any] = {  # of every metric that reads this motion
    "flow": "Farneback of whole 8-bit grey frames",
    "settings": FARNEBACK,
    "version": f"OpenCV {cv2.__version__}",
}


def eight_bits(images: np.ndarray) -> np.ndarray:
    """Return images in [0,1] as uint8, rounded."""
    return np.rint(np.clip(images, 0, 1) * 255).astype(np.uint8)


def luma(images: np.ndarray) -> np.ndarray:
    """Return Y of BT.601, 16 to 235, not rounded: (..., h, w) float64 of (..., h, w, 3) RGB in 0..255."""
    return 16 + images.astype(np.float64) @ np.array(LUMA)


def psnr_y(target: np.ndarray, output: np.ndarray) -> float:
    """Return the PSNR (dB, range 255) of two cropped images' luma; infinite for equal images."""
    error = np.sqrt(np.mean((luma(target) - luma(output)) ** 2))
    return float("inf") if error == 0 else float(20 * np.log10(255 / error))


def ssim_y(target: np.ndarray, output: np.ndarray) -> float:
    """Return scikit-image's default SSIM of two cropped images' luma; NaN where the output is flat.

    Uniform 7x7 window, sample variances (divisor 48), mean where the window fits; the range is that of the output's luma, not 255, as
    published. Of a flat output that is 0: nothing keeps rounding errors from being divided by rounding errors.
    """
    x, y = luma(target), luma(output)
    span = float(y.max() - y.min())
    if span < FLAT:
        return float("nan")
    edge = WINDOW // 2

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (WINDOW, WINDOW))[edge:-edge, edge:-edge]

    sample = WINDOW**2 / (WINDOW**2 - 1)
    mx, my = mean(x), mean(y)
    x, y = x - x.mean(), y - y.mean()  # variances of images that are nearly flat keep their digits
    dx, dy = mean(x), mean(y)
    vx, vy = sample * (mean(x * x) - dx * dx), sample * (mean(y * y) - dy * dy)
    vxy = sample * (mean(x * y) - dx * dy)
    c1, c2 = (K1 * span) ** 2, (K2 * span) ** 2
    return float(np.mean((2 * mx * my + c1) * (2 * vxy + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))))


def motion(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Return Farneback flow (h, w, 2), px, between two uint8 RGB frames."""
    before, after = (cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY) for image in (first, second))
    none: Any = None  # no flow to start from
    return cv2.calcOpticalFlowFarneback(before, after, none, **FARNEBACK, flags=0)


def kept_motion(content: str, count: int, images: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """Return the flow between each of `count` uint8 images and the next, (count - 1, h, w, 2) px, mapped.

    `content` names the images, which are asked for only where their flow is not kept.
    """

    def make() -> Iterator[np.ndarray]:
        for before, after in itertools.pairwise(images()):
            yield motion(before, after)[None]

    key = {"motion": FARNEBACK, "version": f"OpenCV {cv2.__version__}", "content": content}
    return cache.rows(key, count - 1, make)


def t_of(target: np.ndarray, output: np.ndarray) -> float:
    """Return the mean length of the difference of two flows (h, w, 2), px: tOF of a frame and the one before."""
    return float(np.mean(np.linalg.norm(target - output, axis=-1)))


def t_lp(target: float, output: float) -> float:
    """Return tLP in the script's unit: 100 times the difference of two LPIPS distances, each to the frame before."""
    return 100 * abs(target - output)
