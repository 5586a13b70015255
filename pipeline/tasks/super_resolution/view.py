"""Pictures of upscaled scenes beside the truth."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline import plan
from pipeline.drawing.encode import write_video
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import (
    GAP,
    WIDTH,
    Cell,
    difference,
    display,
    error_legend,
    error_map,
    sheet,
    spread,
    title_of,
    wrap,
)
from pipeline.errors import progress
from pipeline.store.frames import Store, frames_of
from pipeline.tasks.super_resolution import SCALE, clips

STEPS = 8  # frames on a sheet
RATE = 10  # frames a second of an MP4
DETAIL = 96  # px, side of the part of a scene that `picture` enlarges
ABREAST = 5  # such parts side by side


def show(store: Store, clip: str, folder: Path, sheets: Path) -> None:
    """Write every upscaled frame of a scene, `<frame>.png`, to `folder`; to `sheets` its `_error`, `sheet.png`, and
    `clip.mp4` beside the truth.
    """
    frames = frames_of(store)
    rows = store.clips[clip]
    model = str(store.meta.get("model", store.path.stem))

    def cells(row: int) -> list[Cell]:
        number, image = int(store.frame[row]), store.image(row)
        truth = display(frames.image(frames.row(clip, number)))
        error = difference(image, truth)
        caption = f"error, mean {error.mean():.2%}"
        return [(f"truth {number}", truth), (f"{model} {number}", image), (caption, error_map(error))]

    def pairs() -> Iterator[np.ndarray]:
        for row in progress(rows, unit="frame", desc="frames"):
            (_, truth), (_, image), (_, error) = cells(row)
            assert truth is not None and image is not None and error is not None
            name = f"{store.frame[row]:010d}"
            write_image(folder / f"{name}.png", image)
            write_image(sheets / f"{name}_error.png", error)
            yield np.hstack([truth, image])

    write_video(sheets / "clip.mp4", pairs(), RATE)
    shown = [cells(row) for row in spread(rows, STEPS)]
    write_image(sheets / "sheet.png", sheet(shown, title_of(store, clip), error_legend()))


def picture(fields: plan.Fields, protocol: Any, upscaled: dict[str, Store]) -> np.ndarray:
    """Return one picture, (height, width <= `WIDTH`, 3) uint8, that shows what the rows of a table of super-resolution look like.

    A part of one frame, `DETAIL` px wide, of low resolution (each pixel a block of 4x4), of each entry of `upscaled`
    (label -> store) and of the truth; below each its middle row of pixels through up to `DETAIL` frames, time downwards:
    what flickers has ragged edges there. The scene is the first, the frame its middle one, the part where the first
    entry's error is largest.
    """
    frames, low = Store(fields["frames"]), clips.low_store(fields)
    stores = list(upscaled.values())
    clip = next(iter(stores[0].clips))
    numbers = [int(n) for n in frames.frame[frames.clips[clip]]]
    number = numbers[len(numbers) // 2]
    truth = frames.image(frames.row(clip, number))
    height, width = truth.shape[:2]
    side = min(DETAIL, height, width) // SCALE * SCALE
    error = difference(stores[0].image(stores[0].row(clip, number)), truth)
    mean = cv2.boxFilter(error, -1, (side, side), anchor=(0, 0), borderType=cv2.BORDER_CONSTANT)
    y, x = np.unravel_index(
        int(mean[: height - side + 1, : width - side + 1].argmax()), (height - side + 1, width - side + 1)
    )
    top, left = (int(n) // SCALE * SCALE for n in (y, x))
    part = (slice(top, top + side), slice(left, left + side))

    def blocks(image: np.ndarray) -> np.ndarray:
        eight = np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)
        return eight.repeat(SCALE, 0).repeat(SCALE, 1)

    def enlarged(image: np.ndarray) -> np.ndarray:
        factor = ((WIDTH - GAP) // ABREAST - GAP) // side
        return image.repeat(factor, 0).repeat(factor, 1)

    def scene(store: Store) -> Iterator[np.ndarray]:
        return (display(store.image(store.row(clip, n))) for n in numbers)

    shown: dict[str, Iterator[np.ndarray]] = {"low resolution": map(blocks, clips.low_resolution(frames, low, clip))}
    shown |= {label: scene(store) for label, store in upscaled.items()}
    shown["truth"] = scene(frames)
    parts: list[Cell] = []
    profiles: list[Cell] = []
    for label, images in shown.items():
        lines = []
        for frame_number, image in zip(numbers, images, strict=True):
            if frame_number == number:
                parts.append((label, enlarged(image[part])))
            lines.append(image[top + side // 2, part[1]])
        middle = lines[max(len(lines) - DETAIL, 0) // 2 :][:DETAIL]
        profiles.append(("through time", enlarged(np.stack(middle))))
    bands = zip(wrap(parts, ABREAST), wrap(profiles, ABREAST), strict=True)
    rows = [row + [("", None)] * (ABREAST - len(row)) for band in bands for row in band]
    title = (
        f"{clip}, frame {number}: {side}x{side} px at x {left}, y {top}; below, its middle row of pixels through time"
    )
    return sheet(rows, title)


def compared(fields: plan.Fields, protocol: Any, store: Store, window: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle frame of a scene and the one before, true and upscaled, each (2, height, width, 3) uint8."""
    frames = Store(fields["frames"])
    rows = frames.clips[window]
    middle = len(rows) // 2
    numbers = [int(frames.frame[row]) for row in rows[max(middle - 1, 0) : middle + 1]]
    return (
        np.stack([display(frames.image(frames.row(window, n))) for n in numbers]),
        np.stack([display(store.image(store.row(window, n))) for n in numbers]),
    )
