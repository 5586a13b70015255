"""What it costs to verify stored images while they are read, as a share of scoring and of the flow stage's estimates."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.common import Row

HEIGHT, WIDTH, FRAMES, HORIZON = 256, 832, 40, 5
GOAL = 0.03  # of a stage's time


def run() -> list[Row]:
    import cv2
    import numpy as np
    import torch

    from pipeline import params
    from pipeline.sources.clips import unit
    from pipeline.store.frames import Store, Writer

    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (FRAMES, HEIGHT, WIDTH, 3), np.uint8)
    registry = params.registry("metrics")
    metrics = {k: registry[k].build(registry[k].Params(kind=k), "cpu") for k in ("psnr", "ssim", "ms_ssim")}
    dis = params.registry("models")["dis"]
    estimator = dis.build(dis.Params(kind="dis"))

    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("frames.arrow", "predictions.arrow")]
        for path, dtype, scale in zip(paths, ("uint8", "uint16"), (1, 257), strict=True):
            with Writer(path, codec="raw", dtype=dtype, meta={}) as out:
                for number, image in enumerate(clip):
                    out.add("clip", number, image.astype(dtype) * np.array(scale, dtype), source="")

        def score(*names: str) -> None:
            stores = [Store(path) for path in paths]
            for start in range(0, FRAMES, HORIZON):
                pair = [unit(store.read("clip", range(start, start + HORIZON))) for store in stores]
                for name in names:
                    metrics[name](*pair)

        def flow() -> None:
            store = Store(paths[0])
            for row in range(FRAMES - 1):
                estimator.estimate(store.image(row), store.image(row + 1))

        what = f"{WIDTH}x{HEIGHT}, {FRAMES} frames, raw, one thread, warm cache"
        return [
            _row("verifying checksums: scoring, PSNR and SSIM", lambda: score("psnr", "ssim"), what),
            _row("verifying checksums: scoring, and MS-SSIM", lambda: score(*metrics), what),
            _row("verifying checksums: flow by DIS", flow, what),
        ]


def _row(name: str, action: Callable[[], Any], what: str) -> Row:
    """Return the share of an action's time that is spent in the store's checksums; of five runs the middle one."""
    from pipeline.store import frames

    verify, spent = frames._checksum, 0.0

    def timed(batch: Any) -> str:
        nonlocal spent
        start = time.perf_counter()
        digest = verify(batch)
        spent += time.perf_counter() - start
        return digest

    frames._checksum = timed
    shares = []
    try:
        for _ in range(6):
            spent, start = 0.0, time.perf_counter()
            action()
            whole = time.perf_counter() - start
            shares.append((spent / whole, spent, whole))
    finally:
        frames._checksum = verify
    share, spent, whole = sorted(shares[1:])[2]
    return Row(name, "the whole", share, GOAL, f"{what}, {1000 * spent:.1f} of {1000 * whole:.0f} ms", at_most=True)
