"""iPER (Liu et al., ICCV 2019): people turning round (action 1) and moving freely (action 2), split as cINN does.

206 videos "<actor>_<outfit>_<action>.mp4": 138 for training, 26 for validation, 42 for testing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Literal

import cv2
import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.sources import layout, video
from pipeline.sources.archives import Stream

SPLITS = ("train", "val", "test")
LICENCE = "iPER, for non-commercial research (Liu et al., ICCV 2019)"

RESIZE = "cv2.INTER_LINEAR, to 256x256 first"
SIDE = 256  # px, to which cINN resizes the videos before anything else

EXPECTED = {"train": 138, "val": 26, "test": 42}


Image = Callable[[], np.ndarray]


class Params(params.Dataset):
    """iPER; cINN: 256x256, tested at 64x64."""

    release: Literal[1024, 256] = Field(
        1024,
        description="side of the released videos: 1024 (published: resized by us), or 256, as the authors have resized them",
    )


def archives(p: Params, split: str) -> list[str]:
    """Return the one zip, which people download from OneDrive; its folder may lie in its place."""
    return [f"iPER_{p.release}_video_release.zip"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": EXPECTED[split]}


def items(p: Params, split: str) -> list[str]:
    """Return the clips as cINN's loader goes through them: in training and validation those of action 2 twice."""
    names = [line.replace("/", "_") for line in layout.lines(Path(__file__).with_name(f"{split}.txt").read_text())]
    return names if split == "test" else [name for name in names for _ in range(int(name[-1]))]


def clips(p: Params, split: str, archives: list[Path]) -> list[Stream]:
    """Return the clips of the split's list that are there, in its order, "006_1_1"; frames from 0.

    Every frame is decoded in order. The published script seeks each one and skips those that it does not get.
    """
    by_name = layout.videos(archives, r"(?P<clip>[0-9]{3}_[0-9]+_[0-9]+)\.(?i:mp4)", "006_1_1.mp4")
    chosen = list(dict.fromkeys(items(p, split)))
    streams = [video.clip(name, member) for name, member in layout.listed(by_name, chosen, f"{split}.txt").items()]
    return [dataclasses.replace(stream, frames=functools.partial(_small, stream.frames)) for stream in streams]


def _small(frames: Callable[[], Iterator[tuple[int, Image]]]) -> Iterator[tuple[int, Image]]:
    """Yield frames at 256x256, where they are larger."""
    for number, image in frames():
        yield number, functools.partial(_at_most, image)


def _at_most(image: Image) -> np.ndarray:
    pixels = image()
    if max(pixels.shape[:2]) <= SIDE:
        return pixels
    return cv2.resize(pixels, (SIDE, SIDE), interpolation=cv2.INTER_LINEAR)
