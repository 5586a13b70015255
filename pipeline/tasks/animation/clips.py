"""The windows that animation is tested on, and what goes with a window: its true frames, its flow, its end point."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.store.frames import Store
from pipeline.tasks.animation import Protocol
from pipeline.tasks.common import windows as common
from pipeline.tasks.common.windows import Tested

SEED = 249  # of random starts, the seed of cINN's evaluation


@dataclass(frozen=True)
class Window:
    """A run of frames of a clip, from the position `start` on; `again`: how many windows before it are the same."""

    clip: str
    start: int
    again: int = 0

    @property
    def name(self) -> str:
        """Its name in prediction stores and scores: "<clip>:<start>", with "#<n>" when it comes again."""
        return f"{self.clip}:{self.start}" + (f"#{self.again}" if self.again else "")


def windows(store: Store, protocol: Protocol) -> list[Window]:
    """Return the test windows of a store, in its order of clips.

    Raises RetakeError when a clip is shorter than the window.
    """
    every = [Window(*window) for window in common.windows(store, protocol.window, every=protocol.windows == "all")]
    if protocol.windows == "all":
        return every
    each = protocol.starts if protocol.items is None else -(-protocol.items // len(every))
    starts = {
        w.clip: _random_starts(w.clip, len(store.clips[w.clip]) - protocol.window + 1, each)
        if protocol.windows == "random"
        else [0] * each
        for w in every
    }
    tested = []
    for n in range(each):
        for clip, drawn in starts.items():
            tested.append(Window(clip, drawn[n], drawn[:n].count(drawn[n])))
    return tested[: protocol.items]


def _random_starts(clip: str, count: int, each: int) -> list[int]:
    """Return `each` starts of a clip from 0 to `count` - 1, which depend on its name alone."""
    seed = int.from_bytes(hashlib.sha256(f"{SEED} {clip}".encode()).digest()[:8], "little")
    return np.random.default_rng(seed).integers(0, count, each).tolist()


def settings(protocol: Protocol) -> dict[str, Any]:
    """Return what a prediction store says of its windows."""
    return protocol.model_dump(exclude={"task"})


def target_rows(store: Store, window: Window, protocol: Protocol) -> range:
    """Return the rows of a store that a window's generated frames are compared with."""
    first = window.start + protocol.first_time - protocol.lag
    return store.clips[window.clip][first : first + protocol.horizon]


def tested(store: Store, protocol: Protocol) -> list[Tested]:
    """Return the test windows with the true frames that generated ones are compared with."""
    return [Tested(w.name, w.clip, target_rows(store, w, protocol)) for w in windows(store, protocol)]


def sources(own: list[Window], motion: str) -> list[Window]:
    """Return the windows whose motion the windows are given: their own, or for `other` one of the next clip.

    Raises RetakeError when there is no other clip.
    """
    if motion != "other":
        return own
    of_clip: dict[str, list[Window]] = {}
    for window in own:
        of_clip.setdefault(window.clip, []).append(window)
    clips = list(of_clip)
    if len(clips) < 2:
        raise RetakeError(f"motion other: {clips[0]} is the only clip, there is no other to take motion from")
    following = dict(zip(clips, clips[1:] + clips[:1], strict=True))
    given = []
    for window in own:
        others = of_clip[following[window.clip]]
        given.append(others[of_clip[window.clip].index(window) % len(others)])
    return given


def flow(store: Store, frames: Store, clip: str, positions: range) -> np.ndarray:
    """Return the flow of a run of frames of a clip, (n, h, w, 2) float32 px: entry t leads from frame t - 1 to t.

    Of the first frame there is the flow to itself: what the store has for a clip's first frame, zero elsewhere. Stores of
    both exports are read (`tasks/flow/exports.py`), by the clip's name and the frames' numbers. Raises RetakeError where a
    frame has no flow, where frames are missing, or flow is unknown in places.
    """
    numbers = [int(frames.frame[frames.clips[clip][position]]) for position in positions]
    sky = store.meta.get("export") == "sky"
    if not sky and any(after != before + 1 for before, after in itertools.pairwise(numbers)):
        raise RetakeError(
            f"{frames.path}: {clip} has a gap in its frames {numbers[0]} to {numbers[-1]}, so no flow over it"
        )
    fields = [store.image(store.row(clip, number if sky else number - 1)) for number in numbers[1:]]
    first = store.clips.get(clip, range(1))[0]
    still = sky and store.frame[first] == numbers[0]
    fields_of_clip = np.stack([store.image(first) if still else np.zeros_like(fields[0]), *fields])
    if not np.isfinite(fields_of_clip).all():
        raise RetakeError(f"{store.path}: {clip}, frames {numbers[0]} to {numbers[-1]}: flow is unknown in places")
    return fields_of_clip


def open_flow(path: str, frames: Store) -> Store:
    """Return the flow store of an estimator and a dataset, as its path names them, for the frames of a split.

    Raises RetakeError when it is of another estimator or dataset, or of other frames than these.
    """
    store, named = Store(path), params.FLOW.fullmatch(path)
    assert named is not None
    again = f"make it again with `snakemake {path}`"
    for key in ("estimator", "dataset"):
        if store.meta.get(key) != named[key]:
            raise RetakeError(f"{path} is flow of the {key} {store.meta.get(key)}, not of {named[key]}: {again}")
    if named["dataset"] == frames.meta.get("dataset") and store.meta.get("data") != frames.identity:
        raise RetakeError(f"{path} was not made from today's {frames.path}: {again}")
    return store
