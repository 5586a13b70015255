"""A gripper that pushes blocks over a table, rendered by code, to train and test animation in minutes: BAIR in small.

As in BAIR the table is always the same, and where the gripper goes cannot be seen in one frame: it sets out from
anywhere into one of 16 directions, and takes another one half-way. A block that it meets is pushed along. Its position is
known at every frame, in BAIR's units, so that the end of a clip can be asked for.

The gripper is large and the only dark thing on a nearly even table. The mean absolute error, which stage 1 learns by, asks
for the more likely colour of each pixel: a small gripper whose place is not known yet is best left out, and texture gives as
much to learn as a gripper does.

A split is a tar in BAIR's own layout, read by the same code (`sources.pushing`). Every machine writes the same bytes.
"""

from __future__ import annotations

import io
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pipeline import params
from pipeline.atomic import atomic
from pipeline.drawing.rendering import SCALE, Sprite, averaged, chance, colours, fractal, ramp
from pipeline.errors import progress
from pipeline.sources import pushing
from pipeline.sources.archives import Stream
from pipeline.sources.pushing import FRAMES, SIDE
from pipeline.sources.tensorflow import masked_crc

SPLITS = ("train", "val", "test")
LICENCE = "rendered by Retake (MIT)"
VALUES = "endeffector_pos: x, y, z of the gripper"

EPISODES = {"train": 256, "val": 16, "test": 16}
FILES = {"train": "train/traj_0_to_255", "val": "train/traj_256_to_511", "test": "test/traj_0_to_15"}
LEAST, REACH = (0.42638585, -0.3080245, 0.19146784), (0.42850533, 0.54029283, 0.12564658)  # of BAIR's gripper
RADIUS, BLOCK, BLOCKS = 12, 10, 2  # px, of the gripper and at the side of a block; blocks of an episode
UNIT = 16  # of positions, a pixel
LOW, HIGH = RADIUS * UNIT, (SIDE - RADIUS) * UNIT  # where the gripper's centre may be: it stays in the picture
# 16 directions of 2 px a frame, in units
STEPS = [(32, 0), (30, 12), (23, 23), (12, 30), (0, 32), (-12, 30), (-23, 23), (-30, 12)]
STEPS += [(-x, -y) for x, y in STEPS]
TABLE, GRIPPER, PAINTS = "c8b898 d4c6aa", "101418 282e34", "e05040 4a9ae6 ecc040 5ccc66"


class Params(params.Dataset):
    """The demo has no keys of its own; it is rendered at 64x64."""


def archives(p: Params, split: str) -> list[str]:
    """Return the tar of a split."""
    return [f"demo_push_{split}.tar"]


def expected(p: Params, split: str) -> dict[str, int]:
    """Return what the whole split has."""
    return {"clips": EPISODES[split], "frames": EPISODES[split] * FRAMES}


def clips(p: Params, split: str, archives: list[Path]) -> list[Stream]:
    """Return the episodes "traj_0_to_15/1", frames numbered from 0."""
    return pushing.episodes(archives, split)


def seen(position: Sequence[float]) -> tuple[float, float]:
    """Return where in a frame a position (x, y, z) is, as shares of its width and height."""
    shares = ((value - least) / reach for value, least, reach in zip(position[:2], LEAST, REACH, strict=False))
    x, y = (((LOW + share * (HIGH - LOW)) / UNIT - 0.5) / (SIDE - 1) for share in shares)
    return x, y


def generate(p: Params, split: str, folder: Path) -> None:
    """Write the archive of a split into `folder`."""
    records = []
    for number in progress(range(EPISODES[split]), unit="episode", desc=f"demo_push {split}"):
        frames, positions = render(f"push {split} {number}")
        features = {f"{i}/image_aux1/encoded": frame.tobytes() for i, frame in enumerate(frames)}
        records.append(record(features | {f"{i}/endeffector_pos": row for i, row in enumerate(positions)}))
    data = b"".join(records)
    info = tarfile.TarInfo(f"softmotion30_44k/{FILES[split]}.tfrecords")  # dated 1970, of no owner
    info.size = len(data)
    with atomic(folder / archives(p, split)[0]) as temporary, tarfile.open(temporary, "w") as out:
        out.addfile(info, io.BytesIO(data))


