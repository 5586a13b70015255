"""Laplacian-pyramid L1: how far two images differ, band by band (DMVFN's main loss).

Five band-pass levels, each the mean absolute difference, added without weights. The low-pass rest below them is left
out, as published, so a constant shift of colour costs nothing.

The blur [1,4,6,4,1]/16 is separable and its borders are reflected, so one level is two small matrices on either side of
the image. On a CPU the two products with them take two fifths of the time of both images' 5x5 convolutions, as
published, backward included.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

import numpy as np

from pipeline.errors import RetakeError

if TYPE_CHECKING:
    from torch import Tensor

LEVELS = 5
TAPS = np.array([1, 4, 6, 4, 1]) / 16


def fits(height: int, width: int) -> bool:
    """Return whether images of this size (pixels) can be halved five times with room for the blur at the last."""
    return height % 32 == 0 and width % 32 == 0 and min(height, width) >= 64


def bands(images: Tensor) -> list[Tensor]:
    """Return the five bands of (..., H, W) float32 images; band j has size H/2^j, W/2^j.

    Raises RetakeError when H or W is no multiple of 32 or below 64.
    """
    height, width = images.shape[-2:]
    if not fits(height, width):
        raise RetakeError(
            f"the Laplacian loss cannot take images of {width}x{height} pixels: "
            "both sides must be multiples of 32 and at least 64. Change the training's crop"
        )
    levels = []
    for _ in range(LEVELS):
        down_h, up_h = _matrices(images.shape[-2], images.device)
        down_w, up_w = _matrices(images.shape[-1], images.device)
        smaller = _product(down_h, images @ down_w.T)
        levels.append(images + _product(-up_h, smaller @ up_w.T))  # a difference would negate its whole gradient
        images = smaller
    return levels


def losses(predictions: Tensor, target: Tensor) -> Tensor:
    """Return the loss of each of P predictions of one target: (P, N, 3, H, W), (N, 3, H, W) -> (P,).

    A pyramid is linear: the bands of the difference are the differences of the bands, so the target needs none.
    """
    return sum((band.abs().flatten(1).mean(1) for band in bands(predictions - target)), start=predictions.new_zeros(()))


def _product(matrix: Tensor, images: Tensor) -> Tensor:
    """Return `matrix` @ `images`. On a CPU that is oneDNN's convolution of lines, twice as fast as MKL's product."""
    from torch.nn import functional

    if images.device.type != "cpu":
        return matrix @ images
    height, width = images.shape[-2:]
    return functional.conv1d(images.reshape(-1, height, width), matrix[..., None]).view(*images.shape[:-2], -1, width)


@functools.lru_cache(maxsize=64)
def _matrices(n: int, device: object) -> tuple[Tensor, Tensor]:
    """Return what halves a line of n pixels, (n/2, n), and what doubles it again, (n, n/2).

    Halving blurs and keeps the even pixels; doubling puts zeros between the pixels and blurs with twice the kernel.
    """
    import torch

    centre, tap = np.indices((n, len(TAPS)))
    source = np.abs(centre + tap - 2)
    source = np.where(source < n, source, 2 * (n - 1) - source)
    blur = np.zeros((n, n), np.float32)
    np.add.at(blur, (centre, source), TAPS[tap])
    down, up = torch.from_numpy(blur[::2].copy()), torch.from_numpy(2 * blur[:, ::2])
    return down.to(device), up.to(device)  # type: ignore[call-overload]
