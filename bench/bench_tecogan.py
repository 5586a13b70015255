"""TecoGAN: upscaling from PNG to PNG beside the published way, share of decoding and encoding, bfloat16; training steps.

The published way is the same network frame by frame: read a PNG, run the layers as they are written down (the plain
transposed convolutions and the gathering warp, default memory layout), write a PNG, then the next frame.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch

from bench.bench_training import plainly_enlarged
from bench.common import Row, interleave
from pipeline import params, upscale, weights
from pipeline.losses.slim_vgg import NAMES, SlimVgg
from pipeline.models.tecogan import network, ops, training
from pipeline.params import Params
from pipeline.sources.images import read_frame
from pipeline.tasks.super_resolution import grid, warm_up

SIZES = ((180, 144), (320, 134))  # width, height of Vid4's calendar and of Tears of Steel, low resolution
FRAMES, ROUNDS, THREADS, BLOCKS = 8, 3, 2, 16
CROP, WINDOW, BATCH = 136, 10, 1
ENTRY, STEPS = "frvsr_demo", 150  # what is trained before it upscales, with more blocks than the entry has


def run() -> list[Row]:
    """Return the rows of bench/results.md."""
    torch.set_num_threads(THREADS)
    rows = []
    p = _params()
    net = _trained(p)
    with tempfile.TemporaryDirectory() as name:
        for width, height in SIZES:
            rows += _upscaling(p, net, Path(name), width, height)
    return rows + _training()


def _params() -> Params:
    # with so many blocks the demo's rate ends at the bicubic frame
    entry = {"network": {"blocks": BLOCKS}, "train": {"lr": 3e-4}}
    return params.load({"models": {ENTRY: entry}, "compute": {"device": "cpu", "threads": THREADS}})


def _texture(width: int, height: int, frames: int, seed: int) -> np.ndarray:
    """A smooth texture that pans by a pixel a frame in both directions, (frames, height, width, 3) uint8."""
    noise = np.random.default_rng(seed).integers(0, 256, (height + frames, width + frames, 3), np.uint8)
    texture = cv2.normalize(cv2.GaussianBlur(noise, (0, 0), 1.5), None, 0, 255, cv2.NORM_MINMAX)
    return np.stack([texture[i : i + height, i : i + width] for i in range(frames)])


def _trained(p: Params) -> Any:
    """Return the network after a short training: a random one feeds noise back to itself, and its outputs are chaos."""
    entry = p.models[ENTRY]
    recipe = entry.train
    assert recipe is not None
    torch.manual_seed(0)
    net = params.registry("models")[entry.kind].build(entry)
    state = _state(net, STEPS)
    for state.step in range(STEPS):
        clips = [
            _texture(recipe.crop, recipe.crop, recipe.window, recipe.batch * state.step + i)
            for i in range(recipe.batch)
        ]
        net.training_step(torch.from_numpy(np.stack(clips)).permute(0, 1, 4, 2, 3).float() / 255, state)
    return net.eval()


def _state(net: Any, steps: int) -> Any:
    fabric = SimpleNamespace(world_size=1, autocast=lambda: torch.autocast("cpu", enabled=False))
    return SimpleNamespace(fabric=fabric, optimisers=net.configure(), step=0, steps=steps)


def _upscaling(p: Params, net: Any, folder: Path, width: int, height: int) -> list[Row]:
    checkpoint, source = folder / "net.pt", folder / f"{width}x{height}"
    weights.save(checkpoint, {"kind": "tecogan", "weights": net.state_dict(), "best": None})
    source.mkdir()
    for i, image in enumerate(_texture(width, height, FRAMES, 0)):
        cv2.imwrite(str(source / f"{i:04d}.png"), image)
    calls = iter(range(1000))

    def ours(suffix: str = "") -> None:
        output = folder / f"{width}-{next(calls)}{suffix}"
        upscale.upscale(p, source, output, checkpoint, ENTRY)

    def published() -> None:
        output = folder / f"{width}-{next(calls)}"
        output.mkdir()
        _published(net, source, output)

    plain, fast = list(_plain(net, _tensors(source))), list(net.upscale(_tensors(source)))
    difference = max(float((a - b).abs().max()) for a, b in zip(plain, fast, strict=True))
    slow, png, film = interleave(ROUNDS, published, ours, lambda: ours(".mp4"))
    made = FRAMES + len(warm_up.warm_up(FRAMES))
    images = [(255 * x[0]).clamp(0, 255).byte().permute(1, 2, 0).contiguous().numpy() for x in fast]
    frames = list(_tensors(source))
    alone, narrow = interleave(ROUNDS, lambda: list(net.upscale(frames)), lambda: _narrow(net, frames))
    reading = _seconds(lambda: [read_frame(file) for file in sorted(source.iterdir())])
    writing = _seconds(lambda: [cv2.imencode(".png", image) for image in images])
    loss = _decibel(fast, _narrow(net, frames))
    added = _decibel(fast, [grid.resize_bicubic(x) for x in frames])
    where = f"{width}x{height} to {4 * width}x{4 * height}, {BLOCKS} blocks, {FRAMES} frames and {made - FRAMES} of warm-up, {THREADS} threads"
    detail = (
        f"{where}: {FRAMES / png:.2f} frames/s to PNG, {FRAMES / film:.2f} to MP4, {FRAMES / slow:.2f} as published; outputs "
        f"differ by {difference:.0e}; the network alone {made / alone:.2f} frames/s, reading {100 * reading / png:.1f} % and "
        f"encoding PNG {100 * writing / png:.1f} % of the time if nothing overlapped; weights of {STEPS} steps"
    )
    return [
        Row(f"TecoGAN upscale {width}x{height}, PNG to PNG", "frame by frame as published", slow / png, 1.3, detail),
        Row(
            f"TecoGAN network {width}x{height}, bfloat16",
            "float32, both channels_last",
            alone / narrow,
            1,
            f"{where}: {made / narrow:.2f} frames/s; outputs {loss:.1f} dB from float32's, which are {added:.1f} dB from bicubic",
        ),
    ]


def _tensors(source: Path) -> Iterator[torch.Tensor]:
    for file in sorted(source.iterdir()):
        yield torch.from_numpy(read_frame(file)).permute(2, 0, 1)[None].float() / 255


def _plain(net: Any, frames: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Yield what `net.upscale` does, by the plain layers."""
    with (
        mock.patch.object(network, "for_cpu", lambda x: x),
        mock.patch.object(network.Generator, "_enlarged", plainly_enlarged),
        mock.patch.object(ops, "warp", ops.warp_gather),
    ):
        yield from net.upscale(frames)


