"""Images that people give, as RGB; which files of a folder are its frames; and the sizes of images in archives.

What an image is decides its content, not its name: PNG and JPEG are read, and BMP, PPM, TIFF and WebP of one frame.
PNG and JPEG that a camera marked as turned (EXIF) come upright. Alpha that is opaque everywhere is dropped.
"""

from __future__ import annotations

import io
import itertools
import re
import statistics
import struct
import unicodedata
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np

from pipeline.errors import RetakeError
from pipeline.sources import limits

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
SUFFIXES = (".png", ".jpg", ".jpeg")  # of the frames in a folder
OTHERS = ("BMP", "PPM", "TIFF", "WEBP")  # Pillow's names
ORIENTATION = 0x0112  # EXIF's tag
UPRIGHT = 1


class Header(NamedTuple):
    """What an image says of itself; `colour` in words, `turn`: EXIF's orientation, 1 to 8."""

    height: int
    width: int
    bits: int
    colour: str
    turn: int


def image_files(folder: Path) -> list[Path]:
    """Return the PNG or JPEG images of a folder that are not hidden, in the natural order of their names.

    Raises RetakeError for a folder with images of both kinds, and for two of one name.
    """
    files = [f for f in folder.iterdir() if f.suffix.lower() in SUFFIXES and f.name[0] != "." and f.is_file()]
    files.sort(key=natural)
    kinds = {f.suffix.lower() == ".png": f.name for f in files}
    if len(kinds) > 1:
        raise RetakeError(
            f"{folder} holds PNG and JPEG images ({kinds[True]}, {kinds[False]}): which are its frames is not known, move "
            "the others elsewhere"
        )
    names: dict[str, Path] = {}
    for file in files:
        other = names.setdefault(frame_name(file), file)
        if other is not file:
            raise RetakeError(f"{folder}: {other.name} and {file.name} are both frame {frame_name(file)}: rename one")
    return files


def frame_name(file: Path) -> str:
    """Return the name of an image without its suffix; letters with accents alike, however the file system spells them."""
    return unicodedata.normalize("NFC", file.stem)


def frame_numbers(names: list[str]) -> list[int]:
    """Return the number of each name: the one of its numbers that is not the same in all; [] where that is not clear."""
    rows = [[int(digits) for digits in re.findall("[0-9]+", name)] for name in names]
    if len({len(row) for row in rows}) != 1:
        return []
    columns = [list(column) for column in zip(*rows, strict=True)]
    varying = [column for column in columns if len(set(column)) > 1] or columns[-1:]
    return varying[0] if len(varying) == 1 else []


def gap(names: list[str], numbers: list[int] | None = None) -> str:
    """Return which two neighbours' names do not count on as `numbers` do, in words; "" where all do, or where that is not clear.

    `numbers`: what is counted elsewhere, one a name; without them, evenly, in the step that most have.
    """
    told = frame_numbers(names)
    steps = [after - before for before, after in itertools.pairwise(told)]
    if numbers is None:
        numbers = [statistics.mode(steps) * i for i in range(len(names))] if steps else []
    right = [after - before for before, after in itertools.pairwise(numbers)]
    wrong = next((i for i, (one, other) in enumerate(zip(steps, right, strict=False)) if one != other), None)
    return "" if wrong is None else f"{names[wrong + 1]} comes after {names[wrong]}"


def natural(file: Path) -> list[Any]:
    """Return what files are ordered by as people count: 9 before 10."""
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", file.name))]


def read_pixels(path: str | Path) -> np.ndarray:
    """Return an image file upright, (height, width, 3) RGB or (height, width) grey, uint8 or uint16.

    Raises RetakeError for a file that is missing, no image, damaged, of several frames, beyond the limits, or with pixels
    that can be seen through.
    """
    path = Path(path)
    if not path.is_file():
        raise RetakeError(f"no image {path}: check the name")
    if (size := path.stat().st_size) > limits.MEMBER:
        raise RetakeError(f"{path} is {size} bytes, images up to {limits.MEMBER} are read")
    data = path.read_bytes()
    try:
        head = header(data)
        check_whole(data)
    except ValueError as error:
        raise RetakeError(f"{path} {error}") from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or image.shape[:2] != head[:2]:
        raise RetakeError(f"{path} cannot be read as an image: it is cut off or damaged")
    opaque = {np.dtype(np.uint8): 255, np.dtype(np.uint16): 65535}.get(image.dtype)
    if opaque is None:
        raise RetakeError(f"{path} has values of {image.dtype}: 8 or 16 bits are read")
    if image.ndim == 3 and image.shape[2] == 4:
        if image[..., 3].min() < opaque:
            raise RetakeError(
                f"{path} has pixels that can be seen through, and nothing says what is behind them: put it on a "
                f"background first (magick {path.name} -background black -flatten OUT.png)"
            )
        image = image[..., :3]
    return np.ascontiguousarray(_upright(image[..., ::-1] if image.ndim == 3 else image, head.turn))


