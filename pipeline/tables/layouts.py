"""The tables of the tasks: their columns, what is said of the test set, the values of single steps or frames."""

from __future__ import annotations

import re
from typing import Any

from pipeline.params import Experiment
from pipeline.tables.cells import PARTS, Column, Layout, Row
from pipeline.tables.text import as_csv, digits


def _steps(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return a column for each metric and step of `report`; one for metrics of whole windows."""
    columns = []
    for metric in e.metrics:
        about = meta["metrics"][metric]
        for k in e.report if about["needs"] == "frames" else [0]:
            columns.append(Column(f"{metric}_t{k}" if k else metric, metric, about, k))
    return columns


def _means(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return one column a metric."""
    return [Column(metric, metric, meta["metrics"][metric]) for metric in e.metrics]


def _scenes(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return FolderAvg of every metric, then FrameAvg of every metric, then all metrics scene by scene."""
    abouts = {metric: meta["metrics"][metric] for metric in e.metrics}
    scenes = dict.fromkeys(w for values in meta["values"].values() for w in values)
    columns = _means(e, meta)
    columns += [Column(f"{m}_frames", m, a, pooled=True, group="All frames (FrameAvg)") for m, a in abouts.items()]
    for scene in scenes:
        tail = re.sub(r"[^A-Za-z0-9]+", "_", scene)
        columns += [Column(f"{m}_{tail}", m, about, window=scene, group=scene) for m, about in abouts.items()]
    return columns


def _about_windows(e: Experiment, meta: dict[str, Any]) -> str:
    protocol = meta["predictions"]["protocol"]
    return (
        f"{meta['windows']} windows of {protocol['window']} frames; the models see {protocol['context']} frames from "
        f"index {protocol['first']} and predict {protocol['horizon']}. t+k is the mean over the first k steps, as published"
    )


def _about_pairs(e: Experiment, meta: dict[str, Any]) -> str:
    return f"{meta['windows']} pairs with ground truth"


def _about_scenes(e: Experiment, meta: dict[str, Any]) -> str:
    made = meta["predictions"]
    protocol = made["protocol"]
    border = "a centred part with sides that are multiples of 32" if protocol["border"] == "cropped" else "whole frames"
    return (
        f"{meta['windows']} scenes, upscaled by 4 from low resolution ({made['input']}) and saved as 8 bits "
        f"({protocol['saved']}). Scored: {border}, without the {protocol['trim']} frames at either end of a scene. Cells are "
        'means of the scenes\' means (FolderAvg), "frames" those of all frames (FrameAvg); which of the two published '
        "numbers are is not established, they stand under the first"
    )


def steps_csv(rows: list[Row]) -> str:
    """Return the values of each single step, one a line: not cumulative, unlike the table's t+k."""
    lines = [
        {"model": row.label, "metric": metric, "step": str(step)}
        | {part: digits(getattr(cell, part)) for part in ("mean", *PARTS)}
        | {"n": row.facts["n"], "unit": cell.unit, "units": str(cell.units), "samples": row.facts["samples"]}
        for row in rows
        for (metric, step), cell in row.steps.items()
    ]
    return as_csv(["model", "metric", "step", "mean", *PARTS, "n", "unit", "units", "samples"], lines)


def frames_csv(rows: list[Row]) -> str:
    """Return the value of each frame of each scene, one a line."""
    lines = [
        {"model": row.label, "metric": metric, "scene": scene, "frame": str(frame), "value": digits(value * scale)}
        for row in rows
        if row.measured
        for metric, scenes in row.meta["values"].items()
        for scale in [row.meta["metrics"][metric]["scale"]]
        for scene, values in scenes.items()
        for frame, value in zip(row.meta["horizons"][metric][scene], values[0], strict=True)
    ]
    return as_csv(["model", "metric", "scene", "frame", "value"], lines)


LAYOUTS = {
    "prediction": Layout(_steps, _about_windows, steps_csv, "windows"),
    "flow": Layout(_means, _about_pairs, steps_csv, "pairs"),
    "super_resolution": Layout(_scenes, _about_scenes, frames_csv, "scenes"),
}
