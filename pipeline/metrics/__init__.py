"""Metrics: one module each, found by name.

A metric's `NEEDS` says what its function compares:

    frames  (prediction, target), both (T, H, W, 3) float32 RGB in [0,1]: what is scored of a frame -> (T,)
    pairs   (prediction, target, scored part, function that gives the target's motion), both (2, H, W, 3) likewise, whole
            neighbouring frames -> a number
    features  nothing: its `build` gives a `sets.Distance` of two sets -> one value a set
    samples (samples (S, T, H, W, 3) likewise of one start) -> a number
    flow    (flow, exact flow), both (T, H, W, 2) px: what a predictor reads -> (T,)
    fields  (clip, flow, exact flow, that of pixels both frames show or None) -> (value, weight) of an image

A frame may have no value: the function gives NaN there, and `NO_VALUE` says why. What averages leaves out such frames and infinite
ones (`mean`), and counts them.
"""

from __future__ import annotations

import numpy as np


def mean(values: np.ndarray) -> np.ndarray:
    """Return the mean over the last axis of what is finite; where nothing is: infinite if a value is, else NaN."""
    finite = np.isfinite(values)
    count = finite.sum(axis=-1)
    total = np.where(finite, values, 0).sum(axis=-1)
    return np.where(count > 0, total / np.maximum(count, 1), np.where(np.isinf(values).any(axis=-1), np.inf, np.nan))


def left_out(values: np.ndarray, reason: str | None) -> str:
    """Return in words what `mean` leaves out of all values of a metric, "" where that is nothing.

    `reason`: why values are NaN, where some are.
    """
    none, infinite = int(np.isnan(values).sum()), int(np.isinf(values).sum())
    if not none and (not infinite or infinite == values.size):
        return ""
    parts = [f"{none} without a value ({reason})"] if none else []
    parts += [f"{infinite} infinite (equal to the truth)"] if infinite else []
    return f"mean of {values.size - none - infinite} of {values.size} values, left out: {', '.join(parts)}"


class Undefined(Exception):
    """The metric has no value for these frames (say, a side too short); its text is the reason the table prints."""
