"""Clips generated elsewhere: one folder a test window, as for prediction."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import plan
from pipeline.store.frames import Store
from pipeline.tasks.animation import clips
from pipeline.tasks.common.bring import Expected, Exported, windows_expected, windows_exported


def expected(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Expected:
    """Return what a folder of generated windows must hold."""
    return windows_expected(frames, clips.tested(frames, protocol), clips.settings(protocol), folder)


def exported(fields: plan.Fields, protocol: Any, frames: Store) -> Iterator[Exported]:
    """Yield the start frame of every window, and the frames to generate."""
    given = ([frames.image(frames.clips[w.clip][w.start])] for w in clips.windows(frames, protocol))
    return windows_exported(frames, clips.tested(frames, protocol), given)
