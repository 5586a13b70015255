"""The network of LPIPS, version 0.1, by the package `lpips`, with its published weights.

The trunk's ImageNet weights are rows of workflow/weights.csv, fetched and verified like data; the linear heads come with
the package.
"""

from __future__ import annotations

import functools
import hashlib
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline.errors import RetakeError
from pipeline.metrics import Undefined
from pipeline.sources.clips import SLACK

VERSION = "0.1"
TRUNKS = {"alex": "alexnet", "vgg": "vgg16", "squeeze": "squeezenet"}  # rows of workflow/weights.csv
SHORTEST = {
    "alex": 31,
    "vgg": 16,
    "squeeze": 17,
}  # sides of an image of which the last pool still has something to take
KEPT_BYTES = 1 << 27  # of targets' features
AT_ONCE = 8  # frames whose features are alive together, however long the clip


def distance(net: str, colour: str, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function of two (T, H, W, 3) float32 RGB in [0,1] -> their distances (T,) float64.

    `colour`: the channel order that the network is fed, "rgb" or "bgr". A target that comes again (of another sample, or of a
    window that overlaps) does not go through the network again. The function raises RetakeError for values outside [0,1] by
    more than 0.001, and NaN, and Undefined for frames that are too small; this one weights.Missing when the trunk's weights cannot be had.
    """
    import torch

    kept: dict[bytes, list[Any]] = {}  # target's SHA-256 -> its features, the oldest first
    network = load(net).to(device, memory_format=torch.channels_last)
    shift, spread = (a.flatten().numpy(force=True) for a in (network.scaling_layer.shift, network.scaling_layer.scale))
    matrix = np.column_stack([np.diag(2 / spread)[:, :: -1 if colour == "bgr" else 1], (-1 - shift) / spread])
    # NNPACK works on one frame and one thread: frames go side by side.
    pool = ThreadPoolExecutor(torch.get_num_threads(), initializer=torch.set_num_threads, initargs=(1,))
    if device == "cpu":
        _by_nnpack(network)

    @torch.no_grad()
    def batch(images: list[np.ndarray]) -> list[list[Any]]:
        """Return the normalised features of each image, layer by layer, (1, C, h, w)."""
        x = (
            torch.from_numpy(np.stack([cv2.transform(image, matrix) for image in images]))
            .to(device)
            .permute(0, 3, 1, 2)
        )
        layers = network.net(x)
        unit = [y.div_(torch.linalg.vector_norm(y, dim=1, keepdim=True).add_(1e-10)) for y in layers]
        return [list(taps) for taps in zip(*(y.split(1) for y in unit), strict=True)]

    def features(images: list[np.ndarray]) -> list[list[Any]]:
        if device == "cpu":
            return [taps for alone in pool.map(lambda image: batch([image]), images) for taps in alone]
        return batch(images) if images else []

    def lpips(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        height, width = target.shape[1:3]
        if min(height, width) < SHORTEST[net]:
            raise Undefined(
                f"LPIPS ({net}) needs sides of at least {SHORTEST[net]} px, the frames are {width}x{height}"
            )
        parts = [slice(first, first + AT_ONCE) for first in range(0, len(target), AT_ONCE)]
        return np.concatenate([few(prediction[part], target[part], part.start) for part in parts])

    def few(prediction: np.ndarray, target: np.ndarray, before: int) -> np.ndarray:
        for what, images in (("prediction", prediction), ("target", target)):
            for step, image in enumerate(images, start=before + 1):
                if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):  # NaN fails both
                    raise RetakeError(
                        f"LPIPS of {what} frame {step}: values from {image.min()} to {image.max()}, [0,1] is needed"
                    )
        shape = str(target.shape[1:]).encode()
        keys = [shape + hashlib.sha256(np.ascontiguousarray(image).data).digest() for image in target]
        new = {key: image for key, image in zip(keys, target, strict=True) if key not in kept}
        # TF32 would cost three digits.
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            kept.update(zip(new, features(list(new.values())), strict=True))
            values = [
                float(
                    sum(head((a - b).square_()).mean() for head, a, b in zip(network.lins, x, kept[key], strict=True))
                )
                for x, key in zip(features(list(prediction)), keys, strict=True)
            ]
        while len(kept) > 1 and sum(y.nbytes for layers in kept.values() for y in layers) > KEPT_BYTES:
            del kept[next(iter(kept))]
        return np.array(values)

    return lpips


def _by_nnpack(network: Any) -> None:
    """Let NNPACK, a part of torch, run the convolutions that have no stride: by FFT and Winograd's algorithm.

    torch.nn takes oneDNN for single images, which is slower on one thread (the scoring run of bench/results.md).
    """
    import torch

    if not torch._nnpack_available():  # which also readies it
        return
    for module in network.modules():
        if isinstance(module, torch.nn.Conv2d) and module.stride == (1, 1) and module.kernel_size != (1, 1):
            run = functools.partial(_convolution, module.weight.contiguous(), module.bias, module.padding)
            module.forward = run  # type: ignore[method-assign]


def _convolution(weight: Any, bias: Any, padding: Any, x: Any) -> Any:
    import torch

    y = torch._nnpack_spatial_convolution(x.contiguous(), weight, bias, padding)
    return y.contiguous(memory_format=torch.channels_last)  # pooling is faster on it


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
