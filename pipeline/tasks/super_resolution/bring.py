"""Scenes upscaled elsewhere, in the layout of the published script.

One folder a scene, named as the scene, with a PNG a frame, as TecoGAN's script leaves them in `results/`. They are paired
by position, sorted by name and then by the digits in it; names that begin with `IB` are passed over, and images that are
larger than the target are cut from the top left, as published.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import plan
from pipeline.sources import limits
from pipeline.sources.images import gap
from pipeline.store.frames import Store
from pipeline.tasks.common.bring import Expected, Exported, size
from pipeline.tasks.super_resolution import clips


def expected(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Expected:
    """Return what a folder of upscaled scenes must hold."""
    low = clips.low_store(fields)
    counts = {clip: len(frames.clips[clip]) for clip in clips.scenes(frames, low, protocol)}
    sentence = f"expected in {folder}: " + ", ".join(
        f"{clip}/ with {count} PNGs of at least {'x'.join(map(str, size(frames, frames.clips[clip][0])[::-1]))}"
        for clip, count in counts.items()
    )
    files: list[tuple[str, int, str, tuple[int, int]]] = []
    problems = []
    for clip, count in counts.items():
        images = [f.name for f in limits.unhidden(folder / clip, "*.png") if not f.name.startswith("IB")]
        if len(images) != count:
            wrong = f"has {len(images)} PNGs, not {count}" if (folder / clip).is_dir() else "is missing"
            problems.append(f"{clip} {wrong}")
        ordered, rows = clips.file_order(images), frames.clips[clip]
        if left_out := gap(ordered, [int(frames.frame[row]) for row in rows]):
            problems.append(f"{clip}: {left_out}: by their names these are not the frames of the scene")
        files += [
            (clip, int(frames.frame[row]), f"{clip}/{image}", size(frames, row))
            for row, image in zip(rows, ordered, strict=False)
        ]
    tops = {clip.split("/")[0] for clip in counts} | {"metric_log"}  # the published script's own
    present = [f.name for f in limits.unhidden(folder)] if folder.is_dir() else []
    problems += [f"{name} is no scene of the test set" for name in present if name not in tops]
    named = {
        clip: (clip, [int(frames.frame[row]) for row in frames.clips[clip]], size(frames, frames.clips[clip][0]))
        for clip in counts
    }
    return Expected(
        files,
        named,
        problems,
        sentence,
        clips.facts(frames, low, protocol),
        "png",
        "uint8",
        larger=True,
        saved=protocol.saved,
    )


def exported(fields: plan.Fields, protocol: Any, frames: Store) -> Iterator[Exported]:
    """Yield the frames of every scene at low resolution, rounded to 8 bits, and as they are."""
    low = clips.low_store(fields)
    for clip in clips.scenes(frames, low, protocol):
        for row, image in zip(frames.clips[clip], clips.low_resolution(frames, low, clip), strict=True):
            file = f"{clip}/{int(frames.frame[row]):04d}.png"
            yield Exported(False, file, np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8))
            yield Exported(True, file, frames.image(row))
