"""Errors of one flow field against its ground truth, as KITTI and Sintel report them; no registry entry of its own."""

from __future__ import annotations

import cv2
import numpy as np

from pipeline.metrics import Undefined


def fitted(prediction: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a prediction (h, w, 2) px at the ground truth's size, OpenCV's linear, its values rescaled."""
    h, w = prediction.shape[:2]
    scaled = prediction.astype(np.float32) * np.array([width / w, height / h], np.float32)
    return cv2.resize(scaled, (width, height), interpolation=cv2.INTER_LINEAR)


def endpoint_error(prediction: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the length of the difference, (H, W) float64 px; the prediction may have another size."""
    difference = fitted(prediction, *truth.shape[:2]).astype(np.float64) - truth
    return np.hypot(difference[..., 0], difference[..., 1])


def kitti(prediction: np.ndarray, truth: np.ndarray, occ: np.ndarray, noc: np.ndarray) -> dict[str, float]:
    """Return `epe`, `epe_noc`, `epe_occ` (px) and `f1` (percent) of one image.

    `truth` (H, W, 2) px; `occ` and `noc` (H, W) bool: pixels with ground truth, and those of them that the second image
    shows too. `epe_occ` is over occ without noc, 0 where there are none. F1 is the share of pixels with an error
    above 3 px and above 5 % of the true length. Raises Undefined when there is no ground truth.
    """
    if not occ.any() or not noc.any():
        raise Undefined("no pixel has ground truth")
    error = endpoint_error(prediction, truth)
    hidden = occ & ~noc
    bad = (error > 3) & (error > 0.05 * np.hypot(truth[..., 0], truth[..., 1]))
    return {
        "epe": float(error[occ].mean()),
        "epe_noc": float(error[noc].mean()),
        "epe_occ": float(error[hidden].sum() / max(int(hidden.sum()), 1)),
        "f1": float(100 * bad[occ].mean()),
    }
