"""Videos written: H.264 in MP4, QuickTime or Matroska, with the time stamps, colours, sound and subtitles of a source.

    with Encoder("out.mp4", Fraction(25), source=Path("in.mp4")) as film:
        film.add(image, shown)

Pixels are 8-bit YUV 4:2:0. Nothing is read or held that is not needed at once: memory is flat.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from av.codec.context import Flags

from pipeline.atomic import atomic
from pipeline.errors import RetakeError, log
from pipeline.sources.video import ATTACHED, EXACT, FORMATS, Shown

SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "16"  # x264's constant rate factor: hardly any loss that can be seen
BT709, BT601, UNSPECIFIED, RGB = 1, 6, 2, 0  # FFmpeg's numbers of colour spaces
MATRICES = (1, 4, 5, 6, 7, 9)  # those that FFmpeg converts by; it takes BT.601 for all others
LIMITED, FULL = 1, 2
KINDS = {"audio": "sound", "subtitle": "subtitles"}  # of streams that are copied
OWN = {"encoder", "duration", "major_brand", "minor_version", "compatible_brands"}  # what a container says of itself
HD = 720  # rows from which players take colours that are not specified for BT.709


class Encoder:
    """One video being written; complete under its name when the `with` block ends well, absent otherwise.

    `rate`: mean frames a second, what the times of frames without time stamps are made of.
    `source`: a video whose sound, subtitles, languages, title and chapters are copied as they are; what the container
    cannot hold is left out, with a warning. Its times count from where it starts, as players show them.
    `threads`: of the encoder, 0 for all cores; the bytes depend on it.
    Raises RetakeError for a suffix that is none of SUFFIXES, and for a name that is not UTF-8.
    """

    def __init__(
        self,
        path: str | Path,
        rate: Fraction,
        *,
        source: Path | None = None,
        threads: int = 0,
    ) -> None:
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise RetakeError(f"{path}: videos are written as {', '.join(SUFFIXES)}, by the name's suffix")
        try:
            str(path).encode()
        except UnicodeEncodeError:
            raise RetakeError(f"{path}: FFmpeg writes to names in UTF-8 only, give another name") from None
        self._rate, self._count = rate, 0
        self._start = Fraction(0)  # seconds, of the source's clock
        self._next: Any = None
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic(path))
            format, options = SUFFIXES[path.suffix.lower()], {"movflags": "+faststart"}
            # Without "file:" the part of a name before a colon would be a protocol.
            name = f"file:{temporary}"
            self._out: Any = stack.enter_context(av.open(name, "w", format=format, options=options))
            self._stream: Any = self._out.add_stream("libx264", rate=rate, options={"crf": QUALITY})
            self._stream.codec_context.thread_count = threads
            self._sound = self._copied(path, source, stack) if source is not None else iter(())
            self._stack = stack.pop_all()

    def __enter__(self) -> Encoder:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        if kind is not None:
            return self._stack.__exit__(kind, error, trace)
        with self._stack:
            self._mux(self._stream.encode(None))
            self._mux_sound(None)
        return None

    def add(self, image: np.ndarray, shown: Shown | None = None, rows: int | None = None) -> None:
        """Append a frame, (height, width, 3) uint8 RGB, even sides.

        `shown`: how the source's frame is shown, which is kept; None: BT.709, at the rate. `rows`: height of the
        source, by which players guess colours that it does not specify.
        """
        if not self._count:
            self._open(image, shown, rows or len(image))
        frame = av.VideoFrame.from_ndarray(image, format="rgb24").reformat(
            format="yuv420p", dst_colorspace=self._matrix, dst_color_range=self._range, interpolation=EXACT
        )
        context = self._stream.codec_context
        frame.colorspace, frame.color_range = context.colorspace, context.color_range
        frame.color_primaries, frame.color_trc = context.color_primaries, context.color_trc
        if shown is not None and shown.time is not None:
            frame.pts, frame.duration = shown.time - round(self._start / shown.base), shown.length
        else:
            frame.pts, frame.duration = self._count, 1
        frame.time_base = context.time_base
        self._count += 1
        self._mux(self._stream.encode(frame))

    def _open(self, image: np.ndarray, shown: Shown | None, rows: int) -> None:
        context = self._stream.codec_context
        context.height, context.width = image.shape[:2]
        context.pix_fmt = "yuv420p"
        context.flags |= Flags.frame_duration  # else the last frame's length is guessed from the rate
        context.framerate = self._rate
        context.time_base = 1 / self._rate if shown is None or shown.time is None else shown.base
        if shown is not None and shown.aspect != 1:
            context.sample_aspect_ratio = shown.aspect
        space, self._range = BT709, LIMITED
        self._matrix = BT709
        if shown is not None and not shown.rgb:
            self._matrix = shown.space if shown.space in MATRICES else BT601
            space = shown.space if shown.space not in (UNSPECIFIED, RGB) else BT709 if rows >= HD else BT601
            self._range = FULL if shown.full_range else LIMITED
            context.color_primaries, context.color_trc = shown.primaries, shown.transfer
        elif shown is None:
            context.color_primaries = context.color_trc = BT709
        context.colorspace, context.color_range = space, self._range

    def _mux(self, packets: Iterable[Any]) -> None:
        """Write packets of the picture, the sound of the time before each first."""
        for packet in packets:
            if packet.dts is not None:
                self._mux_sound(packet.dts * packet.time_base)
            self._out.mux(packet)

    def _mux_sound(self, until: Fraction | None) -> None:
        """Copy the sound before a time, seconds; None: all that is left."""
        while True:
            if self._next is None:
                self._next = next(self._sound, None)
            if self._next is None or (until is not None and self._next[0] > until):
                return
            self._out.mux(self._next[1])
            self._next = None

    def _copied(self, path: Path, source: Path, stack: contextlib.ExitStack) -> Iterator[tuple[Fraction, Any]]:
        """Add the source's sound and subtitles and return their packets, each with its time in seconds."""
        file = stack.enter_context(source.open("rb"))
        read: Any = stack.enter_context(av.open(file, "r", options={"format_whitelist": FORMATS}))
        self._start = Fraction(max(read.start_time or 0, 0), av.time_base)
        self._out.metadata.update({key: text for key, text in read.metadata.items() if key.lower() not in OWN})
        if chapters := read.chapters():
            self._out.set_chapters(chapters)
        known, streams = self._out.supported_codecs, {}
        for stream in read.streams:
            codec = stream.codec_context.codec if getattr(stream, "codec_context", None) is not None else None
            name = "of an unknown kind" if codec is None else codec.canonical_name
            if stream.type == "video":
                if stream == read.streams.best("video"):
                    _describe(stream, self._stream)
                elif int(stream.disposition) & ATTACHED:
                    log.warning("%s: its cover picture is left out", source)
            elif stream.type not in KINDS:
                log.warning("%s: a stream of %s is left out", source, stream.type)
            elif codec is None or not {codec.name, codec.canonical_name} & known:
                text = "%s: its %s (%s) cannot be copied into %s and is left out: write to .mkv to keep it"
                log.warning(text, source, KINDS[stream.type], name, path.suffix)
            else:
                streams[stream.index] = self._out.add_stream_from_template(stream)
                _describe(stream, streams[stream.index])
        return _packets(read, streams, source, self._start)


