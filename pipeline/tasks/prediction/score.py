"""Scores of predicted frames: those of all windows, and of the flow that the model reads."""

from __future__ import annotations

from typing import Any

from pipeline import plan
from pipeline.params import Params
from pipeline.store.frames import Store
from pipeline.store.scores import Row
from pipeline.tasks.common import windows_score
from pipeline.tasks.common.score import Metrics, reads_flow
from pipeline.tasks.prediction import clips


def score(
    p: Params, fields: plan.Fields, protocol: Any, frames: Store, predicted: Store, metrics: Metrics
) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of predicted frames, and what the metadata says of them."""
    windows = clips.windows(frames, protocol)
    rows, facts = windows_score.score(
        p, fields["experiment"], frames, predicted, metrics, clips.tested(frames, protocol), clips.settings(protocol)
    )
    if not metrics.of("flow") or not reads_flow(p, fields["model"]) or fields["truth"] is None:
        return rows, facts
    stores = [Store(fields["flow"]), Store(fields["truth"])]
    for window in windows:
        key = clips.key(window)
        height, width = frames.content[clips.target_rows(frames, window, protocol)[0]]
        pair = [clips.context_flow(s, frames, window, protocol)[None, :height, :width] for s in stores]
        for metric, values in metrics.values("flow", f"{stores[1].path}, window {key}", *pair):
            rows.append((key, 0, 0, metric, float(values[0]), 1.0))
    return rows, facts | {"flow": [s.identity for s in stores]}
