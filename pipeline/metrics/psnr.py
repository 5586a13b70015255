"""PSNR: -10 log10 of the mean squared error over all pixels and channels of a frame, dB.

Frames are averaged in dB, as DMVFN did (the mean of MSEs would give another number). Equal frames have an infinite
PSNR: means leave them out, and say how many they are. Where all frames are equal the mean is infinite.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import squared

LABEL = "PSNR"
BETTER = "higher"
SCALE = 1.0
NEEDS = "frames"


class Params(params.Metric):
    """PSNR has no settings."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "PSNR", "range": 1.0, "unit": "dB", "reduction": "mean of finite frames in dB"}


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 in [0,1] -> (T,) float64, dB."""

    def psnr(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        return squared.decibel(squared.errors(prediction, target))

    return psnr