def _published(net: Any, source: Path, output: Path) -> None:
    """Read, upscale and write one frame after the other."""
    for i, result in enumerate(_plain(net, _tensors(source))):
        image = (255 * result[0]).clamp(0, 255).byte().permute(1, 2, 0).numpy()
        cv2.imwrite(str(output / f"output_{i:04d}.png"), image[..., ::-1])


def _narrow(net: Any, frames: list[torch.Tensor]) -> list[torch.Tensor]:
    with torch.autocast("cpu", torch.bfloat16):
        return list(net.upscale(frames))


def _decibel(first: list[torch.Tensor], second: list[torch.Tensor]) -> float:
    error = (torch.cat(first).clamp(0, 1) - torch.cat(second).clamp(0, 1)).square().mean()
    return float(-10 * error.clamp_min(1e-20).log10())


def _seconds(action: Any) -> float:
    action()
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def _training() -> list[Row]:
    """The whole TecoGAN step, and the same with features of every target frame made anew in both directions."""
    p = _params().models["tecogan"]
    assert p.train is not None
    recipe = p.train.model_copy(update={"start": None, "window": WINDOW, "crop": CROP})
    entry = p.model_copy(update={"train": recipe, "network": p.network.model_copy(update={"blocks": BLOCKS})})
    torch.manual_seed(0)
    net = params.registry("models")[p.kind].build(entry)
    net._vgg = _random_vgg()
    state = _state(net, 1)
    batch = torch.rand(BATCH, WINDOW, 3, CROP, CROP)

    def again() -> None:
        features = net._vgg.features

        def every(images: torch.Tensor) -> list[torch.Tensor]:
            """Of the targets' n frames: what the published graph's 2n - 1 cost."""
            if len(images) == BATCH * WINDOW:
                features(torch.cat([images, images[: BATCH * (WINDOW - 1)]]))
            return features(images)

        with mock.patch.object(net._vgg, "features", every):
            net.training_step(batch, state)

    slow, fast = interleave(ROUNDS, again, lambda: net.training_step(batch, state))
    low, target = grid.degrade_crops(batch)
    found = training.losses(net, low, 2 * target - 1, recipe, net._vgg)
    order = [*range(WINDOW), *range(WINDOW - 2, -1, -1)]
    with torch.no_grad():
        targets = (2 * target - 1)[:, order].flatten(0, 1)
        plain = sum(net._vgg.distances(net._vgg.features(found.output.flatten(0, 1)), net._vgg.features(targets)))
    detail = (
        f"batch {BATCH}, window {WINDOW}, crop {CROP}, {BLOCKS} blocks, ping-pong, VGG and discriminator, {THREADS} threads: "
        f"{1 / fast:.3f} steps/s; VGG loss {float(found.values['vgg_all']):.6f}, with all features {float(plain):.6f}"
    )
    return [
        Row("TecoGAN training step, target features once", "recomputed for every frame played", slow / fast, 1, detail)
    ]


def _random_vgg() -> SlimVgg:
    """VGG19 of the true shapes: its speed does not depend on its weights."""
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    state: dict[str, torch.Tensor] = {}
    for name, inputs, outputs in zip(NAMES[::2], widths, widths[1:], strict=False):
        state[name] = torch.randn(3, 3, inputs, outputs) * (2 / (9 * inputs)) ** 0.5
        state[name.replace("weights", "biases")] = torch.zeros(outputs)
    return SlimVgg(state)
