"""DMVFN's and FRVSR's training as a user meets it, loader to optimiser, beside the published loops, re-created here.

Published: a folder of PNGs a window, decoded whole, stacked, cropped and augmented, each time that the clip is drawn. DMVFN: planes
in memory, each frame warped by itself, the target's pyramid made anew for each of the nine predictions. FRVSR: its usual port to
PyTorch, planes in memory, plain transposed convolutions, `grid_sample` in float32.
"""

from __future__ import annotations

import contextlib
import copy
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import cv2
import numpy as np
import torch
from torch.nn import functional

from bench.bench_inference import published_block, published_warp
from bench.common import Row, interleave
from pipeline import params
from pipeline.losses import laplacian
from pipeline.models.dmvfn import BLOCKS
from pipeline.models.dmvfn.network import DISCOUNT
from pipeline.models.tecogan import network, ops
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common.train import TrainingClips

WIDTH, HEIGHT, FRAMES, BATCH, ROUNDS, EQUAL_STEPS = 832, 256, 12, 2, 3, 2


def run() -> list[Row]:
    """Return the rows of bench/results.md."""
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as name:
        store = _stored(Path(name))
        return [*_dmvfn(Path(name), store), *_frvsr(Path(name), store)]


def _dmvfn(folder: Path, store: Store) -> list[Row]:
    entry = params.load().models["dmvfn"]
    recipe = entry.train.model_copy(update={"batch": BATCH, "vgg_weight": 0})
    torch.manual_seed(0)
    net = params.registry("models")["dmvfn"].build(entry.model_copy(update={"train": recipe}))
    plain, state = copy.deepcopy(net), _state(net)
    optimiser = torch.optim.AdamW(plain.parameters(), lr=recipe.min_lr, weight_decay=recipe.weight_decay)
    published, ours = _loaders(folder, store, recipe, net)

    def published_step(batch: torch.Tensor) -> float:
        return _published_step(plain, batch, optimiser)

    def step(batch: torch.Tensor) -> float:
        return net.training_step(batch.float() / 255, state)["loss"]

    losses = _equal_steps(ours(), published_step, step)
    times = interleave(ROUNDS, lambda: published_step(published()), lambda: step(ours()), published, ours)
    return _rows("DMVFN", f"crop {recipe.crop}, window {recipe.window}, batch {BATCH}, no VGG", losses, times)


def _frvsr(folder: Path, store: Store) -> list[Row]:
    entry = params.load().models["frvsr"]
    recipe = entry.train.model_copy(update={"batch": BATCH})
    torch.manual_seed(0)
    net = params.registry("models")["tecogan"].build(entry.model_copy(update={"train": recipe}))
    ported, state = copy.deepcopy(net), _state(net)
    ported_state = _state(ported)
    published, ours = _loaders(folder, store, recipe, net)

    def ported_step(batch: torch.Tensor) -> float:
        with (
            mock.patch.object(network, "for_cpu", lambda x: x),
            mock.patch.object(network.Generator, "_enlarged", plainly_enlarged),
            mock.patch.object(ops, "warp", _warp),
        ):
            return ported.training_step(batch.float() / 255, ported_state)["All_loss_Gen"]

    def step(batch: torch.Tensor) -> float:
        return net.training_step(batch.float() / 255, state)["All_loss_Gen"]

    losses = _equal_steps(ours(), ported_step, step)
    times = interleave(ROUNDS, lambda: ported_step(published()), lambda: step(ours()), published, ours)
    where = f"crop {recipe.crop}, window {recipe.window}, batch {BATCH}, {entry.network.blocks} blocks"
    return _rows("FRVSR", where, losses, times)


def _equal_steps(batch: torch.Tensor, *steps: Callable[[torch.Tensor], float]) -> list[float]:
    """Return each side's loss after the same steps from the same weights on one batch, with the same draws."""
    losses = []
    for step in steps:
        torch.manual_seed(0)
        losses.append([step(batch) for _ in range(EQUAL_STEPS)][-1])
    return losses


def plainly_enlarged(self: Any, x: torch.Tensor) -> torch.Tensor:
    """Return what TecoGAN's generator adds, by the layers as they are written down."""
    first, second = self.conv_tran2highres.conv_tran1, self.conv_tran2highres.conv_tran2
    return self.output_stage.conv(torch.relu(second(torch.relu(first(x)))))


def _warp(image: torch.Tensor, flow: torch.Tensor) -> torch.Tensor:
    return published_warp(image, -flow.flip(1))  # there y comes first, and what is sampled lies at p - flow(p)


def _state(net: Any) -> Any:
    fabric = SimpleNamespace(backward=lambda loss: loss.backward(), autocast=contextlib.nullcontext, world_size=1)
    return SimpleNamespace(fabric=fabric, module=net, optimisers=net.configure(), step=0, steps=100)


def _loaders(
    folder: Path, store: Store, recipe: Any, net: Any
) -> tuple[Callable[[], torch.Tensor], Callable[[], torch.Tensor]]:
    """Return what loads a batch (B, n, 3, h, w) uint8 from folders of PNGs, and from the store."""
    clips = TrainingClips(store, recipe, net.augment)
    folders = _folders(folder, store, recipe.window)
    rng = np.random.default_rng(0)

    def published() -> torch.Tensor:
        return torch.stack([_read(folders[i % len(folders)], recipe.crop, net, rng) for i in range(BATCH)])

    def ours() -> torch.Tensor:
        return torch.stack([clips[0, i % len(clips)] for i in range(BATCH)])

    return published, ours


