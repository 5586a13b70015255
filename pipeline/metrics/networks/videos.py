"""What a video score does before and after its network: resizing, range, length, diversity; i2v-cINN's specification.

Videos are (N, T, 3, H, W) float32 in [-1,1]; networks take (N, 3, T, 224, 224). Nothing is antialiased, as published.
"""

from __future__ import annotations

import itertools

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

SIDE = 224


def pytorch_input(video: Tensor) -> Tensor:
    """Return a video as i2v-cINN's PyTorch FVD feeds it: corner-aligned resize; mapped to [0,1] if a value is negative."""
    x = _resized(video)
    return (x + 1) / 2 if bool((video < 0).any()) else x


def half_pixel_input(video: Tensor) -> Tensor:
    """Return a video as the FVDs of StyleGAN-V and VideoGPT feed it: resize at half-pixel centres, [-1,1]."""
    return _resized(video, corners=False)


def texture_input(video: Tensor, length: int) -> Tensor:
    """Return a video as DTFVD feeds it: corner-aligned resize, [-1,1].

    For the 16-frame network the clip is repeated three times and its first 16 frames are kept.
    """
    if length == 16:
        video = torch.cat([video] * 3, 1)[:, :16]
    return _resized(video)


def tensorflow_input(video: Tensor) -> Tensor:
    """Return a video as the TensorFlow FVD feeds it: pixels in [0,255], TF1's resize_bilinear, then 2x/255 - 1.

    TF1's default takes pixel i from i * scale, neither corner-aligned nor at half-pixel centres.
    """
    x = (video + 1) * 127.5
    for axis in (3, 4):
        size = x.shape[axis]
        position = torch.arange(SIDE, dtype=torch.float32, device=x.device) * float(np.float32(size / SIDE))
        low = position.floor().long()
        high = (low + 1).clamp(max=size - 1)
        share = (position - low).view(-1, *[1] * (4 - axis))
        below, above = x.index_select(axis, low), x.index_select(axis, high)
        x = below + (above - below) * share
    return (2 * x / 255 - 1).transpose(1, 2)


def _resized(video: Tensor, *, corners: bool = True) -> Tensor:
    n, t = video.shape[:2]
    flat = functional.interpolate(video.flatten(0, 1), size=(SIDE, SIDE), mode="bilinear", align_corners=corners)
    return flat.unflatten(0, (n, t)).transpose(1, 2)


def vgg_diversity(features: list[np.ndarray], samples: int) -> float:
    """Return VGG diversity of feature maps, (N, samples * frames, C, h, w) each, samples one after the other.

    The mean over items, ordered pairs of different samples and layers of the mean squared difference (not normalised).
    """
    scores = []
    for maps in features:
        per_sample = maps.reshape(len(maps), samples, -1)
        scores += [_pairs(item[:, None]) for item in per_sample]
    return float(np.mean(scores))


def i3d_diversity(embeddings: np.ndarray) -> float:
    """Return I3D diversity of (N, samples, D) logits; the caller leaves out what does not fill a batch of 16 items."""
    return _pairs(embeddings.swapaxes(0, 1))


def texture_diversity(embeddings: np.ndarray) -> float:
    """Return DTI3D diversity of (samples, N, D) features, times 1000 as published."""
    return 1000 * _pairs(embeddings)


def _pairs(samples: np.ndarray) -> float:
    """Return the mean over pairs of different samples of their mean squared difference; (S, N, D)."""
    rows = samples.astype(np.float64)
    distances = [np.mean((a - b) ** 2) for a, b in itertools.combinations(rows, 2)]  # both orders have the same
    return float(np.mean(distances))
