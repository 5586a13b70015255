"""PSNR-Y: TecoGAN's PSNR of luma, dB, of 8-bit images; Y of BT.601 (16 to 235), range 255. Frames are averaged in dB."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import temporal

LABEL = "PSNR-Y"
BETTER = "higher"
SCALE = 1.0
NEEDS = "frames"


class Params(params.Metric):
    """PSNR-Y has no settings."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "PSNR-Y", "range": 255, "unit": "dB", "channel": "Y of BT.601, 16 to 235, not rounded",
            "images": "8 bits", "reduction": "mean of finite frames in dB"}  # fmt: skip


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 in [0,1] -> (T,) float64, dB."""

    def psnr_y(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        pairs = zip(temporal.eight_bits(target), temporal.eight_bits(prediction), strict=True)
        return np.array([temporal.psnr_y(*pair) for pair in pairs])

    return psnr_y
