"""The pairs of frames that flow is tested on.

A pair is (clip, number of its first frame). Tested are the pairs with ground truth, which is a store of fields as the
flow stage writes them with the estimator `truth`: NaN where the set has none.
"""

from __future__ import annotations

import numpy as np

from pipeline.errors import RetakeError
from pipeline.store.frames import Store

Pair = tuple[str, int]


def pairs(truth: Store) -> list[Pair]:
    """Return the pairs that have ground truth, in the store's order."""
    return [(clip, int(truth.frame[row])) for clip, rows in truth.clips.items() for row in rows]


def key(pair: Pair) -> str:
    """Return the name of a pair in scores: "<clip>:<frame>"."""
    return f"{pair[0]}:{pair[1]}"


def images(frames: Store, pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the frame before a pair and its two frames, (H, W, 3) uint8; where the clip begins, the first twice.

    Raises RetakeError where the second frame is missing or of another size.
    """
    clip, frame = pair
    first, second = frames.row(clip, frame), frames.row(clip, frame + 1)
    if (frames.size[first] != frames.size[second]).any():
        raise RetakeError(f"{frames.path}, {clip} frame {frame}: the next frame has another size")
    starts = first == frames.clips[clip].start or frames.frame[first - 1] != frame - 1
    return frames.image(first if starts else first - 1), frames.image(first), frames.image(second)
