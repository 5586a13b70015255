"""Fréchet distance at 2048 features, against scipy's sqrtm of the product of covariances, as pytorch-fid takes it."""

from __future__ import annotations

import time
import tracemalloc

from bench.common import Row, interleave


def run() -> list[Row]:
    import numpy as np
    import torch
    from scipy import linalg
    from threadpoolctl import threadpool_limits

    from pipeline.metrics import frechet

    torch.set_num_threads(1)
    threadpool_limits(1)
    rng = np.random.default_rng(0)
    mix = rng.normal(size=(2048, 2048)).astype(np.float32) * np.geomspace(1, 1e-2, 2048, dtype=np.float32)
    result = []
    for rows in (256, 1000):
        a, b = (np.abs(rng.normal(size=(rows, 2048)).astype(np.float32) @ mix) for _ in range(2))

        def ours(a: np.ndarray = a, b: np.ndarray = b) -> float:
            return frechet.distance(a, b)

        def scipys(a: np.ndarray = a, b: np.ndarray = b) -> float:
            c1, c2 = (np.cov(x.astype(np.float64), rowvar=False) for x in (a, b))
            root = linalg.sqrtm(c1 @ c2)
            return float(((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(c1 + c2) - 2 * np.trace(root).real)

        start = time.perf_counter()
        expected = scipys()
        slow = time.perf_counter() - start
        (quick,) = interleave(5, ours)
        peaks = []
        for action in (ours, scipys):
            tracemalloc.start()
            action()
            peaks.append(tracemalloc.get_traced_memory()[1] / 2**20)
            tracemalloc.stop()
        off = abs(ours() / expected - 1)
        detail = (
            f"one thread, {slow:.1f} s against {1000 * quick:.0f} ms, values apart by {off:.0e}, "
            f"arrays at peak {peaks[1]:.0f} MiB against {peaks[0]:.0f}"
        )
        result.append(
            Row(f"Fréchet distance, 2048 features, N = {rows}", "scipy.linalg.sqrtm", slow / quick, 50, detail)
        )
    return result
