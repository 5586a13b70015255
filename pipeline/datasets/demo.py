"""Drives rendered by code: landscapes that a panning camera crosses, balloons before them, and the exact flow.

A network can learn them in minutes because the motions are few: in all drives the camera turns to the right by 3 px a
frame (with turns to both sides it takes ten times as long), and balloons drift by whole pixels. Each split has
landscapes of its own. The drives are zips in KITTI raw's own layout and names, numbered from 9001 on, so that they walk
the same path as KITTI.

Every machine writes the same bytes (`drawing.rendering`). Frames are rendered at the size that is stored, so nothing is
resized and the flow stays exact; the zips of the test drives hold it as KITTI's 16-bit PNGs.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.drawing.rendering import LANDSCAPES, flying, panorama, write_zip
from pipeline.errors import progress
from pipeline.sources import drives
from pipeline.sources.archives import Clip, Member, names, read

SPLITS = ("train", "val", "test")
LICENCE = "rendered by Retake (MIT)"
CAMERA = "image_02"
DRIVES = {"train": range(9001, 9017), "val": range(9017, 9019), "test": range(9021, 9025)}
FRAMES = 16  # of a drive
PAN = 3  # px a frame that the landscape moves to the left
DRIFTS = [(3, 0), (-3, -1), (-1, -1)]  # px a frame (x, y) of the balloons, the far and small ones first


class Params(params.Dataset):
    """The demo has no keys of its own."""

    height: int = Field(192, ge=16, description="height that the frames are rendered at, pixels")
    width: int = Field(320, ge=16, description="width that the frames are rendered at, pixels")


def archives(p: Params, split: str) -> list[str]:
    """Return the zips of a split; the size is part of their names, so that demos of two sizes can lie side by side."""
    return [f"2011_09_26_drive_{number}_sync_{p.width}x{p.height}.zip" for number in DRIVES[split]]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"frames": FRAMES * len(DRIVES[split])}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the clips of the archives, "<drive>/image_02"."""
    return drives.clips(archives, [CAMERA])


def truth(p: Params, split: str, archives: list[Path]) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Yield (clip, frame, flow (H, W, 2) float32 px, valid (H, W) bool) of each frame to its next; test drives only.

    Valid are all pixels, also those that leave the picture or are covered in the next frame: KITTI's `occ`.
    """
    for archive in archives:
        folder = drives.folder(archive)
        for name in sorted(name for name in names(archive) if name.startswith(f"{folder}/flow/data/")):
            data = np.frombuffer(read(Member(archive, name)), np.uint8)
            image = cv2.imdecode(data, cv2.IMREAD_UNCHANGED)  # valid, v, u
            assert image is not None
            flow = (image[..., :0:-1].astype(np.float32) - 2**15) / 64
            yield f"{Path(folder).name}/{CAMERA}", int(Path(name).stem), flow, image[..., 0] != 0


def generate(p: Params, split: str, folder: Path) -> None:
    """Write the archives of a split into `folder`."""
    for place, name in enumerate(progress(archives(p, split), unit="drive", desc=f"demo {split}")):
        pictures, flows = render(split, place, p.height, p.width)
        root = drives.folder(Path(name))
        members = {f"{root}/{CAMERA}/data/{i:010d}.png": image for i, image in enumerate(pictures)}
        if split == "test":
            members |= {f"{root}/flow/data/{i:010d}.png": image for i, image in enumerate(flows)}
        write_zip(folder / name, members)


def render(split: str, place: int, height: int, width: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Return the drive at `place` in its split: frames, (height, width, 3) uint8, and the flows between them.

    Flows are in KITTI's coding, (height, width, 3) uint16: 64 u + 2^15, 64 v + 2^15, 1.
    """
    name, landscapes = str(DRIVES[split][place]), LANDSCAPES[split]
    whole = panorama(name, landscapes[place % len(landscapes)], height, width + PAN * (FRAMES - 1))
    balloons = flying(name, height, width, DRIFTS)
    pictures, flows = [], []
    for t in range(FRAMES):
        picture = whole[:, PAN * t : PAN * t + width].copy()
        flow = np.full((height, width, 2), (-PAN, 0), np.int64)
        for balloon in balloons:
            balloon.paint(t - FRAMES // 2, picture, flow)
        pictures.append(picture.astype(np.uint8))
        flows.append(np.dstack([64 * flow + 2**15, np.ones((height, width), np.int64)]).astype(np.uint16))
    return pictures, flows[:-1]
