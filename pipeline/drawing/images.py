"""Single images, written for people to look at."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from pipeline.atomic import write_bytes
from pipeline.errors import RetakeError


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
