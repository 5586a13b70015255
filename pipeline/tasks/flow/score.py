"""Scores of estimated flow: every pair of frames that has ground truth."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from pipeline.errors import RetakeError, progress
from pipeline.metrics import Undefined
from pipeline.store.frames import Store
from pipeline.store.scores import Row
from pipeline.tasks.common.score import Job
from pipeline.tasks.flow import clips


def score(job: Job) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of estimated flow, and what the metadata says of them; a window is a pair.

    Raises RetakeError unless the store has the flow of every pair with ground truth, of today's frames.
    """
    frames, predicted, metrics, fields = job.frames, job.predicted, job.metrics, job.fields
    truth = Store(fields["truth"])
    visible = fields["truth_noc"]
    noc = Store(visible) if visible else None
    again = f"make it again with `snakemake {predicted.path}`"
    if predicted.meta.get("data") != frames.identity:
        raise RetakeError(f"{predicted.path} was not made from today's {frames.path}: {again}")
    pairs = clips.pairs(truth)
    extra = set(clips.pairs(predicted)) - set(pairs)
    if extra or len(predicted) != len(pairs):
        raise RetakeError(
            f"{predicted.path} has {len(predicted)} fields, {truth.path} has {len(pairs)}"
            + (f"; unknown: {', '.join(map(clips.key, sorted(extra)[:5]))}" if extra else "")
            + f": {again}"
        )
    rows: list[Row] = []
    scored = [pairs[place] for place in job.shard.span(len(pairs))]
    for pair in progress(scored, unit="pair", desc=f"score {fields['model']}"):
        key = clips.key(pair)
        flow, exact = (s.image(s.row(*pair)) for s in (predicted, truth))
        seen = noc.image(noc.row(*pair)) if noc is not None else None
        if flow.shape != exact.shape:
            sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (flow, exact)]
            raise RetakeError(f"{predicted.path}, {key}: the flow is {sizes[0]}, the truth {sizes[1]}: {again}")
        if not np.isfinite(flow).all():
            raise RetakeError(f"{predicted.path}, {key}: flow is NaN: look at the model that estimated this")
        for metric, function in metrics.of("fields").items():
            try:
                value, weight = function(pair[0], flow, exact, seen)
            except Undefined as reason:
                metrics.lack(metric, str(reason), where=key)
                value, weight = math.nan, 0.0
            rows.append((key, 0, 0, metric, value, weight))
    stores = [s.identity for s in (truth, noc) if s is not None]
    return rows, {"windows": len(pairs), "samples": 1, "flow": stores}
