"""Low resolution from high, and back, on one grid.

Low resolution is made by a Gaussian blur of sigma 1.5, then every 4th pixel, so that a low-resolution pixel (i, j) lies on
the high-resolution pixel (4i, 4j). Training crops are blurred by 9 taps without borders, whole frames by 13 taps with
mirrored borders. Neither is rounded to 8 bits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import cv2
import numpy as np

from pipeline.errors import RetakeError
from pipeline.tasks.super_resolution import BORDER, SCALE

if TYPE_CHECKING:
    from torch import Tensor

SIGMA = 1.5
TRAINING_TAPS = 2 * BORDER + 1
FRAME_TAPS = 13  # OpenCV's automatic size for float images


def gaussian(taps: int) -> np.ndarray:
    """Return the blur's samples of sigma 1.5, (taps,) float64, summing to 1."""
    x = np.arange(taps) - taps // 2
    kernel = np.exp(-(x**2) / (2 * SIGMA**2))
    return kernel / kernel.sum()


def degrade_crops(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Return low-resolution frames (..., 3, s, s) and targets (..., 3, 4s, 4s) of training crops, float32 in [0,1].

    `crops`: (..., 3, 4s + 8, 4s + 8) float32 in [0,1], on any device. The targets are the crops without their border of
    4 pixels; the low resolution is not rounded to 8 bits.
    """
    import torch
    from torch.nn import functional

    side = tuple(crops.shape[-2:])
    if any(n < TRAINING_TAPS or (n - 2 * BORDER) % SCALE for n in side):
        raise RetakeError(
            f"training crops of {side[1]}x{side[0]} pixels: sides must be 4 times the low resolution plus 8"
        )
    taps = torch.from_numpy(gaussian(TRAINING_TAPS)).to(crops)
    flat = crops.reshape(-1, 1, *side)
    with torch.autocast(crops.device.type, enabled=False):  # 8 bits of mantissa would round the input
        small = functional.conv2d(flat, taps.view(1, 1, -1, 1), stride=(SCALE, 1))
        small = functional.conv2d(small, taps.view(1, 1, 1, -1), stride=(1, SCALE))
    low = small.view(*crops.shape[:-2], *small.shape[-2:])
    return low, crops[..., BORDER:-BORDER, BORDER:-BORDER]


def degrade_frame(frame: np.ndarray) -> np.ndarray:
    """Return a whole frame at low resolution, (ceil(H/4), ceil(W/4), 3) float32 in [0,1], not rounded.

    `frame`: (H, W, 3) uint8.
    """
    size = (FRAME_TAPS, FRAME_TAPS)
    blurred = cv2.GaussianBlur(frame.astype(np.float32), size, SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return blurred[::SCALE, ::SCALE] / np.float32(255)


# Taps at offsets -1, 0, 1, 2 of the cubic kernel with a = -0.75, one row for each phase 0, 1/4, 1/2, 3/4
_A = 0.75
_POWERS = np.array([[(phase / SCALE) ** k for k in range(4)] for phase in range(SCALE)])
_CUBIC = np.array(
    [[0, 1, 0, 0], [-_A, 0, _A, 0], [2 * _A, _A - 3, 3 - 2 * _A, -_A], [-_A, 2 - _A, _A - 2, _A]], dtype=np.float64
)
BICUBIC_TAPS: list[list[float]] = (_POWERS @ _CUBIC).tolist()


def resize_bicubic(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) enlarged four times by TensorFlow 1's bicubic (a = -0.75), borders repeated.

    Output sample i lies at i / 4 of the input (no half-pixel shift), where the degradation took it from.
    """
    from torch.nn import functional

    for axis in (2, 3):
        size = x.shape[axis]
        pad = (0, 0, 1, 2) if axis == 2 else (1, 2, 0, 0)
        padded = functional.pad(x, pad, mode="replicate")
        a, b, c, d = (padded.narrow(axis, offset, size) for offset in range(4))
        x = interleave([x] + [a * p + b * q + c * r + d * s for p, q, r, s in BICUBIC_TAPS[1:]], axis)
    return x


def resize_nearest(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) enlarged four times: output sample i is the input's nearest to i / 4, of two the first."""
    import torch

    for axis in (2, 3):
        last = x.shape[axis] - 1
        nearest = torch.arange(SCALE * x.shape[axis], device=x.device).add(1).div(SCALE, rounding_mode="floor")
        x = x.index_select(axis, nearest.clamp(max=last))
    return x


def interleave(phases: list[Tensor], axis: int) -> Tensor:
    """Return images whose samples along `axis` come from each of `phases` in turn."""
    import torch

    return torch.stack(phases, axis + 1).flatten(axis, axis + 1)
