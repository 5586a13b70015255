"""Videos: every frame once, in the order in which it is shown, upright, RGB.

    for number, image in frames(Member(Path("UCF101_videos.zip"), "v_Archery_g01_c01.avi")):
        image()  # (height, width, 3) uint8

What the container says of frames, rate and length is never asked: the frames are those that the decoder gives, none
doubled or left out for a constant rate. The decoder gives them in the order of their time stamps; where a container
stores time stamps they are held against that order. AVI stores none, and those that FFmpeg makes up for it are wrong
for packed B-frames, UCF101's among them.
"""

from __future__ import annotations

import contextlib
import functools
import io
import struct
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import av
import numpy as np
from av.video.reformatter import Interpolation

from pipeline.errors import RetakeError, log
from pipeline.sources import limits
from pipeline.sources.archives import CutOff, Damaged, Member, Stream, bad_name, read

# Without this list FFmpeg takes a text file for a playlist and opens the files and addresses in it.
FORMATS = "avi,mov,mp4,matroska,webm,mpegts,mpeg,mpegvideo,asf,flv,ogg"
EXACT = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
SLACK = 8  # bytes by which writers of AVI get their own length wrong

HDR = {16: "PQ", 18: "HLG"}  # FFmpeg's numbers of such transfer functions
ERRORS = (av.FFmpegError, OSError, ValueError)  # what PyAV raises for a file that it cannot read
ATTACHED = 1 << 10  # FFmpeg's mark of a stream that is a cover picture

Image = Callable[[], np.ndarray]


class Shown(NamedTuple):
    """How a frame is shown: from when and how long, in `base` seconds, and in which colours, FFmpeg's numbers for each.

    `time` is None where the container stores no time stamps that can be trusted, `length` 0 where it is not known.
    `rgb`: its pixels are RGB, not YUV. `aspect`: shape of a pixel, width : height, of the upright picture.
    """

    time: int | None
    length: int
    base: Fraction
    space: int
    full_range: bool
    primaries: int
    transfer: int
    rgb: bool
    aspect: Fraction = Fraction(1)


class Info(NamedTuple):
    """What a container says of a video: mean frames a second, number of packets."""

    rate: Fraction
    packets: int


def clip(name: str, member: Member, *, first: int = 0) -> Stream:
    """Return a video as a clip; its frames are numbered from `first`."""
    return Stream(name, member, functools.partial(frames, member, first=first))


def frames(member: Member, *, first: int = 0) -> Iterator[tuple[int, Image]]:
    """Yield (number, image) of each frame; `image()` converts it to (height, width, 3) uint8 RGB, in any thread.

    The conversion is FFmpeg's own, as OpenCV and `ffmpeg -pix_fmt rgb24` do it. Raises RetakeError for a file that is
    no video; CutOff behind the last good frame of a video that is cut off, Damaged of one with more frames behind.
    """
    interlaced = False
    for number, frame, where, _, aspect in _decoded(member, first):
        if number == first and aspect != 1:
            log.warning("%s has pixels that are not square (%s): they are taken as they are stored", where, aspect)
        if frame.interlaced_frame and not interlaced:
            interlaced = True
            log.warning(
                "%s is interlaced, two half pictures of different times: they are taken as one (ffmpeg -i IN -vf bwdif OUT makes "
                "whole pictures)",
                where,
            )
        yield number, functools.partial(_image, frame, where)


def shown(member: Member, *, first: int = 0) -> Iterator[tuple[int, Image, Shown]]:
    """Yield what `frames` does, and how each frame is shown; raises the same, and RetakeError for interlaced frames.

    Colours are converted with exact rounding, where FFmpeg's usual conversion is up to 2 of 255 too dark.
    """
    for number, frame, where, ordered, aspect in _decoded(member, first):
        if frame.interlaced_frame:
            raise RetakeError(
                f"{where} is interlaced, two half pictures of different times: make whole pictures of them first "
                "(ffmpeg -i IN -vf bwdif OUT); if only its mark is wrong, ffmpeg -i IN -vf setfield=prog OUT"
            )
        upright = 1 / aspect if frame.rotation % 180 else aspect
        yield number, functools.partial(_image, frame, where, EXACT), _shown(frame, ordered, upright)


