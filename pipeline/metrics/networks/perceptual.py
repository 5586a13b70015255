"""The network of LPIPS, version 0.1, by the package `lpips`, with its published weights.

The trunk's ImageNet weights are rows of workflow/weights.csv, fetched and verified like data; the linear heads come with
the package.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RetakeError

VERSION = "0.1"
TRUNKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet"}  # rows of workflow/weights.csv
SLACK = 1e-3  # what a value may lie outside [0,1]


def distance(net: str, colour: str, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function of two (T, H, W, 3) float32 RGB in [0,1] -> their distances (T,) float64.

    `colour`: the channel order that the network is fed, "rgb" or "bgr". The function raises RetakeError for values outside
    [0,1] by more than 0.001, and NaN; this one weights.Missing when the trunk's weights cannot be had.
    """
    import torch

    network = load(net).to(device)
    channels = slice(None, None, -1) if colour == "bgr" else slice(None)
    at_once = 1 if device == "cpu" else None  # more frames at once are no faster on a CPU

    def lpips(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        for what, images in (("prediction", prediction), ("target", target)):
            for step, image in enumerate(images, start=1):
                if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):  # NaN fails both
                    raise RetakeError(
                        f"LPIPS of {what} frame {step}: values from {image.min()} to {image.max()}, [0,1] is needed"
                    )
        x, y = (
            torch.from_numpy(np.ascontiguousarray(a[..., channels].transpose(0, 3, 1, 2))) * 2 - 1
            for a in (prediction, target)
        )
        size = at_once or len(x)
        # TF32 would cost three digits.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            parts = [network(a.to(device), b.to(device)) for a, b in zip(x.split(size), y.split(size), strict=True)]
        return torch.cat(parts).flatten().double().cpu().numpy()

    return lpips


def load(net: str) -> Any:
    """Return the package's network with its published weights, in evaluation mode; nothing is downloaded here."""
    import lpips as package

    from pipeline import weights

    trunk = weights.load(TRUNKS[net])
    with warnings.catch_warnings():  # torchvision's deprecation of the argument that the package uses
        warnings.simplefilter("ignore")
        network = package.LPIPS(pretrained=False, pnet_rand=True, net=net, version=VERSION, verbose=False)
    # The package cuts torchvision's `features` into slices and keeps each layer's number.
    network.net.load_state_dict(
        {name: trunk["features." + name.partition(".")[2]] for name in network.net.state_dict()}, strict=True
    )
    heads = weights.load_file(Path(package.__file__).parent / "weights" / f"v{VERSION}" / f"{net}.pth")
    unknown = network.load_state_dict(heads, strict=False).unexpected_keys
    if unknown or len(heads) != len(network.lins):
        raise RetakeError(f"the installed package lpips has other linear heads for {net}: install lpips 0.1.4")
    return network.eval().requires_grad_(False)
