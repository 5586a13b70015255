"""Windows predicted elsewhere, in the layout of the published test script.

One folder a test window, `000000`, `000001`, … in the order of the clips and of the starts in each, with `pred_1.png` to
`pred_<horizon>.png`, as DMVFN's test script saves them (truncated to 8 bits, which costs a little against scores of floats).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import plan
from pipeline.store.frames import Store
from pipeline.tasks.common.bring import Expected, size
from pipeline.tasks.prediction import clips


def expected(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Expected:
    """Return what a folder of predicted windows must hold."""
    windows = clips.windows(frames, protocol)
    images = [f"pred_{step}.png" for step in range(1, protocol.horizon + 1)]
    sentence = (
        f"expected in {folder}: one folder for each of the {len(windows)} test windows, "
        f"000000 to {len(windows) - 1:06d}, each with {images[0]}" + (f" to {images[-1]}" if len(images) > 1 else "")
    )
    files = [
        (clips.key(window), step, f"{number:06d}/{image}", size(frames, frames.clips[window[0]][window[1]]))
        for number, window in enumerate(windows)
        for step, image in enumerate(images, start=1)
    ]
    named = {
        f"{number:06d}": (
            clips.key(w),
            list(range(1, protocol.horizon + 1)),
            size(frames, frames.clips[w[0]][w[1]]),
        )
        for number, w in enumerate(windows)
    }
    problems = _names(folder, len(windows), images) if folder.is_dir() else []
    return Expected(files, named, problems, sentence, {"protocol": clips.settings(protocol)}, "raw", "uint16")


def _names(folder: Path, windows: int, images: list[str]) -> list[str]:
    """Return what is missing in the folder and what is not known; hidden files are passed over."""

    def compare(where: Path, expected: list[str], what: str) -> list[str]:
        names = {entry.name for entry in where.iterdir() if not entry.name.startswith(".")}
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