def _decoded(member: Member, first: int) -> Iterator[tuple[int, Any, str, bool, Fraction]]:
    """Yield number, decoded frame, where it is from, whether its time stamps can be trusted, shape of a stored pixel."""
    where = f"{member.archive}: {member.name!r}"
    number, short = first, None
    last: int | None = None

    def lost(reason: str | Exception) -> CutOff:
        told = f"{where}: {short or _words(reason)}; the {number - first} frames before that are good"
        return CutOff(told) if short else Damaged(told, member.name)

    with _file(member) as file:
        short = _short(file)
        try:
            with _opened(file, where) as (container, stream):
                stream.codec_context.options = {"max_pixels": str(limits.PIXELS)}
                ordered, aspect = container.format.name != "avi", Fraction(stream.sample_aspect_ratio or 1)
                for packet in container.demux(stream):
                    if packet.is_corrupt:
                        raise lost("a packet of it is not whole")
                    end = packet.dts is None and packet.size == 0
                    if end and short:  # what the decoder still holds may lie behind frames that are lost
                        break
                    for frame in stream.decode(packet):
                        if frame.is_corrupt:
                            raise lost("a frame of it is damaged")
                        if ordered and frame.pts is not None:
                            if last is not None and frame.pts <= last:
                                raise RetakeError(
                                    f"{where}: frame {number} is shown at {frame.pts}, the one before at {last}: its "
                                    f"time stamps are wrong; write it anew (ffmpeg -i IN -fps_mode passthrough OUT)"
                                )
                            last = frame.pts
                        if number == first:
                            _tell_what_is_lost(where, frame)
                        yield number, frame, f"{where}, frame {number}", ordered, aspect
                        number += 1
        except ERRORS as error:
            if number > first:
                raise lost(error) from None
            raise unreadable(where, short or error) from None
    if short:
        raise lost(short)
    if number == first:
        raise RetakeError(f"{where} is a video without frames")


@contextlib.contextmanager
def _opened(file: BinaryIO, where: Any) -> Iterator[tuple[Any, Any]]:
    """Yield a video's container and the stream that is read; that there are several is said in the log.

    A file is given to FFmpeg opened, not by its name: in names it reads protocols ("a:b.mp4"), and all must be UTF-8.
    Raises RetakeError for a file without a video stream; one of ERRORS for one that cannot be read.
    """
    if not file.seek(0, io.SEEK_END):
        raise ValueError("it is empty, 0 bytes")
    file.seek(0)
    if reason := limits.instead(file.read(64)):
        raise ValueError(reason)
    file.seek(0)
    with av.open(file, "r", options={"format_whitelist": FORMATS}) as container:
        stream: Any = container.streams.best("video")
        if stream is None or stream.codec_context is None:
            raise RetakeError(f"{where} holds no video stream that can be decoded")
        count = sum(1 for other in container.streams.video if not int(other.disposition) & ATTACHED)
        if count > 1:
            log.warning("%s holds %d videos: the one of %dx%d is read", where, count, stream.width, stream.height)
        yield container, stream


def _tell_what_is_lost(where: str, frame: Any) -> None:
    """Say in the log what of a frame 8-bit RGB cannot hold."""
    parts = frame.format.components
    if any(part.is_alpha for part in parts):
        log.warning("%s has alpha (%s), which is left out", where, frame.format.name)
    if (bits := max(part.bits for part in parts)) > 8:
        log.warning("%s has %d bits a component (%s): they become 8", where, bits, frame.format.name)
    if frame.color_trc in HDR:
        log.warning("%s has a high dynamic range (%s): its values are read as they are", where, HDR[frame.color_trc])


def probe(member: Member) -> tuple[int, int, int]:
    """Return height, width and number of packets of a video, which is read and not decoded.

    Nearly every packet is a frame; what is right is what `frames` gives. Raises RetakeError for a file that is no video.
    """
    where = f"{member.archive}: {member.name!r}"
    with _file(member) as file:
        try:
            with _opened(file, where) as (container, stream):
                count = sum(1 for packet in container.demux(stream) if packet.size and not packet.is_corrupt)
                return stream.height, stream.width, count
        except ERRORS as error:
            raise unreadable(where, error) from None


def info(path: Path) -> Info:
    """Return what the container of the video at `path` says, without decoding; raises RetakeError as `probe`."""
    _, _, packets = probe(Member(path.parent, path.name))
    return Info(rate(path) or Fraction(25), packets)


def rate(path: Path) -> Fraction | None:
    """Return the mean frames a second that a video's container says, None where it says none; raises as `probe`."""
    with path.open("rb") as file:
        try:
            with _opened(file, path) as (_, stream):
                return stream.average_rate or stream.guessed_rate
        except ERRORS as error:
            raise unreadable(path, error) from None


