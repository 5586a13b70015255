"""The table of upscaled scenes; there are no steps.

A column `<metric>` is the mean of the scenes' means (FolderAvg), `<metric>_frames` that of all their frames (FrameAvg),
both with intervals over scenes; `<metric>_<scene>` is one scene's, with its interval over blocks of
its frames (with the scene's number behind it where another column has that name).
`<experiment>_steps.csv` has the values of single frames.
"""

from __future__ import annotations

import re
from typing import Any

from pipeline.params import Experiment
from pipeline.tables.cells import Column, Layout, Row
from pipeline.tables.text import FACTS, as_csv, digits
from pipeline.tasks.common.table import means


def _scenes(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return FolderAvg of every metric, then FrameAvg of every metric, then all metrics scene by scene."""
    abouts = {metric: meta["metrics"][metric] for metric in e.metrics}
    scenes = dict.fromkeys(w for values in meta["values"].values() for w in values)
    columns = means(e, meta)
    columns += [Column(f"{m}_frames", m, a, pooled=True, group="All frames (FrameAvg)") for m, a in abouts.items()]
    # Without capitals: many readers of CSV do not tell them.
    taken = {name.casefold() for column in columns for name in column.names} | set(FACTS)
    for number, scene in enumerate(scenes, start=1):
        tail = re.sub(r"[^A-Za-z0-9]+", "_", scene)
        while taken & (names := {n.casefold() for m in abouts for n in Column(f"{m}_{tail}", m, {}).names}):
            tail = f"{tail}_{number}"  # another scene, metric or mean has this name
        taken |= names
        columns += [Column(f"{m}_{tail}", m, about, window=scene, group=scene) for m, about in abouts.items()]
    return columns


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


LAYOUT = Layout(_scenes, _about_scenes, frames_csv, "scenes")
