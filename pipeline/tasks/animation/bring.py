"""Clips generated elsewhere: one folder a test window, as for prediction."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline import plan
from pipeline.store.frames import Store
from pipeline.tasks.animation import clips
from pipeline.tasks.common.bring import Expected, windows_expected


def expected(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Expected:
    """Return what a folder of generated windows must hold."""
    return windows_expected(frames, clips.tested(frames, protocol), clips.settings(protocol), folder)
