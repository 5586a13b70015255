"""Each network's share of the rate at which this machine computes convolutions, measured in the same run, one thread.

The machine's rate is the best of three plain convolutions in channels_last. A network's multiply-adds are counted, as in tables.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

from bench.common import Row, interleave

ROUNDS = 5
CONVOLUTIONS = ((64, 128, 416), (128, 64, 208), (160, 32, 104))  # channels, in and out; height, width


def run() -> list[Row]:
    import torch

    torch.set_num_threads(1)
    torch.manual_seed(0)
    with torch.no_grad():
        works = [_convolution(*shape) for shape in CONVOLUTIONS]
        networks = _networks()
        works += networks.values()
        floating = [_operations(work) for work in works]
        seconds = interleave(ROUNDS, *works)
    rates = [count / spent / 1e9 for count, spent in zip(floating, seconds, strict=True)]
    machine = max(rates[: len(CONVOLUTIONS)])
    return [
        Row(
            name,
            "the machine's convolution rate",
            rate / machine,
            0.5,
            f"one thread, {count / 1e9:.1f} GFLOP in {1000 * spent:.0f} ms: {rate:.0f} of {machine:.0f} GFLOP/s",
        )
        for name, rate, count, spent in zip(
            networks, *(each[len(CONVOLUTIONS) :] for each in (rates, floating, seconds)), strict=True
        )
    ]


def _convolution(channels: int, height: int, width: int) -> Callable[[], Any]:
    import torch

    layer = torch.nn.Conv2d(channels, channels, 3, padding=1).to(memory_format=torch.channels_last)
    image = torch.rand(1, channels, height, width).contiguous(memory_format=torch.channels_last)
    return lambda: layer(image)


def _networks() -> dict[str, Callable[[], Any]]:
    """Return what is run of each network, by name with its size."""
    import numpy as np
    import torch

    from pipeline import params

    models = params.load().models

    def built(name: str) -> Any:
        return params.registry("models")[models[name].kind].build(models[name]).eval()

    dmvfn, pwclite, tecogan = built("dmvfn"), built("arflow_sintel_raw"), built("tecogan")
    dtvnet, cinn = built("dtvnet"), built("cinn_push_stage1")
    pair, frames, low = torch.rand(1, 6, 256, 832), torch.rand(1, 2, 3, 256, 832), torch.rand(1, 3, 144, 180)
    start, clip, small = torch.rand(1, 1, 3, 128, 128), torch.rand(1, 16, 3, 32, 32), torch.rand(1, 1, 3, 32, 32)
    before = tecogan.step(low, None)
    return {
        "DMVFN 832x256, nine blocks": lambda: dmvfn.next_frame(pair, np.ones((1, 9))),
        "PWCLite 832x256, two frames": lambda: pwclite(frames),
        "TecoGAN 180x144, one frame": lambda: tecogan.step(low, before),
        "DTVNet 128x128, one clip": lambda: dtvnet.predict(start, 32, seeds=[0]),
        "i2v-cINN stage 1, 32x32, one clip": lambda: cinn.predict(small, 16, seeds=[0], motion=clip),
    }


def _operations(work: Callable[[], Any]) -> int:
    """Return the floating-point operations of convolutions as they are defined and matrix products, two a multiply-add."""
    from torch.utils.flop_counter import FlopCounterMode

    from pipeline.models.arflow import convolution

    with mock.patch.object(convolution, "pays", return_value=False), FlopCounterMode(display=False) as counter:
        work()
    return int(counter.get_total_flops())
