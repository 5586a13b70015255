"""Single images: what is read, upright and whole; what is refused before it is decoded; which files are a clip's frames."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from pipeline.errors import RetakeError
from pipeline.sources import images
from pipeline.sources.images import frame_name, image_files, image_size, read_any, read_frame, read_image, read_pixels

RGB = np.random.default_rng(3).integers(0, 256, (6, 9, 3), np.uint8)
SMOOTH = cv2.resize(RGB, (48, 32), interpolation=cv2.INTER_CUBIC)


def encoded(kind: str, image: np.ndarray = SMOOTH, **options: Any) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, kind, **options)
    return buffer.getvalue()


def exif(turn: int) -> bytes:
    tags = Image.Exif()
    tags[images.ORIENTATION] = turn
    return tags.tobytes()


@pytest.mark.parametrize("turn", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures_of_cameras_are_upright(tmp_path: Path, kind: str, turn: int) -> None:
    options = {"exif": exif(turn), **({"quality": 100, "subsampling": 0} if kind == "JPEG" else {})}
    path = tmp_path / "photo.jpg"
    path.write_bytes(encoded(kind, **options))
    with Image.open(path) as image:
        right = np.asarray(ImageOps.exif_transpose(image))
    np.testing.assert_allclose(read_image(path).astype(int), right, atol=3)  # two decoders of JPEG
    if turn != 1:
        with pytest.raises(ValueError, match=f"is marked as turned .EXIF orientation {turn}.: write it upright"):
            image_size(path.read_bytes())


def test_turned_pictures_of_other_kinds_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.tif").write_bytes(encoded("TIFF", exif=exif(6)))
    with pytest.raises(RetakeError, match=r"a\.tif is marked as turned .EXIF orientation 6.: write it upright"):
        read_image(tmp_path / "a.tif")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "PPM", "TIFF", "WEBP"])
def test_content_decides_not_the_name(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "frame.png"
    path.write_bytes(encoded(kind, **({"lossless": True} if kind == "WEBP" else {})))
    for read in (read_pixels, read_image, read_frame):
        np.testing.assert_allclose(read(path).astype(int), SMOOTH, atol=60 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["PNG", "GIF", "TIFF", "WEBP"])
def test_films_are_no_frames(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "film.png"
    more = [Image.fromarray(SMOOTH[::-1]), Image.fromarray(255 - SMOOTH)]
    path.write_bytes(encoded(kind, save_all=True, append_images=more))
    for read in (read_pixels, read_image, read_frame):
        with pytest.raises(
            RetakeError, match=r"film\.png (is a film of several|holds 3 frames|is no PNG or JPEG image)"
        ):
            read(path)


@pytest.mark.parametrize("deep", [False, True])
def test_alpha_is_dropped_where_it_is_opaque(tmp_path: Path, deep: bool) -> None:
    pixels = RGB.astype(np.uint16) * 257 if deep else RGB
    opaque = np.dstack([pixels, np.full(RGB.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)])
    cv2.imwrite(str(tmp_path / "a.png"), opaque[..., [2, 1, 0, 3]])
    np.testing.assert_array_equal(read_pixels(tmp_path / "a.png"), pixels)
    opaque[2, 3, 3] -= 1
    cv2.imwrite(str(tmp_path / "a.png"), opaque[..., [2, 1, 0, 3]])
    with pytest.raises(RetakeError, match=r"a\.png has pixels that can be seen through"):
        read_pixels(tmp_path / "a.png")


def header_of(width: int, height: int) -> bytes:
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return images.PNG + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body))


def jpeg_of(width: int, height: int) -> bytes:
    data = bytearray(encoded("JPEG"))
    place = data.index(b"\xff\xc0") + 5
    data[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (header_of(60000, 60000), "claims to be 60000x60000, frames of 1 to"),
        (header_of(0, 5), "claims to be 0x5"),
        (jpeg_of(60000, 60000), "claims to be 60000x60000"),
        (b"P6 60000 60000 255\n" + bytes(99), "claims to be 60000x60000|is no PNG or JPEG image"),
        (b"", "is no PNG or JPEG image"),
        (b"\x89PNG\r\n\x1a\n cut", "cut off or damaged"),
        (encoded("PNG")[:-20], "cut off or damaged"),
        (encoded("JPEG")[:-200], "cut off or damaged"),
        (encoded("JPEG")[:100], "damaged or cut off|cut off or damaged"),
        (encoded("PNG").replace(b"IDAT", b"IDAS"), "cut off or damaged"),
        (encoded("TIFF")[:60], "is no PNG or JPEG|cut off or damaged"),
        (b"II*\0\xff\xff\xff\xff", "is no PNG or JPEG"),
    ],
)  # fmt: skip
def test_what_is_refused_from_the_header(tmp_path: Path, data: bytes, words: str) -> None:
    path = tmp_path / "bad.png"
    path.write_bytes(data)
    for read in (read_pixels, read_image, read_frame):
        with pytest.raises(RetakeError, match=rf"bad\.png .*({words})"):
            read(path)


def test_one_flipped_bit_is_seen(tmp_path: Path) -> None:
    whole = encoded("PNG", RGB)
    path = tmp_path / "a.png"
    for place in range(len(images.PNG), len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
        with pytest.raises(RetakeError, match=r"a\.png"):
            read_pixels(path)


def test_grey_jpegs_and_cmyk(tmp_path: Path) -> None:
    path = tmp_path / "a.jpg"
    path.write_bytes(encoded("JPEG", SMOOTH[..., 0]))
    assert read_frame(path).shape == (32, 48, 3)
    with pytest.raises(RetakeError, match="8-bit grey image, 8-bit RGB is needed"):
        read_image(path)
    buffer = io.BytesIO()
    Image.fromarray(SMOOTH).convert("CMYK").save(buffer, "JPEG")
    path.write_bytes(buffer.getvalue())
    with pytest.raises(RetakeError, match="is CMYK of 8 bits"):
        read_frame(path)


def test_the_frames_of_a_folder(tmp_path: Path) -> None:
    for name in ("f_10.png", "f_9.PNG", "._f_9.png", "notes.txt", "b_11.png"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "folder.png").mkdir()
    assert [file.name for file in image_files(tmp_path)] == ["b_11.png", "f_9.PNG", "f_10.png"]
    assert frame_name(Path("e\u0301.png")) == frame_name(Path("\u00e9.png"))
    (tmp_path / "f_9.png").write_bytes(b"")
    with pytest.raises(RetakeError, match=r"f_9\.(PNG|png) and f_9\.(PNG|png) are both frame f_9: rename one"):
        image_files(tmp_path)
    (tmp_path / "f_9.png").unlink()
    (tmp_path / "cover.jpg").write_bytes(b"")
    with pytest.raises(RetakeError, match=r"holds PNG and JPEG images .*move the others elsewhere"):
        image_files(tmp_path)


@pytest.mark.parametrize("kind", ["TIFF", "GIF", "WEBP", "PPM"])
def test_whatever_a_damaged_picture_does_to_its_reader_is_one_error(tmp_path: Path, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (9, 7), "red").save(buffer, kind)
    rng = np.random.default_rng(0)
    for _ in range(60):
        data = bytearray(buffer.getvalue())
        data[rng.integers(len(data))] = rng.integers(256)
        (tmp_path / "x").write_bytes(data)
        for read in (read_any, read_pixels):
            with contextlib.suppress(RetakeError):
                assert read(tmp_path / "x").ndim in (2, 3)
    # a TIFF without the width of its frame: Pillow raises a TypeError
    if kind == "TIFF":
        (tmp_path / "x").write_bytes(
            buffer.getvalue()
            .replace(b"\x00\x01\x03\x00", b"\x63\x01\x03\x00")
            .replace(b"\x00\x01\x04\x00", b"\x63\x01\x04\x00")
        )
        with pytest.raises(RetakeError, match="cannot be read as an image"):
            read_any(tmp_path / "x")
