"""tOF: how far the motion of the output is from that of the target, px a frame (TecoGAN's temporal metric).

Mean length of the difference of two Farneback flows, each from the frame before: one of the outputs, one of the targets.
Flow is estimated on whole frames; the part that is scored is then cut out of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.metrics import temporal

LABEL = "tOF"
BETTER = "lower"
SCALE = 1.0
DIGITS = 3
NEEDS = "pairs"


class Params(params.Metric):
    """tOF has no settings: the published ones are part of its name."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "tOF", "unit": "px", **temporal.SETTINGS}


def build(p: Params, device: str) -> Callable[..., float]:
    """Return the function (prediction, target, scored part, the target's motion) -> px, of two neighbouring whole frames each.

    Frames are (2, H, W, 3) float32 in [0,1].
    """

    def tof(prediction: np.ndarray, target: np.ndarray, region: temporal.Region, motion: temporal.Motion) -> float:
        output = temporal.motion(*temporal.eight_bits(prediction))
        return temporal.t_of(motion()[region], output[region])

    return tof
