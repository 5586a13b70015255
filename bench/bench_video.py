"""Videos: decoding, and making a store, beside FFmpeg writing raw frames and PNG files; one core, the same video.

FFmpeg is its libraries as PyAV brings them, with the settings that the command takes by itself, but for one: the FFmpeg
of today filters PNG rows by Paeth's predictor, older ones (5.1 for one) not at all, which is more than twice as fast.
That faster one is the baseline.
"""

from __future__ import annotations

import functools
import os
import tempfile
from pathlib import Path
from typing import Any, Literal

import av
import numpy as np

from bench.common import Row, interleave
from pipeline import params
from pipeline.datasets import demo
from pipeline.frames import write
from pipeline.sources import video
from pipeline.sources.archives import Member
from pipeline.store.frames import Writer

HEIGHT, WIDTH = 240, 320  # UCF101's


def run() -> list[Row]:
    """Return the rows of bench/results.md."""
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _film(folder / "film.avi")
        decoding = interleave(5, lambda: _ffmpeg_raw(folder), lambda: _decode(folder))
        codecs = ("raw", "jpeg", "zstd", "png")  # png: what zstd stands for in the entries of video datasets
        making = interleave(3, lambda: _ffmpeg_png(folder), *(functools.partial(_store, folder, c) for c in codecs))
    detail = f"{WIDTH}x{HEIGHT} MPEG-4, one core"
    return [
        Row("video, decoded to RGB", "ffmpeg writing raw frames", decoding[0] / decoding[1], 0.7, detail),
        *(
            Row(f"video to a store, {codec}", "ffmpeg writing PNG files", making[0] / spent, 5, detail)
            for codec, spent in zip(codecs, making[1:], strict=True)
        ),
    ]


def _film(path: Path) -> None:
    """Write what UCF101 has: an AVI of MPEG-4 with B-frames."""
    pictures = [picture for place in range(8) for picture in demo.render("train", place, HEIGHT, WIDTH)[0]]
    with av.open(str(path), "w") as out:
        stream: Any = out.add_stream("mpeg4", rate=25)
        stream.height, stream.width, stream.pix_fmt, stream.bit_rate = HEIGHT, WIDTH, "yuv420p", 1_000_000
        stream.codec_context.max_b_frames = 2
        for picture in pictures:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")))
        out.mux(stream.encode(None))


def _ffmpeg_raw(folder: Path) -> None:
    with av.open(str(folder / "film.avi")) as film, (folder / "film.rgb").open("wb") as out:
        for frame in film.decode(video=0):
            out.write(memoryview(frame.reformat(format="rgb24").planes[0]))


def _ffmpeg_png(folder: Path) -> None:
    with av.open(str(folder / "film.avi")) as film:
        encoder: Any = av.CodecContext.create("png", "w")
        encoder.height, encoder.width, encoder.pix_fmt = HEIGHT, WIDTH, "rgb24"
        encoder.options = {"pred": "none"}
        encoder.time_base = film.streams.video[0].time_base
        for i, frame in enumerate(film.decode(video=0)):
            for packet in encoder.encode(frame.reformat(format="rgb24")):
                (folder / f"{i:06d}.png").write_bytes(bytes(packet))


def _decode(folder: Path) -> None:
    for _, image in video.frames(Member(folder, "film.avi")):
        image()


def _store(folder: Path, codec: Literal["raw", "jpeg", "zstd", "png"]) -> None:
    settings = params.Dataset(kind="film", height=None, width=None, codec=codec, archives="present")
    clip = video.clip("film", Member(folder, "film.avi"))
    problems: list[str] = []
    with Writer(folder / "film.arrow", codec=codec, meta={}) as out:
        write(out, [clip], settings, problems, lambda: None)
    assert not problems
