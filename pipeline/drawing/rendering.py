"""Landscapes and balloons drawn by code, the same bytes on every machine; the rendered data sets are made of them.

All arithmetic is on integers, all chance is SHAKE-256 of a name, nothing is compressed. Arrays are int64, colours (..., 3)
from 0 to 255; y, x and spacings are in drawn pixels, `SCALE` of which make a pixel.
"""

from __future__ import annotations

import hashlib
import math
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from pipeline.atomic import atomic

SCALE = 2  # all is drawn larger by this factor, then averaged: smooth edges


def write_zip(
    path: Path, images: Mapping[str, np.ndarray], encode: Callable[[np.ndarray], bytes] | None = None
) -> None:
    """Write a zip of images, {member: (height, width, 3) uint8 or uint16 RGB}: PNGs, or as `encode` makes them."""
    with atomic(path) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as out:
        for member, image in images.items():
            info = zipfile.ZipInfo(member)  # dated 1980
            info.create_system, info.external_attr = 3, 0o644 << 16  # else this machine's
            out.writestr(info, (encode or png)(image))


def png(image: np.ndarray) -> bytes:
    """Return (height, width, 3) uint8 or uint16 RGB as a PNG whose bytes are not compressed."""
    height, width = image.shape[:2]
    rows = image.astype(image.dtype.newbyteorder(">")).reshape(height, -1).view(np.uint8)
    data = np.pad(rows, ((0, 0), (1, 0))).tobytes()  # each row begins with its filter: none
    stream = b"\x78\x01"
    for start in range(0, len(data), 65535):
        block = data[start : start + 65535]
        last = start + 65535 >= len(data)
        stream += struct.pack("<BHH", last, len(block), len(block) ^ 0xFFFF) + block
    stream += struct.pack(">I", zlib.adler32(data))
    header = struct.pack(">IIBBBBB", width, height, 8 * image.dtype.itemsize, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        for kind, body in ((b"IHDR", header), (b"IDAT", stream), (b"IEND", b""))
    )


def colours(text: str) -> np.ndarray:
    """Return hexadecimal colours as (n, 3)."""
    return np.array([list(bytes.fromhex(word)) for word in text.split()], np.int64)


def ramp(text: str) -> np.ndarray:
    """Return 256 colours from one hexadecimal colour to another, (256, 3)."""
    first, second = colours(text)
    share = np.arange(256)[:, None]
    return (first * (255 - share) + second * share) // 255


def chance(name: str, *shape: int) -> np.ndarray:
    """Return uniform values from 0 to 255 that depend on the name alone."""
    data = hashlib.shake_256(name.encode()).digest(math.prod(shape))
    return np.frombuffer(data, np.uint8).reshape(shape).astype(np.int64)


