"""What TecoGAN is trained on (Chu et al., TOG 2020): 308 scenes of 120 frames from 28 Vimeo videos, or own videos.

`scenes.csv` has the published scenes by video and first frame, so that a video that is gone (many are) takes its scenes
with it and shifts no other: 251 for training, 40 for validation, 17 unused. Own videos lie in `<folder>/train` and
`<folder>/val` and are cut into scenes of 120 frames between their shot changes. Frames are halved by area, as published.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.errors import RetakeError, log, progress
from pipeline.sources import scenes, video
from pipeline.sources.archives import CutOff, Damaged, Member, Stream, names
from pipeline.sources.clips import VIDEOS

SPLITS = ("train", "val", "unused")
LICENCE = "Vimeo videos of their authors (list: Chu et al., TOG 2020)"
RESIZE = "cv2.INTER_AREA, half"

SCENES = Path(__file__).with_name("scenes.csv")
LENGTH = 120  # frames of a scene
LEAST = 400  # pixels: smaller videos are left out, as published

Image = Callable[[], np.ndarray]


class Params(params.Dataset):
    """TecoGAN's training scenes; height and width are null, each video has a size of its own."""

    videos: str | None = Field(
        None, description="folder with own videos in train/ and val/, read in place; null: the published Vimeo videos"
    )

    @property
    def own(self) -> list[str]:
        """The folder of own videos."""
        return [self.videos] if self.videos else []


def archives(p: Params, split: str) -> list[str]:
    """Return the files of the Vimeo videos that the split has scenes of; none for own videos."""
    return [] if p.videos else [f"{name}.mp4" for name in dict.fromkeys(name for name, _ in published(split))]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    count = len(published(split))
    return {} if p.videos else {"clips": count, "frames": count * LENGTH}


def published(split: str) -> list[tuple[str, int]]:
    """Return the published scenes of a split, (video, first frame), in their order."""
    with SCENES.open(newline="") as file:
        return [(row["video"], int(row["start"])) for row in csv.DictReader(file) if row["split"] == split]


def clips(p: Params, split: str, archives: list[Path]) -> list[Stream]:
    """Return the scenes "<video>/<first frame>", frames numbered from 0.

    Videos and scenes that cannot be had are listed in the log, with the reason. Raises RetakeError when none can.
    """
    streams: list[Stream] = []
    lost: list[str] = []
    for name, member, starts in _own(Path(p.videos) / split) if p.videos else _vimeo(split, archives):
        try:
            height, width, length = video.probe(member)
            if min(height, width) < LEAST:
                raise RetakeError(f"{member.name} is {width}x{height}; sides below {LEAST} are left out, as published")
            starts = _cut(member) if starts is None else starts
        except RetakeError as error:
            lost.append(str(error))
            continue
        whole = [start for start in starts if start + LENGTH <= length]
        if len(whole) < len(starts) or not whole:
            gone = ", ".join(str(start) for start in starts if start not in whole) or "all"
            lost.append(f"{member.name} has {length} frames, no scene of {LENGTH} at {gone}")
        reader = _Reader(member)
        streams += [Stream(f"{name}/{start}", member, functools.partial(reader.scene, start)) for start in whole]
    for reason in lost:
        log.warning("left out: %s", reason)
    if not streams:
        where = Path(p.videos) / split if p.videos else Path("data/raw/tecogan_train")
        raise RetakeError("\n".join([f"no scenes of {LENGTH} frames in {where}: put videos there", *lost]))
    return streams


Videos = Iterator[tuple[str, Member, list[int] | None]]  # name, file, first frames of its scenes if they are known


def _vimeo(split: str, archives: list[Path]) -> Videos:
    for path in archives:
        yield (
            path.stem,
            Member(path.parent, path.name),
            [start for name, start in published(split) if name == path.stem],
        )


def _own(folder: Path) -> Videos:
    if not folder.is_dir():
        raise RetakeError(f"no folder {folder}: own videos lie in train/ and val/ of datasets.<entry>.videos")
    videos = [name for name in names(folder) if Path(name).suffix.lower() in VIDEOS]
    for name in progress(videos, unit="video", desc="shots"):
        yield name, Member(folder, name), None


def _cut(member: Member) -> list[int]:
    """Return where the scenes of a video begin; one that is cut off is used as far as it goes."""

    def images() -> Iterator[np.ndarray]:
        try:
            for _, image in video.frames(member):
                yield image()
        except Damaged:
            raise
        except CutOff as error:
            log.warning("%s", error)

    return scenes.starts(*scenes.cuts(images()), LENGTH)


class _Reader:
    """One video, decoded once from front to back for all its scenes, as long as they are asked for in order.

    Where two scenes overlap, it begins anew: keeping what they share would take 1 GB of a 4K video.
    """

    def __init__(self, member: Member) -> None:
        self._member = member
        self._frames: Iterator[tuple[int, Image]] | None = None
        self._at = 0

    def scene(self, start: int) -> Iterator[tuple[int, Image]]:
        """Yield the frames of the scene that begins with frame `start`, halved."""
        if self._frames is None or start < self._at:
            self._frames, self._at = video.frames(self._member), 0
        for number, image in self._frames:
            self._at = number + 1
            if number >= start:
                yield number - start, functools.partial(_half, image)
            if self._at == start + LENGTH:
                return
        raise CutOff(
            f"{self._member.archive / self._member.name} ends after {self._at} frames, inside the scene at {start}"
        )


def _half(image: Image) -> np.ndarray:
    return cv2.resize(image(), None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
