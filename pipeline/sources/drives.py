"""KITTI raw's layout: `<date>/<drive>/image_0X/data/<ten digits>.png`; the datasets kitti and demo have it.

A folder in a zip's place may be that of the date, of the drive, or one above both.

for clip in clips([Path("data/raw/kitti/2011_09_26_drive_0060_sync.zip")], ["image_02"]): ...
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.errors import RetakeError
from pipeline.sources.archives import Clip, Member, names

DRIVE = re.compile(r"(\d{4}_\d\d_\d\d)_drive_\d{4}_sync")


def folder(archive: Path) -> str:
    """Return the folder inside an archive that its name promises: "<date>/<drive>".

    Raises RetakeError for a name that is no drive's.
    """
    match = DRIVE.match(archive.name)
    if not match:
        raise RetakeError(f"{archive}: not a drive's name, <date>_drive_<number>_sync: give it the publisher's back")
    return f"{match[1]}/{match[0]}"


def clips(archives: Sequence[Path], cameras: Sequence[str]) -> list[Clip]:
    """Return a clip "<drive>/<camera>" for each archive and camera, in this order; frames by number.

    Raises RetakeError with a line for each archive that cannot be opened or lacks a camera or the first frame.
    """
    made, problems = [], []
    for archive in archives:
        try:
            files = names(archive)
        except RetakeError as error:
            problems.append(str(error))
            continue
        for camera in cameras:
            data = f"{folder(archive)}/{camera}/data"
            date, drive = folder(archive).split("/")
            above = f"(?:(?:{date}/)?{drive}/)?" if archive.is_dir() else f"{date}/{drive}/"
            numbered = re.compile(rf"{above}{camera}/data/(\d{{10}})\.png")
            matches = [m for m in map(numbered.fullmatch, files) if m]
            frames = sorted((int(m[1]), Member(archive, m[0])) for m in matches)
            if not frames:
                problems.append(f"{archive}: no frame {data}/0000000000.png or any other. {_why(files, camera)}")
            elif frames[0][0] != 0:
                problems.append(
                    f"{archive}: {data} begins with frame {frames[0][0]}, the frames before it are missing: "
                    "move the archive away to have it downloaded again"
                )
            made.append(Clip(f"{Path(data).parts[1]}/{camera}", frames))
    if problems:
        raise RetakeError("\n".join(problems))
    return made


def _why(names: Sequence[str], camera: str) -> str:
    """Say why an archive has no frames of a camera, and what to do."""
    other = next((n for n in names if f"{camera}/data/" in f"/{n}" and re.search(r"\.jpe?g$", n, re.IGNORECASE)), None)
    if other is not None:
        return (
            f"It holds JPEG images ({other}): what was published are PNG, and frames that lost something give other "
            "numbers. Put the published PNG there"
        )
    return "It is another drive's archive, or not the publisher's: move it away to have it downloaded again"
