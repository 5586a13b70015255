"""Images moved on along optical flow at constant velocity: what the baselines that warp share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 3  # of the velocity; more change less than 0.1 dB


def velocity(flow: Tensor, k: int) -> Tensor:
    """Return v = f(x - (k + 1) v), (B, 2, H, W) px a frame: of what stands at x, k + 1 frames after the flow's first frame.

    v starts as f(x) and takes half-steps to the right-hand side, which do not swing between the two sides of a motion
    edge as whole steps do.
    """
    v = flow
    for _ in range(STEPS):
        v = (v + sample(flow, -(k + 1) * v)) / 2
    return v


def sample(images: Tensor, displacement: Tensor) -> Tensor:
    """Return (B, C, H, W) images at x + displacement (B, 2, H, W) px, bilinear, borders repeated."""
    import torch
    from torch.nn import functional

    height, width = displacement.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=images.device), torch.arange(width, device=images.device), indexing="ij"
    )
    # Pixel centres to grid_sample's [-1, 1], which spans the whole image with align_corners=False
    grid = torch.stack(
        [(2 * (x + displacement[:, 0]) + 1) / width - 1, (2 * (y + displacement[:, 1]) + 1) / height - 1], -1
    )
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)
