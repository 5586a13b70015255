"""Scores of generated clips: those of all windows."""

from __future__ import annotations

from typing import Any

from pipeline.store.scores import Row
from pipeline.tasks.animation import clips
from pipeline.tasks.common import windows_score
from pipeline.tasks.common.score import Job


def score(job: Job) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of generated frames, and what the metadata says of them."""
    return windows_score.score(job, clips.tested(job.frames, job.protocol), clips.settings(job.protocol))
