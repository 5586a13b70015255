"""Windows: consecutive frames of a clip, by index arithmetic over frames stored once."""

from __future__ import annotations

from typing import NamedTuple

from pipeline.errors import RetakeError
from pipeline.store.frames import Store

Window = tuple[str, int]  # clip, position of its first frame


class Tested(NamedTuple):
    """One window of a test: its name in prediction stores and scores, and the true frame that each step is compared with."""

    name: str
    clip: str
    rows: range  # of the frame store


def windows(store: Store, length: int, *, every: bool) -> list[Window]:
    """Return the windows of `length` frames of a store, in its order of clips; `every`: all starts, not only the first.

    Raises RetakeError when a clip is shorter than the window.
    """
    short = [f"{clip} ({len(rows)})" for clip, rows in store.clips.items() if len(rows) < length]
    if short:
        raise RetakeError(
            f"{store.path}: {len(short)} clips are shorter than the window of {length} frames: {', '.join(short[:10])}. "
            "Lower `window`, or leave those clips out of the dataset"
        )
    return [
        (clip, start) for clip, rows in store.clips.items() for start in range(len(rows) - length + 1 if every else 1)
    ]
