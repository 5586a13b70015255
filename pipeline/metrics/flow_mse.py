"""Flow-MSE: mean squared difference between the motion of the prediction and that of the truth, px^2.

DTVNet's papers print a Flow-MSE and no source defines it; this is our definition: the same estimator (TecoGAN's Farneback)
at the same size on both, squared differences averaged over pixels and both components of the flow, a value for each pair
of neighbouring frames.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import temporal

LABEL = "Flow-MSE"
BETTER = "lower"
SCALE = 1.0
DIGITS = 3
NEEDS = "pairs"


class Params(params.Metric):
    """Flow-MSE has no settings."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "Flow-MSE", "unit": "px^2", **temporal.SETTINGS, "definition": "ours"}


def build(p: Params, device: str) -> Callable[..., float]:
    """Return the function (prediction, target, scored part, the target's motion) -> px^2, of two neighbouring whole frames.

    Frames are (2, H, W, 3) float32 in [0,1].
    """

    def flow_mse(prediction: np.ndarray, target: np.ndarray, region: temporal.Region, motion: temporal.Motion) -> float:
        ours = temporal.motion(*temporal.eight_bits(prediction))
        return float(np.mean((ours[region].astype(np.float64) - motion()[region]) ** 2))

    return flow_mse
