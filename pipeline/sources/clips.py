"""Clips as people have them: folders of images, videos, or one array file; RGB.

    known = clips(Path("predictions"))       # name -> Clip
    for image in known["000000"].frames():   # (H, W, 3) uint8, uint16 or float in [0,1], one at a time

A folder of PNG or JPEG images or a video is one clip, named "" where it is all that there is. Images are taken in the
natural order of their names (9 before 10); hidden files are not looked at. An array (.npy, or .npz with one array) is one
clip (T, H, W, 3), or (N, T, H, W, 3) clips named 000000, 000001, …; uint8, or float in [0,1].
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import numpy as np

from pipeline.errors import RetakeError
from pipeline.sources import archives, arrays, limits
from pipeline.sources.images import frame_name, image_files, read_pixels

SLACK = 1e-3  # what a float may lie outside [0,1]
ROUNDING = 1e-4  # by which equal rates may differ: 29.97 is 30000/1001
VIDEOS = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts")
KINDS = (
    f"a folder of clips (images, or videos: {', '.join(VIDEOS)}), a video, or an array ({', '.join(arrays.SUFFIXES)})"
)


@dataclass
class Clip:
    """One clip. `load` gives its frames one at a time; `names`: of its image files, without suffix.

    `count`: how many frames, None where only reading tells (a video); `rate`: frames a second, of videos only; `bits`:
    whether it is of integers.
    """

    where: str
    load: Callable[[], Iterable[np.ndarray]]
    count: int | None = None
    names: list[str] = field(default_factory=list)
    rate: Fraction | None = None
    bits: bool = True

    def keeps_time_with(self, other: Clip) -> bool:
        """Say whether both have the same frames a second, or one of them none."""
        return not (self.rate and other.rate) or abs(self.rate / other.rate - 1) <= ROUNDING

    def frames(self) -> Iterator[np.ndarray]:
        """Yield (H, W, 3) of one size and type: unsigned integers, or floats that are checked to be in [0,1].

        Raises RetakeError for what cannot be read, is no RGB, NaN, out of range, or another size than the first.
        """
        first: np.ndarray | None = None
        for number, image in enumerate(self.load()):
            where = f"{self.where}, frame {self.names[number] if self.names else number}"
            first = image if first is None else first
            if (image.shape, image.dtype) != (first.shape, first.dtype):
                raise RetakeError(f"{where} is {side(image)} {image.dtype}, the first one {side(first)} {first.dtype}")
            if image.dtype.kind == "f":
                if np.isnan(image).any():
                    raise RetakeError(f"{where}: NaN")
                if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):
                    raise RetakeError(
                        f"{where}: values from {image.min():g} to {image.max():g}, [0,1] is needed: divide, or save uint8"
                    )
            yield image

    def read(self) -> np.ndarray:
        """Return the whole clip, (T, H, W, 3); raises RetakeError as `frames`, and for one too large to be held whole."""
        images: list[np.ndarray] = []
        for image in self.frames():
            images.append(image)
            if len(images) * image.nbytes > limits.HELD:
                raise RetakeError(
                    f"{self.where}: its first {len(images)} frames are more than the {limits.HELD} bytes of a clip that are "
                    "held at once: cut it into shorter clips"
                )
        return np.stack(images)


def clips(path: Path) -> dict[str, Clip]:
    """Return the clips at a path by name; a single clip is named "".

    Raises RetakeError where there is none, for two of one name, and for images beside folders of clips.
    """
    if path.is_dir():
        return _below(path)
    if not path.is_file():
        raise RetakeError(f"no file or folder {path}")
    if path.suffix.lower() in VIDEOS:
        return {"": _video(path)}
    if path.suffix.lower() in arrays.SUFFIXES:
        return _array(path)
    raise RetakeError(f"{path} is not {KINDS}")


def unit(images: np.ndarray) -> np.ndarray:
    """Return images as read-only float32 in [0,1]: integers by their range."""
    scale = np.float32(np.iinfo(images.dtype).max) if images.dtype.kind == "u" else np.float32(1)
    scaled = images.astype(np.float32) / scale
    scaled.flags.writeable = False  # metrics may remember what they know of these very arrays
    return scaled


def size(images: np.ndarray) -> str:
    """Return how many images of which size, for messages."""
    return f"{len(images)} frames of {side(images[0])}"


def side(image: np.ndarray) -> str:
    """Return the size of an image, for messages."""
    return f"{image.shape[1]}x{image.shape[0]}"


def _below(path: Path) -> dict[str, Clip]:
    """Return the clips of a folder: its images, or what is below it."""
    places: dict[str, Path] = {}
    for entry in archives.below(path):
        inner = entry.relative_to(path)
        is_video = entry.suffix.lower() in VIDEOS and entry.is_file()
        if not (is_video or (entry.is_dir() and image_files(entry))):
            continue
        # A Mac takes names apart ("e" and its accent) that others write as one letter.
        name = unicodedata.normalize("NFC", str(inner.with_suffix("") if is_video else inner))
        other = places.setdefault(name, entry)
        if other is not entry:
            raise RetakeError(f"{path}: {other.name} and {entry.name} are both clip {name}: move one of them elsewhere")
    images = image_files(path)
    if images and places:
        raise RetakeError(
            f"{path} holds images ({images[0].name}, {len(images)} in all) beside clips ({', '.join(list(places)[:3])}): "
            "which are meant is not known, move the others elsewhere"
        )
    if images:
        return {"": _folder(path, images)}
    if not places:
        raise RetakeError(f"{path} holds no PNG or JPEG images, no folders of them and no videos ({', '.join(VIDEOS)})")
    return {name: _folder(e, image_files(e)) if e.is_dir() else _video(e) for name, e in places.items()}


def _folder(folder: Path, files: list[Path]) -> Clip:
    def load() -> Iterator[np.ndarray]:
        for file in files:
            image = read_pixels(file)
            if image.ndim != 3:
                raise RetakeError(f"{file} has 1 channels: write it as RGB")
            yield image

    return Clip(str(folder), load, len(files), [frame_name(file) for file in files])


def _video(file: Path) -> Clip:
    from pipeline.sources import video
    from pipeline.sources.archives import Member

    def load() -> Iterator[np.ndarray]:
        return (image() for _, image in video.frames(Member(file.parent, file.name)))

    return Clip(str(file), load, rate=video.rate(file))


def _array(file: Path) -> dict[str, Clip]:
    array = arrays.read_array(file)
    if array.ndim not in (4, 5) or array.shape[-1] != 3 or not array.size:
        raise RetakeError(f"{file} has the shape {array.shape}: (T, H, W, 3) or (N, T, H, W, 3) is needed")
    if array.dtype not in (np.uint8, np.float16, np.float32, np.float64):
        raise RetakeError(f"{file} is {array.dtype}: uint8, or float in [0,1], is needed")
    if reason := limits.beyond(*array.shape[-3:-1]):
        raise RetakeError(f"{file}: {reason}")

    def clip(where: str, images: np.ndarray) -> Clip:
        return Clip(where, functools.partial(map, np.array, images), len(images), bits=array.dtype == np.uint8)

    if array.ndim == 4:
        return {"": clip(str(file), array)}
    return {f"{index:06}": clip(f"{file}, clip {index:06}", images) for index, images in enumerate(array)}
