"""UCF101 (Soomro et al., arXiv 1212.0402): split 1, 9,537 videos for training, 3,783 for testing.

DMVFN trains on the JPEG frames of the two-stream-fusion release, 256 pixels high, which have not been downloadable
since 2025. The videos are; decoded and resized to 256 pixels they are the same frames, but for how that release
resized and compressed them. The lists are those of the official archive. They and the releases spell
HandstandPushups in two ways.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline import params
from pipeline.sources import layout, video
from pipeline.sources.archives import Clip, Stream

SPLITS = ("train", "test")
LICENCE = "UCF101, for research, no licence stated; videos of their authors on YouTube (Soomro et al., arXiv 1212.0402)"

LISTS = {"train": "trainlist01.txt", "test": "testlist01.txt"}
EXPECTED = {"train": 9537, "test": 3783}
LIST_ARCHIVE = "UCF101TrainTestSplits-RecognitionTask.zip"
ARCHIVES = {
    "avi": ["UCF101_videos.zip"],
    "jpegs_256": [f"ucf101_jpegs_256.zip.{part:03d}" for part in (1, 2, 3)],
}
CLIP = "(?P<clip>v_[A-Za-z]+_g[0-9]{2}_c[0-9]{2})"


class Params(params.Dataset):
    """UCF101; published: height 256, width null."""

    source: Literal["avi", "jpegs_256"] = Field(
        "avi",
        description="avi: the videos, decoded; jpegs_256: the JPEG release (published), which must be there already",
    )


def archives(p: Params, split: str) -> list[str]:
    """Return the archive of the lists, and those of the frames."""
    return [LIST_ARCHIVE, *ARCHIVES[p.source]]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": EXPECTED[split]}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip] | list[Stream]:
    """Return the clips of the split's list that are there, in its order, named as the list does; frames from 1.

    Files in other folders than a clip's, such as the flow that slipped into the JPEG release, are counted in the log.
    """
    lists = [path for path in archives if path.stem == Path(LIST_ARCHIVE).stem]
    chosen = names(layout.text(lists, LISTS[split]))
    first = [path for path in archives if path not in lists][:1]  # of several parts it stands for all
    if p.source == "avi":
        by_name = layout.videos(first, CLIP + layout.AVI, "v_Archery_g01_c01.avi")
        return [video.clip(name, member, first=1) for name, member in _listed(by_name, chosen, split).items()]
    jpegs = layout.frames(first, CLIP, f"frame(?P<frame>[0-9]{{6}}){layout.JPG}", "v_Archery_g01_c01/frame000001.jpg")
    return layout.clips(_listed(jpegs, chosen, split))


def names(text: str) -> list[str]:
    """Return the clips that a list names: "Archery/v_Archery_g08_c01.avi 3" is v_Archery_g08_c01."""
    return [re.split(r"[/\\]", line.split()[0])[-1].removesuffix(".avi") for line in layout.lines(text)]


def _listed(by_name: dict[str, layout.T], chosen: list[str], split: str) -> dict[str, layout.T]:
    """Return what the list names, whatever the case of its letters in the archive, under the list's names."""
    spelt = {name.lower(): name for name in chosen}
    return layout.listed(
        {spelt.get(name.lower(), name): member for name, member in by_name.items()}, chosen, LISTS[split]
    )
