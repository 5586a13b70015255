"""The device and the threads that params.yaml asks for."""

from __future__ import annotations

import contextlib
import fcntl
import os
import platform
import re
import tempfile
from pathlib import Path
from typing import IO, Any

from pipeline.errors import RetakeError
from pipeline.params import Params


def device(p: Params) -> str:
    """Return "cuda" or "cpu" as `compute.device` and the machine allow, and set the CPU threads.

    Of several GPUs "cuda" is then one that no other job on this machine has taken, as far as there are enough. Raises RetakeError for a GPU that was asked for and is not there.
    """
    import torch

    torch.set_num_threads(p.compute.threads)
    cuda = torch.cuda.is_available()
    if p.compute.device == "cuda" and not cuda:
        raise RetakeError(
            "compute.device is cuda, but torch finds no GPU here: set compute.device to auto or cpu in params.yaml"
        )
    if not cuda or p.compute.device == "cpu":
        return "cpu"
    if _taken is None and "LOCAL_RANK" not in os.environ:  # torchrun's processes have theirs by rank
        _take_gpu()
    return "cuda"


_taken: IO[str] | None = (
    None  # the lock of this process's GPU; the kernel opens it when the process ends, however it does
)


def _take_gpu() -> None:
    """Make the first GPU that no job of this machine has locked the current one; where all are taken, leave it at the first."""
    import torch

    global _taken
    count = torch.cuda.device_count()
    shown = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    names = shown if len(shown) == count else [str(number) for number in range(count)]
    for number, name in enumerate(names if count > 1 else ()):
        path = Path(tempfile.gettempdir(), f"retake-gpu-{re.sub('[^A-Za-z0-9-]', '_', name)}-{os.getuid()}")
        lock = path.open("a")
        with contextlib.suppress(OSError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            torch.cuda.set_device(number)
            _taken = lock
            return
        lock.close()


def machine(p: Params) -> str:
    """Return what `device` computes on, "NVIDIA H200" or "AMD EPYC, 2 threads", without the machine's name."""
    import torch

    if device(p) == "cuda":
        return str(torch.cuda.get_device_name())
    listed = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.+)", listed.read_text()) if listed.exists() else None
    return f"{named[1].strip() if named else platform.processor() or platform.machine()}, {p.compute.threads} threads"


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
