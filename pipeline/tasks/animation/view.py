"""Pictures of generated clips: their samples beside the true frames."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import plan
from pipeline.drawing.encode import write_video
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import (
    Cell,
    difference,
    display,
    error_cell,
    error_legend,
    sheet,
    spread,
    title_of,
    wrap,
)
from pipeline.errors import RetakeError
from pipeline.store.frames import Store, frames_of
from pipeline.tasks.animation import Protocol, clips

STEPS = 8  # frames of a clip on a sheet
CANDIDATES = 50  # windows among which `picture` looks for its own
RATE = 10  # frames a second of an MP4


def show(store: Store, clip: str, folder: Path, sheets: Path) -> None:
    """Write one window's generated frames, `<step>.png` of the first sample, to `folder`; to `sheets` those of further ones,
    `<step>_sample<s>.png`, the true ones, `<step>_truth.png`, `sheet.png` and `clip.mp4`.
    """
    frames = frames_of(store)
    protocol = Protocol(task="animation", **store.meta["protocol"])
    window = next((w for w in clips.windows(frames, protocol) if w.name == clip), None)
    if window is None:
        raise RetakeError(f"{store.path}: {frames.path} has no window {clip!r}: the predictions are of other frames")
    rows = dict(enumerate(clips.target_rows(frames, window, protocol), start=1))
    made = {(int(store.sample[row]), int(store.frame[row])): row for row in store.clips[clip]}
    samples = sorted({sample for sample, _ in made})

    def images(step: int) -> dict[str, np.ndarray]:
        drawn = {f"sample {s}": display(store.image(made[s, step])) for s in samples}
        return {"truth": display(frames.image(rows[step])), **drawn}

    def cells(step: int) -> list[Cell]:
        return [(f"{name}, {step}", image) for name, image in images(step).items()]

    for step in rows:
        for name, image in images(step).items():
            first = name == f"sample {samples[0]}"
            write_image(
                folder / f"{step:04d}.png" if first else sheets / f"{step:04d}_{name.replace(' ', '')}.png", image
            )
    shown = [cells(step) for step in spread(sorted(rows), STEPS)]
    title = title_of(store, clip)
    write_image(sheets / "sheet.png", sheet([list(row) for row in zip(*shown, strict=True)], title))

    def film() -> Iterator[np.ndarray]:
        for step in sorted(rows):
            yield sheet(wrap(cells(step)), title)

    write_video(sheets / "clip.mp4", film(), RATE)


def picture(fields: plan.Fields, protocol: Any, predictions: dict[str, Store]) -> np.ndarray:
    """Return one picture, (height, width <= `WIDTH`, 3) uint8, that shows what the rows of a table look like: the start frame and the true ones, below them each row's
    first sample and the maps of its error.

    `predictions`: label -> store. The window is the one, of up to `CANDIDATES` evenly spread over the test set, whose last true
    frame differs from its first by the median.
    """
    frames = Store(fields["frames"])
    windows = spread(clips.windows(frames, protocol), CANDIDATES)
    targets = [clips.target_rows(frames, w, protocol) for w in windows]
    change = [float(difference(*(frames.image(t[i]) for i in (0, -1))).mean()) for t in targets]
    median = int(np.argsort(change, kind="stable")[len(change) // 2])
    window, target = windows[median], targets[median]
    steps = spread(list(range(1, protocol.horizon + 1)), STEPS)
    truth = {step: display(frames.image(target[step - 1])) for step in steps}
    start: list[Cell] = [("start", display(frames.image(frames.clips[window.clip][window.start])))]
    rows: list[list[Cell]] = [start + [(f"truth {step}", image) for step, image in truth.items()]]
    for label, store in predictions.items():
        made = {step: display(store.image(store.row(window.name, step))) for step in steps}
        rows.append([("", None), *((f"{label} {step}", image) for step, image in made.items())])
        rows.append([("", None), *(error_cell(step, difference(made[step], truth[step])) for step in steps)])
    return sheet(rows, f"{window.name}: the window of median change", error_legend())


def compared(fields: plan.Fields, protocol: Any, store: Store, window: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the last two true and generated frames of a window, its first sample, each (2, height, width, 3) uint8."""
    frames = Store(fields["frames"])
    rows = next(tested.rows for tested in clips.tested(frames, protocol) if tested.name == window)
    steps = range(max(protocol.horizon - 1, 1), protocol.horizon + 1)
    return (
        np.stack([display(frames.image(row)) for row in rows[-2:]]),
        np.stack([display(store.image(store.row(window, step))) for step in steps]),
    )