def _rows(name: str, where: str, losses: list[float], times: list[float]) -> list[Row]:
    slow, fast, read, opened = times
    where += ", 2 threads, no loader processes"
    equal = f"loss after {EQUAL_STEPS} equal steps {losses[1]:.6f}, theirs {losses[0]:.6f}"
    return [
        Row(
            f"{name} training, loader to optimiser", "published loop re-created", slow / fast, 1.5,
            f"{where}: {BATCH / fast:.3f} against {BATCH / slow:.3f} clips/s; {equal}",
        ),
        Row(
            f"{name} training, share of loading", "the whole step", opened / fast, 0.1,
            f"{where}: {1000 * opened / BATCH:.1f} ms a clip, from PNG folders {1000 * read / BATCH:.1f}", at_most=True,
        ),
    ]  # fmt: skip


def _published_step(net: Any, clips: torch.Tensor, optimiser: torch.optim.Optimizer) -> float:
    """Take the optimiser steps of a batch (B, n, 3, h, w) uint8, one for each three consecutive frames; return the mean loss."""
    clips = clips.flip(2).float() / 255
    losses = []
    for j in range(clips.shape[1] - 2):
        (first, second), target = clips[:, j : j + 2].unbind(1), clips[:, j + 2]
        pair = torch.cat([first, second], 1)
        p = torch.sigmoid(net.l1(functional.adaptive_avg_pool2d(net.routing(pair), 1).flatten(1)))
        p = (BLOCKS / 2 * p / (p.sum(1, keepdim=True) + 1e-6)).clamp(0, 1)
        gates = (torch.rand_like(p) < p).float() + p - p.detach()
        flow, mask = pair.new_zeros(len(pair), 4, *pair.shape[2:]), pair.new_zeros(len(pair), 1, *pair.shape[2:])
        warped, loss = [first, second], torch.zeros(())
        for i, (block, scale) in enumerate(net.blocks()):
            found = published_block(block, torch.cat([first, second, *warped, mask], 1), flow, scale)
            now, mask_now, gate = flow + found[:, :4], mask + found[:, 4:], gates[:, i].view(-1, 1, 1, 1)
            flow, mask = flow + found[:, :4] * gate, mask + found[:, 4:] * gate
            warped = [published_warp(first, flow[:, :2]), published_warp(second, flow[:, 2:])]
            share = torch.sigmoid(mask_now if i < BLOCKS - 1 else mask)
            ends = [published_warp(first, now[:, :2]), published_warp(second, now[:, 2:])] if i < BLOCKS - 1 else warped
            made = (ends[0] * share + ends[1] * (1 - share)).clamp(0, 1)
            loss = loss + DISCOUNT ** (BLOCKS - 1 - i) * _published_laplacian(made, target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return sum(losses) / len(losses)


def _published_laplacian(prediction: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Return the loss of one prediction, (N, 3, H, W): both pyramids by padded 5x5 convolutions of each channel."""
    line = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0])
    kernel = (torch.outer(line, line) / 256).expand(3, 1, 5, 5)

    def blurred(x: torch.Tensor, scale: int = 1) -> torch.Tensor:
        return functional.conv2d(functional.pad(x, (2, 2, 2, 2), mode="reflect"), scale * kernel, groups=3)

    def bands(x: torch.Tensor) -> Iterator[torch.Tensor]:
        for _ in range(laplacian.LEVELS):
            smaller, spread = blurred(x)[:, :, ::2, ::2], torch.zeros_like(x)
            spread[:, :, ::2, ::2] = smaller
            yield x - blurred(spread, 4)
            x = smaller

    pairs = zip(bands(prediction), bands(target), strict=True)
    return sum(((one - two).abs().mean() for one, two in pairs), start=torch.zeros(()))


def _stored(folder: Path) -> Store:
    """Return a raw store of one clip with the entropy of photographs, that pans by a pixel a frame."""
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (32, 104, 3), np.uint8)
    base = cv2.resize(coarse, (WIDTH + FRAMES, HEIGHT), interpolation=cv2.INTER_CUBIC)
    wide = np.clip(base + rng.normal(0, 8, base.shape), 0, 255).astype(np.uint8)
    with Writer(folder / "store.arrow", codec="raw", meta={}) as out:
        for i in range(FRAMES):
            out.add("clip", i, np.ascontiguousarray(wide[:, i : i + WIDTH]))
    return Store(folder / "store.arrow")


def _folders(folder: Path, store: Store, window: int) -> list[Path]:
    """Write a folder of PNGs for each window."""
    made = []
    for start in range(FRAMES - window + 1):
        made.append(folder / f"{window} from {start}")
        made[-1].mkdir()
        for i, image in enumerate(store.read("clip", range(start, start + window))):
            cv2.imwrite(str(made[-1] / f"{i:02d}.png"), image[..., ::-1])
    return made


def _read(folder: Path, crop: int, net: Any, rng: np.random.Generator) -> torch.Tensor:
    images = np.stack([cv2.imread(str(path)) for path in sorted(folder.iterdir())])
    left = int(rng.integers(WIDTH - crop + 1))
    images = net.augment(images[:, :crop, left : left + crop], rng)
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


if __name__ == "__main__":
    print(run())
