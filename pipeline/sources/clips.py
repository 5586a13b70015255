"""Clips as people have them: folders of PNG images, videos, or one array file; RGB.

    found = clips(Path("predictions"))       # name -> Clip
    found["000000"].read()                   # (T, H, W, 3) uint8, uint16 or float in [0,1]

A folder of PNG images or a video is one clip, named "" where it is all that there is. Images are taken in the natural order of their
names (9 before 10). An array (.npy, or .npz with one array) is one clip (T, H, W, 3), or (N, T, H, W, 3) clips named
000000, 000001, …; uint8, or float in [0,1].
"""

from __future__ import annotations

import functools
import re
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import RetakeError

SLACK = 1e-3  # what a float may lie outside [0,1]
VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")
ARRAYS = (".npy", ".npz")
KINDS = f"a folder of PNG clips or of videos ({', '.join(VIDEOS)}), a video, or an array ({', '.join(ARRAYS)})"


@dataclass
class Clip:
    """One clip. `rate`: frames a second, of videos only; `bits`: whether it is of integers."""

    where: str
    load: Callable[[], np.ndarray]
    rate: Fraction | None = None
    bits: bool = True

    def read(self) -> np.ndarray:
        """Return (T, H, W, 3) unsigned integers, or floats that are checked to be in [0,1].

        Raises RetakeError for what cannot be read, is no RGB, NaN, or out of range.
        """
        images = self.load()
        if images.dtype.kind == "f":
            for number, image in enumerate(images):
                if np.isnan(image).any():
                    raise RetakeError(f"{self.where}, frame {number}: NaN")
                if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):
                    raise RetakeError(
                        f"{self.where}, frame {number}: values from {image.min():g} to {image.max():g}, [0,1] is needed: "
                        "divide, or save uint8"
                    )
        return images


def clips(path: Path) -> dict[str, Clip]:
    """Return the clips at a path by name; a single clip is named "". Raises RetakeError where there is none."""
    if path.is_dir():
        images = _images(path)
        if images:
            return {"": _folder(path, images)}
        found: dict[str, Clip] = {}
        for entry in sorted(path.rglob("*")):
            name = str(entry.relative_to(path))
            if entry.is_dir() and (images := _images(entry)):
                found[name] = _folder(entry, images)
            elif entry.suffix.lower() in VIDEOS and entry.name[0] != ".":
                found[str(entry.relative_to(path).with_suffix(""))] = _video(entry)
        if not found:
            raise RetakeError(f"{path} holds no PNG images, no folders of them and no videos ({', '.join(VIDEOS)})")
        return found
    if not path.is_file():
        raise RetakeError(f"no file or folder {path}")
    if path.suffix.lower() in VIDEOS:
        return {"": _video(path)}
    if path.suffix.lower() in ARRAYS:
        return _array(path)
    raise RetakeError(f"{path} is not {KINDS}")


def unit(images: np.ndarray) -> np.ndarray:
    """Return images as read-only float32 in [0,1]: integers by their range."""
    scale = np.float32(np.iinfo(images.dtype).max) if images.dtype.kind == "u" else np.float32(1)
    found = images.astype(np.float32) / scale
    found.flags.writeable = False  # metrics may remember what they know of these very arrays
    return found


def size(images: np.ndarray) -> str:
    """Return how many images of which size, for messages."""
    return f"{len(images)} frames of {images.shape[2]}x{images.shape[1]}"


def _images(folder: Path) -> list[Path]:
    def natural(file: Path) -> list[Any]:
        return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", file.name)]

    return sorted((f for f in folder.iterdir() if f.suffix.lower() == ".png" and f.name[0] != "."), key=natural)


def _folder(folder: Path, files: list[Path]) -> Clip:
    def load() -> np.ndarray:
        images: list[np.ndarray] = []
        for file in files:
            image = cv2.imread(str(file), cv2.IMREAD_UNCHANGED)
            if image is None:
                raise RetakeError(f"{file} is no PNG image, or damaged")
            if image.ndim != 3 or image.shape[2] != 3:
                raise RetakeError(f"{file} has {1 if image.ndim == 2 else image.shape[2]} channels: write it as RGB")
            if images and (image.shape, image.dtype) != (images[0].shape, images[0].dtype):
                raise RetakeError(
                    f"{file} is {_side(image)} {image.dtype}, the first image {_side(images[0])} {images[0].dtype}"
                )
            images.append(image[..., ::-1])
        return np.stack(images)

    return Clip(str(folder), load)


def _side(image: np.ndarray) -> str:
    return f"{image.shape[1]}x{image.shape[0]}"


def _video(file: Path) -> Clip:
    import av

    from pipeline.sources import video
    from pipeline.sources.archives import Member

    def load() -> np.ndarray:
        return np.stack([image() for _, image in video.frames(Member(file.parent, file.name))])

    try:
        with av.open(str(file), options={"format_whitelist": video.FORMATS}) as container:
            stream = container.streams.best("video")
            rate = getattr(stream, "average_rate", None)
    except (av.FFmpegError, ValueError) as error:
        raise video.unreadable(file, error) from None
    return Clip(str(file), load, rate=rate)


def _array(file: Path) -> dict[str, Clip]:
    try:
        loaded = np.load(file, mmap_mode="r", allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            if len(loaded.files) != 1:
                raise RetakeError(f"{file} holds {len(loaded.files)} arrays ({', '.join(loaded.files[:5])}): give one")
            loaded = loaded[loaded.files[0]]
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise RetakeError(f"{file} cannot be read as an array: {error}") from None
    if loaded.ndim not in (4, 5) or loaded.shape[-1] != 3 or not loaded.size:
        raise RetakeError(f"{file} has the shape {loaded.shape}: (T, H, W, 3) or (N, T, H, W, 3) is needed")
    if loaded.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise RetakeError(f"{file} is {loaded.dtype}: uint8, or float in [0,1], is needed")
    bits = loaded.dtype == np.uint8
    if loaded.ndim == 4:
        return {"": Clip(str(file), functools.partial(np.array, loaded), bits=bits)}
    return {
        f"{index:06}": Clip(f"{file}, clip {index:06}", functools.partial(np.array, clip), bits=bits)
        for index, clip in enumerate(loaded)
    }
