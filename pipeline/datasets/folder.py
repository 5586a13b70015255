"""A folder of one's own: videos, or folders of PNG or JPEG images, each a clip. They are read in place and never changed.

Split by folders (train/, val/, test/ below it), by lists of names, or by shares of the clips.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Callable
from pathlib import Path

from pydantic import Field, model_validator

from pipeline import params
from pipeline.errors import RetakeError, log, readable
from pipeline.sources import layout, limits, video
from pipeline.sources.archives import Clip, Member, Stream
from pipeline.sources.clips import VIDEOS
from pipeline.sources.images import frame_name, gap, image_files

SPLITS = ("train", "val", "test")
LICENCE = "the user's own files"


class Params(params.Dataset):
    """Videos or image folders of one's own."""

    folder: params.Place = Field("videos", description="where they lie, below the project or anywhere else")
    lists: dict[str, params.Place] = Field(
        default_factory=dict, description="split -> text file with the names of its clips, a line each; {}: no lists"
    )
    shares: dict[str, float] = Field(
        default_factory=dict,
        description="split -> share of the clips, which go by a digest of their names, so that more clips move few; {}: no shares. "
        "Without lists and shares the splits are the folders train, val and test",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Params:
        if self.lists and self.shares:
            raise ValueError("give lists or shares, not both")
        unknown = {*self.lists, *self.shares} - set(SPLITS)
        if unknown:
            raise ValueError(f"no split {', '.join(sorted(unknown))}: they are called {', '.join(SPLITS)}")
        if self.shares and (min(self.shares.values()) < 0 or sum(self.shares.values()) > 1 + 1e-9):
            raise ValueError("shares lie from 0 to 1, their sum is at most 1")
        return self

    @property
    def own(self) -> list[str]:
        """The folder and the lists."""
        return [self.folder, *self.lists.values()]


def clips(p: Params, split: str, downloaded: list[Path]) -> list[Clip | Stream]:
    """Return the clips of a split, each named as its file or folder, in the order of names; frames are numbered from 0.

    Raises RetakeError for a folder without clips, two clips of one name, and a list that names what is not there.
    """
    root = Path(p.folder)
    if not root.is_dir():
        raise RetakeError(f"no folder {root}: put videos, or folders of images, there, or set the dataset's `folder`")
    if p.lists or p.shares:
        every = _inside(root)
        chosen = _listed(p, split, every) if p.lists else _share(p, split, list(every))
    else:
        if not (root / split).is_dir():
            folders = ", ".join(sorted(path.name for path in root.iterdir() if path.is_dir())) or "none"
            raise RetakeError(
                f"no folder {root / split} (folders there: {folders}): make it, or give `lists` or `shares`"
            )
        every = _inside(root / split)
        chosen = list(every)
    if not chosen:
        raise RetakeError(
            f"{root}: no clip is in the split {split}: {len(every)} videos or folders of images are there"
            + (
                f". Shares go by the names, and few clips may leave one empty: give {split} more, or name its clips in `lists`"
                if p.shares
                else ""
            )
        )
    return [every[name](name) for name in chosen]


def _inside(folder: Path) -> dict[str, Callable[[str], Clip | Stream]]:
    """Return what reads each clip of a folder, by its name."""
    every: dict[str, Callable[[str], Clip | Stream]] = {}
    for path in limits.unhidden(folder):
        read: Callable[[str, Path], Clip | Stream]
        if path.is_dir() and image_files(path):
            read = _images
        elif path.is_file() and path.suffix.lower() in VIDEOS:
            read = _video
        else:
            continue
        name = _name(path.name if path.is_dir() else path.stem)
        if name in every:
            raise RetakeError(f"{folder}: two clips are called {name}: rename one")
        every[name] = lambda name, read=read, path=path: read(name, path)  # type: ignore[misc]
    return every


def _name(name: str) -> str:
    """Return a clip's name: letters with accents alike, however the file system or a list spells them."""
    return unicodedata.normalize("NFC", readable(name))


def _images(name: str, folder: Path) -> Clip:
    files = image_files(folder)
    if left_out := gap([frame_name(file) for file in files]):
        log.warning("%s: %s: frames are numbered as if none was missing between them", folder, left_out)
    return Clip(name, [(number, Member(folder, file.name)) for number, file in enumerate(files)])


def _video(name: str, path: Path) -> Stream:
    return video.clip(name, Member(path.parent, path.name))


def _listed(p: Params, split: str, every: dict[str, Callable[[str], Clip | Stream]]) -> list[str]:
    """Return the names in a split's list."""
    if split not in p.lists:
        raise RetakeError(f"the dataset has no list for the split {split}: add it to `lists`")
    file = Path(p.lists[split])
    if not file.is_file():
        raise RetakeError(f"no list {file}: write the names of the clips of {split} into it, a line each")
    names = [_name(line) for line in layout.lines(limits.text(file))]
    missing = [name for name in names if name not in every]
    if missing:
        raise RetakeError(f"{file} names {', '.join(missing[:5])}, which {p.folder} does not have")
    return list(dict.fromkeys(names))


def _share(p: Params, split: str, names: list[str]) -> list[str]:
    """Return the names whose digest, as a number in [0, 1), lies in the split's share."""
    low = sum(p.shares.get(s, 0.0) for s in SPLITS[: SPLITS.index(split)])
    high = low + p.shares.get(split, 0.0)

    def place(name: str) -> float:
        return int.from_bytes(hashlib.sha256(name.encode("utf-8", "surrogateescape")).digest()[:6]) / 2**48

    return [name for name in names if low <= place(name) < high]
