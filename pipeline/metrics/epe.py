"""EPE: mean endpoint error of the precomputed flow that a model reads, against exact flow, px.

The flow is that between the last two context frames; one value a window, since it does not depend on the predicted
step.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params

LABEL = "EPE"
BETTER = "lower"
SCALE = 1.0
NEEDS = "flow"
NO_VALUE = "no pixel has exact flow"


class Params(params.Metric):
    """EPE has no settings."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "EPE", "unit": "px", "pixels": "all with exact flow", "pair": "last two context frames"}


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (flow, truth), both (T, H, W, 2) px, NaN in truth where it has none -> (T,) float64, px.

    NaN where truth has none at all.
    """

    def epe(flow: np.ndarray, truth: np.ndarray) -> np.ndarray:
        error = np.linalg.norm(flow.astype(np.float64) - truth, axis=-1)
        known = np.isfinite(truth).all(axis=-1)
        counts = known.sum(axis=(1, 2))
        sums = error.sum(axis=(1, 2), where=known)
        return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)

    return epe
