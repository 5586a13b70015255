"""Predicted windows of frames: every sample of every window, written as the network gives them."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import compute
from pipeline.errors import RetakeError, log, progress
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common.predict import Run

if TYPE_CHECKING:
    from torch import Tensor

COUNTED_WINDOWS = 4  # GMACs are the mean over so many: with sampled routing they differ

Draw = Callable[[list[int], int], "Tensor"]  # (seeds, steps) -> (B, steps, 3, H, W) in [0,1]


def predict(
    run: Run,
    store: Store,
    names: list[str],
    read: Callable[[range], Draw],
    meta: dict[str, Any],
    *,
    steps: int,
    samples: int,
    counted: int,
) -> tuple[int, int]:
    """Write `steps` predicted frames of every window of the run's part; return how many were made, and how many windows at a time.

    They are stored in 16 bits, clip = name of the window, frame = step from 1, sample = draw. `read(windows)`: reads the
    inputs of these windows, by their places in `names`, and returns what predicts them. `counted`: steps of which GMACs a
    frame are counted. Raises RetakeError that names the first predicted frame with a value that is not finite.
    """
    import torch

    batch = compute.batch(run.p, run.device, store)
    meta = meta | {"samples": samples, "gmacs": _gmacs(run, len(names), read, counted)}
    with (
        run.writing(store, meta, codec="zstd", dtype="uint16") as out,
        ThreadPoolExecutor(run.p.compute.threads) as pool,
    ):
        places = run.shard.span(len(names), batch)
        for first in progress(places[::batch], unit="batch", desc=f"predict {run.name}"):
            together = range(first, min(first + batch, places.stop))
            draw = read(together)
            drawn = []
            for sample in range(samples):
                seeds = [(sample << 32) + place for place in together]
                with run.clock:
                    predicted = draw(seeds, steps)
                _check(run.name, predicted, names[first:], sample)
                levels = (predicted.float().clamp(0, 1) * 65535).round().to(torch.int32)
                drawn.append(levels.cpu().numpy().astype(np.uint16))
            write(out, pool, [names[place] for place in together], np.stack(drawn, 1))
    log.info("predicted %d windows x %d steps x %d samples", len(places), steps, samples)
    return len(places) * samples * steps, batch


def write(out: Writer, pool: ThreadPoolExecutor, names: list[str], images: np.ndarray) -> None:
    """Append the frames of some windows, (windows, samples, steps, 3, H, W) uint16, encoded by the threads of the pool."""
    places = list(np.ndindex(images.shape[:3]))

    def encoded(place: tuple[int, ...]) -> tuple[bytes, tuple[int, int]]:
        window, _, step = place
        return out.encode(names[window], step + 1, np.ascontiguousarray(images[place].transpose(1, 2, 0)))

    for (window, sample, step), (data, size) in zip(places, pool.map(encoded, places), strict=True):
        out.add(names[window], step + 1, sample=sample, encoded=data, size=size)


def _check(name: str, predicted: Tensor, names: list[str], sample: int) -> None:
    """Raise RetakeError that names the first frame of a batch (B, T, 3, H, W) with a value that is not finite."""
    import torch

    bad = ~torch.isfinite(predicted).flatten(2).all(2)
    if bad.any():
        place, step = bad.nonzero()[0].tolist()
        raise RetakeError(f"{name} predicts NaN or infinity: window {names[place]}, sample {sample}, step {step + 1}")


def _gmacs(run: Run, windows: int, read: Callable[[range], Draw], steps: int) -> float:
    """Return 10^9 multiply-adds of convolutions and matrix products for one frame, mean over a few windows."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    places = range(windows)[:: max(windows // COUNTED_WINDOWS, 1)][:COUNTED_WINDOWS]
    total = 0
    with torch.no_grad():
        for i, place in enumerate(places):
            with FlopCounterMode(display=False) as counter:
                read(range(place, place + 1))([i], steps)
            total += counter.get_total_flops()
    run.network.notes()  # what was counted is no part of what is predicted
    return round(total / 2 / len(places) / steps / 1e9, 4)
