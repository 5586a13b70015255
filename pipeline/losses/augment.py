"""Augmentation of training clips as i2v-cINN's loaders do it with kornia 0.5: resize, flip, crop, colour jitter.

All frames of a clip get the same draws. The jitter is kornia 0.5's, whose definitions differ from torchvision's: brightness
adds, contrast multiplies by a factor about 0, and saturation and hue act on HSV. Where kornia crops by a warp that stretches
the image by up to a tenth of a pixel, pixels are taken as they are.
"""

from __future__ import annotations

import cv2
import numpy as np
from pydantic import Field

from pipeline import params

FLIPPED = 0.5  # share of clips


class Augment(params.Strict):
    """How much a training clip is changed; the published settings differ between data sets and stages."""

    margin: int = Field(
        0,
        ge=0,
        description="pixels that frames are resized to beyond the network's size, from which a crop is taken",
    )
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
    flip = rng.random() < FLIPPED
    left, top = (int(offset) for offset in rng.integers(0, recipe.margin + 1, 2))
    amounts = np.array([recipe.brightness, recipe.contrast, recipe.saturation, recipe.hue])
    factors = np.array([1, 1, 1, 0]) + amounts * rng.uniform(-1, 1, 4)
    order = rng.permutation(4)
    planes = np.empty((len(clip), 3, size, size), np.float32)  # the order in which the train stage takes them
    changed, scratch = np.empty((2, size, size, 3), np.float32)  # fresh pages for each frame would take longer
    for frame, output in zip(clip, planes, strict=True):
        image = frame.astype(np.float32) / np.float32(255)
        changed[:] = placed(image, size, recipe.margin, (left, top), flip)
        jitter(changed, factors, order, scratch)
        output[:] = changed.transpose(2, 0, 1)
    return planes.transpose(0, 2, 3, 1)


def placed(image: np.ndarray, size: int, margin: int, corner: tuple[int, int], flip: bool) -> np.ndarray:
    """Return an image (h, w, 3) float32 resized, flipped and cropped, (size, size, 3).

    It is resized to `margin` more pixels than `size`; `corner` (x, y) is where the crop begins, after the flip.
    """
    side, (left, top) = size + margin, corner
    image = _at(image, side)
    if flip:
        image = image[:, ::-1]
    return image[top : top + size, left : left + size]


def resized(clip: np.ndarray, size: int) -> np.ndarray:
    """Return a clip (n, h, w, 3) uint8 at (n, size, size, 3), resized as in `augment`."""
    return np.stack([_at(image, size) for image in clip])


def _at(image: np.ndarray, side: int) -> np.ndarray:
    """Return an image (h, w, 3) at (side, side, 3): bilinear without antialiasing, untouched where it has that size."""
    if image.shape[:2] == (side, side):
        return image
    return cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR)


def jitter(image: np.ndarray, factors: np.ndarray, order: np.ndarray, scratch: np.ndarray) -> None:
    """Change the colours of an image (h, w, 3) float32 in [0,1], in place.

    `factors`: brightness, contrast, saturation (1 leaves them), hue in turns (0 leaves it). `order`: the numbers 0 to 3 of
    these four in the order in which they are applied. `scratch`: an array like the image, which is overwritten.
    """
    brightness, contrast, saturation, hue = (float(factor) for factor in factors)
    saturate = np.diag([1, saturation, 1])
    turn = np.column_stack([np.eye(3), [360 * (hue % 1), 0, 0]])  # OpenCV's hue is in degrees; it may exceed 360
    for step in order:
        if step == 0:
            np.clip(np.add(image, brightness - 1, out=image), 0, 1, out=image)
        elif step == 1:
            np.clip(np.multiply(image, contrast, out=image), 0, 1, out=image)
        elif (step == 2 and saturation != 1) or (step == 3 and hue != 0):
            cv2.cvtColor(image, cv2.COLOR_RGB2HSV, dst=scratch)
            cv2.transform(scratch, saturate if step == 2 else turn, dst=scratch)
            np.minimum(scratch[..., 1], 1, out=scratch[..., 1])
            cv2.cvtColor(scratch, cv2.COLOR_HSV2RGB, dst=image)