def _describe(stream: Any, copy: Any) -> None:
    """Give a stream the language, title and default mark of the one that it is made of."""
    copy.metadata.update({key: text for key, text in stream.metadata.items() if key.lower() in ("language", "title")})
    copy.disposition = stream.disposition


def _packets(source: Any, streams: dict[int, Any], path: Path, start: Fraction) -> Iterator[tuple[Fraction, Any]]:
    """Yield (seconds, packet) of the source's streams, in the file's order, for the output's streams.

    `start`: seconds of the source's clock that are 0 in the output.
    """
    if not streams:
        return
    try:
        for packet in source.demux([source.streams[index] for index in streams]):
            moment = packet.pts if packet.dts is None else packet.dts
            if moment is None or packet.is_corrupt:
                continue
            shift = round(start / packet.time_base)
            packet.pts = packet.pts if packet.pts is None else packet.pts - shift
            packet.dts = packet.dts if packet.dts is None else packet.dts - shift
            packet.stream = streams[packet.stream.index]
            yield (moment - shift) * packet.time_base, packet
    except av.FFmpegError as error:
        log.warning("%s: its sound ends early: %s", path, error)


def write_video(path: str | Path, images: Iterable[np.ndarray], rate: int) -> None:
    """Write images of one size, (height, width, 3) uint8, as a video; odd sides repeat their edge."""
    with Encoder(path, Fraction(rate), threads=1) as film:
        for image in images:
            height, width = image.shape[:2]
            film.add(np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge"))


def write_gif(path: str | Path, images: Iterable[np.ndarray], rate: int) -> None:
    """Write images of one size, (height, width, 3) uint8, as a GIF that runs for ever, in 256 colours a frame."""
    from PIL import Image

    first, *others = (Image.fromarray(image) for image in images)
    with atomic(path) as temporary:
        first.save(temporary, format="GIF", save_all=True, append_images=others, duration=round(1000 / rate), loop=0)
