"""Prediction stores of 16 bits, codec zstd beside raw: bytes, writing, and scoring with PSNR, SSIM and MS-SSIM.

Predictions are those of the baseline flow_warp, five steps from 15 pairs of KITTI's frames at 832x256, of a sample that lies beside the
repository; without it, of blurred noise that moves. Writing includes the disk's word that all is there (fsync).
"""

from __future__ import annotations

import functools
import itertools
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from bench.common import Row, interleave
from pipeline import params
from pipeline.sources.clips import unit
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common import windows_predict

HEIGHT, WIDTH, PAIRS, STEPS = 256, 832, 15, 5
THREADS = 2  # that encode, as `compute.threads` in the predict stage; all else has one
SAMPLE = Path(__file__).resolve().parents[2] / "shared/data/kitti_sample"


def run() -> list[Row]:
    """Return the rows of bench/results.md."""
    import torch

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    frames, what = _frames()
    predicted = _predicted(frames)
    with tempfile.TemporaryDirectory() as name:
        stores = {codec: Path(name) / f"{codec}.arrow" for codec in ("raw", "zstd")}
        write = [functools.partial(_write, path, codec, predicted) for codec, path in stores.items()]
        raw, packed = interleave(3, *write)
        size = [path.stat().st_size for path in stores.values()]
        registry = params.registry("metrics")
        metrics = [registry[k].build(registry[k].Params(kind=k), "cpu") for k in ("psnr", "ssim", "ms_ssim")]
        score = [functools.partial(_score, path, frames, metrics) for path in stores.values()]
        assert score[0]() == score[1]()
        slow, quick = interleave(3, *score)
    count = PAIRS * STEPS
    detail = f"{count} frames of {WIDTH}x{HEIGHT}, flow_warp on {what}, one thread"
    return [
        Row("predictions of 16 bits, bytes", "codec raw", size[1] / size[0], 0.6, f"{detail}, {size[0] / 1e6:.0f} against {size[1] / 1e6:.0f} MB", at_most=True),
        Row("predictions of 16 bits, writing", "codec raw", raw / packed, 1, f"{detail}, two that encode, {1000 * raw / count:.1f} against {1000 * packed / count:.1f} ms a frame"),
        Row("predictions of 16 bits, scoring", "codec raw", slow / quick, 1, f"{detail}, warm cache, {1000 * slow / count:.1f} against {1000 * quick / count:.1f} ms a frame"),
    ]  # fmt: skip


def _frames() -> tuple[list[np.ndarray], str]:
    files = sorted(SAMPLE.rglob("*.png"))[: PAIRS + 1]
    if files:
        images = [cv2.resize(cv2.imread(str(file)), (WIDTH, HEIGHT))[..., ::-1] for file in files]
        return images, "KITTI"
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH + 4 * PAIRS, 3), np.uint8)
    wide = cv2.GaussianBlur(noise, (0, 0), 2)
    return [wide[:, 4 * i : 4 * i + WIDTH] for i in range(PAIRS + 1)], "blurred noise"


def _predicted(frames: list[np.ndarray]) -> np.ndarray:
    """Return (pairs, steps, 3, height, width) uint16."""
    import torch

    registry = params.registry("models")
    network = registry["flow_warp"].build(None)
    flow = registry["dis"].build(registry["dis"].Params(kind="dis"))
    made = []
    for first, second in itertools.pairwise(frames):
        field = torch.from_numpy(flow.estimate(first, second)).permute(2, 0, 1)[None]
        pair = torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2)[None].float() / 255
        levels = (network.predict(pair, STEPS, seeds=[0], flow=field)[0].clamp(0, 1) * 65535).round()
        made.append(levels.numpy().astype(np.uint16))
    return np.stack(made)


def _write(path: Path, codec: str, predicted: np.ndarray) -> None:
    with Writer(path, codec=codec, dtype="uint16", meta={}) as out, ThreadPoolExecutor(THREADS) as pool:
        for pair, images in enumerate(predicted):
            windows_predict.write(out, pool, [str(pair)], images[None, None])


def _score(path: Path, frames: list[np.ndarray], metrics: list[Any]) -> list[float]:
    store = Store(path)
    values = []
    for pair in range(PAIRS):
        images = unit(store.read(str(pair), range(STEPS)))
        target = unit(np.stack([frames[pair + 1]] * STEPS))
        values += [float(value) for metric in metrics for value in metric(images, target)]
    return values
