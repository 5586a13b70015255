"""The warm-up of recurrent networks: up to five frames, played backwards, give a clip's first frame a past."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")

WARM_UP = 5


def warm_up(frames: int) -> list[int]:
    """Return the positions of the frames that are run through before a clip of so many frames, in that order."""
    return list(range(min(WARM_UP, frames - 1), 0, -1))


def kept(frames: int, *, published_dropping: bool = False) -> list[int]:
    """Return the positions whose output is kept: all; as published, in a clip shorter than 6 frames only the last ones."""
    dropped = WARM_UP if published_dropping else len(warm_up(frames))
    return list(range(max(dropped - len(warm_up(frames)), 0), frames))


def warmed(frames: Iterable[T], *, published_dropping: bool = False) -> Iterator[tuple[T, bool]]:
    """Yield the frames of a clip with its warm-up before them, and whether the output of each is kept.

    Holds six frames at most, whatever the length of the clip.
    """
    rest = iter(frames)
    first = list(itertools.islice(rest, WARM_UP + 1))
    for i in warm_up(len(first)):
        yield first[i], False
    outputs = kept(len(first), published_dropping=published_dropping)
    for i, frame in enumerate(first):
        yield frame, i in outputs
    for frame in rest:
        yield frame, True
