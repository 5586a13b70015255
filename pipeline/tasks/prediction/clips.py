"""The windows that prediction is tested on: which frames are given, which are to be predicted.

A window is (clip, start): `protocol.window` consecutive frames of a clip, by position. Its inputs are the `context` frames
from index `first`, its targets the `horizon` frames after them. Windows are index arithmetic over frames stored once.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline.store.frames import Store
from pipeline.tasks.common import windows as common
from pipeline.tasks.common.windows import Tested
from pipeline.tasks.common.windows import Window as Window
from pipeline.tasks.prediction import Protocol


def windows(store: Store, protocol: Protocol) -> list[Window]:
    """Return the test windows of a store, in its order of clips.

    Raises RetakeError when a clip is shorter than the window.
    """
    return common.windows(store, protocol.window, every=protocol.windows == "all")


def key(window: Window) -> str:
    """Return the name of a window in prediction stores and scores: "<clip>:<start>"."""
    return f"{window[0]}:{window[1]}"


def tested(store: Store, protocol: Protocol) -> list[Tested]:
    """Return the test windows with the frames to predict."""
    return [Tested(key(w), w[0], target_rows(store, w, protocol)) for w in windows(store, protocol)]


def settings(protocol: Protocol) -> dict[str, Any]:
    """Return what a prediction store says of its windows."""
    return {k: getattr(protocol, k) for k in ("window", "windows", "first", "context", "horizon")}


def inputs(store: Store, window: Window, protocol: Protocol) -> np.ndarray:
    """Return the context frames of a window, (context, height, width, 3) uint8."""
    begin = window[1] + protocol.first
    return store.read(window[0], range(begin, begin + protocol.context))


def targets(store: Store, window: Window, protocol: Protocol) -> np.ndarray:
    """Return the frames to predict, (horizon, height, width, 3) uint8."""
    return np.stack([store.image(row) for row in target_rows(store, window, protocol)])


def target_rows(store: Store, window: Window, protocol: Protocol) -> range:
    """Return the rows of a store that hold the frames to predict."""
    begin = window[1] + protocol.first + protocol.context
    return store.clips[window[0]][begin : begin + protocol.horizon]


def context_flow(flow: Store, frames: Store, window: Window, protocol: Protocol) -> np.ndarray:
    """Return the flow between the last two context frames of a window, (H, W, 2) px; raises RetakeError without."""
    clip, start = window
    frame = int(frames.frame[frames.clips[clip][start + protocol.first + protocol.context - 2]])
    return flow.image(flow.row(clip, frame))
