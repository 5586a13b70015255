"""ARFlow's cost volume against `unfold`, the network against itself with shifted products, the flow stage end to end."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest import mock

from bench.common import Row, interleave
from tests.conftest import furnish

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from torch import Tensor

SHAPE = (1, 32, 96, 208)  # the finest level of a 384x832 pair
MEMORY = """
import sys, torch
from bench.bench_arflow import SHAPE, peak, unfolded
from pipeline.models.arflow.network import correlation
torch.set_num_threads(1)
torch.manual_seed(0)
forward = {"unfold": unfolded, "tiled": correlation}[sys.argv[1]]
one, two = (torch.randn(SHAPE, requires_grad=sys.argv[2] == "backward") for _ in range(2))
small = [torch.randn(1, 4, 8, 20, requires_grad=True) for _ in range(2)]
for volume in (unfolded, correlation):  # what is loaded on first use counts for neither
    volume(*small).sum().backward()
open("/proc/self/clear_refs", "w").write("5")  # the peak begins anew
before = peak()
volume = forward(one, two)
if sys.argv[2] == "backward":
    volume.sum().backward()
print(peak() - before)
"""


def peak() -> float:
    """Return the peak resident memory since it was last reset, MiB (Linux)."""
    status = Path("/proc/self/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1024


def unfolded(one: Tensor, two: Tensor) -> Tensor:
    """Return the cost volume (B, 81, h, w) by the usual one-liner: all search windows at once."""
    import torch.nn.functional as F

    batch, channels, height, width = one.shape
    windows = F.unfold(two, 9, padding=4).view(batch, channels, 81, height, width)
    return (one[:, :, None] * windows).mean(1)


def run() -> list[Row]:
    import torch

    return [*cost_volume(), network(), stage(), *([precision("cuda")] if torch.cuda.is_available() else [])]


def cost_volume() -> list[Row]:
    import torch

    from pipeline.models.arflow.network import correlation

    torch.set_num_threads(1)
    torch.manual_seed(0)
    one, two = (torch.randn(SHAPE, requires_grad=True) for _ in range(2))
    gradient = torch.randn(1, 81, *SHAPE[2:])
    with torch.no_grad():
        assert torch.allclose(unfolded(one, two), correlation(one, two), atol=1e-5)
        slow, fast = interleave(7, lambda: unfolded(one, two), lambda: correlation(one, two))
    both = interleave(
        5,
        lambda: torch.autograd.grad(unfolded(one, two), (one, two), gradient),
        lambda: torch.autograd.grad(correlation(one, two), (one, two), gradient),
    )
    size = "x".join(map(str, SHAPE)) + ", one thread, "
    rows = [
        Row("cost volume, forward", "unfold", slow / fast, 10, f"{size}{1000 * slow:.0f} against {1000 * fast:.1f} ms"),
        Row(
            "cost volume, forward and backward",
            "unfold",
            both[0] / both[1],
            3,
            f"{size}{1000 * both[0]:.0f} against {1000 * both[1]:.1f} ms",
        ),
    ]
    for direction in ("forward", "backward"):
        more, less = (_extra(name, direction) for name in ("unfold", "tiled"))
        what = "cost volume, memory forward" + (" and backward" if direction == "backward" else "")
        rows.append(Row(what, "unfold", less / more, 0.1, f"{size}{more:.0f} against {less:.0f} MiB", at_most=True))
    return rows


def _extra(name: str, direction: str) -> float:
    """Return the peak resident memory beyond the features', MiB, in a process of its own."""
    done = subprocess.run([sys.executable, "-c", MEMORY, name, direction], capture_output=True, text=True, check=True)
    return float(done.stdout)


def network() -> Row:
    import torch

    from pipeline.models.arflow import convolution
    from pipeline.models.arflow import network as module

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = module.PWCLite(2)
    pair = torch.rand(1, 2, 3, 384, 832)

    def published() -> None:
        with (
            mock.patch.object(module, "for_cpu", lambda x: x),
            mock.patch.object(module, "correlation", module.correlation_shifts),
            mock.patch.object(module, "plain", return_value=False),
            mock.patch.object(convolution, "pays", return_value=False),
        ):
            ours()

    def ours() -> None:
        with torch.no_grad():
            net(pair)

    slow, fast = interleave(5, published, ours)
    detail = f"384x832, one thread, {1000 * slow:.0f} against {1000 * fast:.0f} ms; convolutions are most of both"
    return Row(
        "PWCLite, two frames", "as published without CUDA: planes, 81 shifted products", slow / fast, 1.4, detail
    )


