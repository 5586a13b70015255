"""Quick-Sky-Time (DTVNet+, arXiv 2008.04776): 1,167 clips of skies in 1024x1024 and more, from YouTube.

A clip is a video "<id> <start>-<end>.mp4" in the folder of its id. The lists that split the clips come with them.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import params
from pipeline.sources import layout, video
from pipeline.sources.archives import Stream

SPLITS = ("train", "val", "test")
LICENCE = "Quick-Sky-Time, no licence stated; videos of their authors on YouTube (Zhang et al., arXiv 2008.04776)"

EXPECTED = {
    "train": {"clips": 1000, "frames": 244930},
    "val": {"clips": 100, "frames": 23200},
    "test": {"clips": 67, "frames": 17316},
}
# The id may begin with "-" and hold "-" and "_": it ends at the first blank.
VIDEO = r"clips/(?P<id>[^/ ]+)/(?P<clip>(?P=id) [^/]+)\.(?i:mp4)"


class Params(params.Dataset):
    """Quick-Sky-Time; DTVNet+ trains on 128x128, other systems on up to 1024x1024."""


def archives(p: Params, split: str) -> list[str]:
    """Return the one archive; the download is a folder, which may lie in its place."""
    return ["Quick-Sky-Time.zip"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return EXPECTED[split]


def clips(p: Params, split: str, archives: list[Path]) -> list[Stream]:
    """Return the clips of the split's list that are there, in its order, "<id> <start>-<end>"; frames from 0."""
    chosen = [name.removesuffix(".mp4") for name in layout.lines(layout.text(archives, f"{split}_urls.txt"))]
    by_name = layout.videos(archives, VIDEO, "clips/00MOhFGvOJs/00MOhFGvOJs 00_00_14-00_00_25.mp4")
    return [video.clip(name, member) for name, member in layout.listed(by_name, chosen, f"{split}_urls.txt").items()]
