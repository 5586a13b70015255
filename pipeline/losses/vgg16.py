"""torchvision's VGG16 up to relu5_3, and LPIPS on it as i2v-cINN trains with it (LPIPS: arXiv 1801.03924, version 0.1).

VGG diversity measures with the same features.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import RetakeError

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
POOLS = (4, 9, 16, 23)
TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3
SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # LPIPS's ImageNet statistics of images in [-1,1]
EPSILON = 1e-10
DROPOUT = 0.5


def features(state: Mapping[str, Tensor], images: Tensor) -> list[Tensor]:
    """Return the five taps of (N, 3, H, W) normalised images. `state`: torchvision's names, `features.N.weight`."""
    names = [f"features.{layer}.{kind}" for layer in CONVOLUTIONS for kind in ("weight", "bias")]
    missing = [name for name in names if name not in state]
    if missing:
        raise RetakeError(f"these weights are not torchvision's VGG16: they lack {', '.join(missing[:4])}")
    x, taps = images, []
    for layer in range(TAPS[-1] + 1):
        if layer in CONVOLUTIONS:
            x = functional.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1)
        elif layer in POOLS:
            x = functional.max_pool2d(x, 2)
        else:
            x = functional.relu(x)
        if layer in TAPS:
            taps.append(x)
    return taps


class Lpips:
    """LPIPS (VGG) with frozen weights; no nn.Module, so that they enter no checkpoint, optimiser or DDP bucket.

    `trunk`: torchvision's VGG16 state dict; `heads`: the five 1x1 weights, (1, C, 1, 1).
    """

    def __init__(self, trunk: Mapping[str, Tensor], heads: list[Tensor]) -> None:
        self.trunk, self.heads = dict(trunk), heads

    def to(self, device: torch.device) -> Lpips:
        """Move the weights to `device`."""
        self.trunk = {name: weight.to(device) for name, weight in self.trunk.items()}
        self.heads = [head.to(device) for head in self.heads]
        return self

    def __call__(self, a: Tensor, b: Tensor, *, dropout: bool) -> Tensor:
        """Return the distances (N,) of images (N, 3, H, W) in [-1,1].

        `dropout` zeroes half of the squared differences by chance and doubles the others: that is how the published
        training computes it, because the package's network stays in training mode there.
        """
        total = a.new_zeros(len(a))
        for x, y, head in zip(self._unit(a), self._unit(b), self.heads, strict=True):
            squared = functional.dropout((x - y).square(), DROPOUT, training=dropout)
            total = total + functional.conv2d(squared, head).mean((1, 2, 3))
        return total

    def _unit(self, images: Tensor) -> list[Tensor]:
        """Return the taps, the channels of each pixel scaled to a vector of length 1."""
        shift, scale = (images.new_tensor(values).view(1, 3, 1, 1) for values in (SHIFT, SCALE))
        taps = features(self.trunk, (images - shift) / scale)
        return [x / (x.square().sum(1, keepdim=True).sqrt() + EPSILON) for x in taps]


def load_lpips(trunk: str) -> Lpips:
    """Return LPIPS (VGG), its VGG16 from `trunk`: a file, or a row of workflow/weights.csv. The heads come with `lpips`.

    Raises RetakeError when the trunk cannot be had or is another network.
    """
    from pipeline import weights

    with weights.or_without("train.perceptual: 0"):
        state = weights.load_file(trunk) if Path(trunk).exists() else weights.load(trunk)
    package = importlib.util.find_spec("lpips")
    assert package is not None and package.origin is not None
    heads = weights.load_file(Path(package.origin).parent / "weights" / "v0.1" / "vgg.pth")
    return Lpips(state, [heads[f"lin{i}.model.1.weight"] for i in range(len(TAPS))])