def stage(height: int = 384, width: int = 832, frames: int = 13) -> Row:
    """Return how much faster the flow stage is than its steps one after another, and how the time is shared there."""
    import cv2
    import numpy as np

    from pipeline import compute, flow, params, plan, weights
    from pipeline.store import flow as files
    from pipeline.store.frames import Store, Writer

    name, fields = "arflow_kitti15_ar_published", {"dataset": "bench", "split": "test"}
    p = params.load(
        {
            "reproduce": [],
            "datasets": {"bench": {"like": "sintel"}},
            "models": {name: {"predict": {"height": height, "width": width}}},
        }
    )
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        furnish(Path(folder))
        images = plan.path("frames", **fields)
        with Writer(images, codec="png", meta={}) as out:
            for n in range(frames):
                texture = rng.integers(0, 256, (height // 8, width // 8, 3), np.uint8)
                out.add("clip", n, cv2.resize(texture, (width, height), interpolation=cv2.INTER_CUBIC))
        network = params.registry("models")["arflow"].build(p.models[name])
        network.start_kaiming()
        checkpoint = plan.path("train", model=name, dataset="bench")
        weights.save(checkpoint, {"kind": "arflow", "weights": network.state_dict(), "best": None})
        device = compute.device(p)
        store = Store(images)
        spent = {"loading": 0.0, "network": 0.0, "encoding and writing": 0.0}

        def timed(what: str, action: Callable[[], Any]) -> Any:
            start = time.perf_counter()
            done = action()
            spent[what] += time.perf_counter() - start
            return done

        def steps() -> None:
            estimator, _ = weights.load_model(p.models[name], checkpoint, device)
            before = timed("loading", lambda: store.image(0))
            with Writer("steps.arrow", codec="flow64", dtype="float32", channels=2, meta={}) as out:
                for n in range(1, frames):
                    after = timed("loading", lambda n=n: store.image(n))
                    field = timed("network", lambda one=before, two=after: estimator.estimate(one, two))
                    timed("encoding and writing", lambda n=n, field=field: out.add("clip", n - 1, field))
                    before = after

        slow, fast = interleave(3, steps, lambda: flow.make(p, name, "bench", "test"))
        fields_alike = [Store(path) for path in ("steps.arrow", plan.path("flow", estimator=name, **fields))]
        assert all(
            np.abs(fields_alike[0].image(row) - fields_alike[1].image(row)).max() <= 2 / files.UNIT
            for row in range(frames - 1)
        )
    whole = sum(spent.values())
    shares = ", ".join(f"{what} {100 * share / whole:.0f} %" for what, share in spent.items())
    detail = (
        f"{height}x{width} PNG, {device}, {p.compute.threads} threads, batch {compute.batch(p, device, store)}: "
        f"{(frames - 1) / fast:.2f} pairs/s against {(frames - 1) / slow:.2f}; one after another: {shares}"
    )
    return Row("flow stage, ARFlow end to end", "its steps one after another, batch 1", slow / fast, 1, detail)


def precision(device: str, height: int = 384, width: int = 832, batch: int = 8) -> Row:
    """Return how much faster bfloat16 is than float32, and samples a second of the training without ground truth."""
    from types import SimpleNamespace

    import lightning_fabric
    import torch

    from pipeline import params

    p = params.load()
    recipe = p.models["arflow_sintel_raw"].model_copy(deep=True)
    recipe.train.height, recipe.train.width = height, width
    net = params.registry("models")["arflow"].build(recipe).to(device)
    frames = torch.rand(batch, 2, 3, height, width, device=device)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def forward(half: bool) -> None:
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=half):
            net(frames)
        wait()

    fabric = lightning_fabric.Fabric(accelerator=device, devices=1)
    named = net.configure()
    module, *optimisers = fabric.setup(net, *named.values())
    state = SimpleNamespace(
        fabric=fabric, module=module, optimisers=dict(zip(named, optimisers, strict=True)), step=0, steps=1
    )

    def train() -> None:
        net.training_step(frames, state)
        wait()

    slow, fast, step = interleave(5, lambda: forward(False), lambda: forward(True), train)
    what = torch.cuda.get_device_name() if device == "cuda" else device
    detail = (
        f"{height}x{width}, batch {batch}, {what}: {batch / fast:.1f} against {batch / slow:.1f} pairs/s; training in "
        f"float32 {batch / step:.1f} samples/s"
    )
    return Row("PWCLite in bfloat16", "float32", slow / fast, 1, detail)
