"""Images moved by a field of displacements: what the baselines that warp share."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

STEPS = 3  # half-steps to the velocity


def velocity(flow: Tensor, k: int) -> Tensor:
    """Return v of the equation in flow_warp.py for frame t+k, (B, 2, H, W) px a frame."""
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
