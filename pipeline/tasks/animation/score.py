"""Scores of generated clips: those of all windows."""

from __future__ import annotations

from typing import Any

from pipeline import plan
from pipeline.params import Params
from pipeline.shards import WHOLE, Shard
from pipeline.store.frames import Store
from pipeline.store.scores import Row
from pipeline.tasks.animation import clips
from pipeline.tasks.common import windows_score
from pipeline.tasks.common.score import Metrics


def score(
    p: Params,
    fields: plan.Fields,
    protocol: Any,
    frames: Store,
    predicted: Store,
    metrics: Metrics,
    shard: Shard = WHOLE,
) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of generated frames, and what the metadata says of them."""
    tested, settings = clips.tested(frames, protocol), clips.settings(protocol)
    return windows_score.score(p, fields["experiment"], frames, predicted, metrics, tested, settings, shard)
