"""Scores of upscaled frames: every scored frame of every scene, and pairs of neighbours."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from pipeline.errors import RetakeError, progress
from pipeline.store.frames import Store
from pipeline.store.scores import Row
from pipeline.tasks.common.score import Job, true_motion, unit
from pipeline.tasks.super_resolution import Protocol
from pipeline.tasks.super_resolution.clips import low_store, scenes, scored_part


def score(job: Job) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of upscaled frames, and what the metadata says of them; a window is a scene."""
    frames, predicted, metrics, protocol = job.frames, job.predicted, job.metrics, job.protocol
    low = low_store(job.fields)
    clips = scenes(frames, low, protocol)
    check(predicted, frames, low, clips, protocol)
    rows: list[Row] = []
    scored_clips = [clips[place] for place in job.shard.span(len(clips))]
    for clip in progress(scored_clips, unit="scene", desc=f"score {job.fields['model']}"):
        true = frames.clips[clip]
        scored, region = scored_part((len(true), *frames.size[true[0]]), protocol, f"{frames.path}, {clip}")
        motion = true_motion(frames, clip, true[scored])
        before: list[np.ndarray] = []
        for pair in zip(predicted.clips[clip][scored], true[scored], strict=True):
            frame = int(frames.frame[pair[1]])
            where = f"{predicted.path}, {clip} frame {frame}"
            images = [unit(s.image(r)[None], where) for s, r in zip((predicted, frames), pair, strict=True)]
            measured = list(metrics.values("frames", where, *(image[:, *region] for image in images)))
            if before and metrics.of("pairs"):
                both = [np.concatenate(x) for x in zip(before, images, strict=True)]
                measured += metrics.values("pairs", where, *both, region, functools.partial(motion, pair[1] - 1))
            rows += [(clip, frame, 0, metric, float(values[0]), 1.0) for metric, values in measured]
            before = images
    return rows, {"windows": len(clips), "samples": 1, "flow": []}


def check(predicted: Store, frames: Store, low: Store | None, clips: list[str], protocol: Protocol) -> None:
    """Raise RetakeError unless the store has every frame of every scene once, at the size of the target."""
    again = f"make it again with `snakemake {predicted.path}`"
    if predicted.meta.get("protocol", {}).get("saved") != protocol.saved:
        raise RetakeError(f"{predicted.path} was not saved as protocol {protocol.saved!r} says: {again}")
    if (predicted.meta.get("data"), predicted.meta.get("low")) != (frames.identity, low.identity if low else ""):
        stores = " and ".join(str(s.path) for s in (frames, low) if s is not None)
        raise RetakeError(f"{predicted.path} was not made from today's {stores}: {again}")
    if set(predicted.clips) != set(clips):
        raise RetakeError(
            f"{predicted.path} has the scenes {', '.join(predicted.clips)}, not {', '.join(clips)}: {again}"
        )
    for clip in clips:
        made, true = predicted.clips[clip], frames.clips[clip]
        if list(predicted.frame[made]) != list(frames.frame[true]):
            raise RetakeError(
                f"{predicted.path}, {clip}: {len(made)} frames for {len(true)}, or other numbers: {again}"
            )
        if (predicted.size[made] != frames.size[true]).any():
            (h, w), (height, width) = predicted.size[made[0]], frames.size[true[0]]
            raise RetakeError(f"{predicted.path}, {clip}: frames are {w}x{h}, the true ones {width}x{height}: {again}")
