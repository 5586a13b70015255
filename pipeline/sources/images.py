"""Single images that people give, as 8-bit RGB; and the sizes of those in archives."""

from __future__ import annotations

import struct
from pathlib import Path

import cv2
import numpy as np

from pipeline.errors import RetakeError

PIXELS = 1 << 25  # of one decoded frame: 8K video has fewer

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"


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


def read_png(path: str | Path) -> np.ndarray:
    """Return a PNG of any kind as (height, width, 3) uint8 RGB.

    16 bits become 8, rounded; grey and palettes become RGB; alpha is dropped where it is opaque everywhere. Raises
    RetakeError for a file that is missing, cut, no PNG or beyond 8K, and for one that can be seen through.
    """
    path = Path(path)
    if not path.is_file():
        raise RetakeError(f"no image {path}: check the name")
    data = path.read_bytes()
    if not data.startswith(PNG) or len(data) < 33:
        raise RetakeError(f"{path} is no PNG image, it begins with {data[:8]!r}")
    width, height = struct.unpack_from(">II", data, 16)
    if height * width > PIXELS:
        raise RetakeError(f"{path} claims to be {width}x{height}, frames beyond {PIXELS} pixels are refused")
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None or b"IEND" not in data[-16:]:
        raise RetakeError(f"{path} cannot be read as an image: it is cut off or damaged")
    if image.dtype == np.uint16:
        image = ((image.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if image.ndim == 2:
        return np.repeat(image[..., None], 3, axis=2)
    if image.shape[2] == 4:
        if image[..., 3].min() < 255:
            raise RetakeError(
                f"{path} has pixels that can be seen through, and nothing says what is behind them: put it on a "
                f"background first (magick {path.name} -background black -flatten OUT.png)"
            )
        image = image[..., :3]
    return np.ascontiguousarray(image[..., ::-1])


def read_any(path: str | Path) -> np.ndarray:
    """Return an image of any kind as people see it, (height, width, 3) uint8 RGB.

    Turned as its EXIF says; grey and palettes become RGB, 16 bits become 8, what can be seen through lies on white. Raises
    RetakeError for a file that is missing, cut, no image or beyond 8K.
    """
    from PIL import Image, ImageOps

    path = Path(path)
    if not path.is_file():
        raise RetakeError(f"no image {path}: check the name")
    try:
        with Image.open(path) as image:
            if image.width * image.height > PIXELS:
                raise RetakeError(f"{path} is {image.width}x{image.height}: images beyond {PIXELS} pixels are refused")
            turned = ImageOps.exif_transpose(image)
            if turned.mode.startswith("I"):  # 16 bits; Pillow would cut them off at 255
                turned = Image.fromarray((np.asarray(turned, np.uint32) // 257).clip(0, 255).astype(np.uint8))
            if turned.has_transparency_data:
                seen = turned.convert("RGBA")
                turned = Image.alpha_composite(Image.new("RGBA", seen.size, "white"), seen)
            return np.array(turned.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise RetakeError(
            f"{path} cannot be read as an image ({error}): it is cut off, or of an unknown format"
        ) from None


def image_size(data: bytes) -> tuple[int, int]:
    """Return (height, width) of an encoded image from its header, before anything is decoded.

    OpenCV would widen palettes and turn CMYK into RGB without a word. Raises ValueError for what is no 8-bit RGB PNG or
    JPEG, and for sizes beyond 8K.
    """
    if data.startswith(PNG) and len(data) > 26:
        width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "unknown")
    elif data.startswith(JPEG):
        bits, height, width, channels = _jpeg_header(data)
        kind = {1: "grey", 3: "RGB", 4: "CMYK"}.get(channels, "unknown")
    else:
        raise ValueError(f"is no PNG or JPEG image, it begins with {data[:8]!r}")
    if bits != 8 or kind != "RGB":
        raise ValueError(f"is {kind} of {bits} bits, RGB of 8 bits is needed")
    if height * width > PIXELS:
        raise ValueError(f"claims to be {width}x{height}, frames beyond {PIXELS} pixels are refused")
    return height, width


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Return bits, height, width, channels from the first start-of-frame segment."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return bits, height, width, channels
        at += 1 if marker == 0xFF else 2 + length
    raise ValueError("is a JPEG image without a frame header: it is damaged or cut off")
