"""DTVNet: clips made one by one and together, a training step beside the published order, prepared clips beside published reading.

The published step scores generated and real videos apart, lets the penalty's gradients reach the generator, and throws them
away; the published reader decodes and resizes every JPEG with Pillow and loads every field's .npy at each access.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from PIL import Image

from bench.common import Row, interleave
from pipeline import params
from pipeline.models.dtvnet import FRAMES, SIZE
from pipeline.models.dtvnet.network import gradient_penalty
from pipeline.store.frames import Store, Writer
from pipeline.tasks.animation import clips
from tests.test_dtvnet import published_step

BATCH, TOGETHER, ROUNDS, THREADS = 2, 8, 3, 2
STORED = (360, 640)  # Sky Time-lapse's frames


def run() -> list[Row]:
    """Return the rows of bench/results.md."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    entry = params.load().models["dtvnet"]
    net = params.registry("models")["dtvnet"].build(entry)
    with tempfile.TemporaryDirectory() as folder:
        reading, load = _reading(Path(folder))
    return [_inference(net), _training(net, load), reading]


def _inference(net: Any) -> Row:
    start = torch.rand(TOGETHER, 1, 3, SIZE, SIZE)
    apart, together = interleave(
        ROUNDS,
        lambda: [net.predict(start[i : i + 1], FRAMES, seeds=[i]) for i in range(TOGETHER)],
        lambda: net.predict(start, FRAMES, seeds=list(range(TOGETHER))),
    )
    detail = f"{SIZE}x{SIZE}, {FRAMES} frames, {THREADS} threads: {TOGETHER / apart:.2f} clips/s at batch 1, {TOGETHER / together:.2f} at batch {TOGETHER}"
    return Row(f"DTVNet, {TOGETHER} clips together", "one by one", apart / together, 1, detail)


def _training(net: Any, load: float) -> Row:
    """One step; `load`: seconds to read a clip."""
    batch = {"clip": torch.rand(BATCH, FRAMES, 3, SIZE, SIZE), "flow": torch.randn(BATCH, FRAMES, 2, SIZE, SIZE)}
    fabric = SimpleNamespace(world_size=1, autocast=lambda: torch.autocast("cpu", enabled=False))
    state = SimpleNamespace(fabric=fabric, optimisers=net.configure(), step=0, steps=100)

    def step() -> None:
        net.discriminator.requires_grad_(True)  # the published step leaves it frozen
        net.training_step(batch, state)

    slow, fast = interleave(ROUNDS, lambda: published_step(net, batch, state.optimisers), step)
    video = batch["clip"].transpose(1, 2).contiguous()
    weights = list(net.discriminator.requires_grad_(True).parameters())

    def penalty() -> None:
        loss = gradient_penalty(net.discriminator, video, video.flip(0), torch.rand(BATCH, 1))
        torch.autograd.grad(loss, weights)

    penalty()
    start = time.perf_counter()
    penalty()
    share = (time.perf_counter() - start) / fast
    detail = (
        f"batch {BATCH} of {FRAMES} frames {SIZE}x{SIZE}, {THREADS} threads: {1 / fast:.3f} steps/s; the gradient penalty is "
        f"{share:.0%} of a step; reading its clips takes {BATCH * load / fast:.1%} as long, and overlaps with it"
    )
    return Row("DTVNet training step", "the published order", slow / fast, 1.3, detail)


def _reading(folder: Path) -> tuple[Row, float]:
    """A clip with its flow from the stores, and as published; also the seconds of the first."""
    noise = np.random.default_rng(0).integers(0, 256, (*STORED, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 4), None, 0, 255, cv2.NORM_MINMAX)
    pictures = [np.roll(texture, 2 * i, axis=1) for i in range(FRAMES)]
    field = cv2.GaussianBlur(np.random.default_rng(1).normal(size=(SIZE, SIZE, 2)).astype(np.float32), (0, 0), 8) * 20
    meta = {"dataset": "sky", "estimator": "any", "export": "sky"}
    for i, picture in enumerate(pictures):
        cv2.imwrite(str(folder / f"{i:08d}.jpg"), picture)
        np.save(folder / f"{i:08d}.npy", field)
    with (
        Writer(folder / "frames.arrow", codec="raw", meta=meta) as frames,
        Writer(folder / "flow.arrow", codec="flow64", dtype="float32", channels=2, meta=meta) as flow,
    ):
        for i in range(FRAMES):
            frames.add("clip", i, _small(folder / f"{i:08d}.jpg"))
            flow.add("clip", i, field)
    stored, fields = Store(folder / "frames.arrow"), Store(folder / "flow.arrow")

    def published() -> None:
        for i in range(FRAMES):
            _small(folder / f"{i:08d}.jpg")
            np.load(folder / f"{i:08d}.npy")

    def ours() -> None:
        stored.read("clip", range(FRAMES))
        clips.flow(fields, stored, "clip", range(FRAMES))

    slow, fast = interleave(5, published, ours)
    detail = f"{FRAMES} frames and fields: {1 / fast:.1f} clips/s, {1 / slow:.1f} as published, from JPEGs of {STORED[1]}x{STORED[0]}"
    return Row(
        "DTVNet, read a training clip", "JPEG, Pillow's resize, .npy at each access", slow / fast, 20, detail
    ), fast


def _small(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB").resize((SIZE, SIZE), Image.Resampling.BILINEAR))