def noise(name: str, height: int, width: int, spacing: int) -> np.ndarray:
    """Return smooth noise from 0 to 255: chance values `spacing` apart, cubic B-splines between them."""
    s = spacing

    def between(values: np.ndarray, size: int) -> np.ndarray:
        """Return the first axis resampled to `size`; the weights of four neighbours add up to 6 s^3."""
        cell, r = np.divmod(np.arange(size), s)
        weights = [(s - r) ** 3, 3 * r**3 - 6 * r**2 * s + 4 * s**3, 3 * r * s * (r + s) - 3 * r**3 + s**3, r**3]
        return sum(w[:, None] * values[cell + k] for k, w in enumerate(weights)) // (6 * s**3)

    values = chance(name, height // s + 4, width // s + 4)
    return between(between(values.T, width).T, height)


def fractal(name: str, height: int, width: int, spacings: list[int]) -> np.ndarray:
    """Return noise of several spacings, each weaker by half than the one before, with mean 128, from 0 to 255."""
    total = sum((noise(f"{name} {s}", height, width, s) - 128) * 256 >> k for k, s in enumerate(spacings))
    return np.clip(128 + total * 3 // 512, 0, 255)


# Two colours each (dark and light; of the sky top and horizon), one of the flowers; firs or round trees; snow or none.
# sky | clouds | rock | trees | grass | flowers | what else
LANDSCAPES = {
    "train": [
        "3a3c6e f0aa82 | 8c5a78 ffcdaa | 35283f 8a606e | 1c1826 6a5048 | 3a3228 967854 | dc9678 | firs",
        "6e96b9 e1e1d7 | b4bac4 faf8f0 | 4c4644 b4a896 | 5a2410 d28a30 | 5a501e c0aa60 | c85032 | round",
        "7896b4 dce4ec | a8b4c4 f5f8fc | 4c5a70 b0bece | 1e3038 8ca0a8 | 8e9cb0 f2f6fa | 78828c | firs snow",
        "286ea0 aadce6 | b4c8d2 faffff | 344e48 82a08c | 0e3620 64a03c | 32641e 8cc050 | f0f0eb | round",
        "18284e 8296b4 | 3c4a6e aab4c8 | 1a2238 64708c | 08141c 38564e | 142420 486a50 | a0b4dc | firs snow",
        "7a88a0 e6d2b4 | a89c98 fff0d8 | 5a4a3c c8a880 | 2c2c12 8c8c3c | 7c5c34 cca870 | f8f0c8 | firs",
    ],
    "val": [
        "20587c c8e6dc | 90a8b4 f4fcff | 2c4434 9ab08c | 30280c a89828 | 405018 a8b048 | f4e478 | round",
        "5c5c8c f4c8c8 | 98809c ffe8e8 | 403c5c a89cb8 | 102c2c 508478 | 3c5048 90b09c | f4c0d4 | firs snow",
    ],
    "test": [
        "30629c cee2f0 | c4cedc fffffc | 4a4a60 b4b0b8 | 143a1e 6c9040 | 4a6a24 b0bc5c | f0c85a | firs snow",
        "4878a8 d8e8f0 | a0b0c0 ffffff | 504030 c09870 | 303818 88883c | 8a6a3a d8b878 | f0e0a0 | round",
        "544678 fac896 | a06e82 ffe0be | 443050 b07c7c | 2a2024 8c6040 | 50402a b4925e | e67864 | round",
        "243c64 a8b8cc | 5c6c88 d0d8e4 | 283450 8490a8 | 0c2024 4c746c | 1c302c 5c806c | c0ccf0 | firs snow",
    ],
}
# Two colours in turn, and of the band
BALLOONS = [
    "d8322c f6ecd8 f0b428",
    "2860b4 f2f2f2 e87828",
    "f0b020 c83c28 fff4d0",
    "20907c f4e6c0 d84848",
    "8c3c8c f0c8dc ffe070",
]


def panorama(name: str, landscape: str, height: int, width: int) -> np.ndarray:
    """Return a landscape, (height, width, 3)."""
    sky, clouds, rock, trees, grass, flowers, kind = landscape.split(" | ")
    h, w = height * SCALE, width * SCALE
    y = np.arange(h)[:, None]

    def ground(part: str, base: int, swing: int, spacings: list[int]) -> np.ndarray:
        """Return the row where something begins, (1, w); base and swing are in 1/256 of the height."""
        return (base * 128 - swing * (fractal(f"{name} {part}", 1, w, spacings) - 128)) * h // 2**15

    peaks = ground("peaks", 112, 48, [160, 80, 40, 20, 10])
    hills = ground("hills", 158, 20, [200, 100, 50])
    meadow = ground("meadow", 206, 12, [240, 120, 60])

    image = ramp(sky)[np.broadcast_to(np.clip(y * 510 // h, 0, 255), (h, w))]
    cover = np.clip((fractal(f"{name} cover", h, w, [96, 48, 24, 12, 6]) - 110) * 5, 0, 240)[..., None]
    cloud = ramp(clouds)[fractal(f"{name} billows", h, w, [48, 24, 12, 6])]
    image = (image * (255 - cover) + cloud * cover) // 255

    surface = fractal(f"{name} rock", h, w + SCALE, [48, 24, 12, 6])
    light = np.clip(128 + 8 * (surface[:, SCALE:] - surface[:, :-SCALE]), 0, 255)  # lit from the left
    slopes = ramp(rock)[np.clip(light + (y - peaks) * 160 // h - 10, 0, 255)]
    if "snow" in kind:
        line = peaks + h // 12 + (fractal(f"{name} snow", h, w, [32, 16, 8]) - 128) * h // 900
        slopes = np.where((y < line)[..., None], ramp("8fa4c4 ffffff")[light], slopes)
    image = np.where((y >= peaks)[..., None], slopes, image)

    image = np.where((y >= hills)[..., None], colours(trees)[0], image)
    draw_trees(name, ramp(trees), "firs" in kind, image, hills[0], meadow[0])

    turf = fractal(f"{name} turf", h, w, [64, 32, 16, 8, 4]) + (y - meadow) * 160 // h - 40
    lawn = ramp(grass)[np.clip(turf, 0, 255)]
    lawn[noise(f"{name} flowers", h, w, 2 * SCALE) > 180] = colours(flowers)[0]
    image = np.where((y >= meadow)[..., None], lawn, image)
    return image.reshape(height, SCALE, width, SCALE, 3).sum(axis=(1, 3)) // SCALE**2


def draw_trees(
    name: str, tones: np.ndarray, firs: bool, image: np.ndarray, top: np.ndarray, bottom: np.ndarray
) -> None:
    """Draw trees whose feet are between the rows `top` and `bottom` of each column, the far ones first."""
    h, w = image.shape[:2]
    leaves = fractal(f"{name} leaves", h, w, [8, 4])
    draws = chance(f"{name} trees", w * 2 // 3, 5)
    for depth, high, low, size, tone in draws[np.argsort(draws[:, 0], kind="stable")].tolist():
        x = (high * 256 + low) * w // 2**16
        foot = int(top[x] + (bottom[x] - top[x]) * depth // 200) + 2
        tall = h * (20 + depth // 10 + size // 12) // 384
        half = tall // 3 if firs else tall // 2
        x0, x1, y0, y1 = max(x - half, 0), min(x + half + 1, w), max(foot - tall, 0), min(foot, h)
        dx, dy = np.arange(x0, x1) - x, np.arange(y0, y1)[:, None] - (foot - tall)
        leaf = leaves[y0:y1, x0:x1]
        if firs:  # three tiers of branches
            inside = 6 * abs(dx) <= dy % max(tall // 3, 1) + dy + leaf // 64
        else:  # a ragged crown
            inside = 4 * (dx**2 + (dy - half) ** 2) * 128 <= tall**2 * (64 + leaf // 2)
        light = np.clip((leaf + tone) // 2 - dx * 80 // (half + 1) + 50 - dy * 90 // (tall + 1), 0, 255)
        image[y0:y1, x0:x1][inside] = tones[light[inside]]


@dataclass(frozen=True)
class Sprite:
    """A picture that moves by `motion` (x, y) px a frame; at step 0 its centre is `at` (x, y) px."""

    cover: np.ndarray  # (h, w) px, from 0 to SCALE^2
    light: np.ndarray  # (h, w, 3), colours times cover
    at: tuple[int, int]
    motion: tuple[int, int]

    def paint(self, step: int, picture: np.ndarray, flow: np.ndarray | None = None) -> None:
        """Draw it over the frame of a step, and its motion over the flow where it covers at least half of a pixel."""
        h, w = self.cover.shape
        x = self.at[0] + self.motion[0] * step - w // 2
        y = self.at[1] + self.motion[1] * step - h // 2
        part = np.s_[max(y, 0) : max(y + h, 0), max(x, 0) : max(x + w, 0)]
        rows, columns = picture[part].shape[:2]
        seen = np.s_[max(-y, 0) : max(-y, 0) + rows, max(-x, 0) : max(-x, 0) + columns]
        cover = self.cover[seen][..., None]
        picture[part] = (picture[part] * (SCALE**2 - cover) + self.light[seen]) // SCALE**2
        if flow is not None:
            flow[part][2 * self.cover[seen] >= SCALE**2] = self.motion


def averaged(solid: np.ndarray, paint: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the cover and light of a sprite from where it is solid, (h, w) bool, and its colours, in drawn pixels."""
    h, w = solid.shape
    blocks = (h // SCALE, SCALE, w // SCALE, SCALE)
    light = (paint * solid[..., None]).reshape(*blocks, 3)
    return solid.astype(np.int64).reshape(blocks).sum(axis=(1, 3)), light.sum(axis=(1, 3))


def flying(name: str, height: int, width: int, motions: Sequence[tuple[int, int]]) -> list[Sprite]:
    """Return three balloons, the far ones first, so close together that some pass behind others."""
    draws = chance(f"{name} balloons", 3, 3).tolist()
    (u, v, hue), *offsets = draws
    x, y = width * (64 + u // 2) // 256, height * (80 + v // 4) // 256
    balloons = []
    for i, motion in enumerate(motions):
        corner = (
            (x, y) if i == 2 else (x + width * (offsets[i][0] - 128) // 800, y + height * (offsets[i][1] - 128) // 600)
        )
        text = BALLOONS[(hue + i) % len(BALLOONS)]
        balloons.append(
            Sprite(*draw_balloon(f"{name} {i}", max(height * (11 + 5 * i) // 256, 2), text), corner, motion)
        )
    return balloons


def draw_balloon(name: str, radius: int, text: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the cover and light of a balloon, 2 radii (px) wide and 2.85 high."""
    r = radius * SCALE
    w, h = 2 * r, r * 57 // 20 // SCALE * SCALE
    x, y = np.arange(w) - r, np.arange(h)[:, None] - r
    # Half its width, row by row: a ball, tapered from half a radius below the centre on
    half = np.array(
        [math.isqrt(r * r - v * v) if 2 * v <= r else max(1266 * r - 800 * v, 0) // 1000 for v in y[:, 0].tolist()]
    )
    half = half[:, None]
    hull = (abs(x) <= half) & (10 * y <= 13 * r)
    basket = (5 * abs(x) <= r) & (20 * y >= 31 * r)
    ropes = (abs(5 * abs(x) - r) <= 3) & (10 * y > 13 * r) & ~basket

    even, odd, band = colours(text)
    edges = (-924, -707, -383, 0, 383, 707, 924)  # of eight gores, as seen from the side
    gore = sum((x * 1000 // (half + 1) > edge).astype(np.int64) for edge in edges)[..., None] % 2
    paint = np.where(gore == 0, even, np.where((abs(5 * y + r) <= r)[..., None], band, odd))
    light = 255 - ((3 * x + r) ** 2 + (3 * y + r) ** 2) * 9 // (r * r) + (fractal(name, h, w, [8, 4]) - 128) // 4
    paint = paint * np.clip(light, 60, 255)[..., None] // 255
    paint = np.where(basket[..., None], (96, 60, 30), np.where(ropes[..., None], (50, 40, 30), paint))

    return averaged(hull | basket | ropes, paint)
