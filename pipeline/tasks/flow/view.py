"""Pictures of flow in the colours of Baker et al., and flow as files of other formats."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline import plan
from pipeline.drawing import colours
from pipeline.drawing.encode import write_video
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import ERROR_SCALE, Cell, display, error_map, legend, sheet, spread, title_of, wrap
from pipeline.errors import RetakeError, progress
from pipeline.store import flow as files
from pipeline.store.frames import Store, frames_of
from pipeline.tasks.flow.exports import EXPORTS

SHEET = 24  # fields on a contact sheet
CANDIDATES = 50  # pairs among which `picture` looks for its own
RATE = 10  # frames a second of an MP4


def show(store: Store, clip: str, folder: Path, sheets: Path) -> None:
    """Write every field of a clip in colours to `folder`, one scale for all, and `legend.png`, `sheet.png` and `clip.mp4`
    to `sheets`.

    On the sheet and in the video a field stands below its frame, where the frame store named in the metadata is there.
    """
    rows = store.clips[clip]
    scale = _scale(store, rows)
    frames = frames_of(store) if Path(store.meta["frames"]).exists() else None
    export = EXPORTS[store.meta.get("export", "pairs")]

    def stacked(row: int, field: np.ndarray) -> np.ndarray:
        if frames is None:
            return field
        image = display(frames.image(frames.row(clip, int(store.frame[row]))))
        size = field.shape[1], field.shape[0]
        if image.shape != field.shape:
            image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        return np.vstack([image, field])

    def caption(row: int) -> str:
        return export.caption(int(store.frame[row]), row == rows[0])

    def images() -> Iterator[np.ndarray]:
        for row in progress(rows, unit="field", desc="flow"):
            field = colours.colours(store.image(row), scale)
            write_image(folder / f"{store.frame[row]:010d}.png", field)
            yield stacked(row, field)

    write_video(sheets / "clip.mp4", images(), RATE)
    cells: list[Cell] = [
        (caption(row), stacked(row, colours.colours(store.image(row), scale))) for row in spread(rows, SHEET)
    ]
    key = legend(scale)
    write_image(sheets / "legend.png", key)
    write_image(sheets / "sheet.png", sheet(wrap(cells), title_of(store, clip), key))


def export(store: Store, clip: str, kind: str, folder: Path) -> None:
    """Write every field of a clip as `<frame>.flo`, as KITTI's 16-bit `.png` (kitti), or in colours as `.png` (png).

    npy: `.npy`, named like the image that names the field, as DTVNet looks for it; images of one name: by number.
    """
    rows = store.clips[clip]
    images = [Path(store.source(row)).stem for row in rows]
    distinct = len(set(images)) == len(images)
    scale = _scale(store, rows) if kind == "png" else 0.0
    for row in progress(rows, unit="field", desc=kind, leave=False):
        flow, name = store.image(row), f"{store.frame[row]:010d}"
        if kind == "flo":
            files.write_flo(folder / f"{name}.flo", flow)
        elif kind == "npy":
            files.write_npy(folder / f"{images[row - rows[0]] if distinct else name}.npy", flow)
        elif kind == "kitti":
            files.write_kitti(folder / f"{name}.png", flow)
        else:
            write_image(folder / f"{name}.png", colours.colours(flow, scale))


def picture(fields: plan.Fields, protocol: Any, estimates: dict[str, Store]) -> np.ndarray:
    """Return one picture, (height, width <= `WIDTH`, 3) uint8, that shows what the rows of a table of flow look like.

    The top row has the two frames and the true flow; each further row one entry of `estimates` (label -> store): its
    flow, and the map of its endpoint error. The pair is the one, of up to `CANDIDATES` evenly spread over the test
    set, whose true motion is the median.
    """
    frames, truth = Store(fields["frames"]), Store(fields["truth"])
    every = [(clip, int(truth.frame[row])) for clip, rows in truth.clips.items() for row in rows]
    pairs = spread(every, CANDIDATES)
    motion = [float(np.nanmean(np.hypot(*np.moveaxis(truth.image(truth.row(*pair)), -1, 0)))) for pair in pairs]
    clip, frame = pairs[int(np.argsort(motion, kind="stable")[len(motion) // 2])]
    true = truth.image(truth.row(clip, frame))
    scale = colours.scale_of(true)
    given: list[Cell] = [(f"frame {n}", frames.image(frames.row(clip, n))) for n in (frame, frame + 1)]
    rows: list[list[Cell]] = [[*given, ("true flow", colours.colours(true, scale))]]
    for label, store in estimates.items():
        flow = store.image(store.row(clip, frame))
        if flow.shape != true.shape:
            raise RetakeError(f"{store.path}: {clip} frame {frame} is {flow.shape}, not the size of {truth.path}")
        error = np.hypot(*np.moveaxis(flow - true, -1, 0))
        caption = f"{label}: error, mean {np.nanmean(error):.2f} px"
        wrong = error_map(np.nan_to_num(error) / (scale / ERROR_SCALE))
        rows.append([("", None), (caption, wrong), (label, colours.colours(flow, scale))])
    title = f"{clip}, frame {frame}: the pair of median motion; errors are brightest from {scale:.1f} px on"
    return sheet(rows, title, legend(scale))


def compared(fields: plan.Fields, protocol: Any, store: Store, window: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the true and the estimated flow of a pair in colours of one scale, each (1, height, width, 3) uint8."""
    clip, _, frame = window.rpartition(":")
    truth = Store(fields["truth"])
    true, made = (s.image(s.row(clip, int(frame))) for s in (truth, store))
    scale = colours.scale_of(true)
    return colours.colours(true, scale)[None], colours.colours(made, scale)[None]


def _scale(store: Store, rows: range) -> float:
    """Return one scale, px, for all fields of a clip: four in five have theirs below it, so no outlier rules."""
    return float(np.percentile([colours.scale_of(store.image(row)) for row in rows], 80))
