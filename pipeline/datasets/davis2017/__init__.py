"""DAVIS 2017 (Pont-Tuset et al., arXiv 1704.00675): the official train and val lists, 60 and 30 clips.

DMVFN tests on val, by the first 9 frames of each clip. Most frames of the 480p release are 854x480, some are wider;
DMVFN needs sides that are multiples of 16, and how its authors came to such is not known. So `fit` says what is done,
and the store says it again.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from pipeline import params
from pipeline.sources import layout
from pipeline.sources.archives import Clip

SPLITS = ("train", "test")
LICENCE = "DAVIS 2017, for research (Pont-Tuset et al., arXiv 1704.00675)"

LISTS = {"train": Path(__file__).with_name("train.txt"), "test": Path(__file__).with_name("val.txt")}
EXPECTED = {"train": 60, "test": 30}
ARCHIVES = {"480p": "DAVIS-2017-trainval-480p.zip", "full": "DAVIS-2017-trainval-Full-Resolution.zip"}
FOLDERS = {"480p": "480p", "full": "Full-Resolution"}


class Params(params.Dataset):
    """DAVIS 2017, split test is the official val."""

    resolution: Literal["480p", "full"] = Field("480p", description="release: 480p (published for testing) or full")
    fit: Literal["resize", "pad"] = Field(
        "resize",
        description="how frames come to height and width: resize ignores their aspect ratio; pad keeps pixels (scaled "
        "down where they do not fit) and repeats the last column and row",
    )

    @model_validator(mode="after")
    def _size_to_pad(self) -> Params:
        if self.fit == "pad" and (self.height is None or self.width is None):
            raise ValueError("fit pad needs height and width")
        return self


def archives(p: Params, split: str) -> list[str]:
    """Return the zip that holds both splits."""
    return [ARCHIVES[p.resolution]]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": EXPECTED[split]}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the clips of the split's list that are there, named as their folders; frames by number from 0."""
    folder = f"JPEGImages/{FOLDERS[p.resolution]}"
    frames_by_clip = layout.frames(
        archives, f"{folder}/(?P<clip>[^/]+)", f"(?P<frame>[0-9]{{5}}){layout.JPG}", f"{folder}/blackswan/00000.jpg"
    )
    path = LISTS[split]
    return layout.clips(layout.listed(frames_by_clip, layout.lines(path.read_text()), path.name))
