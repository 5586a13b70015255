"""Unsupervised losses of optical flow: photometric, occlusion, smoothness (ARFlow, arXiv 2003.13045, section 3.1).

In: a list of bidirectional flows, (B, 4, h, w) float32 with [u12, v12, u21, v21] in pixels of their own scale, finest
first, and the two images, (B, 3, H, W) float32 in [0, 1]. Out: `Terms`. Also `warp`, which the network shares.

Where the published code divides by the mean of the visibility mask, `VISIBLE` keeps an empty mask from giving NaN: the
photometric terms and their gradients are then 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

SCALES = (1.0, 1.0, 1.0, 1.0, 0.0)  # photometric weight of each scale, finest first
SMOOTH_SCALES = (1.0, 0.0, 0.0, 0.0, 0.0)
ALPHA = 10.0  # how strongly image edges lift the smoothness
VISIBLE = 1e-8  # smallest mean of a mask; one pixel of a batch of 4 at 448x1024 is 5e-7

Occlusion = Literal["range_map", "forward_backward"]


@dataclass
class Terms:
    """The loss of one batch: `total` = `photometric` + `smooth`, scalars with gradients.

    `smooth` is already weighted; `flow` is the mean absolute finest flow, px, detached. `visible` has one mask for each
    scale with photometric weight, (B, 2, h, w), 1 where a pixel of the first or second image is seen in the other.
    """

    total: Tensor
    photometric: Tensor
    smooth: Tensor
    flow: Tensor
    visible: list[Tensor]


def unsupervised(
    flows: list[Tensor],
    first: Tensor,
    second: Tensor,
    *,
    l1: float,
    ssim: float,
    ternary: float,
    occlusion: Occlusion | None,
    order: int,
    smooth: float,
    corners: bool = True,
) -> Terms:
    """Return the loss over all scales and both directions.

    `l1`, `ssim`, `ternary` weigh the photometric terms, `smooth` the smoothness of this `order` (1 or 2); `occlusion`
    None takes every pixel as visible. `corners`: see `warp`.
    """
    photometric = smoothness = first.new_zeros(())
    length = min(flows[0].shape[-2:])
    full = visibility(flows[0], occlusion, corners)
    visible = []
    for flow, weight, smooth_weight in zip(flows, SCALES, SMOOTH_SCALES, strict=False):
        if not weight and not smooth_weight:
            continue
        size = (flow.shape[-2], flow.shape[-1])
        image1, image2 = F.interpolate(first, size, mode="area"), F.interpolate(second, size, mode="area")
        mask = full if size == full.shape[-2:] else F.interpolate(full, size, mode="nearest")
        flow12, flow21 = flow[:, :2], flow[:, 2:]
        if weight:
            visible.append(mask)
            forward = distance(image1, warp(image2, flow12, corners=corners), mask[:, :1], l1, ssim, ternary)
            backward = distance(image2, warp(image1, flow21, corners=corners), mask[:, 1:], l1, ssim, ternary)
            photometric = photometric + weight * (forward + backward) / 2
        if smooth_weight:
            forward, backward = (
                smoothness_of(flow12 / length, image1, order),
                smoothness_of(flow21 / length, image2, order),
            )
            smoothness = smoothness + smooth_weight * (forward + backward) / 2
    smoothness = smooth * smoothness
    return Terms(photometric + smoothness, photometric, smoothness, flows[0].detach().abs().mean(), visible)


def warp(source: Tensor, flow: Tensor, *, corners: bool = True, padding: str = "border") -> Tensor:
    """Return `source` (B, C, h, w) sampled bilinearly at each pixel plus its `flow` (B, 2, h, w), in pixels.

    `padding` "border" or "zeros" says what lies outside. `corners` False repeats what ARFlow's code does under a
    PyTorch that samples with half-pixel alignment (1.3 and newer) on its corner-aligned grid: p is read at
    p*size/(size-1) - 1/2.
    """
    height, width = source.shape[-2:]
    x = torch.arange(width, dtype=flow.dtype, device=flow.device) + flow[:, 0]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None] + flow[:, 1]
    grid = torch.stack((x * (2 / max(width - 1, 1)) - 1, y * (2 / max(height - 1, 1)) - 1), dim=-1)
    source = source.to(flow.dtype).contiguous()  # sampling plane by plane is twice as fast on a CPU
    return F.grid_sample(source, grid, mode="bilinear", padding_mode=padding, align_corners=corners)


def visibility(flow: Tensor, occlusion: Occlusion | None, corners: bool = True) -> Tensor:
    """Return masks of first and second image, (B, 2, h, w), 1 = visible, from flow (B, 4, h, w); without gradient."""
    flow = flow.detach()
    if occlusion is None:
        return torch.ones_like(flow[:, :2])
    there, back = (flow[:, :2], flow[:, 2:])
    if occlusion == "range_map":
        return 1 - torch.cat([unreached(back), unreached(there)], dim=1)
    return 1 - torch.cat([inconsistent(there, back, corners), inconsistent(back, there, corners)], dim=1)


def inconsistent(forward: Tensor, backward: Tensor, corners: bool = True) -> Tensor:
    """Return 1 where the backward flow does not undo the forward flow, (B, 1, h, w), from flows (B, 2, h, w), px.

    That is |forward + b|^2 > 0.01 (|forward|^2 + |b|^2) + 0.5; b is `backward` warped by `forward`, 0 outside.
    """
    returned = warp(backward, forward, corners=corners, padding="zeros")
    length = forward.square().sum(1, keepdim=True) + returned.square().sum(1, keepdim=True)
    return ((forward + returned).square().sum(1, keepdim=True) > 0.01 * length + 0.5).to(forward.dtype)


def unreached(flow: Tensor) -> Tensor:
    """Return 1 where less than 0.2 of a pixel of the other image arrives along its `flow`, (B, 1, h, w)."""
    return (range_map(flow) < 0.2).to(flow.dtype)


def range_map(flow: Tensor) -> Tensor:
    """Return how much of the pixels arrives at each place when every one moves along its `flow`, (B, 1, h, w).

    Weight 1 a pixel, shared bilinearly by the four neighbours of its end; what falls outside the image is lost. Sums
    are not clamped.
    """
    batch, _, height, width = flow.shape
    x = torch.arange(width, dtype=flow.dtype, device=flow.device) + flow[:, 0]
    y = torch.arange(height, dtype=flow.dtype, device=flow.device)[:, None] + flow[:, 1]
    left, top = x.floor(), y.floor()
    arrived = flow.new_zeros(batch, height * width)
    for column, row in ((left, top), (left + 1, top), (left, top + 1), (left + 1, top + 1)):
        inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
        weight = torch.where(inside, (1 - (x - column).abs()) * (1 - (y - row).abs()), 0)
        place = torch.where(inside, row * width + column, 0).long()
        arrived.scatter_add_(1, place.flatten(1), weight.flatten(1))
    return arrived.view(batch, 1, height, width)


def distance(image: Tensor, warped: Tensor, mask: Tensor, l1: float, ssim: float, ternary: float) -> Tensor:
    """Return the weighted photometric distance per visible pixel, a scalar; terms with weight 0 are left out."""
    total = image.new_zeros(())
    if l1:
        total = total + l1 * ((image - warped).abs() * mask).mean()
    if ssim:
        total = total + ssim * ssim_distance(warped * mask, image * mask).mean()
    if ternary:
        total = total + ternary * (ternary_distance(warped * mask, image * mask)).mean()
    return total / mask.mean().clamp_min(VISIBLE)


def ssim_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return (1 - SSIM) / 2 in [0, 1] of 3x3 windows without padding, (B, C, H-2, W-2)."""
    c1, c2 = 0.01**2, 0.03**2
    mean_a, mean_b = _mean3(a), _mean3(b)
    var_a, var_b = _mean3(a * a) - mean_a**2, _mean3(b * b) - mean_b**2
    covariance = _mean3(a * b) - mean_a * mean_b
    above = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    below = (mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2)
    return ((1 - above / below) / 2).clamp(0, 1)


