"""What VGG diversity feeds to VGG16 (`pipeline.losses.vgg16`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def diversity_input(video: Tensor) -> Tensor:
    """Return (..., 3, H, W) frames in [-1,1] as the diversity score feeds them: (N, 3, 224, 224).

    They are normalised first and resized then, bilinear with half-pixel centres, as published.
    """
    images = (video.reshape(-1, *video.shape[-3:]) + 1) / 2
    mean, std = (torch.tensor(v, device=video.device).view(1, 3, 1, 1) for v in (MEAN, STD))
    return functional.interpolate((images - mean) / std, size=(224, 224), mode="bilinear", align_corners=False)
