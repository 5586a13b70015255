"""Vimeo-90K (Xue et al., IJCV 2019): short clips of 448x256, as triplets, septuplets, or the interpolation test alone.

DMVFN tests on the interpolation test: the first two frames of each of 3,782 triplets are given, the third is predicted.
The triplets' and septuplets' splits are the lists in their own archives.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.sources import layout
from pipeline.sources.archives import Clip

SPLITS = ("train", "test")
LICENCE = "Vimeo-90K, videos of their authors on Vimeo (Xue et al., IJCV 2019)"

# Of each part: frames of a clip, the folder above the clips, the lists, and how many clips they name.
LENGTH = {"interp_test": 3, "triplet": 3, "septuplet": 7}
FOLDERS = {"interp_test": "target", "triplet": "sequences", "septuplet": "sequences"}
LISTS = {"triplet": "tri_{split}list.txt", "septuplet": "sep_{split}list.txt"}
EXPECTED = {
    "interp_test": {"train": 0, "test": 3782},
    "triplet": {"train": 51313, "test": 3782},
    "septuplet": {"train": 64612, "test": 7824},
}


class Params(params.Dataset):
    """Vimeo-90K; frames are 448x256."""

    part: Literal["interp_test", "triplet", "septuplet"] = Field(
        description="interp_test: the 3,782 test triplets alone, 1.7 GB; triplet, septuplet: training and test clips of "
        "3 or 7 frames"
    )


def archives(p: Params, split: str) -> list[str]:
    """Return the zip that holds all splits of the part; the interpolation test has no split train."""
    return [f"vimeo_{p.part}.zip"] if EXPECTED[p.part][split] else []


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    count = EXPECTED[p.part][split]
    return {"clips": count, "frames": count * LENGTH[p.part]}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the clips, "<five digits>/<four digits>", in the order of the split's list; frames from 1.

    Raises RetakeError for clips that lack a frame.
    """
    if not EXPECTED[p.part][split]:
        raise RetakeError(f"Vimeo-90K's {p.part} has no split {split}: part triplet or septuplet has")
    length, folder = LENGTH[p.part], FOLDERS[p.part]
    frames_by_clip = layout.frames(
        archives,
        rf"{folder}/(?P<clip>[0-9]{{5}}/[0-9]{{4}})",
        f"im(?P<frame>[0-9]){layout.PNG}",
        f"{folder}/00001/0001/im1.png",
        numbers=range(1, length + 1),
    )
    if p.part in LISTS and archives:
        name = LISTS[p.part].format(split=split)
        frames_by_clip = layout.listed(frames_by_clip, layout.lines(layout.text(archives, name)), name)
    return layout.clips(frames_by_clip)
