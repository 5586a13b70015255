"""Vid4 (Liu and Sun, CVPR 2011): four scenes to test super-resolution by 4, as TecoGAN's authors hand them out.

Split `test` is the high resolution, `test_lr` the low one (Gaussian blur of sigma 1.5, every 4th pixel). Of the low one
the scene calendar lies in TecoGAN's repository, the others in an archive. Frames pair by position, as in the published
scripts.
"""

from __future__ import annotations

from pathlib import Path

from pipeline import params
from pipeline.sources import layout
from pipeline.sources.archives import Clip

SPLITS = ("test", "test_lr")
LICENCE = "Vid4, for research, no licence stated (Liu and Sun, CVPR 2011; LR by TecoGAN)"

FRAMES = {"calendar": 41, "city": 34, "foliage": 49, "walk": 47}
HIGH = ["vid4_HR.zip"]
LOW = ["vid3_LR.zip", "TecoGAN-069d983f3eac9fe7d35b0a1ef74f4135457e8c96.zip"]
SCALE = 4


class Params(params.Dataset):
    """Vid4; height and width are null, scenes have sizes of their own."""


def archives(p: Params, split: str) -> list[str]:
    """Return the zips of both resolutions: each split is checked against the other."""
    return HIGH + LOW


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": len(FRAMES), "frames": sum(FRAMES.values())}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the scenes, frames numbered from 0.

    Raises RetakeError when low and high resolution of a scene differ in frames, or by another factor than 4.
    """
    scene = f"(?P<clip>{'|'.join(FRAMES)})"
    high, low = (
        layout.in_order(
            layout.frames(
                [path for path in archives if path.stem in {Path(name).stem for name in files}],
                scene,
                f"(?P<frame>[^/]*[0-9][^/]*){layout.PNG}",
                "calendar/0001.png",
            )
        )
        for files in (HIGH, LOW)
    )
    layout.check_pairs(low, high, SCALE)
    return layout.clips(high if split == "test" else low)
