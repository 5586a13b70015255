"""Squared errors of images and their decibels, for both PSNRs; no registry entry of its own."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np


def errors(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return the mean squared errors of frames, (T, H, W, 3) float32 -> (T,) float64."""
    # OpenCV adds up float32 differences in float64.
    return np.array([cv2.norm(x, y, cv2.NORM_L2SQR) / x.size for x, y in zip(prediction, target, strict=True)])


def decibel(errors: Any) -> Any:
    """Return the PSNR of mean squared errors of images in [0,1], dB; infinite for 0."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)
