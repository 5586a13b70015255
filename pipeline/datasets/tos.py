"""Three scenes of Tears of Steel, to test super-resolution by 4, as TecoGAN's authors hand them out.

Split `test` is the high resolution (1280x536), `test_lr` the low one (320x134: Gaussian blur of sigma 1.5, every 4th
pixel). Frames pair by position, as in the published scripts.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import params
from pipeline.sources import layout
from pipeline.sources.archives import Clip

SPLITS = ("test", "test_lr")
LICENCE = "Tears of Steel, CC BY 3.0, (c) Blender Foundation, mango.blender.org"

EXPECTED = 3
HIGH, LOW = "tos_HR.zip", "tos_LR.zip"
SCALE = 4


class Params(params.Dataset):
    """Scenes of Tears of Steel; height and width are null."""


def archives(p: Params, split: str) -> list[str]:
    """Return the zips of both resolutions: each split is checked against the other."""
    return [HIGH, LOW]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": EXPECTED}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the scenes, named as their folders, frames numbered from 0.

    Raises RetakeError when low and high resolution of a scene differ in frames, or by another factor than 4.
    """
    high, low = (
        layout.in_order(
            layout.frames(
                [path for path in archives if path.stem == Path(name).stem],
                "(?P<clip>[^/]+)",
                f"(?P<frame>[^/]*[0-9][^/]*){layout.PNG}",
                "<scene>/0001.png",
            )
        )
        for name in (HIGH, LOW)
    )
    layout.check_pairs(low, high, SCALE)
    return layout.clips(high if split == "test" else low)
