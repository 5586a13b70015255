"""The table of generated clips: one column a metric, the mean over all frames of all windows and samples."""

from __future__ import annotations

from typing import Any

from pipeline.params import Experiment
from pipeline.tables.cells import Column, Layout
from pipeline.tasks.common.table import steps_csv

MOTION = {
    "clip": "with the motion of the true clip",
    "other": "with the motion of another clip",
    "zero": "without motion",
    "random": "with motion of their own",
}
BEGIN = {
    "given": "the start frame as given",
    "drawn": "the start frame as the model draws it",
    "left_out": "the frame after the start",
}


def _about_windows(e: Experiment, meta: dict[str, Any]) -> str:
    protocol = meta["predictions"]["protocol"]
    late = f", compared with true frames {protocol['lag']} earlier, as published" if protocol["lag"] else ""
    return (
        f"{meta['windows']} windows of {protocol['window']} frames; the models see the first and generate clips of "
        f"{protocol['horizon']} frames {MOTION[protocol['motion']]}, from {BEGIN[protocol['start']]} on{late}"
    )


def _metrics(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    return [
        Column(metric, metric, about, steps=about["needs"] == "frames")
        for metric, about in ((metric, meta["metrics"][metric]) for metric in e.metrics)
    ]


LAYOUT = Layout(_metrics, _about_windows, steps_csv, "windows")
