"""Prediction stores: what each says of itself, and outputs at their targets' size."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import numpy as np

from pipeline import plan
from pipeline.params import Params
from pipeline.store.frames import Store


def meta(p: Params, stage: str, fields: plan.Fields, frames: Store) -> dict[str, Any]:
    """Return what every prediction store says of itself, whether the stage `predict` or `bring` makes it of `frames`."""
    uses = plan.uses(p, stage, fields)
    return {
        "kind": "predictions",
        "experiment": fields["experiment"],
        "model": fields["model"],
        "task": p.protocols[fields["protocol"]].task,
        "dataset": fields["frames"],
        "frames": fields["frames"],
        "data": frames.identity,
        "licence": frames.meta.get("licence"),
        "partial": frames.meta.get("partial"),
        "fit": frames.meta.get("fit"),
        "params": hashlib.sha256(json.dumps(uses, sort_keys=True).encode()).hexdigest(),
    }


def cut(image: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Return an output at its target's size: what is larger is cut from the top left, as published; None if smaller."""
    fits = image.shape[0] >= height and image.shape[1] >= width
    return image[:height, :width] if fits else None
