"""Errors of one flow field against its ground truth, as KITTI and Sintel report them; no registry entry of its own."""

from __future__ import annotations

from typing import Any

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
    bad = (error > 3) & (error > 0.05 * np.hypot(truth[..., 0], truth[..., 1]))  # NaN, where no truth is, is not bad
    return {
        "epe": float(error[occ].mean()),
        "epe_noc": float(error[noc].mean()),
        "epe_occ": float(error[hidden].sum() / max(int(hidden.sum()), 1)),
        "f1": float(100 * bad[occ].mean()),
    }


def masks(truth: np.ndarray, noc: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Return the pixels (H, W) bool with ground truth, and those that both frames show (all, where `noc` is None)."""
    occ = np.isfinite(truth).all(axis=-1)
    return occ, occ if noc is None else occ & np.isfinite(noc).all(axis=-1)


def label(name: str, pixels: str, average: str, clips: str) -> str:
    """Return the name of a metric's column for people: "EPE noc pooled (clean)"."""
    parts = [name, *([pixels] if pixels != "all" else []), *(["pooled"] if average == "pooled" else [])]
    return " ".join([*parts, *([f"({clips.strip('/')})"] if clips else [])])


def settings(pixels: str, average: str, clips: str) -> dict[str, Any]:
    """Return the settings that all metrics of estimated flow have."""
    return {"pixels": pixels, "average": average, "clips": clips or "all", "stored": "rounded to 1/64 px"}
