"""The device and the threads that params.yaml asks for."""

from __future__ import annotations

import platform
import re
from pathlib import Path
from typing import Any

from pipeline.errors import RetakeError
from pipeline.params import Params


def device(p: Params) -> str:
    """Return "cuda" or "cpu" as `compute.device` and the machine allow, and set the CPU threads.

    Raises RetakeError for a GPU that was asked for and is not there.
    """
    import torch

    torch.set_num_threads(p.compute.threads)
    cuda = torch.cuda.is_available()
    if p.compute.device == "cuda" and not cuda:
        raise RetakeError(
            "compute.device is cuda, but torch finds no GPU here: set compute.device to auto or cpu in params.yaml"
        )
    return "cuda" if cuda and p.compute.device != "cpu" else "cpu"


def machine(p: Params) -> str:
    """Return what `device` computes on, "NVIDIA H200" or "AMD EPYC, 2 threads", without the machine's name."""
    import torch

    if device(p) == "cuda":
        return str(torch.cuda.get_device_name())
    listed = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", listed.read_text()) if listed.exists() else None
    return f"{named[1].strip() if named else platform.processor() or platform.machine()}, {p.compute.threads} threads"


def batch(p: Params, device: str) -> int:
    """Return how many windows or pairs a network takes together on a device: `compute.batch`, or what suits the device."""
    return p.compute.batch or (1 if device == "cpu" else 4)


def lay_out(p: Params, network: Any) -> None:
    """Lay the weights of convolutions out in memory as `compute.channels_last` asks for, of images and of clips."""
    import torch

    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters() if p.compute.channels_last else ():
        if weight.dim() in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.dim()])
