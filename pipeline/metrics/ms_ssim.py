"""MS-SSIM (Wang et al. 2003): five scales; contrast-structure of the first four, SSIM of the fifth, weighted product.

Each term is a mean over positions, negative ones count as 0; 2x2 means between scales; the product per channel, then
the mean over channels. Window, K and range as in `ssim`. Equal to pytorch-msssim (DMVFN's) within 1e-4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import Undefined, structure

LABEL = "MS-SSIM"
BETTER = "higher"
SCALE = 100.0
NEEDS = "frames"
WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
SHORTEST = (structure.TAPS - 1) * 2 ** (len(WEIGHTS) - 1)  # a shorter side must exceed it


class Params(params.Metric):
    """MS-SSIM has no settings: the published ones are part of its name."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {
        "name": "MS-SSIM", "variant": "Gaussian 11 taps, sigma 1.5, valid windows, per channel",
        "range": 1.0, "K": [0.01, 0.03], "precision": "terms within 1e-6 of float64", "weights": list(WEIGHTS),
    }  # fmt: skip


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 in [0,1] -> (T,) float64 in [0,1].

    It raises Undefined when the shorter side is 160 px or less: the window would not fit the fifth scale.
    """

    def ms_ssim(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        height, width = prediction.shape[1:3]
        if min(height, width) <= SHORTEST:
            raise Undefined(f"MS-SSIM needs sides of more than {SHORTEST} px, the frames are {width}x{height}")
        product = np.maximum(structure.full_size(prediction, target, device)[1], 0) ** WEIGHTS[0]
        coarser = [_coarser(x, y) for x, y in structure.pairs(prediction, target, device)]
        return (product * np.concatenate(coarser)).mean(axis=1)

    return ms_ssim


def _coarser(x: Any, y: Any) -> np.ndarray:
    """Return the product of the weighted terms of all scales but the first, (frames, 3)."""
    product = np.ones(3)
    for weight in WEIGHTS[1:]:
        x, y = structure.halve(x), structure.halve(y)
        ssim, contrast = structure.terms(x, y)
        product = product * np.maximum(ssim if weight == WEIGHTS[-1] else contrast, 0) ** weight
    return product