def read_image(path: str | Path) -> np.ndarray:
    """Return an image file as (height, width, 3) uint8 RGB.

    Raises RetakeError as `read_pixels`, and for 16-bit and grey images: converting them is a choice that the user makes.
    """
    image = read_pixels(path)
    if image.dtype != np.uint8 or image.ndim != 3:
        path = Path(path)
        raise RetakeError(
            f"{path} is a {8 * image.dtype.itemsize}-bit {'grey' if image.ndim == 2 else 'RGB'} image, 8-bit RGB is "
            f"needed: ffmpeg -i {path.name} -pix_fmt rgb24 {path.stem}_rgb.png"
        )
    return image


def read_frame(path: str | Path) -> np.ndarray:
    """Return an image file of any kind as (height, width, 3) uint8 RGB: 16 bits become 8, rounded, and grey becomes RGB.

    Raises RetakeError as `read_pixels`.
    """
    image = read_pixels(path)
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    return image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)


def read_any(path: str | Path) -> np.ndarray:
    """Return an image of any kind as people see it, (height, width, 3) uint8 RGB.

    Turned as its EXIF says; grey and palettes become RGB, 16 bits become 8, what can be seen through lies on white. Raises
    RetakeError for a file that is missing, cut, no image, of several frames or beyond the limits.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_file():
        raise RetakeError(f"no image {path}: check the name")
    try:
        with Image.open(path) as image:
            if reason := limits.beyond(image.height, image.width):
                raise RetakeError(f"{path} {reason}")
            if (count := getattr(image, "n_frames", 1)) > 1:
                raise RetakeError(f"{path} holds {count} frames ({image.format}): give them one by one")
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I"):  # 16 bits; Pillow would cut them off at 255
                turned = Image.fromarray((np.asarray(turned, np.uint32) // 257).clip(0, 255).astype(np.uint8))
            if turned.has_transparency_data:
                seen = turned.convert("RGBA")
                turned = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
            return np.array(turned.convert("RGB"))
    except (RetakeError, PermissionError):
        raise
    except Exception as error:  # what Pillow raises for damaged and hostile files has no end
        raise RetakeError(
            f"{path} cannot be read as an image ({error}): it is cut off, or of an unknown format"
        ) from None


def image_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of an encoded image from its header, before anything is decoded.

    OpenCV would widen palettes and turn CMYK into RGB without a word. Raises ValueError for what is no 8-bit RGB PNG or
    JPEG of one frame that is upright, and for sizes beyond the limits.
    """
    if not data.startswith((PNG, JPEG)):
        raise _no_image(data)
    head = header(data)
    if head.bits != 8 or head.colour != "RGB":
        raise ValueError(f"is {head.colour} of {head.bits} bits, RGB of 8 bits is needed")
    if head.turn != UPRIGHT:
        raise ValueError(f"is marked as turned (EXIF orientation {head.turn}): write it upright")
    return head.height, head.width


def header(data: bytes) -> Header:
    """Return what an encoded image says of itself; raises ValueError as `read_pixels` does RetakeError."""
    if data.startswith(PNG):
        head = _png_header(data)
    elif data.startswith(JPEG):
        head = _jpeg_header(data)
    else:
        head = _other_header(data)
    return head


def check_whole(data: bytes) -> None:
    """Raise ValueError for a PNG or JPEG that is cut off, or whose checksums are wrong; decoders pass over both."""
    if data.startswith(PNG):
        kinds = []
        for kind, start, end in _chunks(data):
            kinds.append(kind)
            if data[end : end + 4] != struct.pack(">I", zlib.crc32(data[start - 4 : end])):
                raise ValueError("cannot be read as an image: it is cut off or damaged")
        if kinds[-1:] != [b"IEND"]:
            raise ValueError("cannot be read as an image: it is cut off or damaged")
    elif data.startswith(JPEG):
        scan = [start for marker, start, _ in _segments(data) if marker == 0xDA]
        if not scan or data.find(b"\xff\xd9", scan[0]) < 0:
            raise ValueError("cannot be read as an image: it is cut off or damaged")


