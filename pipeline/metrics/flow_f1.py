"""F1-all of estimated flow: the share of pixels, percent, that are wrong by more than 3 px and by more than 5 %.

The table's cell is the mean over images (published), or over all pixels of all images (KITTI's server).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.metrics import flow_errors

LABEL = "F1-all"
BETTER = "lower"
SCALE = 1.0
NEEDS = "fields"


class Params(params.Metric):
    """F1-all of the task flow."""

    average: Literal["image", "pooled"] = Field(
        "image", description="mean over images (published), or over all their pixels"
    )
    clips: str = Field("", description='beginning of the names of the clips that count: "clean/"; "": all')


def label(p: Params) -> str:
    """Return the column's name for people."""
    return flow_errors.label(LABEL, "all", p.average, p.clips)


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    wrong = "above 3 px and 5 % of the length"
    return {"name": "F1-all", "unit": "percent", "wrong": wrong, **flow_errors.settings("all", p.average, p.clips)}


def build(p: Params, device: str) -> Callable[[str, np.ndarray, np.ndarray, np.ndarray | None], tuple[float, float]]:
    """Return the function (clip, flow, truth, truth of visible pixels or None) -> (percent of the image, its weight).

    Fields are (H, W, 2) px, NaN where there is no truth. Weight 0: the image does not count.
    """

    def f1(clip: str, flow: np.ndarray, truth: np.ndarray, noc: np.ndarray | None) -> tuple[float, float]:
        if not clip.startswith(p.clips):
            return 0.0, 0.0
        occ, seen = flow_errors.masks(truth, noc)
        return flow_errors.kitti(flow, truth, occ, seen)["f1"], float(occ.sum()) if p.average == "pooled" else 1.0

    return f1
