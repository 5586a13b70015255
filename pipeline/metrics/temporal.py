"""TecoGAN's published metric script: PSNR-Y, SSIM, LPIPS, tOF and tLP of a scene, and its two averages over scenes.

Frames are 8-bit RGB, (n, height, width, 3) uint8, and paired by position; outputs larger than the targets are cut from the
top left. Two frames are left out at both ends. All metrics but the flow of tOF see the border crop.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cv2
import numpy as np

from pipeline.errors import RetakeError
from pipeline.metrics import cache

TRIM = 2
WINDOW = 7  # of SSIM
K1, K2 = 0.01, 0.03
LUMA = (0.256788235294118, 0.504129411764706, 0.097905882352941)
# Mean LPIPS distance of two images, (h, w, 3) float32 in [-1,1]
Distance = Callable[[np.ndarray, np.ndarray], float]
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


def border_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height, width of the part that is scored: multiples of 32, at least 16 less than the frame.

    Raises RetakeError when nothing would be left.
    """

    def side(size: int) -> int:
        kept = size // 32 * 32
        while kept > size - 16:
            kept -= 32
        return kept

    kept = side(height), side(width)
    if min(kept) <= 0:
        raise RetakeError(f"frames of {width}x{height} pixels: TecoGAN's metrics need sides of at least 48")
    return (height - kept[0]) // 2, (width - kept[1]) // 2, *kept


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
    """Return scikit-image's default SSIM of two cropped images' luma.

    Uniform 7x7 window, sample variances (divisor 48), mean where the window fits; the range is that of the output's luma, not 255, as published.
    """
    x, y = luma(target), luma(output)
    span = float(y.max() - y.min())
    edge = WINDOW // 2

    def mean(image: np.ndarray) -> np.ndarray:
        return cv2.blur(image, (WINDOW, WINDOW))[edge:-edge, edge:-edge]

    sample = WINDOW**2 / (WINDOW**2 - 1)
    mx, my = mean(x), mean(y)
    vx, vy = sample * (mean(x * x) - mx * mx), sample * (mean(y * y) - my * my)
    vxy = sample * (mean(x * y) - mx * my)
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


def scene(targets: np.ndarray, outputs: np.ndarray, distance: Distance | None) -> dict[str, np.ndarray]:
    """Return the script's values of one scene: PSNR, SSIM, LPIPS (n - 4 each), tOF, tLP100 (n - 5).

    `targets`: (n, h, w, 3) uint8; `outputs`: (n or more, >= h, >= w, 3) uint8; `distance`: LPIPS, None leaves it and tLP100 out.
    Raises RetakeError when frames are missing, outputs are smaller than targets or fewer than 5 frames are there.
    """
    n, height, width = targets.shape[:3]
    if n <= 2 * TRIM:
        raise RetakeError(f"a scene of {n} frames: two are left out at both ends, at least {2 * TRIM + 1} are needed")
    if len(outputs) < n:
        raise RetakeError(f"{len(outputs)} output frames for {n} targets: they are paired by position")
    if outputs.shape[1] < height or outputs.shape[2] < width:
        raise RetakeError(
            f"outputs of {outputs.shape[2]}x{outputs.shape[1]} pixels are smaller than the targets, {width}x{height}"
        )
    top, left, rows, columns = border_crop(height, width)

    def cropped(image: np.ndarray) -> np.ndarray:
        return image[top : top + rows, left : left + columns]

    values: dict[str, list[float]] = {name: [] for name in ("PSNR", "SSIM", "tOF")}
    if distance is not None:
        values.update(LPIPS=[], tLP100=[])
    before: tuple[np.ndarray, np.ndarray] | None = None
    for i in range(TRIM, n - TRIM):
        whole = targets[i], outputs[i, :height, :width]
        pair = cropped(whole[0]), cropped(whole[1])
        values["PSNR"].append(psnr_y(*pair))
        values["SSIM"].append(ssim_y(*pair))
        if distance is not None:
            values["LPIPS"].append(distance(_signed(pair[0]), _signed(pair[1])))
        if before is not None:
            values["tOF"].append(t_of(*(cropped(motion(a, b)) for a, b in zip(before, whole, strict=True))))
            if distance is not None:
                steps = [distance(_signed(cropped(a)), _signed(b)) for a, b in zip(before, pair, strict=True)]
                values["tLP100"].append(t_lp(*steps))
        before = whole
    return {name: np.array(found) for name, found in values.items()}


def _signed(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / np.float32(127.5) - 1


def averages(scenes: list[np.ndarray]) -> tuple[float, float]:
    """Return FolderAvg, the mean of the scenes' means, and FrameAvg, the mean of all their values pooled."""
    means = [np.mean(values.astype(np.float32)) for values in scenes]
    return float(np.mean(means)), float(np.mean(np.concatenate(scenes).astype(np.float32)))
