"""What a task says of predictions that are brought: which files they are, and how the store holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pipeline.store.frames import Store


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
