"""KITTI raw (Geiger et al., IJRR 2013): synced and rectified drives, split as DMVFN does.

24 drives are for training, seen by one colour camera or both, and 4 for testing, seen by the left one. A zip holds a
drive; each of its cameras is a clip. DMVFN's windows are 9 consecutive frames, one for each start: 1,337 for testing,
for training 6,750 from one camera and 13,500 from both (the count in its README).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.sources import drives, limits
from pipeline.sources.archives import Clip, Member

SPLITS = ("train", "test")
LICENCE = "KITTI, CC BY-NC-SA 3.0 (Geiger et al., Vision meets Robotics, IJRR 2013)"

# Frames that one camera of each drive has. Public index lists or logs confirm them one by one, but for those in `SUMS`,
# where only the sum is certain: windows of 9 add up to DMVFN's counts.
EXPECTED: dict[str, dict[str, int]] = {
    "train": {
        "2011_09_26_drive_0001_sync": 108,
        "2011_09_26_drive_0002_sync": 77,
        "2011_09_26_drive_0005_sync": 154,
        "2011_09_26_drive_0009_sync": 447,
        "2011_09_26_drive_0011_sync": 233,
        "2011_09_26_drive_0013_sync": 144,
        "2011_09_26_drive_0014_sync": 314,
        "2011_09_26_drive_0017_sync": 114,
        "2011_09_26_drive_0018_sync": 270,
        "2011_09_26_drive_0048_sync": 22,
        "2011_09_26_drive_0051_sync": 438,
        "2011_09_26_drive_0056_sync": 294,
        "2011_09_26_drive_0057_sync": 361,
        "2011_09_26_drive_0059_sync": 373,
        "2011_09_26_drive_0091_sync": 340,
        "2011_09_26_drive_0095_sync": 268,
        "2011_09_26_drive_0104_sync": 312,
        "2011_09_26_drive_0106_sync": 227,
        "2011_09_26_drive_0113_sync": 87,
        "2011_09_26_drive_0117_sync": 660,
        "2011_09_28_drive_0001_sync": 106,
        "2011_09_28_drive_0002_sync": 376,
        "2011_09_29_drive_0026_sync": 158,
        "2011_09_29_drive_0071_sync": 1059,
    },
    "test": {
        "2011_09_26_drive_0060_sync": 78,
        "2011_09_26_drive_0084_sync": 383,
        "2011_09_26_drive_0093_sync": 433,
        "2011_09_26_drive_0096_sync": 475,
    },
}
SUMS = [
    ("2011_09_26_drive_0009_sync", "2011_09_28_drive_0002_sync", "2011_09_29_drive_0071_sync"),
    ("2011_09_26_drive_0084_sync", "2011_09_26_drive_0096_sync"),
]
PUBLISHED_CLIPS, PUBLISHED_FRAMES = 1337, 9


class Params(params.Dataset):
    """KITTI raw; DMVFN's table has 832x256 and both cameras."""

    cameras: list[Literal["image_02", "image_03"]] = Field(
        ["image_02", "image_03"],
        min_length=1,
        description="colour cameras that are trained on: image_02 (left), image_03 (right) or, as published, both; "
        "testing always takes image_02",
    )
    published_test: params.Place | None = Field(
        None,
        description="folder with the test split that DMVFN published (test/000000/0000000000.png and so on), "
        "read in place instead of the test drives; null: the drives",
    )

    @field_validator("cameras")
    @classmethod
    def _distinct(cls, cameras: list[str]) -> list[str]:
        if len(set(cameras)) < len(cameras):
            raise ValueError(f"{cameras} names a camera twice")
        return cameras

    @property
    def own(self) -> list[str]:
        """The folder of the published test split."""
        return [self.published_test] if self.published_test else []


def archives(p: Params, split: str) -> list[str]:
    """Return the zips of a split; none for a published test split, which is a folder."""
    return [] if _published(p, split) else [f"{drive}.zip" for drive in EXPECTED[split]]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    if _published(p, split):
        return {"frames": PUBLISHED_CLIPS * PUBLISHED_FRAMES}
    return {"frames": sum(EXPECTED[split].values()) * len(_cameras(p, split))}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the clips of the archives that are there, "<drive>/<camera>", or of the published folder, "000000".

    Raises RetakeError for archives of another layout, and for more frames than the drives have.
    """
    if _published(p, split):
        return _published_clips(Path(p.published_test or ""))
    cameras = _cameras(p, split)
    made = drives.clips(archives, cameras)
    count = {clip.name: len(clip.frames) for clip in made}
    problems = []
    for group in _groups(split):
        most = sum(EXPECTED[split][drive] for drive in group)
        for camera in cameras:
            lengths = {drive: count[f"{drive}/{camera}"] for drive in group if f"{drive}/{camera}" in count}
            if sum(lengths.values()) > most:
                listed = ", ".join(f"{drive} {frames}" for drive, frames in lengths.items())
                names = " and ".join(group) + (" have together" if len(group) > 1 else " has")
                problems.append(f"{camera}: {listed} frames, more than the {most} that {names}")
    if problems:
        problems.append("These are not the archives of the synced drives: move them away to have those downloaded")
        raise RetakeError("\n".join(problems))
    return made


def _groups(split: str) -> list[tuple[str, ...]]:
    """Return the sets of drives whose number of frames is certain, most of them single drives."""
    sums = [group for group in SUMS if group[0] in EXPECTED[split]]
    return sums + [(drive,) for drive in EXPECTED[split] if not any(drive in group for group in sums)]


def _cameras(p: Params, split: str) -> list[str]:
    return ["image_02"] if split == "test" else list(p.cameras)


def _published(p: Params, split: str) -> bool:
    return split == "test" and p.published_test is not None


def _published_clips(folder: Path) -> list[Clip]:
    """The folder may be given with or without its last level, `test`."""
    root = folder / "test" if (folder / "test").is_dir() else folder
    folders = [path for path in limits.unhidden(root) if re.fullmatch(r"\d{6}", path.name)] if root.is_dir() else []
    if not folders:
        raise RetakeError(
            f"published_test: no clips in {folder}: a folder with test/000000/0000000000.png and so on is needed"
        )
    names = [f"{number:010d}.png" for number in range(PUBLISHED_FRAMES)]
    problems = []
    for clip in folders:
        files = {path.name for path in limits.unhidden(clip, "*.png")}
        if files != set(names):
            missing = [name for name in names if name not in files]
            problems.append(
                f"{clip}: "
                + (f"{', '.join(missing)} missing" if missing else f"{len(files)} frames, not the 9 of a window")
            )
    if len(folders) > PUBLISHED_CLIPS:
        problems.append(f"{root}: {len(folders)} clips, more than the published {PUBLISHED_CLIPS}")
    if problems:
        raise RetakeError("published_test: copy the published folder again:\n" + "\n".join(problems))
    return [Clip(path.name, [(n, Member(path, name)) for n, name in enumerate(names)]) for path in folders]
