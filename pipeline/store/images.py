"""Single images that people give or look at: 8-bit RGB in and out, PNG or JPEG by the file's suffix."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import RetakeError
from pipeline.store.atomic import write_bytes


def read_image(path: str | Path) -> np.ndarray:
    """Return an image file as (height, width, 3) uint8 RGB.

    Raises RetakeError for a file that is missing, cut or no image, and for 16-bit, grey, RGBA and other
    formats: converting them is a choice (range, alpha) that the user makes.
    """
    path = Path(path)
    if not path.is_file():
        raise RetakeError(f"no image {path}: check the name")
    image = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise RetakeError(f"{path} cannot be read as an image: it is cut off, or of a format OpenCV does not know")
    channels = 1 if image.ndim == 2 else image.shape[2]
    if image.dtype != np.uint8 or channels != 3:
        what = {1: "grey", 3: "RGB", 4: "RGB with alpha"}.get(channels, f"{channels}-channel")
        raise RetakeError(
            f"{path} is a {8 * image.dtype.itemsize}-bit {what} image, 8-bit RGB is needed: "
            f"ffmpeg -i {path.name} -pix_fmt rgb24 {path.stem}_rgb.png"
        )
    return np.ascontiguousarray(image[..., ::-1])


def write_image(path: str | Path, image: np.ndarray) -> None:
    """Write (height, width, 3) uint8 RGB to `path`, atomically; its suffix is the format (.png, .jpg)."""
    path = Path(path)
    try:
        done, data = cv2.imencode(path.suffix, image[..., ::-1])
    except cv2.error:
        done = False
    if not done:
        raise RetakeError(f"{path}: OpenCV writes no images with suffix {path.suffix!r}; use .png")
    write_bytes(path, data.tobytes())
