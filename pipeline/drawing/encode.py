"""Videos written: H.264 in MP4, QuickTime or Matroska, with the time stamps, colours and sound of a source.

    with Encoder("out.mp4", Fraction(25), sound=Path("in.mp4")) as film:
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
from pipeline.sources.video import EXACT, FORMATS, Shown

SUFFIXES = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska"}
QUALITY = "16"  # x264's constant rate factor: hardly any loss that can be seen
BT709, BT601, UNSPECIFIED, RGB = 1, 6, 2, 0  # FFmpeg's numbers of colour spaces
MATRICES = (1, 4, 5, 6, 7, 9)  # those that FFmpeg converts by; it takes BT.601 for all others
LIMITED, FULL = 1, 2
HD = 720  # rows from which players take colours that are not specified for BT.709


class Encoder:
    """One video being written; complete under its name when the `with` block ends well, absent otherwise.

    `rate`: mean frames a second, what the times of frames without time stamps are made of. `aspect`: shape of a pixel.
    `sound`: a video whose sound is copied as it is; what the container cannot hold is left out, with a warning.
    `threads`: of the encoder, 0 for all cores; the bytes depend on it.
    Raises RetakeError for a suffix that is none of SUFFIXES.
    """

    def __init__(
        self,
        path: str | Path,
        rate: Fraction,
        *,
        aspect: Fraction = Fraction(1),
        sound: Path | None = None,
        threads: int = 0,
    ) -> None:
        path = Path(path)
        if path.suffix.lower() not in SUFFIXES:
            raise RetakeError(f"{path}: videos are written as {', '.join(SUFFIXES)}, by the name's suffix")
        self._rate, self._aspect, self._count = rate, aspect, 0
        self._next: Any = None
        with contextlib.ExitStack() as stack:
            temporary = stack.enter_context(atomic(path))
            format, options = SUFFIXES[path.suffix.lower()], {"movflags": "+faststart"}
            self._out: Any = stack.enter_context(av.open(str(temporary), "w", format=format, options=options))
            self._stream: Any = self._out.add_stream("libx264", rate=rate, options={"crf": QUALITY})
            self._stream.codec_context.thread_count = threads
            self._sound = self._copied(path, sound, stack)
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
        timed = shown is not None and shown.time is not None
        frame.pts, frame.duration = (shown.time, shown.length) if shown and timed else (self._count, 1)
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
        if self._aspect != 1:
            context.sample_aspect_ratio = self._aspect
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

    def _copied(self, path: Path, sound: Path | None, stack: contextlib.ExitStack) -> Iterator[tuple[Fraction, Any]]:
        """Add the streams of sound and return their packets, each with its time in seconds."""
        if sound is None:
            return iter(())
        source: Any = stack.enter_context(av.open(str(sound), "r", options={"format_whitelist": FORMATS}))
        known, streams = self._out.supported_codecs, {}
        for stream in source.streams.audio:
            codec = stream.codec_context.codec if stream.codec_context is not None else None
            if codec is None or not {codec.name, codec.canonical_name} & known:
                log.warning(
                    "%s: its sound (%s) cannot be copied into %s and is left out: write to .mkv to keep it",
                    sound,
                    "of an unknown kind" if codec is None else codec.canonical_name,
                    path.suffix,
                )
                continue
            streams[stream.index] = self._out.add_stream_from_template(stream)
        return _packets(source, streams, sound)


def _packets(source: Any, streams: dict[int, Any], sound: Path) -> Iterator[tuple[Fraction, Any]]:
    """Yield (seconds, packet) of the source's streams, in the file's order, for the output's streams."""
    if not streams:
        return
    try:
        for packet in source.demux([source.streams[index] for index in streams]):
            at = packet.pts if packet.dts is None else packet.dts
            if at is None or packet.is_corrupt:
                continue
            time = at * packet.time_base
            packet.stream = streams[packet.stream.index]
            yield time, packet
    except av.FFmpegError as error:
        log.warning("%s: its sound ends early: %s", sound, error)


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
