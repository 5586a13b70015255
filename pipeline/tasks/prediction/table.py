"""The table of predicted frames.

A column `<metric>_t<k>` is the mean over windows, samples and the first k steps (a published "t+k" is this cumulative
mean); metrics of whole windows (EPE) have one column. `<experiment>_steps.csv` has each single step.
"""

from __future__ import annotations

from typing import Any

from pipeline.params import Experiment
from pipeline.tables.cells import Column, Layout
from pipeline.tasks.common.table import steps_csv


def _steps(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return a column for each metric and step of `report`; one for metrics of whole windows."""
    columns = []
    for metric in e.metrics:
        about = meta["metrics"][metric]
        for k in e.report if about["needs"] == "frames" else [0]:
            columns.append(Column(f"{metric}_t{k}" if k else metric, metric, about, k))
    return columns


def _about_windows(e: Experiment, meta: dict[str, Any]) -> str:
    protocol = meta["predictions"]["protocol"]
    return (
        f"{meta['windows']} windows of {protocol['window']} frames; the models see {protocol['context']} frames from "
        f"index {protocol['first']} and predict {protocol['horizon']}. t+k is the mean over the first k steps, as published"
    )


LAYOUT = Layout(_steps, _about_windows, steps_csv, "windows")
