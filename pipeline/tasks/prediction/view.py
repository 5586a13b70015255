"""Pictures of predicted frames beside the truth, with their error."""

from __future__ import annotations

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
    error_map,
    sheet,
    spread,
    step_name,
    title_of,
    wrap,
)
from pipeline.errors import RetakeError
from pipeline.store.frames import Store, frames_of

STEPS = 8  # predicted steps on a sheet
CANDIDATES = 50  # windows among which `picture` looks for its own
SLOW = 2  # steps a second


def show(store: Store, clip: str, folder: Path, sheets: Path) -> None:
    """Write one window's predictions, `t+<k>.png`, to `folder`; to `sheets` `_truth`, `_error`, `sheet.png`, `clip.mp4`.

    With several samples the further ones are `t+<k>_sample<s>.png` there; the sheet and the video show the first.
    """
    frames = frames_of(store)
    window = _Window(frames, clip, **{k: store.meta["protocol"][k] for k in ("first", "context", "horizon")})
    model = str(store.meta.get("model", store.path.stem))
    rows: dict[int, list[Cell]] = {}
    for row in store.clips[clip]:
        step, sample = int(store.frame[row]), int(store.sample[row])
        predicted = store.image(row)
        name = f"t+{step}" + (f"_sample{sample}" if sample else "")
        write_image((sheets if sample else folder) / f"{name}.png", display(predicted))
        if sample:
            continue
        truth = window.image(step)
        error = difference(predicted, truth)
        rows[step] = [(f"truth t+{step}", truth), (f"{model} t+{step}", display(predicted)), error_cell(step, error)]
        write_image(sheets / f"{name}_truth.png", truth)
        write_image(sheets / f"{name}_error.png", error_map(error))
    given: list[Cell] = [(step_name(step), window.image(step)) for step in window.given]
    shown = [rows[step] for step in spread(sorted(rows), STEPS)]
    title = title_of(store, clip)
    write_image(sheets / "sheet.png", sheet([*wrap(given, 3), *shown], title, error_legend()))
    still = [[("truth " + caption, image), ("given", image), ("", np.zeros_like(image))] for caption, image in given]
    video = (sheet([cells], title) for cells in [*still, *(rows[step] for step in sorted(rows))])
    write_video(sheets / "clip.mp4", video, SLOW)


def picture(fields: plan.Fields, protocol: Any, predictions: dict[str, Store]) -> np.ndarray:
    """Return one picture, (height, width <= `WIDTH`, 3) uint8, that shows what the rows of a table look like.

    The top row has the last context frames and the true frames at t+1 and t+horizon; each further row one entry of
    `predictions` (label -> store), its first sample, with the maps of its error. The window is the one, of up to
    `CANDIDATES` evenly spread over the test set, where copying the last frame has the median error at t+1.
    """
    frames = Store(fields["frames"])
    names = [
        name for name in next(iter(predictions.values())).clips if all(name in s.clips for s in predictions.values())
    ]
    if not names:
        raise RetakeError(f"{frames.path}: the predictions of {', '.join(predictions)} have no window in common")
    windows = [
        _Window(frames, name, protocol.first, protocol.context, protocol.horizon) for name in spread(names, CANDIDATES)
    ]
    motion = [float(difference(w.image(0), w.image(1)).mean()) for w in windows]
    window = windows[int(np.argsort(motion, kind="stable")[len(motion) // 2])]
    steps = sorted({1, protocol.horizon})
    given: list[int | None] = [*[None] * len(steps), *window.given]
    rows: list[list[Cell]] = [
        [
            ("", None) if step is None else ("input " + step_name(step), window.image(step))
            for step in given[-len(steps) :]
        ]
        + [("truth " + step_name(step), window.image(step)) for step in steps]
    ]
    for label, store in predictions.items():
        errors: list[Cell] = []
        images: list[Cell] = []
        for step in steps:
            image = store.image(store.row(window.name, step))
            if image.shape != window.image(step).shape:
                raise RetakeError(
                    f"{store.path}: {window.name} step {step} is {image.shape}, not the size of {frames.path}"
                )
            caption, error = error_cell(step, difference(image, window.image(step)))
            errors.append((f"{label}: {caption}", error))
            images.append((f"{label} {step_name(step)}", display(image)))
        rows.append(errors + images)
    title = f"{window.clip}, t = frame {window.number(0)}: the window of median motion"
    return sheet(rows, title, error_legend())


def compared(fields: plan.Fields, protocol: Any, store: Store, window: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the last two true and the last two predicted frames of a window, each (2, height, width, 3) uint8.

    Of a single predicted step the last frame that is given stands first in both.
    """
    true = _Window(Store(fields["frames"]), window, protocol.first, protocol.context, protocol.horizon)
    last = protocol.horizon
    before = display(store.image(store.row(window, last - 1))) if last > 1 else true.image(0)
    return (
        np.stack([true.image(last - 1), true.image(last)]),
        np.stack([before, display(store.image(store.row(window, last)))]),
    )


class _Window:
    """The true frames of one window of a prediction store, by step: 0 is the last one given, 1 the first predicted."""

    def __init__(self, frames: Store, name: str, first: int, context: int, horizon: int) -> None:
        self.clip, _, start = name.rpartition(":")
        if self.clip not in frames.clips or not start.isdigit():
            raise RetakeError(f"{frames.path} has no clip for the window {name!r}: the predictions are of other frames")
        self.name, self.frames = name, frames
        self.given = range(1 - context, 1)
        self._rows = frames.clips[self.clip][int(start) + first :][: context + horizon]
        if len(self._rows) < context + horizon:
            raise RetakeError(f"{frames.path}: {self.clip} ends before the window {name!r}: remake the predictions")

    def _at(self, step: int) -> int:
        return self._rows[step + len(self.given) - 1]

    def image(self, step: int) -> np.ndarray:
        """Return the true frame of a step, (height, width, 3) uint8."""
        return display(self.frames.image(self._at(step)))

    def number(self, step: int) -> int:
        """Return the frame's own number in its clip."""
        return int(self.frames.frame[self._at(step)])
