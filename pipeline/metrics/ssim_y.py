"""SSIM-Y: SSIM of luma as TecoGAN's script computes it, of 8-bit images: scikit-image's defaults, the output's own range.

Uniform 7x7 window, sample covariances; the range is that of the output's luma instead of 255, so it does not compare with
other SSIMs. A flat output has no range: such a frame has no value, and is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import Undefined, temporal

LABEL = "SSIM-Y"
BETTER = "higher"
SCALE = 100.0
NEEDS = "frames"
NO_VALUE = "the output is flat, so the range is 0"


class Params(params.Metric):
    """SSIM-Y has no settings: the published ones are part of its name."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "SSIM-Y", "variant": "uniform 7x7, sample covariances, valid windows",
            "range": "of the output's Y", "K": [temporal.K1, temporal.K2],
            "channel": "Y of BT.601, 16 to 235, not rounded", "images": "8 bits"}  # fmt: skip


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 in [0,1] -> (T,) float64 in [-1,1], NaN of flat outputs.

    It raises Undefined when a side is shorter than the window.
    """

    def ssim_y(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        height, width = target.shape[1:3]
        if min(height, width) < temporal.WINDOW:
            raise Undefined(f"SSIM-Y needs sides of at least {temporal.WINDOW} px, the frames are {width}x{height}")
        pairs = zip(temporal.eight_bits(target), temporal.eight_bits(prediction), strict=True)
        return np.array([temporal.ssim_y(*pair) for pair in pairs])

    return ssim_y
