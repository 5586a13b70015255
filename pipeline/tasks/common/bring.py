"""What a task says of predictions that are brought: which files they are, and how the store holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from pipeline.sources import limits
from pipeline.store.frames import Store
from pipeline.tasks.common.windows import Tested


@dataclass
class Expected:
    """What must be brought: files (clip, frame, file below the folder, size of the target), a sentence for messages, their store.

    `clips`: the same by the name that a video has: (clip, its frames, size of the target). `problems`: what of the files is
    missing, and what is not known. `larger`: images may be larger than the target; `saved`: how floats become integers.
    """

    files: list[tuple[str, int, str, tuple[int, int]]]
    clips: dict[str, tuple[str, list[int], tuple[int, int]]]
    problems: list[str]
    sentence: str
    meta: dict[str, Any]
    codec: str
    dtype: str
    larger: bool = False
    saved: str = "rounded"


def size(frames: Store, row: int) -> tuple[int, int]:
    """Return (height, width) of a frame, pixels."""
    height, width = frames.size[row]
    return int(height), int(width)


def windows_expected(frames: Store, windows: list[Tested], settings: dict[str, Any], folder: Path) -> Expected:
    """Return what a folder of predicted windows must hold, in the layout of DMVFN's test script.

    One folder a test window, `000000`, `000001`, … in their order, with `pred_1.png` to `pred_<steps>.png`.
    """
    steps = list(range(1, len(windows[0].rows) + 1))
    images = [f"pred_{step}.png" for step in steps]
    sentence = (
        f"expected in {folder}: one folder for each of the {len(windows)} test windows, "
        f"000000 to {len(windows) - 1:06d}, each with {images[0]}" + (f" to {images[-1]}" if len(images) > 1 else "")
    )
    sizes = [size(frames, window.rows[0]) for window in windows]
    files = [
        (window.name, step, f"{number:06d}/pred_{step}.png", sizes[number])
        for number, window in enumerate(windows)
        for step in steps
    ]
    named = {f"{number:06d}": (window.name, steps, sizes[number]) for number, window in enumerate(windows)}
    problems = _names(folder, len(windows), images) if folder.is_dir() else []
    return Expected(files, named, problems, sentence, {"protocol": settings}, "zstd", "uint16")


def _names(folder: Path, windows: int, images: list[str]) -> list[str]:
    """Return what is missing in the folder and what is not known; hidden files are passed over."""

    def compare(where: Path, expected: list[str], what: str) -> list[str]:
        names = {entry.name for entry in limits.unhidden(where)}
        shown = "" if where == folder else f"{where.name}/"
        return [f"{shown}{name} is missing" for name in expected if name not in names] + [
            f"{shown}{name} is no {what}" for name in sorted(names - set(expected))
        ]

    problems = compare(folder, [f"{number:06d}" for number in range(windows)], "test window")
    for number in range(windows):
        where = folder / f"{number:06d}"
        if where.is_dir():
            problems += compare(where, images, "step of the protocol")
        elif where.exists():
            problems.append(f"{where.name} is a file, not a folder")
    return problems


class Exported(NamedTuple):
    """One image of a test set for a method that runs elsewhere: given or true, where below its folder, (H, W, 3) uint8."""

    true: bool
    file: str
    image: np.ndarray


def windows_exported(frames: Store, windows: list[Tested], given: Iterable[Iterable[np.ndarray]]) -> Iterator[Exported]:
    """Yield the images of windows: `given` of each as `input_<n>.png`, the true ones under the names that `bring` reads."""
    for number, (window, images) in enumerate(zip(windows, given, strict=True)):
        for n, image in enumerate(images, start=1):
            yield Exported(False, f"{number:06d}/input_{n}.png", image)
        for step, row in enumerate(window.rows, start=1):
            yield Exported(True, f"{number:06d}/pred_{step}.png", frames.image(row))