def _checked(height: int, width: int) -> tuple[int, int]:
    if reason := limits.beyond(height, width):
        raise ValueError(reason)
    return height, width


def _png_header(data: bytes) -> Header:
    if len(data) < 33:
        raise ValueError("cannot be read as an image: it is cut off or damaged")
    width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
    _checked(height, width)
    kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "unknown")
    turn = UPRIGHT
    for chunk, start, end in _chunks(data):
        if chunk == b"acTL":
            raise ValueError("is a film of several frames (APNG): give its frames one by one")
        if chunk == b"eXIf":
            turn = _orientation(data[start:end])
    return Header(height, width, bits, kind, turn)


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield the kind of each chunk of a PNG, and where its contents start and end; the checksum follows."""
    position = len(PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, position)
        yield kind, position + 8, position + 8 + length
        if kind == b"IEND":
            return
        position += 12 + length


def _jpeg_header(data: bytes) -> Header:
    """Return what the first start-of-frame segment says, and the orientation of an EXIF segment before it."""
    turn = UPRIGHT
    for marker, start, end in _segments(data):
        if marker == 0xE1 and data[start : start + 6] == b"Exif\0\0":
            turn = _orientation(data[start + 6 : end])
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC) and start + 6 <= len(data):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, start)
            _checked(height, width)
            colour = {1: "grey", 3: "RGB", 4: "CMYK"}.get(channels, "unknown")
            if bits != 8 or channels not in (1, 3):
                raise ValueError(f"is {colour} of {bits} bits, RGB of 8 bits is needed")
            return Header(height, width, bits, colour, turn)
    raise ValueError("is a JPEG image without a frame header: it is damaged or cut off")


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield the marker of each segment of a JPEG up to its first scan, and where its contents start and end."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        marker, length = data[position + 1], struct.unpack_from(">H", data, position + 2)[0]
        if marker == 0xFF:
            position += 1
            continue
        yield marker, position + 4, position + 2 + length
        if marker == 0xDA:
            return
        position += 2 + length


def _other_header(data: bytes) -> Header:
    from PIL import Image

    try:
        image = Image.open(io.BytesIO(data), formats=OTHERS)
        frames, turn = getattr(image, "n_frames", 1), int(image.getexif().get(ORIENTATION, UPRIGHT))
    except Exception:  # Pillow raises whatever its parsers meet in a damaged file
        raise _no_image(data) from None
    _checked(image.height, image.width)
    if frames > 1:
        raise ValueError(f"holds {frames} frames ({image.format}): give them one by one")
    if turn != UPRIGHT:  # OpenCV turns some of these itself
        raise ValueError(f"is marked as turned (EXIF orientation {turn}): write it upright")
    return Header(image.height, image.width, 8, image.mode, turn)


def _no_image(data: bytes) -> ValueError:
    why = limits.instead(data[:64]) or (f"it begins with {data[:8]!r}: write it as PNG" if data else "it is empty")
    return ValueError(f"is no PNG or JPEG image, {why}")


def _orientation(exif: bytes) -> int:
    """Return the orientation that an EXIF block (a TIFF header and its first directory) holds, 1 where it holds none."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None or len(exif) < 8:
        return UPRIGHT
    start = struct.unpack_from(order + "I", exif, 4)[0]
    if start + 2 > len(exif):
        return UPRIGHT
    for entry in range(start + 2, start + 2 + 12 * struct.unpack_from(order + "H", exif, start)[0], 12):
        if entry + 12 > len(exif):
            break
        tag, _, _, value = struct.unpack_from(order + "HHIH", exif, entry)
        if tag == ORIENTATION:
            return value if 1 <= value <= 8 else UPRIGHT
    return UPRIGHT


def _upright(image: np.ndarray, turn: int) -> np.ndarray:
    """Return an image as EXIF's orientation says that it is to be seen."""
    if turn >= 5:
        image = image.swapaxes(0, 1)
    return image[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]
