"""Sky Time-lapse's layout: `sky_<part>/<video>/<video>_<k>/<video>_frames_<8 digits>.jpg`; sky_timelapse and demo_sky have it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.sources import layout


def short_videos(archives: Sequence[Path], part: str) -> layout.Found:
    """Return clip "<video>/<video>_<k>" -> its frames by the files' numbers, of the folder `sky_<part>`.

    Raises RetakeError for archives without a single such file.
    """
    root = f"sky_{part}"
    return layout.frames(
        archives,
        f"{root}/(?P<clip>[^/]+/[^/]+)",
        f"(?:[^/]*[^/0-9])?(?P<frame>[0-9]+){layout.JPG}",
        f"{root}/07U1fSrk9oI/07U1fSrk9oI_1/07U1fSrk9oI_frames_00000001.jpg",
    )
