"""ARFlow's cost volume against `unfold`, and the whole network against itself with shifted products."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from bench.common import Row, interleave

if TYPE_CHECKING:
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
    return [*cost_volume(), network()]


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

    from pipeline.models.arflow import network as module

    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = module.PWCLite(2)
    pair = torch.rand(1, 2, 3, 384, 832)
    tiled = module.correlation

    def forward(volume: object) -> None:
        module.correlation = volume  # type: ignore[assignment]
        with torch.no_grad():
            net(pair)

    slow, fast = interleave(5, lambda: forward(module.correlation_shifts), lambda: forward(tiled))
    detail = f"384x832, one thread, {1000 * slow:.0f} against {1000 * fast:.0f} ms; convolutions are most of both"
    return Row(
        "PWCLite, two frames", "the same with 81 shifted products, as published without CUDA", slow / fast, 1, detail
    )
