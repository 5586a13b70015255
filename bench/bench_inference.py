"""DMVFN inference: a batch with per-sample routing against the loop over batch 1."""

from __future__ import annotations

from bench.common import Row, interleave


def run() -> list[Row]:
    import numpy as np
    import torch

    from pipeline import params

    torch.set_num_threads(2)
    p = params.load()
    model = p.models["dmvfn"]
    network = params.registry("models")[model.kind].build(model).eval()
    rows = []
    for height, width, batch in ((192, 320, 8), (256, 832, 8)):
        frames = torch.from_numpy(np.random.default_rng(0).random((batch, 2, 3, height, width), np.float32))

        def loop(frames: torch.Tensor = frames) -> None:
            with torch.no_grad():
                for i in range(len(frames)):
                    network.predict(frames[i : i + 1], 1, seeds=[i], flow=None)

        def batched(frames: torch.Tensor = frames) -> None:
            with torch.no_grad():
                network.predict(frames, 1, seeds=list(range(len(frames))), flow=None)

        slow, fast = interleave(3, loop, batched)
        detail = f"batch {batch}, sampled routing, 2 threads, {1000 * slow / batch:.0f} ms a frame in the loop, {1000 * fast / batch:.0f} ms batched"
        rows.append(Row(f"DMVFN inference {width}x{height}", "batch-1 loop", slow / fast, 1.2, detail))
    return rows
