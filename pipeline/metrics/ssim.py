"""SSIM (Wang et al. 2004): Gaussian window of 11 taps, sigma 1.5, K = (0.01, 0.03), range 1, whole windows only.

Per channel, then the mean over channels; negative values stay. Equal to pytorch-msssim (DMVFN's) within that package's
float32 rounding of up to 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import Undefined, structure

LABEL = "SSIM"
BETTER = "higher"
SCALE = 100.0
NEEDS = "frames"


class Params(params.Metric):
    """SSIM has no settings: the published ones are part of its name."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {
        "name": "SSIM", "variant": "Gaussian 11 taps, sigma 1.5, valid windows, per channel",
        "range": 1.0, "K": [0.01, 0.03], "precision": "terms within 1e-6 of float64",
    }  # fmt: skip


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 in [0,1] -> (T,) float64 in [-1,1].

    It raises Undefined when a side is shorter than the window.
    """

    def ssim(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        height, width = prediction.shape[1:3]
        if min(height, width) < structure.TAPS:
            raise Undefined(f"SSIM needs sides of at least {structure.TAPS} px, the frames are {width}x{height}")
        return structure.full_size(prediction, target, device)[0].mean(axis=1)

    return ssim
