"""i2v-cINN: clips read against PNGs and tensors as published, sampling by batch, training steps with the loader's share."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from bench.common import Row, interleave

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

FRAMES, SIDE = 17, 64


def run() -> list[Row]:
    import torch

    torch.set_num_threads(1)
    return [loader(), sampling(), steps()]


def loader() -> Row:
    """Return how much faster a training clip of BAIR is read and augmented than from PNGs with tensors."""
    import cv2

    from pipeline.losses.augment import Augment, augment
    from pipeline.store.frames import Store, Writer

    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 256, (30, 8, 8 * 3), np.uint8).transpose(1, 2, 0), (64 * 3, 64))
    clip = np.ascontiguousarray(smooth.reshape(64, 64, 3, 30).transpose(3, 0, 1, 2))
    recipe = Augment()
    with tempfile.TemporaryDirectory() as folder:
        with Writer(Path(folder) / "store.arrow", codec="raw", meta={}) as out:
            for number, image in enumerate(clip):
                out.add("clip", number, image)
                cv2.imwrite(f"{folder}/{number}.png", image[..., ::-1])
        store = Store(Path(folder) / "store.arrow")

        def published() -> Tensor:
            return torch_way([f"{folder}/{number}.png" for number in range(FRAMES)], rng)

        def ours() -> Any:
            return augment(store.read("clip", range(FRAMES)), rng, SIDE, recipe)

        slow, fast = interleave(15, published, ours)
    told = f"{FRAMES} frames of 64x64, one thread, {1000 * slow:.1f} against {1000 * fast:.2f} ms a clip"
    return Row("a training clip, read and augmented", "PNGs, and the jitter on tensors", slow / fast, 10, told)


def torch_way(files: list[str], rng: np.random.Generator) -> Tensor:
    """Return a clip as the published loader makes it: PNGs by OpenCV, kornia's jitter re-created on tensors in [0,1]."""
    import cv2
    import torch

    images = [cv2.imread(file)[..., ::-1] for file in files]
    x = torch.stack([torch.from_numpy(image.copy()).permute(2, 0, 1).float() / 255 for image in images])
    if rng.random() < 0.5:
        x = x.flip(-1)
    brightness, contrast, saturation = (float(1 + 0.1 * rng.uniform(-1, 1)) for _ in range(3))
    for step in rng.permutation(4):
        if step == 0:
            x = (x + brightness - 1).clamp(0, 1)
        elif step == 1:
            x = (x * contrast).clamp(0, 1)
        else:  # saturation and hue, each there and back
            h, s, v = hsv(x)
            x = rgb(h, (s * saturation).clamp(0, 1) if step == 2 else s, v)
    return (x - 0.5) / 0.5


def hsv(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue in [0,1), saturation and value of RGB (n, 3, h, w)."""
    import torch

    value, place = x.max(1)
    span = value - x.min(1)[0]
    r, g, b = (((value - channel) / (span + 1e-8)) for channel in x.unbind(1))
    hue = torch.stack([b - g, 2 + r - b, 4 + g - r]).gather(0, place[None])[0]
    return (hue / 6) % 1, span / (value + 1e-8), value


def rgb(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Return RGB (n, 3, h, w) of hue in [0,1), saturation and value."""
    import torch

    sector = hue * 6
    f = sector - sector.floor()
    p, q, t = value * (1 - saturation), value * (1 - f * saturation), value * (1 - (1 - f) * saturation)
    table = torch.stack([value, q, p, p, t, value, t, value, value, q, p, p, p, p, t, value, value, q])
    which = sector.long() % 6
    return torch.stack([table.gather(0, (which + 6 * channel)[None])[0] for channel in range(3)], 1)


def small() -> Any:
    """Return the networks of the demo, new."""
    from pipeline import params

    entry = params.load().models["cinn_push"]
    return params.registry("models")["cinn"].build(entry)


def sampling() -> Row:
    """Return how many more clips a second are drawn eight at a time than one by one."""
    import torch

    model = small().eval()
    start = torch.rand(8, 1, 3, 32, 32)
    with torch.no_grad():
        model.flow(torch.randn(64, 64), torch.randn(64, model.flow.condition))  # sets ActNorm
        one, eight = interleave(
            3,
            lambda: model.predict(start[:1], 16, seeds=[0]),
            lambda: model.predict(start, 16, seeds=list(range(8))),
        )
    told = f"the demo's networks, 16 frames of 32x32, one thread, {1 / one:.1f} and {8 / eight:.1f} clips/s at batch 1 and 8"
    return Row("sampling, batch 8", "batch 1", 8 * one / eight, 1, told)


def steps() -> Row:
    """Return the loader's share of a training step of stage 1, the demo's; steps a second of all three trainings."""
    import contextlib

    import torch

    from pipeline import params
    from pipeline.losses.augment import augment

    fabric = SimpleNamespace(
        world_size=1,
        autocast=contextlib.nullcontext,
        backward=lambda loss: loss.backward(),
        all_reduce=lambda value, **_: value,
    )
    entries = params.load().models
    clip = np.random.default_rng(0).integers(0, 256, (FRAMES, 32, 32, 3), np.uint8)
    seconds = {}
    for name, frames in (("cinn_push_stage1", FRAMES), ("cinn_push_encoder", 1), ("cinn_push", FRAMES)):
        entry = entries[name]
        model = params.registry("models")[entry.kind].build(entry)
        assert entry.train is not None
        if name == "cinn_push":
            model.start_from = lambda *_: None
            optimisers = {"adam": torch.optim.Adam(model.flow.parameters(), lr=1e-5)}
        else:
            optimisers = model.configure()
        state = SimpleNamespace(fabric=fabric, module=model, optimisers=optimisers, step=0, steps=10)
        batch = {"clip": torch.rand(entry.train.batch, frames, 3, 32, 32)}
        model.training_step(batch, state)
        begun = time.perf_counter()
        for _ in range(2):
            model.training_step(batch, state)
        seconds[name] = (time.perf_counter() - begun) / 2
    recipe, rng = entries["cinn_push_stage1"].train, np.random.default_rng(0)
    begun = time.perf_counter()
    for _ in range(recipe.batch):  # type: ignore[union-attr]
        augment(clip, rng, 32, recipe.augment)  # type: ignore[union-attr]
    share = (time.perf_counter() - begun) / seconds["cinn_push_stage1"]
    told = ", ".join(f"{name} {1 / each:.2f} steps/s" for name, each in seconds.items())
    return Row("share of loading in a step of stage 1", "the step", share, 0.1, f"one thread; {told}", at_most=True)
