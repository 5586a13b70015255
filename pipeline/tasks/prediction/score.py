"""Scores of predicted frames: those of all windows, and of the flow that the model reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pipeline.store.frames import Store
from pipeline.store.scores import Row
from pipeline.tasks.common import windows_score
from pipeline.tasks.common.score import Job, reads_flow
from pipeline.tasks.common.windows import Tested
from pipeline.tasks.prediction import clips


def score(job: Job) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of predicted frames, and what the metadata says of them."""
    fields, frames, protocol, metrics = job.fields, job.frames, job.protocol, job.metrics
    flow: list[Store] = []
    if metrics.of("flow") and reads_flow(job.p, fields["model"]) and fields["truth"] is not None:
        flow = [Store(fields["flow"]), Store(fields["truth"])]
    windows = dict(zip(tested := clips.tested(frames, protocol), clips.windows(frames, protocol), strict=True))

    def more(window: Tested) -> Iterator[Row]:
        if not flow:
            return
        height, width = frames.content[window.rows[0]]
        pair = [clips.context_flow(s, frames, windows[window], protocol)[None, :height, :width] for s in flow]
        for metric, values in metrics.values("flow", f"{flow[1].path}, window {window.name}", *pair):
            yield window.name, 0, 0, metric, float(values[0]), 1.0

    rows, facts = windows_score.score(job, tested, clips.settings(protocol), more)
    return rows, facts | {"flow": [s.identity for s in flow]}
