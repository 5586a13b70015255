"""KITTI optical flow 2012 and 2015 (Geiger et al., CVPR 2012; Menze and Geiger, CVPR 2015), for training without truth.

Split `test` is the official training set, 194 or 200 scenes with true flow from frame 10 to 11. Split `train` is its
multi-view extension: frames 00 to 20 of both colour cameras without 09 to 12, so that no training window shows what is
tested. Frames have sizes of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.sources import layout
from pipeline.sources.archives import Clip, Member, read
from pipeline.store import flow

SPLITS = ("train", "test")
LICENCE = "KITTI, CC BY-NC-SA 3.0 (Geiger et al., CVPR 2012; Menze and Geiger, CVPR 2015)"

SCENES = {2012: 194, 2015: 200}
PAIRS = {2012: "data_stereo_flow.zip", 2015: "data_scene_flow.zip"}
MULTIVIEW = {2012: "data_stereo_flow_multiview.zip", 2015: "data_scene_flow_multiview.zip"}
LEFT = {2012: "colored_0|image_2", 2015: "image_2"}  # published loaders had users rename the folder of 2012
RIGHT = {2012: "colored_1|image_3", 2015: "image_3"}
BEFORE, AFTER = range(9), range(13, 21)  # frames of a multi-view scene that are trained on
VIEWS = range(21)  # frames of a multi-view scene
FLOW = 10  # the frame from which the true flow starts


class Params(params.Dataset):
    """KITTI flow; height and width are null, true flow has the frames' own size."""

    year: Literal[2012, 2015] = Field(
        2015, description="benchmark: 2012 (194 static scenes) or 2015 (200 dynamic ones)"
    )
    views: Literal[2, 3] = Field(
        2, description="frames of a test clip: 2 (10 and 11), or 3 with frame 09 from the multi-view archive"
    )


def archives(p: Params, split: str) -> list[str]:
    """Return the zips that the split is made of."""
    if split == "train":
        return [MULTIVIEW[p.year]]
    return [PAIRS[p.year], *([MULTIVIEW[p.year]] if p.views == 3 else [])]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    scenes = SCENES[p.year]
    if split == "test":
        return {"clips": scenes, "frames": scenes * p.views}
    return {"clips": scenes * 4, "frames": scenes * 2 * (len(BEFORE) + len(AFTER))}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return test clips "<scene>", or training clips "<scene>/<image_2 or image_3>/<00-08 or 13-20>".

    Frames have the files' numbers. Raises RetakeError for frames missing from a scene.
    """
    if split == "train":
        return _training_clips(p, archives)
    pairs = _frames(p, archives, PAIRS, LEFT, range(FLOW, FLOW + 2))
    if p.views == 3:
        earlier = _frames(p, archives, MULTIVIEW, LEFT)
        before = {scene: [frame for frame in frames if frame[0] == FLOW - 1] for scene, frames in earlier.items()}
        pairs = {scene: before[scene] + frames for scene, frames in pairs.items() if scene in before}
    return layout.clips(pairs)


def truth(
    p: Params, split: str, archives: list[Path], which: Literal["occ", "noc"] = "occ"
) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yield (clip, 10, flow (H, W, 2) float32 px, valid (H, W) bool) of each test clip.

    `which`: "occ" for all pixels with truth, "noc" for those that are seen in both frames. Raises RetakeError for a
    scene without it.
    """
    if split != "test":
        return
    folder = f"training/flow_{which}"
    file = f"(?P<clip>[0-9]{{6}})_{FLOW}{layout.PNG}"
    pairs = [path for path in archives if path.stem == Path(PAIRS[p.year]).stem]
    matches = layout.members(pairs, folder, file, f"{folder}/000000_{FLOW}.png")
    members = {match["clip"]: Member(archive, match[0]) for archive, match, is_file in matches if is_file}
    for clip in clips(p, split, archives):
        if clip.name not in members:
            raise RetakeError(f"{pairs[0]}: no {folder}/{clip.name}_{FLOW}.png, the true flow of that scene")
        member = members[clip.name]
        field = flow.from_kitti(read(member), f"{member.archive}: {member.name!r}")
        yield clip.name, FLOW, field, ~np.isnan(field).any(axis=-1)


def _training_clips(p: Params, archives: list[Path]) -> list[Clip]:
    parts: layout.Found = {}
    for camera, folders in (("image_2", LEFT), ("image_3", RIGHT)):
        for scene, frames in _frames(p, archives, MULTIVIEW, folders).items():
            for part in (BEFORE, AFTER):
                consecutive = [frame for frame in frames if frame[0] in part]
                parts[f"{scene}/{camera}/{part[0]:02d}-{part[-1]:02d}"] = consecutive
    return layout.clips(dict(sorted(parts.items())))


def _frames(
    p: Params, archives: list[Path], zips: dict[int, str], folders: dict[int, str], numbers: range | None = None
) -> layout.Found:
    """Return scene -> frames of one camera in one of the archives, which may be unpacked into the same folder."""
    numbered = "|".join(f"{number:02d}" for number in numbers or VIEWS)
    return layout.frames(
        [path for path in archives if path.stem == Path(zips[p.year]).stem],
        f"training/(?:{folders[p.year]})",
        f"(?P<clip>[0-9]{{6}})_(?P<frame>{numbered}){layout.PNG}",
        f"training/{folders[p.year].split('|')[0]}/000000_10.png",
        numbers=numbers,
    )
