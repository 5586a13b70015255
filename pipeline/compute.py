"""The device and the threads that params.yaml asks for."""

from __future__ import annotations

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


LARGE = 256 * 256  # pixels of a frame that keeps the cores of a CPU busy


def batch(p: Params, device: str, store: Any) -> int:
    """Return how many windows or pairs of a frame store a network takes together: `compute.batch`, or what suits the device."""
    return p.compute.batch or (1 if device == "cpu" and store.size.prod(axis=1).max() > LARGE else 4)


def lay_out(p: Params, network: Any) -> None:
    """Lay the weights of convolutions out in memory as `compute.channels_last` asks for, of images and of clips."""
    import torch

    layouts = {4: torch.channels_last, 5: torch.channels_last_3d}
    for weight in network.parameters() if p.compute.channels_last else ():
        if weight.dim() in layouts:
            weight.data = weight.data.contiguous(memory_format=layouts[weight.dim()])
