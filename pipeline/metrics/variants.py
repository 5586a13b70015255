"""PSNR and SSIM as other papers and tools compute them, beside those of the registry; no registry entry of its own.

Each takes (T, H, W, 3) RGB of prediction and target. `float` ones in [0,1], `uint8` ones as saved.
"""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from pipeline.errors import RetakeError
from pipeline.metrics import temporal


def psnr_of_mean(prediction: np.ndarray, target: np.ndarray) -> float:
    """Return the PSNR (dB) of the mean squared error over all frames, float; at most the mean of the frames' PSNRs."""
    mse = float(np.mean((prediction.astype(np.float64) - target) ** 2))
    return float("inf") if mse == 0 else float(-10 * np.log10(mse))


def psnr_y(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return TecoGAN's PSNR of luma, uint8, border cropped, (T,) dB; no frames are left out here."""
    return np.array([temporal.psnr_y(*_cropped(y, x)) for x, y in zip(prediction, target, strict=True)])


def ssim_y(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Return TecoGAN's SSIM of luma, uint8, border cropped, (T,)."""
    return np.array([temporal.ssim_y(*_cropped(y, x)) for x, y in zip(prediction, target, strict=True)])


def _cropped(*images: np.ndarray) -> tuple[np.ndarray, ...]:
    top, left, height, width = temporal.border_crop(*images[0].shape[:2])
    return tuple(image[top : top + height, left : left + width] for image in images)


def ffmpeg(prediction: np.ndarray, target: np.ndarray, measure: str, pixels: str = "yuv444p") -> np.ndarray:
    """Return what FFmpeg's filter `psnr` or `ssim` says of two uint8 clips, (T,): DTVNet's numbers.

    The planes of `pixels` (BT.601, limited range), weighted by their size: psnr_avg in dB (log files round
    it to two decimals), infinite for equal frames; ssim's All of 8x8 windows. Raises RetakeError for another measure.
    """
    import av
    import av.filter

    key = {"psnr": "lavfi.psnr.psnr_avg", "ssim": "lavfi.ssim.All"}.get(measure)
    if key is None:
        raise RetakeError(f"ffmpeg measures psnr and ssim, not {measure!r}")
    height, width = target.shape[1:3]
    rate = Fraction(1, 25)
    graph = av.filter.Graph()
    ends = [
        graph.add_buffer(width=width, height=height, format=av.VideoFormat(pixels), time_base=rate) for _ in range(2)
    ]
    compare, sink = graph.add(measure), graph.add("buffersink")
    for i, end in enumerate(ends):
        end.link_to(compare, 0, i)
    compare.link_to(sink)
    graph.configure()
    values: list[float] = []
    for number, pair in enumerate(zip(prediction, target, strict=True)):
        for end, image in zip(ends, pair, strict=True):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24").reformat(format=pixels)
            frame.pts, frame.time_base = number, rate
            end.push(frame)
    for end in ends:
        end.push(None)
    while len(values) < len(target):
        found = sink.pull()
        values.append(float(found.metadata[key]))
    return np.array(values)
