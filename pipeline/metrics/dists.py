"""DISTS (Ding et al. 2020, Deep Image Structure and Texture Similarity): how far two images are in structure and texture.

Of the image itself and of VGG16's relu1_2, 2_2, 3_3, 4_3 and 5_3 (each behind a blurred L2 pooling where VGG16 has its
maxima), every channel has a mean m, a variance v and, with the other image's channel, a covariance. The published
distance is 1 - sum(alpha l + beta s), with weights that sum to 1,

    l = (2 mx my + c) / (mx^2 + my^2 + c)        s = (2 cov(x, y) + c) / (vx + vy + c)

and c = 1e-6. Written as what each term lacks of 1, equal images are exactly 0 and rounding does not cancel:

    DISTS = sum(alpha (mx - my)^2 / (mx^2 + my^2 + c) + beta var(x - y) / (vx + vy + c))

Images keep their size, as the authors' function does by default; their command line's `resize`, and the package piq, bring the shorter
side to 256 first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pipeline import params

LABEL = "DISTS"
BETTER = "lower"
SCALE = 1.0
DIGITS = 4
NEEDS = "frames"
CHANNELS = (3, 64, 128, 256, 512, 512)  # of the image and of the five layers
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # ImageNet's statistics of images in [0,1]
C = 1e-6


class Params(params.Metric):
    """DISTS has no settings."""


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    return {"name": "DISTS", "network": "VGG16, L2 pooling", "colour": "rgb", "resize": "none", "weights": "published"}


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return ["vgg16", "dists"]


def build(p: Params, device: str) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
    """Return the function (prediction, target), both (T, H, W, 3) float32 RGB in [0,1] -> (T,) float64, from 0.

    Raises weights.Missing when weights cannot be had, RetakeError for those of another network.
    """
    import torch

    from pipeline import weights

    trunk = {name: value.to(device) for name, value in weights.load("vgg16").items() if name.startswith("features.")}
    alpha, beta = (part.to(device) for part in _shares(weights.load("dists")))

    def dists(prediction: np.ndarray, target: np.ndarray) -> np.ndarray:
        values = []
        # TF32 would cost three digits
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            for pair in zip(prediction, target, strict=True):  # the layers of a pair of 640x360 take 0.3 GB
                images = torch.from_numpy(np.stack(pair)).permute(0, 3, 1, 2).to(device)
                values.append(float(_distance(_layers(trunk, images), alpha, beta)))
        return np.array(values)

    return dists


def _shares(published: dict[str, Any]) -> tuple[Any, Any]:
    """Return alpha and beta, (1475,) float64 each, that sum to 1 together; raises RetakeError for other weights."""
    from pipeline.errors import RetakeError

    both = [published[name].double().flatten() for name in ("alpha", "beta") if name in published]
    if [len(part) for part in both] != [sum(CHANNELS)] * 2:
        raise RetakeError(f"these weights are not those of DISTS: alpha and beta of {sum(CHANNELS)} values are needed")
    total = both[0].sum() + both[1].sum()
    return both[0] / total, both[1] / total


def _layers(trunk: dict[str, Any], images: Any) -> list[Any]:
    """Return (N, 3, H, W) images in [0,1] and their five layers, (N, C, h, w) each."""
    from torch.nn import functional

    from pipeline.losses import vgg16

    mean, deviation = (images.new_tensor(values).view(1, 3, 1, 1) for values in (MEAN, DEVIATION))
    x, layers = (images - mean) / deviation, [images]
    for layer in range(vgg16.TAPS[-1] + 1):
        if layer in vgg16.CONVOLUTIONS:
            x = functional.conv2d(x, trunk[f"features.{layer}.weight"], trunk[f"features.{layer}.bias"], padding=1)
        elif layer in vgg16.POOLS:
            x = _pool(x)
        else:
            x = functional.relu(x)
        if layer in vgg16.TAPS:
            layers.append(x)
    return layers


def _pool(x: Any) -> Any:
    """Return the root of squares, blurred by (1, 2, 1) x (1, 2, 1) / 16, at every second pixel: (N, C, h, w) halved."""
    from torch.nn import functional

    taps = x.new_tensor([0.25, 0.5, 0.25])
    kernel = (taps[:, None] * taps).expand(x.shape[1], 1, 3, 3)
    return (functional.conv2d(x * x, kernel, stride=2, padding=1, groups=x.shape[1]) + 1e-12).sqrt()


def _distance(layers: list[Any], alpha: Any, beta: Any) -> Any:
    """Return the distance of two images by their layers, (2, C, h, w) each."""
    import torch

    lacking = []
    for layer in layers:
        x, y = layer.double().flatten(2)
        mx, my = x.mean(1), y.mean(1)
        vx, vy, apart = (part.var(1, correction=0) for part in (x, y, x - y))
        lacking.append(torch.stack([(mx - my) ** 2 / (mx**2 + my**2 + C), apart / (vx + vy + C)]))
    structure, texture = torch.cat(lacking, dim=1)
    return (alpha * structure + beta * texture).sum()
