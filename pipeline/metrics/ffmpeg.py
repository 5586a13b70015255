"""PSNR and SSIM of FFmpeg's filters, as DTVNet's numbers were made: of 8-bit images, converted to the planes of yuv444p.

`psnr` is psnr_avg: the mean squared error over the Y, U and V planes (BT.601, limited range), dB, infinite for equal frames;
`ssim` is All: windows of 8x8, planes weighted by their size.
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.metrics import temporal

LABEL = "FFmpeg"
BETTER = "higher"
SCALE = 1.0
NEEDS = "frames"
PIXELS = "yuv444p"
KEYS = {"psnr": "lavfi.psnr.psnr_avg", "ssim": "lavfi.ssim.All"}


class Params(params.Metric):
    """What FFmpeg says of two videos."""

    measure: Literal["psnr", "ssim"] = Field(description="the filter: psnr (dB) or ssim (0 to 1)")
    decimals: int | None = Field(
        None, ge=0, description="decimals of a frame's value: DTVNet read psnr from log files with 2; null: all"
    )


def label(p: Params) -> str:
    """Return the column's name for people."""
    return f"{p.measure.upper()} (FFmpeg)"


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    import av

    return {
        "name": label(p), "field": KEYS[p.measure], "planes": PIXELS, "images": "8 bits",
        "decimals": "all" if p.decimals is None else p.decimals, "version": f"PyAV {av.__version__}",
    }  # fmt: skip


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 in [0,1] -> (T,) float64."""

    def ffmpeg(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        values = compare(temporal.eight_bits(prediction), temporal.eight_bits(target), p.measure)
        return values if p.decimals is None else values.round(p.decimals)

    return ffmpeg


def compare(prediction: np.ndarray, target: np.ndarray, measure: str) -> np.ndarray:
    """Return what FFmpeg's filter `measure` says of two uint8 clips, (T, H, W, 3) each -> (T,)."""
    import av
    import av.filter

    height, width = target.shape[1:3]
    rate = Fraction(1, 25)
    graph = av.filter.Graph()
    ends = [
        graph.add_buffer(width=width, height=height, format=av.VideoFormat(PIXELS), time_base=rate) for _ in range(2)
    ]
    filtered, sink = graph.add(measure), graph.add("buffersink")
    for i, end in enumerate(ends):
        end.link_to(filtered, 0, i)
    filtered.link_to(sink)
    graph.configure()
    for number, pair in enumerate(zip(prediction, target, strict=True)):
        for end, image in zip(ends, pair, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=PIXELS)
            frame.pts, frame.time_base = number, rate
            end.push(frame)
    for end in ends:
        end.push(None)
    return np.array([float(sink.pull().metadata[KEYS[measure]]) for _ in target])
