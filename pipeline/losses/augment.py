"""Augmentation of training clips as i2v-cINN's loaders do it with kornia 0.5: resize, flip, crop, colour jitter.

All frames of a clip get the same draws. The jitter is kornia 0.5's, whose definitions differ from torchvision's: brightness
adds, contrast multiplies by a factor about 0, and saturation and hue act on HSV. Where kornia crops by a warp that stretches
the image by up to a tenth of a pixel, pixels are taken as they are.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable

import cv2
import numpy as np
from pydantic import Field

from pipeline import params

TINY = np.float32(1e-9)  # in place of the span of a grey pixel
CACHED = 25_000  # pixels that are changed together: few calls, and they stay in the processor's cache


class Augment(params.Strict):
    """How much a training clip is changed; the published settings differ between data sets and stages."""

    margin: int = Field(
        0,
        ge=0,
        description="pixels that frames are resized to beyond the network's size, from which a crop is taken",
    )
    flip: float = Field(0.5, ge=0, le=1, description="share of the clips that are mirrored; end points never are")
    brightness: float = Field(0.1, ge=0, le=1, description="up to so much is added to values in [0,1], or taken off")
    contrast: float = Field(0.1, ge=0, le=1, description="values are multiplied by factors from 1 - c to 1 + c")
    saturation: float = Field(
        0.1, ge=0, le=1, description="HSV saturation is multiplied by factors from 1 - s to 1 + s"
    )
    hue: float = Field(0.0, ge=0, le=0.5, description="HSV hue is turned by up to this share of a full turn, both ways")


def augment(clip: np.ndarray, rng: np.random.Generator, size: int, recipe: Augment) -> np.ndarray:
    """Return a clip (n, h, w, 3) uint8 at (n, size, size, 3), changed by chance: float32 in [0,1].

    Resizing is bilinear without antialiasing and without regard to the aspect ratio; frames that have the size already
    are not resized.
    """
    flip = rng.random() < recipe.flip
    left, top = (int(offset) for offset in rng.integers(0, recipe.margin + 1, 2))
    amounts = np.array([recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue])
    factors = np.array([1, 1, 1, 0]) + amounts * rng.uniform(-1, 1, 4)
    order = [int(step) for step in rng.permutation(4) if amounts[step]]
    planes = np.empty((len(clip), 3, size, size), np.float32)  # the order in which the train stage takes them
    together = max(1, CACHED // size**2)
    for first in range(0, len(clip), together):
        part = slice(first, first + together)
        tall = np.concatenate([placed(frame, size, recipe.margin, (left, top), flip) for frame in clip[part]])
        _recolour(tall, planes[part].transpose(1, 0, 2, 3), factors, order)
    return planes.transpose(0, 2, 3, 1)


def _recolour(tall: np.ndarray, planes: np.ndarray, factors: np.ndarray, order: list[int]) -> None:
    """Write frames with their colours changed to `planes`, (3, n, h, w) float32 in [0,1].

    `tall`: the frames above one another, (n h, w, 3) in 0 to 255; `factors`, `order`: as `jitter`. Brightness and contrast
    change each value alone: of bytes, as far as nothing else comes before, 256 are computed and looked up.
    """
    alone = list(itertools.takewhile(lambda step: step in (0, 1), order)) if tall.dtype == np.uint8 else []
    table = np.arange(256, dtype=np.float32) * np.float32(1 / 255)
    jitter(table, factors, alone)
    for channel, plane in zip(cv2.split(tall), planes, strict=True):
        values = cv2.LUT(channel, table) if tall.dtype == np.uint8 else channel * np.float32(1 / 255)
        plane[:] = values.reshape(plane.shape)
    jitter(planes, factors, order[len(alone) :])


def placed(image: np.ndarray, size: int, margin: int, corner: tuple[int, int], flip: bool) -> np.ndarray:
    """Return an image (h, w, 3) resized, flipped and cropped, (size, size, 3); float32 unless its size is kept.

    It is resized to `margin` more pixels than `size`; `corner` (x, y) is where the crop begins, after the flip.
    """
    side, (left, top) = size + margin, corner
    if image.shape[:2] != (side, side):
        image = _at(image.astype(np.float32), side)
    if flip:
        image = cv2.flip(image, 1)
    return image[top : top + size, left : left + size]


def resized(clip: np.ndarray, size: int) -> np.ndarray:
    """Return a clip (n, h, w, 3) uint8 at (n, size, size, 3), resized as in `augment`."""
    return np.stack([_at(image, size) for image in clip])


def _at(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image (h, w, 3) at (side, side, 3): bilinear without antialiasing, untouched where it has that size."""
    if image.shape[:2] == (side, side):
        return image
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)


def jitter(planes: np.ndarray, factors: np.ndarray, order: Iterable[int]) -> None:
    """Change the colours of images (3, ..., h, w) float32 in [0,1], in place.

    `factors`: brightness, contrast, saturation (1 leaves them), hue in turns (0 leaves it). `order`: the numbers 0 to 3 of
    these four in the order in which they are applied.
    """
    brightness, contrast, saturation, hue = (float(factor) for factor in factors)
    for step in order:
        if step == 0:
            planes += np.float32(brightness - 1)
            # only one end of [0,1] can be passed
            if brightness > 1:
                np.minimum(planes, 1, out=planes)
            else:
                np.maximum(planes, 0, out=planes)
        elif step == 1:
            planes *= np.float32(contrast)
            if contrast > 1:
                np.minimum(planes, 1, out=planes)
        elif step == 2:
            _saturate(planes, saturation)
        elif step == 3 and hue != 0:
            # one by one: what is made on the way stays in the cache
            for image in np.moveaxis(planes.reshape(3, -1, *planes.shape[-2:]), 1, 0):
                _turn(image, hue)


def _saturate(planes: np.ndarray, factor: float) -> None:
    """Multiply the HSV saturation of images (3, ..., h, w) by a factor, up to 1, in place.

    Saturation is the channels' span as a share of their maximum, the value. Hue and value stay when each channel's distance
    from the value is multiplied, so the way to HSV and back, which takes three times as long, is not needed.
    """
    value = np.maximum(np.maximum(planes[0], planes[1]), planes[2])
    if factor <= 1:
        planes *= np.float32(factor)
        value *= np.float32(1 - factor)
    else:
        span = value - np.minimum(np.minimum(planes[0], planes[1]), planes[2])
        np.maximum(span, TINY, out=span)
        ratio = np.minimum(np.divide(value, span, out=span), np.float32(factor), out=span)
        planes -= value
        planes *= ratio
    planes += value


def _turn(planes: np.ndarray, hue: float) -> None:
    """Turn the HSV hue of an image (3, h, w) by `hue` turns, in place."""
    image = cv2.cvtColor(cv2.merge(list(planes)), cv2.COLOR_RGB2HSV)
    image[..., 0] += 360 * (hue % 1)  # OpenCV's hue is in degrees; it may exceed 360
    cv2.split(cv2.cvtColor(image, cv2.COLOR_HSV2RGB), list(planes))
