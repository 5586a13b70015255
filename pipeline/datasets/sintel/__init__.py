"""MPI Sintel (Butler et al., ECCV 2012), and the frames of the film itself (Durian project) by shot.

The official training scenes are 23 and have true flow; ARFlow trains on all of them and scores all of them, or keeps
apart the 12 and 11 of an unofficial split (`scenes.csv`). Split `benchmark` is the official test, 12 scenes without
truth. The film's own frames are what ARFlow is pre-trained on; alone, their split `test` is MPI Sintel's, clean and
final, on which that training is validated.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field, field_validator

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.sources import layout
from pipeline.sources.archives import Clip, Member, read
from pipeline.store import flow

SPLITS = ("train", "test", "benchmark")
LICENCE = "MPI Sintel (Butler et al., ECCV 2012), film CC BY 3.0, (c) Blender Foundation, durian.blender.org"

SCENES = Path(__file__).with_name("scenes.csv")
EXPECTED: dict[str, dict[str, tuple[int, int | None]]] = {  # scenes, and frames of one rendering
    "all": {"train": (23, 1064), "test": (23, 1064), "benchmark": (12, 564)},
    "unofficial": {"train": (12, None), "test": (11, None), "benchmark": (12, 564)},
}
COMPLETE, MOVIE = "MPI-Sintel-complete.zip", "sintel_raw.zip"


class Params(params.Dataset):
    """Sintel; frames are 1024x436, true flow has that size."""

    renderings: list[Literal["clean", "final", "movie"]] = Field(
        ["clean", "final"],
        min_length=1,
        description="clean and final: MPI Sintel's; movie: the film's own frames by shot (training alone, no flow; "
        "without other renderings the test is clean and final)",
    )
    scenes: Literal["all", "unofficial"] = Field(
        "all",
        description="all: the 23 training scenes are both train and test (published); unofficial: 12 and 11 of them",
    )

    @field_validator("renderings")
    @classmethod
    def _distinct(cls, renderings: list[str]) -> list[str]:
        if len(set(renderings)) < len(renderings):
            raise ValueError(f"{renderings} names one twice")
        return renderings


def archives(p: Params, split: str) -> list[str]:
    """Return the zips that the split is made of."""
    complete = [COMPLETE] if _rendered(p, split) else []
    return complete + ([MOVIE] if "movie" in p.renderings and split == "train" else [])


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has; how many shots the film is cut into is not known."""
    scenes, frames = EXPECTED[p.scenes][split]
    if "movie" in p.renderings and split == "train":
        return {}
    count = len(_rendered(p, split))
    return {"clips": scenes * count} | ({"frames": frames * count} if frames else {})


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the clips "<rendering>/<scene>" and "movie/<shot>"; frames have the files' numbers.

    Raises RetakeError for a split that the renderings do not have.
    """
    if not _rendered(p, split) and split != "train":
        raise RetakeError(f"the film's frames have no split {split}: add clean or final to the renderings")
    return layout.clips(_scenes(p, split, archives) | (_shots(p, archives) if split == "train" else {}))


def truth(p: Params, split: str, archives: list[Path]) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yield (clip, frame, flow (H, W, 2) float32 px, valid (H, W) bool) of each frame that has a next one in its clip.

    Raises RetakeError for a pair without it.
    """
    if split == "benchmark":
        return
    complete = [path for path in archives if path.stem == Path(COMPLETE).stem]
    files = layout.members(
        complete,
        "training/flow/(?P<scene>[^/]+)",
        r"frame_(?P<frame>[0-9]{4})\.flo",
        "training/flow/alley_1/frame_0001.flo",
    )
    members = {(m["scene"], int(m["frame"])): Member(archive, m[0]) for archive, m, is_file in files if is_file}
    for clip, frames in _scenes(p, split, archives).items():
        scene = clip.partition("/")[2]
        for number, _ in frames[:-1]:
            if (scene, number) not in members:
                name = f"training/flow/{scene}/frame_{number:04d}.flo"
                raise RetakeError(f"{complete[0]}: no {name}, the true flow of that frame")
            member = members[scene, number]
            field = flow.from_flo(read(member), f"{member.archive}: {member.name!r}")
            yield clip, number, field, ~np.isnan(field).any(axis=-1)


def _rendered(p: Params, split: str) -> list[str]:
    """Return the renderings of MPI Sintel that a split has."""
    rendered: list[str] = [rendering for rendering in p.renderings if rendering != "movie"]
    return rendered or (["clean", "final"] if split == "test" else [])


def _scenes(p: Params, split: str, archives: list[Path]) -> layout.Found:
    """Return the clips of MPI Sintel."""
    rendered = _rendered(p, split)
    if not rendered:
        return {}
    root = "test" if split == "benchmark" else "training"
    frames_by_clip = layout.frames(
        [path for path in archives if path.stem == Path(COMPLETE).stem],
        f"{root}/(?P<clip>(?:{'|'.join(rendered)})/[^/]+)",
        f"frame_(?P<frame>[0-9]{{4}}){layout.PNG}",
        f"{root}/{rendered[0]}/<scene>/frame_0001.png",
    )
    if split == "benchmark":
        return frames_by_clip
    with SCENES.open(newline="") as file:
        scenes = [row["scene"] for row in csv.DictReader(file) if p.scenes == "all" or row["unofficial"] == split]
    chosen = [f"{rendering}/{scene}" for rendering in rendered for scene in scenes]
    return layout.listed(frames_by_clip, chosen, SCENES.name)


def _shots(p: Params, archives: list[Path]) -> layout.Found:
    """Return the clips of the film."""
    if "movie" not in p.renderings:
        return {}
    return layout.frames(
        [path for path in archives if path.stem == Path(MOVIE).stem],
        "(?P<clip>[^/]+)",
        f"(?P<frame>[^/]*[0-9][^/]*){layout.PNG}",
        "<shot>/<number>.png",
        name=lambda match: f"movie/{match['clip']}",
    )
