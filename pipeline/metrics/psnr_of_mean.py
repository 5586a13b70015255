"""PSNR of the mean squared error over all frames, dB: the errors are averaged first, as torchmetrics does.

Never more than the mean of the frames' PSNRs (`psnr`). A frame's value is its mean squared error; the table and evaluate turn
its mean into dB.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import squared

LABEL = "PSNR of mean error"
BETTER = "higher"
SCALE = 1.0
NEEDS = "frames"
MEAN = "decibel"  # what becomes of a mean


class Params(params.Metric):
    """The PSNR of mean errors has no settings."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": LABEL, "range": 1.0, "unit": "dB", "reduction": "dB of the mean squared error over frames"}


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 in [0,1] -> (T,) float64, squared errors."""
    return squared.errors
