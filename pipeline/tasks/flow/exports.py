"""What flow stores hold: the fields between consecutive frames, or what a published system trains with."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from pipeline.store.frames import Store


class Pair(NamedTuple):
    """One field to make: rows of the frame store. `before` is for networks of three frames, `name` numbers the field."""

    clip: str
    name: int
    before: int
    first: int
    second: int


def pairs(frames: Store) -> list[Pair]:
    """Return the pairs of frames that follow each other by number, named by their first; a gap in the numbers is none."""
    following = []
    for clip, rows in frames.clips.items():
        follows = {row for row in rows[1:] if frames.frame[row] == frames.frame[row - 1] + 1}
        following += [
            Pair(clip, row, row - 1 if row in follows else row, row, row + 1) for row in rows if row + 1 in follows
        ]
    return following


def sky_pairs(frames: Store) -> list[Pair]:
    """Return the pairs of the published export for DTVNet: a clip of n frames has n - 1 fields, named by their second.

    The first field is of the first frame to itself, field i is of frame i - 1 to frame i, and the last frame has none.
    Gaps in the numbers are gone over. (The published code also means to begin anew every 32 frames, but its counter
    never moves; DTVNet reads the first 32 alone.)
    """
    return [
        Pair(clip, row, *(max(row - back, rows.start) for back in (2, 1, 0)))
        for clip, rows in frames.clips.items()
        for row in rows[:-1]
    ]


@dataclass(frozen=True)
class Export:
    """Which fields a store holds.

    `pairs`: of which frames. `side`: px, of the square that fields are brought to; None: they keep the frames' size.
    `caption`: the frames that a field is between, from its number and whether it is the first of its clip.
    """

    pairs: Callable[[Store], list[Pair]]
    side: int | None
    caption: Callable[[int, bool], str]


EXPORTS = {  # by the key `export` of an estimator's entry in params.yaml
    "pairs": Export(pairs, None, lambda number, first: f"{number} to {number + 1}"),
    "sky": Export(sky_pairs, 128, lambda number, first: f"{number if first else number - 1} to {number}"),
}
