"""Skies rendered by code, to train and test animation in minutes: clouds that drift over them, and the exact flow.

A network can learn them in minutes because clouds are soft and large, and there are two motions only: of each sky there are two
short videos, in one the clouds drift to the left, in the other to the right. Where they go cannot be seen in one
frame, so that a clip can be foretold from its motion alone. No colour is near black or white, where the generator's tanh learns
no more. Each split has skies of its own.

A split is a zip in the layout and with the names of Sky Time-lapse. Its frames are drawn the same on every machine
(`drawing.rendering`); they are JPEGs as there, which another OpenCV may write in other bytes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.drawing.rendering import SCALE, fractal, ramp, write_zip
from pipeline.errors import progress
from pipeline.sources import layout, skies
from pipeline.sources.archives import Clip

SPLITS = ("train", "val", "test")
LICENCE = "rendered by Retake (MIT)"
SKIES = {"train": 24, "val": 2, "test": 4}  # of two short videos each
FRAMES = 48  # of a short video
DRIFTS = {1: -2, 2: 2}  # px a frame that clouds move to the right, by number of the short video
SKY, CLOUDS = "30508c 4c74b0", "94a0ac b8bcc4"  # colours from top to bottom, from dark to light
QUALITY = 95  # of the JPEGs


class Params(params.Dataset):
    """The demo has no keys of its own."""

    height: int = Field(64, ge=32, description="height that the frames are rendered at, pixels")
    width: int = Field(64, ge=32, description="width that the frames are rendered at, pixels")


def archives(p: Params, split: str) -> list[str]:
    """Return the zip of a split; the size is part of its name, so that demos of two sizes can lie side by side."""
    return [f"demo_sky_{split}_{p.width}x{p.height}.zip"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": 2 * SKIES[split], "frames": 2 * SKIES[split] * FRAMES}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the clips "<sky>/<sky>_<k>", frames numbered from 0."""
    return layout.clips(layout.in_order(skies.short_videos(archives, split)))


def truth(p: Params, split: str, archives: list[Path]) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yield (clip, frame, flow (H, W, 2) float32 px, valid (H, W) bool) of each frame to its next.

    Valid are all pixels: the drift of the clouds is the flow of clear sky too.
    """
    for clip in clips(p, split, archives):
        flow = np.full((p.height, p.width, 2), (DRIFTS[int(clip.name[-1])], 0), np.float32)
        for frame, _ in clip.frames[:-1]:
            yield clip.name, frame, flow, np.ones((p.height, p.width), bool)


def generate(p: Params, split: str, folder: Path) -> None:
    """Write the archive of a split into `folder`."""
    members = {}
    for place in progress(range(SKIES[split]), unit="sky", desc=f"demo_sky {split}"):
        for k in DRIFTS:
            name = f"sky_{split}_{place + 1:02d}"
            for i, image in enumerate(render(split, place, k, p.height, p.width), 1):
                members[f"sky_{split}/{name}/{name}_{k}/{name}_frames_{i:08d}.jpg"] = image
    write_zip(folder / archives(p, split)[0], members, _jpeg)


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1].tobytes()


def render(split: str, place: int, k: int, height: int, width: int) -> list[np.ndarray]:
    """Return short video `k` of the sky at `place` in its split: frames, (height, width, 3) uint8."""
    name = f"{split} sky {place}"
    way = max(DRIFTS.values()) * (FRAMES - 1)
    h, w = height * SCALE, (width + 2 * way) * SCALE
    clear = ramp(SKY)[np.clip(np.arange(h) * 255 // h, 0, 255)][:, None]
    cover = np.clip((fractal(f"{name} cover", h, w, [64, 32]) - 92) * 3, 0, 255)[..., None]
    whole = (clear * (255 - cover) + ramp(CLOUDS)[fractal(f"{name} billows", h, w, [48, 24])] * cover) // 255
    whole = whole.reshape(height, SCALE, w // SCALE, SCALE, 3).sum(axis=(1, 3)) // SCALE**2
    lefts = [way - DRIFTS[k] * t for t in range(FRAMES)]  # both short videos of a sky begin with the same frame
    return [whole[:, left : left + width].astype(np.uint8) for left in lefts]
