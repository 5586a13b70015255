"""Scenes rendered by code, to train and test super-resolution by 4 in minutes: landscapes, balloons and a tram with a name.

Leaves, rock, balloons' stripes and letters have detail on both sides of what low resolution can hold (periods of 8 px); a soft
lens keeps the harshest out, as a camera's does. In all scenes the camera rises by a quarter of a low-resolution pixel a
frame, so that four frames together hold what one lacks, and a flow network learns it in minutes (not so with motions to all
sides). Balloons and tram go their own ways. Each split has landscapes and names of its own.

A split is a zip of scene folders, `<scene>/0001.png`, the layout that TecoGAN's authors hand their test scenes out in. Every
machine writes the same bytes (`drawing.rendering`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.drawing.rendering import (
    BALLOONS,
    LANDSCAPES,
    SCALE,
    Sprite,
    averaged,
    chance,
    colours,
    flying,
    panorama,
    write_zip,
)
from pipeline.errors import progress
from pipeline.sources import layout
from pipeline.sources.archives import Clip

SPLITS = ("train", "val", "test")
LICENCE = "rendered by Retake (MIT)"
# The names of the trams, and of the scenes
NAMES = {
    "train": "ANVIL BISON CEDAR DELTA EAGLE FJORD GROVE HERON ISLAND JUMPER KAYAK LILAC MAPLE NUTMEG OTTER PLUM QUARTZ "
    "RAVEN SUMMIT TULIP UMBRA VALLEY WILLOW ZEPHYR",
    "val": "HARBOUR MEADOW",
    "test": "ALPINE COMET FOXGLOVE MIRABEL",
}
SCENES = {split: names.split() for split, names in NAMES.items()}
FRAMES = {"train": 8, "val": 12, "test": 16}  # of a scene
RISE = 1  # px a frame that the landscape moves down
DRIFTS = [(1, 0), (-2, -1), (2, 1)]  # px a frame (x, y) of the balloons, the far and small ones first

# Letters of 5x7 dots: five columns each, the lowest bit on top
COLUMNS = (
    "7e1111117e7f494949363e414141227f4141221c7f494949417f090909013e4149497a7f0808087f00417f41002040413f017f08142241"
    "7f404040407f020c027f7f0408107f3e4141413e7f090909063e4151215e7f0919294646494949"
    "3101017f01013f4040403f1f2040201f3f4038403f631408146307087008076151494543"
)
LETTERS = np.frombuffer(bytes.fromhex(COLUMNS), np.uint8).reshape(26, 5)


class Params(params.Dataset):
    """The demo has no keys of its own."""

    height: int = Field(192, ge=64, description="height that the frames are rendered at, pixels")
    width: int = Field(320, ge=64, description="width that the frames are rendered at, pixels")


def archives(p: Params, split: str) -> list[str]:
    """Return the zip of a split; the size is part of its name, so that demos of two sizes can lie side by side."""
    return [f"demo_vsr_{split}_{p.width}x{p.height}.zip"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": len(SCENES[split]), "frames": len(SCENES[split]) * FRAMES[split]}


def clips(p: Params, split: str, archives: list[Path]) -> list[Clip]:
    """Return the scenes, frames numbered from 0."""
    frames = layout.frames(archives, "(?P<clip>[^/]+)", f"(?P<frame>[0-9]+){layout.PNG}", "<scene>/0001.png")
    return layout.clips(layout.in_order(frames))


def generate(p: Params, split: str, folder: Path) -> None:
    """Write the archive of a split into `folder`."""
    members = {}
    for place, word in enumerate(progress(SCENES[split], unit="scene", desc=f"demo_vsr {split}")):
        for i, image in enumerate(render(split, place, p.height, p.width), 1):
            members[f"{word.lower()}/{i:04d}.png"] = image
    write_zip(folder / archives(p, split)[0], members)


def render(split: str, place: int, height: int, width: int) -> list[np.ndarray]:
    """Return the scene at `place` in its split: frames, (height, width, 3) uint8."""
    name, looks, frames = SCENES[split][place], LANDSCAPES[split], FRAMES[split]
    speed, at = chance(f"{name} tram's motion", 2).tolist()
    whole = panorama(name, looks[place % len(looks)], height + RISE * (frames - 1), width)
    tram_at = (width * (64 + at // 2) // 256, height * 81 // 100)
    sprites = [
        *flying(name, height, width, DRIFTS),
        Sprite(*draw_tram(name, max(height // 64, 1)), tram_at, (1 + speed % 3, 0)),
    ]
    pictures = []
    for t in range(frames):
        top = RISE * (frames - 1 - t)
        picture = whole[top : top + height].copy()
        for sprite in sprites:
            sprite.paint(t - frames // 2, picture)
        pictures.append(soft(picture).astype(np.uint8))
    return pictures


def soft(picture: np.ndarray) -> np.ndarray:
    """Return a picture through the lens: weights 1, 2, 1 in both directions."""
    for _ in range(2):
        ends = np.concatenate([picture[:1], picture, picture[-1:]])
        picture = (ends[:-2] + 2 * picture + ends[2:]).swapaxes(0, 1)
    return picture // 16


def draw_tram(name: str, dot: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cover and light of a tram with its name on its side; `dot`: side of a letter's dots, px."""
    side, ink, band = colours(BALLOONS[int(chance(f"{name} tram", 1)[0]) % len(BALLOONS)])
    dot *= SCALE
    columns = np.pad(LETTERS[[ord(letter) - ord("A") for letter in name]], ((0, 0), (0, 1))).ravel()
    letters = ((columns >> np.arange(7)[:, None]) & 1 == 1).repeat(dot, 0).repeat(dot, 1)
    h, w = 22 * dot, letters.shape[1] + 12 * dot
    y, x = np.arange(h)[:, None], np.arange(w)

    paint = np.broadcast_to(side, (h, w, 3)).copy()
    paint[:dot] = band
    panes = (y >= 2 * dot) & (y < 8 * dot) & (x % (6 * dot) >= dot)
    paint[panes] = np.clip(70 + (x % (6 * dot) + 2 * y) * 9 // dot, 0, 255)[panes][:, None]
    paint[10 * dot : 17 * dot, 6 * dot : -6 * dot][letters] = ink
    paint[19 * dot :] = 40
    wheels = (abs(x - w // 2) - w * 3 // 8) ** 2 + (y - 39 * dot // 2) ** 2 <= (5 * dot // 2) ** 2
    body = (y < 20 * dot) & (np.minimum(x, w - 1 - x) + y >= 2 * dot)
    return averaged(body | wheels, paint)
