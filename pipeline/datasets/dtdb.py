"""Dynamic textures (DTDB, Hadji and Wildes, ECCV 2018): the four that cINN animates, as its authors hand them out.

Frames lie in `<texture>/{train,eval}/<video>/frame<number>.jpg` or `.png`, in sizes of each video's own. cINN has one
model a texture, so each texture is an entry of its own; the archive is the same.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from pipeline import params
from pipeline.sources import layout
from pipeline.sources.archives import Clip

SPLITS = ("train", "test")
LICENCE = "DTDB, no licence stated (Hadji and Wildes, ECCV 2018; selection of Dorkenwald et al., CVPR 2021)"

FOLDERS = {"train": "train", "test": "eval"}  # the published code validates and tests on the same clips


class Params(params.Dataset):
    """DTDB; published: 128x128."""

    texture: Literal["fire", "vegetation", "clouds", "waterfall"] = Field(description="the texture of this entry")


def archives(p: Params, split: str) -> list[str]:
    """Return the one zip, of all textures."""
    return ["dtdb.zip"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return nothing: how many videos each texture has is not published."""
    return {}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the texture's videos by name; frames have the files' numbers, from 0."""
    return layout.clips(
        layout.frames(
            archives,
            f"{p.texture}/{FOLDERS[split]}/(?P<clip>[^/]+)",
            f"frame(?P<frame>[0-9]+)(?:{layout.JPG}|{layout.PNG})",
            f"{p.texture}/{FOLDERS[split]}/<video>/frame0.jpg",
        )
    )
