"""EPE of estimated flow: the mean endpoint error of an image, px, as KITTI and Sintel report it.

The table's cell is the mean over images (published), or over all pixels of all images (the benchmarks' servers).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.metrics import flow_errors

LABEL = "EPE"
BETTER = "lower"
SCALE = 1.0
NEEDS = "fields"


class Params(params.Metric):
    """EPE of the task flow."""

    pixels: Literal["all", "noc", "occ"] = Field(
        "all",
        description="all with ground truth; noc: those that both frames show; occ: the others (0 in an image without)",
    )
    average: Literal["image", "pooled"] = Field(
        "image", description="mean over images (published), or over all their pixels"
    )
    clips: str = Field("", description='beginning of the names of the clips that count: "clean/"; "": all')


def label(p: Params) -> str:
    """Return the column's name for people."""
    return flow_errors.label(LABEL, p.pixels, p.average, p.clips)


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "EPE", "unit": "px", **flow_errors.settings(p.pixels, p.average, p.clips)}


def build(p: Params, device: str) -> Callable[[str, np.ndarray, np.ndarray, np.ndarray | None], tuple[float, float]]:
    """Return the function (clip, flow, truth, truth of visible pixels or None) -> (EPE of the image, its weight).

    Fields are (H, W, 2) px, NaN where there is no truth. Weight 0: the image does not count.
    """

    def epe(clip: str, flow: np.ndarray, truth: np.ndarray, noc: np.ndarray | None) -> tuple[float, float]:
        if not clip.startswith(p.clips):
            return 0.0, 0.0
        occ, seen = flow_errors.masks(truth, noc)
        errors = flow_errors.kitti(flow, truth, occ, seen)
        counted = {"all": occ, "noc": seen, "occ": occ & ~seen}[p.pixels]
        value = errors["epe" if p.pixels == "all" else f"epe_{p.pixels}"]
        return value, float(counted.sum()) if p.average == "pooled" else 1.0

    return epe
