"""PSNR and SSIM as other papers and tools compute them, beside those of the registry; no registry entry of its own.

Each takes (T, H, W, 3) RGB of prediction and target. `float` ones in [0,1], `uint8` ones as saved.
"""

from __future__ import annotations

import numpy as np

from pipeline.metrics import temporal


def psnr_y(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return TecoGAN's PSNR of luma, uint8, border cropped, (T,) dB; no frames are left out here."""
    return np.array([temporal.psnr_y(*_cropped(y, x)) for x, y in zip(prediction, target, strict=True)])


def ssim_y(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return TecoGAN's SSIM of luma, uint8, border cropped, (T,)."""
    return np.array([temporal.ssim_y(*_cropped(y, x)) for x, y in zip(prediction, target, strict=True)])


def _cropped(*images: np.ndarray) -> tuple[np.ndarray, ...]:
    top, left, height, width = temporal.border_crop(*images[0].shape[:2])
    return tuple(image[top : top + height, left : left + width] for image in images)
