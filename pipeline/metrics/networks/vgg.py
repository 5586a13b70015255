"""torchvision's VGG16 up to relu5_3, for VGG diversity and i2v-cINN's LPIPS."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.errors import RetakeError

CONVOLUTIONS = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)
POOLS = (4, 9, 16, 23)
TAPS = (3, 8, 15, 22, 29)  # relu1_2, relu2_2, relu3_3, relu4_3, relu5_3


def features(state: dict[str, Tensor], images: Tensor) -> list[Tensor]:
    """Return the five taps of (N, 3, H, W) normalised images. `state`: torchvision's names, `features.N.weight`."""
    names = [f"features.{layer}.{kind}" for layer in CONVOLUTIONS for kind in ("weight", "bias")]
    missing = [name for name in names if name not in state]
    if missing:
        raise RetakeError(f"these weights are not torchvision's VGG16: they lack {', '.join(missing[:4])}")
    x, found = images, []
    for layer in range(TAPS[-1] + 1):
        if layer in CONVOLUTIONS:
            x = functional.conv2d(x, state[f"features.{layer}.weight"], state[f"features.{layer}.bias"], padding=1)
        elif layer in POOLS:
            x = functional.max_pool2d(x, 2)
        else:
            x = functional.relu(x)
        if layer in TAPS:
            found.append(x)
    return found


def lpips(state: dict[str, Tensor], heads: list[Tensor], shift: Tensor, scale: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Return LPIPS (VGG) of (N, 3, H, W) images in [-1,1], (N,), as i2v-cINN trains with it, its dropout off.

    `heads`: the five 1x1 weights, (1, C, 1, 1); `shift`, `scale`: of the input, (1, 3, 1, 1).
    """
    total = a.new_zeros(len(a))
    pairs = zip(features(state, (a - shift) / scale), features(state, (b - shift) / scale), heads, strict=True)
    for x, y, head in pairs:
        x, y = (f / (f.square().sum(1, keepdim=True).sqrt() + 1e-10) for f in (x, y))
        total = total + functional.conv2d((x - y).square(), head).mean((1, 2, 3))
    return total


MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def diversity_input(video: Tensor) -> Tensor:
    """Return (..., 3, H, W) frames in [-1,1] as the diversity score feeds them: (N, 3, 224, 224).

    They are normalised first and resized then, bilinear with half-pixel centres, as published.
    """
    images = (video.reshape(-1, *video.shape[-3:]) + 1) / 2
    mean, std = (torch.tensor(v, device=video.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return functional.interpolate((images - mean) / std, size=(224, 224), mode="bilinear", align_corners=False)
