"""i2v-cINN: clips read against PNGs and tensors as published, sampling by batch, training steps with the loader's share."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import numpy as np

from bench.common import Row, interleave

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

    from pipeline.store.frames import Store

FRAMES, SIDE = 17, 64
IN_TURN = 8  # clips that a loader makes one after the other


def run() -> list[Row]:
    import torch

    torch.set_num_threads(1)
    return [loader(), *sampling(), *loading(), memory_layout(), resizes()]


def loader() -> Row:
    """Return how much faster a training clip of BAIR is read and augmented than from PNGs with tensors."""
    import cv2

    from pipeline.losses.augment import Augment, augment

    rng, recipe = np.random.default_rng(0), Augment()
    with tempfile.TemporaryDirectory() as folder:
        store = stored(folder, SIDE)
        for number, image in enumerate(store.read("clip", range(FRAMES))):
            cv2.imwrite(f"{folder}/{number}.png", image[..., ::-1])

        def published() -> None:
            for _ in range(IN_TURN):
                torch_way([f"{folder}/{number}.png" for number in range(FRAMES)], rng)

        def ours() -> None:
            for _ in range(IN_TURN):
                augment(store.read("clip", range(FRAMES)), rng, SIDE, recipe)

        slow, fast = (seconds / IN_TURN for seconds in interleave(45, published, ours))
    told = f"{FRAMES} frames of 64x64, one thread, {1000 * slow:.1f} against {1000 * fast:.2f} ms a clip"
    return Row("a training clip, read and augmented", "PNGs, and the jitter on tensors", slow / fast, 10, told)


def stored(folder: str, side: int) -> Store:
    """Return a raw store with one clip of 30 smooth frames."""
    import cv2

    from pipeline.store.frames import Store, Writer

    coarse = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 3), np.uint8)
    with Writer(Path(folder) / "store.arrow", codec="raw", meta={}) as out:
        for number, image in enumerate(coarse):
            out.add("clip", number, cv2.resize(image, (side, side)))
    return Store(Path(folder) / "store.arrow")


def torch_way(files: list[str], rng: np.random.Generator) -> Tensor:
    """Return a clip as the published loader makes it: PNGs by OpenCV, kornia's jitter re-created on tensors in [0,1]."""
    import cv2
    import torch

    images = [np.asarray(cv2.imread(file))[..., ::-1] for file in files]
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


def sampling() -> list[Row]:
    """Return how many more clips a second are drawn eight and 32 at a time than one by one, by the demo's networks."""
    import torch

    model = built("cinn_push").eval()
    start = torch.rand(32, 1, 3, 32, 32)

    def draw(count: int) -> Callable[[], Any]:
        return lambda: model.predict(start[:count], 16, seeds=list(range(count)))

    with torch.no_grad():
        model.flow(torch.randn(64, 64), torch.randn(64, model.flow.condition))  # sets ActNorm
        one, eight, many = interleave(3, draw(1), draw(8), draw(32))
    told = "the demo's networks, 16 frames of 32x32, one thread, {:.1f} against {:.1f} clips/s"
    return [
        Row(f"sampling, batch {count}", "batch 1", count * one / each, 1, told.format(count / each, 1 / one))
        for count, each in ((8, eight), (32, many))
    ]


def loading() -> list[Row]:
    """Return how long the clips of a batch are read and augmented, as a share of a step, in each of the demo's trainings."""
    import torch

    from pipeline.losses.augment import augment

    rows = []
    for name, frames in (("cinn_push_stage1", FRAMES), ("cinn_push_encoder", 1), ("cinn_push", FRAMES)):
        model = built(name)
        recipe, rng = model.p.train, np.random.default_rng(0)
        step = stepping(model, torch.rand(recipe.batch, frames, 3, 32, 32))
        with tempfile.TemporaryDirectory() as folder:
            store = stored(folder, 32)

            def load(store: Any = store, recipe: Any = recipe, frames: int = frames, rng: Any = rng) -> None:
                for _ in range(recipe.batch):
                    augment(store.read("clip", range(frames)), rng, 32, recipe.augment)

            loaded, stepped = interleave(3, load, step)
        told = f"{name}, batch {recipe.batch}, 32x32, one thread, {1000 * loaded:.1f} ms, {1 / stepped:.2f} steps/s"
        rows.append(Row(f"loading, {name}", "a training step", loaded / stepped, 0.1, told, at_most=True))
    return rows


def memory_layout() -> Row:
    """Return how much faster a step of stage 1 is in channels_last_3d."""
    import torch

    plain, changed = (built("cinn_push_stage1", size=SIDE, train={"pretrain": 0}) for _ in range(2))
    for weight in changed.parameters():
        if weight.dim() == 5:
            weight.data = weight.data.contiguous(memory_format=torch.channels_last_3d)
    clip = torch.rand(4, FRAMES, 3, SIDE, SIDE)
    slow, fast = interleave(2, stepping(plain, clip), stepping(changed, clip))
    told = f"channel_factor 8, batch 4, {SIDE}x{SIDE}, discriminators too, one thread, {slow:.2f} against {fast:.2f} s"
    return Row("stage 1's step, channels_last_3d", "contiguous", slow / fast, 1, told)


def resizes() -> Row:
    """Return how much faster the decoder is that resizes the start frame once for each size, not once for each block."""
    import torch
    from torch.nn import functional

    decoder = built("cinn_push_stage1", size=SIDE).decoder.eval()
    start, z = torch.rand(1, 3, SIDE, SIDE), torch.randn(1, 64)
    sides = [4, 8, 16, 32, 64, 64]  # of the six blocks

    def resize(chosen: list[int]) -> None:
        for side in chosen:
            functional.interpolate(start, (side, side), mode="bilinear", align_corners=True)

    with torch.no_grad():
        every, once, whole = interleave(
            15, lambda: resize(sides), lambda: resize(sorted(set(sides))), lambda: decoder(start, z)
        )
    told = f"{SIDE}x{SIDE}, batch 1, one thread, {1e6 * every:.0f} against {1e6 * once:.0f} µs of the decoder's {1000 * whole:.0f} ms"
    return Row("decoder, the start resized once a size", "once a block", (whole - once + every) / whole, 1, told)


def built(name: str, size: int = 32, train: dict[str, Any] | None = None) -> Any:
    """Return the new network of an entry of the demo; of stage 1 also for clips of another size, and with changes of `train`."""
    from pipeline import params

    entry = params.load().models[name]
    kind = params.registry("models")[entry.kind]
    if size != 32 or train:
        given = entry.model_dump()
        entry = kind.Params.model_validate(
            given | {"network": given["network"] | {"size": size}, "train": given["train"] | (train or {})}
        )
    return kind.build(entry)


def stepping(model: Any, clip: Tensor) -> Callable[[], Any]:
    """Return what takes one training step on clips (B, n, 3, S, S), without the checkpoints that a flow starts from."""
    import contextlib

    import torch

    fabric = SimpleNamespace(
        world_size=1,
        autocast=contextlib.nullcontext,
        backward=lambda loss: loss.backward(),
        all_reduce=lambda value, **_: value,
    )
    if hasattr(model, "start_from"):
        model.start_from = lambda *_: None
        optimisers = {"adam": torch.optim.Adam(model.flow.parameters(), lr=1e-5)}
    else:
        optimisers = model.configure()
    state = SimpleNamespace(fabric=fabric, module=model, optimisers=optimisers, step=0, steps=10)
    return lambda: model.training_step({"clip": clip}, state)