def _mean3(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 3, stride=1)


def ternary_distance(a: Tensor, b: Tensor) -> Tensor:
    """Return the soft census distance of 3x3 neighbourhoods, (B, 1, H, W) from (B, 3, H, W); 0 along the border.

    Border rows and columns are not compared, so the neighbourhoods never leave the image. The ninth difference, of the
    centre to itself, is 0 and only counts in the mean.
    """
    signs_a, signs_b = _census(a), _census(b)
    total = torch.zeros_like(signs_a[0])
    for sign_a, sign_b in zip(signs_a, signs_b, strict=True):
        squared = (sign_a - sign_b).square()
        total = total + squared / (0.1 + squared)
    return F.pad(total / 9, (1, 1, 1, 1))


def _census(image: Tensor) -> list[Tensor]:
    """Return the soft signs of the eight neighbours' differences to the centre, (B, 1, H-2, W-2) each."""
    red, green, blue = image.unbind(1)
    grey = 255 * (0.2989 * red + 0.5870 * green + 0.1140 * blue)[:, None]
    height, width = grey.shape[-2:]
    centre = grey[..., 1:-1, 1:-1]
    signs = []
    for y in range(3):
        for x in range(3):
            if (y, x) != (1, 1):
                difference = grey[..., y : y + height - 2, x : x + width - 2] - centre
                signs.append(difference / (0.81 + difference.square()).sqrt())
    return signs


def smoothness_of(flow: Tensor, image: Tensor, order: int) -> Tensor:
    """Return the edge-aware smoothness of `flow` (B, 2, h, w) under `image`, a scalar. `order`: 1 or 2."""
    weight_x = torch.exp(-ALPHA * _dx(image).abs().mean(1, keepdim=True))
    weight_y = torch.exp(-ALPHA * _dy(image).abs().mean(1, keepdim=True))
    if order == 1:
        return (weight_x * _dx(flow).abs()).mean() / 4 + (weight_y * _dy(flow).abs()).mean() / 4
    second_x, second_y = _dx(_dx(flow)).abs(), _dy(_dy(flow)).abs()
    return (weight_x[..., :, 1:] * second_x).mean() / 2 + (weight_y[..., 1:, :] * second_y).mean() / 2


def _dx(x: Tensor) -> Tensor:
    return x[..., :, 1:] - x[..., :, :-1]


def _dy(x: Tensor) -> Tensor:
    return x[..., 1:, :] - x[..., :-1, :]
