"""Warping error (Lai et al. 2018, Learning Blind Video Temporal Consistency): flicker, along the motion of the truth.

Of two neighbouring frames the second is moved back along the flow between the true ones; what is left is the mean squared
difference over the channels of the pixels that both true frames show, of images in [0,1]. The paper's formula sums the
channels, which would be three times as much: its numbers are of the released code, which takes their mean.

A pixel is left out as in Ruder et al. 2016 (after Sundaram et al. 2010), with the flow f from it and the flow b back from where it
goes: |f + b|^2 > 0.01 (|f|^2 + |b|^2) + 0.5 (hidden), |grad f|^2 > 0.01 |f|^2 + 0.002 (an edge of motion), or where it leaves the image,
which Lai's code leaves to the first test, with the border repeated. Lai's flow is FlowNet2's; values of other estimators do not compare.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic import Field, field_validator

from pipeline import params
from pipeline.metrics import Undefined, temporal

LABEL = "Warping error"
BETTER = "lower"
SCALE = 1.0
DIGITS = 5
NEEDS = "pairs"
NO_VALUE = "the true frames share no pixel"
KEPT = 32  # true pairs whose flow is remembered: windows overlap, and have several samples
Flow = tuple[np.ndarray, np.ndarray]  # (H, W, 2) px, and (H, W) bool: pixels that both frames show


class Params(params.Metric):
    """Which flow the frames are warped by."""

    estimator: dict[str, Any] = Field(
        default_factory=lambda: {"kind": "dis"},
        validate_default=True,
        description="a flow estimator as under `models`: its kind, settings that are not the defaults, and for a network its `checkpoint`, "
        "a row of workflow/weights.csv",
    )

    @field_validator("estimator")
    @classmethod
    def _whole(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Return the entry with all its settings."""
        entries = {name: e for name, e in params.registry("models").items() if e.Params.task == "flow"}
        kind = given.get("kind")
        if kind not in entries or kind in ("truth", "truth_noc"):
            raise ValueError(f"{kind!r} estimates no flow: kind is one of {', '.join(entries)}, without the exact flow")
        model = entries[kind].Params.model_validate({**given, "train": None})
        if model.network is not None and not isinstance(model.checkpoint, str):
            raise ValueError(f"{kind} has weights: name its checkpoint, a row of workflow/weights.csv")
        return dict(model.model_dump(mode="json"))


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    told = {key: p.estimator[key] for key in ("network", "predict", "checkpoint") if p.estimator[key] is not None}
    return {"name": LABEL, "flow": f"{p.estimator['kind']} of the true frames, 8 bits", "settings": told,
            "reduction": "mean of squares over pixels and channels", "occlusion": "Ruder et al. 2016"}  # fmt: skip


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return [p.estimator["checkpoint"]] if p.estimator["checkpoint"] is not None else []


def loads(p: Params) -> list[str]:
    """Return the modules that `build` loads by name."""
    return [f"pipeline.models.{p.estimator['kind']}"]


def build(p: Params, device: str) -> Callable[..., float]:
    """Return the function (prediction, target, scored part, the target's motion, which is not read) -> error, from 0; NaN
    where the true frames share no pixel.

    Frames are (2, H, W, 3) float32 RGB in [0,1]. It raises Undefined for frames that the estimator does not take; this one
    weights.Missing when its weights cannot be had, RetakeError for one of more than two frames.
    """
    estimate = _estimator(p, device)
    kept: dict[str, Flow] = {}  # the oldest first

    def warping_error(
        prediction: np.ndarray, target: np.ndarray, region: temporal.Region, _: temporal.Motion | None = None
    ) -> float:
        images = temporal.eight_bits(target)
        key = hashlib.sha256(str(images.shape).encode() + images.tobytes()).hexdigest()
        if key not in kept:
            forward, backward = estimate(images[0], images[1]), estimate(images[1], images[0])
            kept[key] = forward, visible(forward, backward)
        while len(kept) > KEPT:
            del kept[next(iter(kept))]
        flow, seen = kept[key]
        squared = ((warp(prediction[1], flow) - prediction[0]) ** 2).mean(axis=-1)[region]
        return float(squared.mean(where=seen[region])) if seen[region].any() else float("nan")

    return warping_error


def _estimator(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (first, second), (H, W, 3) uint8 each -> flow from first to second, (H, W, 2) float64 px."""
    import cv2

    from pipeline import weights
    from pipeline.errors import RetakeError

    model = params.registry("models")[p.estimator["kind"]].Params.model_validate(p.estimator)
    file = weights.path(model.checkpoint) if model.checkpoint is not None else None
    network, _ = weights.load_model(model, file, device if file is not None else "cpu")
    if network.context != 2:
        raise RetakeError(
            f"warping error: {model.kind} with these settings reads {network.context} frames: take one of two"
        )

    def estimate(first: np.ndarray, second: np.ndarray) -> np.ndarray:
        try:
            model.check(*first.shape[:2])
        except ValueError as error:
            raise Undefined(str(error)) from None
        threads = cv2.getNumThreads()
        cv2.setNumThreads(1)  # an estimator that splits an image by threads would give other flow on another machine
        try:
            return np.asarray(network.estimate(first, second), np.float64)
        finally:
            cv2.setNumThreads(threads)

    return estimate


def warp(image: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Return (H, W, C) at x + flow (H, W, 2) px, bilinear, borders repeated; float64."""
    from scipy import ndimage

    y, x = np.indices(flow.shape[:2])
    places = np.stack([y + flow[..., 1], x + flow[..., 0]])
    moved = [
        ndimage.map_coordinates(c.astype(np.float64), places, order=1, mode="nearest")
        for c in np.moveaxis(image, -1, 0)
    ]
    return np.stack(moved, axis=-1)


def visible(forward: np.ndarray, backward: np.ndarray) -> np.ndarray:
    """Return which pixels of the first frame the second shows too, (H, W) bool; of flow (H, W, 2) px there and back."""
    back = warp(backward, forward)

    def length(field: np.ndarray) -> np.ndarray:
        return np.square(field).sum(axis=-1)

    hidden = length(forward + back) > 0.01 * (length(forward) + length(back)) + 0.5
    down, right = (np.diff(forward, axis=axis, append=np.take(forward, [-1], axis)) for axis in (0, 1))
    edge = length(down) + length(right) > 0.01 * length(forward) + 0.002
    height, width = forward.shape[:2]
    y, x = np.indices((height, width))
    goes = y + forward[..., 1], x + forward[..., 0]
    inside = (goes[0] >= 0) & (goes[0] <= height - 1) & (goes[1] >= 0) & (goes[1] <= width - 1)
    return ~hidden & ~edge & inside