def record(features: dict[str, bytes | np.ndarray]) -> bytes:
    """Return one record of TensorFlow's: a tf.train.Example of byte strings and float32 arrays, with its checksums."""
    entries = b""
    for name, value in features.items():
        one = _field(1, _field(1, value)) if isinstance(value, bytes) else _field(2, _field(1, value.tobytes()))
        entries += _field(1, _field(1, name.encode()) + _field(2, one))
    data = _field(1, entries)
    length = struct.pack("<Q", len(data))
    return b"".join([length, struct.pack("<I", masked_crc(length)), data, struct.pack("<I", masked_crc(data))])


def _field(number: int, value: bytes) -> bytes:
    """Return a protobuf field of bytes."""
    size, length = bytearray(), len(value)
    while length >= 128:
        size.append(length % 128 + 128)
        length //= 128
    return bytes([8 * number + 2, *size, length]) + value


def render(name: str) -> tuple[list[np.ndarray], np.ndarray]:
    """Return an episode: frames (64, 64, 3) uint8, and where the gripper is at each, (30, 3) float32 in BAIR's units."""
    table = ramp(TABLE)[fractal("push table", SIDE * SCALE, SIDE * SCALE, [32, 16, 8])]
    table = table.reshape(SIDE, SCALE, SIDE, SCALE, 3).sum(axis=(1, 3)) // SCALE**2
    draws = chance(f"{name} blocks", BLOCKS, 3).tolist()
    looks = [draw_block(hue % len(colours(PAINTS))) for _, _, hue in draws]
    gripper = draw_gripper()
    frames, positions = [], []
    for hand, blocks in motion(name, [(UNIT * (8 + u * 48 // 256), UNIT * (8 + v * 48 // 256)) for u, v, _ in draws]):
        picture = table.copy()
        for (x, y), look in [*zip(blocks, looks, strict=True), (hand, gripper)]:
            Sprite(*look, (x // UNIT, y // UNIT), (0, 0)).paint(0, picture)
        frames.append(picture.astype(np.uint8))
        shares = (*((c - LOW) / (HIGH - LOW) for c in hand), 0.5)
        positions.append([least + reach * share for least, reach, share in zip(LEAST, REACH, shares, strict=True)])
    return frames, np.array(positions, np.float32)


Point = tuple[int, int]


def motion(name: str, blocks: list[Point]) -> list[tuple[Point, list[Point]]]:
    """Return where gripper and blocks are at each frame, in units."""
    u, v, *turns = chance(f"{name} gripper", 4).tolist()
    x, y = LOW + (HIGH - LOW) * u // 255, LOW + (HIGH - LOW) * v // 255
    states = []
    dx = dy = 0
    for t in range(FRAMES):
        states.append(((x, y), list(blocks)))
        if t % (FRAMES // 2) == 0:
            dx, dy = STEPS[turns[2 * t // FRAMES] % len(STEPS)]
            # to where there is more room
            dx = -dx if (x < (LOW + HIGH) // 2) != (dx > 0) else dx
            dy = -dy if (y < (LOW + HIGH) // 2) != (dy > 0) else dy
        x, y = min(max(x + dx, LOW), HIGH), min(max(y + dy, LOW), HIGH)
        near = (RADIUS + BLOCK // 2) * UNIT
        blocks = [(a + dx, b + dy) if (a - x) ** 2 + (b - y) ** 2 < near**2 else (a, b) for a, b in blocks]
    return states


def draw_gripper() -> tuple[np.ndarray, np.ndarray]:
    """Return the cover and light of the gripper, a dark disc with a lighter ring."""
    r = RADIUS * SCALE
    x, y = np.arange(-r, r), np.arange(-r, r)[:, None]
    square = (2 * x + 1) ** 2 + (2 * y + 1) ** 2
    dark, light = colours(GRIPPER)
    ring = (square > r * r) & (square < 2 * r * r)
    return averaged(square <= 4 * r * r, np.where(ring[..., None], light, dark))


def draw_block(paint: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the cover and light of a block, lit from above left."""
    side = BLOCK * SCALE
    x, y = np.arange(side), np.arange(side)[:, None]
    light = np.where((x < 2) | (y < 2), 300, np.where((x >= side - 2) | (y >= side - 2), 190, 255))
    return averaged(np.ones((side, side), bool), np.clip(colours(PAINTS)[paint] * light[..., None] // 255, 0, 255))