def unreadable(where: Any, reason: str | Exception) -> RetakeError:
    """Return the error for a file that FFmpeg cannot open, or of which no frame can be decoded."""
    return RetakeError(f"{where} cannot be read as a video: {_words(reason)}. Is it a whole one? Fetch it again")


def _words(reason: str | Exception) -> str:
    """Return FFmpeg's words without its number and path."""
    return str(getattr(reason, "strerror", None) or reason)


def _shown(frame: Any, ordered: bool, aspect: Fraction) -> Shown:
    return Shown(
        frame.pts if ordered else None,
        int(frame.duration or 0),
        Fraction(frame.time_base),
        int(frame.colorspace),
        int(frame.color_range) == 2,
        int(frame.color_primaries),
        int(frame.color_trc),
        frame.format.is_rgb,
        aspect,
    )


def _file(member: Member) -> BinaryIO:
    """Return the member as a file that can be sought in: one in a folder is read as it is asked for."""
    path = member.archive / member.name
    if member.archive.is_dir() and path.is_file() and (path.name == member.name or not bad_name(member.name)):
        return path.open("rb")
    return io.BytesIO(read(member))


def _image(frame: Any, where: str, conversion: Interpolation | None = None) -> np.ndarray:
    """Return a decoded frame as (height, width, 3) uint8 RGB, turned as its display matrix says."""
    image = frame.to_ndarray(format="rgb24", interpolation=conversion)
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return image
    # (x, y) is shown at (a x + c y, b x + d y), but for a shift; entries are fixed-point numbers.
    a, b, _, c, d = np.frombuffer(bytes(matrix), np.int32)[:5]
    if b == c == 0:
        across, down = a, d
    elif a == d == 0:
        image = image.transpose(1, 0, 2)
        across, down = c, b
    else:
        raise RetakeError(f"{where} is to be turned by an angle that is no multiple of 90 degrees: write it upright")
    return np.ascontiguousarray(image[:: -1 if down < 0 else 1, :: -1 if across < 0 else 1])


def _short(file: BinaryIO) -> str | None:
    """Return how far the file is shorter than its outermost boxes say, in words; None where it is not.

    FFmpeg ends a file that is cut between two packets as if it were whole.
    """
    length = file.seek(0, io.SEEK_END)
    file.seek(0)
    head = file.read(12)
    if head[:4] == b"RIFF":
        end = _riff(file, length)
    elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"):
        end = _boxes(file, length)
    elif head[:4] == b"\x1a\x45\xdf\xa3":
        end = _matroska(file)
    else:
        end = 0
    file.seek(0)
    return f"it is cut off, {length} bytes of at least {end} are there" if end > length + SLACK else None


def _riff(file: BinaryIO, length: int) -> int:
    """Return where the last RIFF chunk of an AVI ends, by its own word."""
    offset = 0
    while offset + 8 <= length:
        file.seek(offset)
        name, size = struct.unpack("<4sI", file.read(8))
        if name != b"RIFF" or size in (0, 2**32 - 1):  # a recording that was never finished knows no size
            break
        offset += 8 + size + size % 2
    return offset


def _boxes(file: BinaryIO, length: int) -> int:
    """Return where the last outermost box of an MP4 or QuickTime file ends, by its own word."""
    offset = 0
    while offset + 8 <= length:
        file.seek(offset)
        size, name = struct.unpack(">I4s", file.read(8))
        least = 8
        if size == 1:
            size, least = int.from_bytes(file.read(8), "big"), 16
        if size < least or not (name.isascii() and name.decode().isprintable()):  # 0: to the end; others: rubbish there
            break
        offset += size
    return offset


def _matroska(file: BinaryIO) -> int:
    """Return where the segment of a Matroska or WebM file ends, by its own word; 0 where it gives none."""
    file.seek(4)
    header, _ = _number(file)
    file.seek(header, io.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    size, unknown = _number(file)
    return 0 if unknown else file.tell() + size


def _number(file: BinaryIO) -> tuple[int, bool]:
    """Return an EBML number, and whether it is the one that stands for unknown."""
    start = file.read(1)
    width = 9 - int.from_bytes(start, "big").bit_length()
    value = int.from_bytes(start + file.read(width - 1), "big") & ((1 << 7 * width) - 1)
    return value, value == (1 << 7 * width) - 1
