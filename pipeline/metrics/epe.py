"""EPE: mean endpoint error of the precomputed flow that a model reads, against exact flow, px.

The flow is that between the last two context frames; one value a window, since it does not depend on the predicted
step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params
from pipeline.errors import RetakeError

LABEL = "EPE"
BETTER = "lower"
SCALE = 1.0
NEEDS = "flow"


class Params(params.Metric):
    """EPE has no settings."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "EPE", "unit": "px", "pixels": "all with exact flow", "pair": "last two context frames"}


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (flow, truth), both (T, H, W, 2) px, NaN in truth where it has none -> (T,) float64, px."""

    def epe(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
        error = np.linalg.norm(flow.astype(np.float64) - truth, axis=-1)
        known = np.isfinite(truth).all(axis=-1)
        if not known.any(axis=(1, 2)).all():
            raise RetakeError("the exact flow has no valid pixel")
        return error.mean(axis=(1, 2), where=known)

    return epe
