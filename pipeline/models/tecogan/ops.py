"""TecoGAN's operators as TensorFlow 1 computes them: legacy resizers, dense warp, space-to-depth, SAME convolutions.

Images are (N, C, H, W). Flow is (N, 2, H, W) in pixels of the image it warps; channel 0 is y (rows), channel 1 is x.
Everything works on any device, in float32 also under autocast, and is differentiable.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from pipeline.tasks.super_resolution.grid import interleave
from pipeline.tasks.super_resolution.grid import resize_bicubic as resize_bicubic

SCALE = 4


def resize_bilinear(x: Tensor, factor: int) -> Tensor:
    """Return images enlarged by an integer factor, (N, C, factor*H, factor*W).

    Legacy alignment: output sample i lies at i / factor of the input (no half-pixel shift); the last sample is repeated.
    `interpolate` has no such mode.
    """
    for axis in (2, 3):
        after = torch.cat([x.narrow(axis, 1, x.shape[axis] - 1), x.narrow(axis, -1, 1)], axis)
        x = interleave([x] + [torch.lerp(x, after, k / factor) for k in range(1, factor)], axis)
    return x


def space_to_depth(x: Tensor) -> Tensor:
    """Return (N, 16*C, H/4, W/4): channel = dy*4*C + dx*C + c, in TensorFlow's order (`pixel_unshuffle` has another)."""
    n, c, height, width = x.shape
    blocks = x.reshape(n, c, height // SCALE, SCALE, width // SCALE, SCALE)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, SCALE * SCALE * c, height // SCALE, width // SCALE)


def pack_triplets(x: Tensor) -> Tensor:
    """Return (N, 3*C, H, W) of triplets (N, 3, C, H, W): channel = c*3 + time, so RRRGGGBBB."""
    return x.transpose(1, 2).flatten(1, 2)


def pad_symmetric(x: Tensor, bottom: int, right: int) -> Tensor:
    """Return the images continued as in a mirror at the bottom and right; the edge sample itself is repeated."""
    if bottom:
        x = torch.cat([x, x[:, :, x.shape[2] - bottom :].flip(2)], 2)
    if right:
        x = torch.cat([x, x[:, :, :, x.shape[3] - right :].flip(3)], 3)
    return x


def warp(image: Tensor, flow: Tensor) -> Tensor:
    """Return each image sampled bilinearly at p - flow(p), border samples repeated; sides of at least 2 pixels.

    Equal to `warp_gather` to 1e-6, with half its time on a CPU: `grid_sample` with coordinates in float64 (in float32
    its normalised coordinates put values 5e-5 off at 720 pixels). Graphics cards take `warp_gather`: most are slow in
    float64. Exactly on a pixel, where the slope jumps, the flow's gradient is that of one side; `warp_gather`'s is zero.
    """
    if image.device.type != "cpu":
        return warp_gather(image, flow)
    y, x = _sources(flow)
    height, width = image.shape[-2:]
    grid = torch.stack([x.double() * (2 / (width - 1)) - 1, y.double() * (2 / (height - 1)) - 1], -1)
    # Autocast would undo the float64
    with torch.autocast("cpu", enabled=False):
        sampled = functional.grid_sample(
            image.double(), grid, mode="bilinear", padding_mode="border", align_corners=True
        )
    return sampled.float()


def warp_gather(image: Tensor, flow: Tensor) -> Tensor:
    """Return what `warp` does, by its definition: four gathered neighbours, fractions clamped to [0,1]."""
    n, c, height, width = image.shape
    y, x = _sources(flow)
    top, left = y.detach().floor().clamp(0, height - 2), x.detach().floor().clamp(0, width - 2)
    down, across = (y - top).clamp(0, 1)[:, None], (x - left).clamp(0, 1)[:, None]
    index = (top * width + left).long().view(n, 1, -1).expand(n, c, -1)
    flat = image.float().reshape(n, c, -1)

    def at(offset: int) -> Tensor:
        return flat.gather(2, index + offset).view(n, c, height, width)

    above = torch.lerp(at(0), at(1), across)
    below = torch.lerp(at(width), at(width + 1), across)
    return torch.lerp(above, below, down)


def _sources(flow: Tensor) -> tuple[Tensor, Tensor]:
    """Return y and x of p - flow(p), (N, H, W) float32."""
    height, width = flow.shape[-2:]
    flow = flow.float()
    rows = torch.arange(height, dtype=torch.float32, device=flow.device)
    columns = torch.arange(width, dtype=torch.float32, device=flow.device)
    return rows[:, None] - flow[:, 0], columns - flow[:, 1]


def conv_transposed(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return TensorFlow's 3x3 stride-2 SAME transposed convolution, (N, cout, 2H, 2W); `weight` (cin, cout, 3, 3).

    The full result without its last row and column; `padding=1, output_padding=1` would be one pixel off.
    """
    full = functional.conv_transpose2d(x, weight, bias, stride=2)
    return full[:, :, : 2 * x.shape[2], : 2 * x.shape[3]]


# The same transposed convolution, and a 3x3 convolution after it, as ordinary convolutions of the four phases of its output:
# phase (dy, dx) holds the pixels (2i + dy, 2j + dx). A CPU is faster so: nothing is computed for taps that are zero or
# written in strides, and without gradients a phase is used up before the next one is made.


PHASES = ((0, 0), (0, 1), (1, 0), (1, 1))


class Phase(NamedTuple):
    """One of the four phases of an image (N, C, 2H, 2W).

    `pixels`: (N, C, H + 1 - dy, W + 1 - dx); the row (column) beyond an even phase is zero, as padding of what comes next.
    """

    dy: int
    dx: int
    pixels: Tensor


def conv_transposed_phases(x: Tensor, weight: Tensor, bias: Tensor | None) -> Iterator[Phase]:
    """Yield the phases of `conv_transposed` with ReLU."""
    if torch.is_autocast_enabled(x.device.type):
        dtype = torch.get_autocast_dtype(x.device.type)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    turned = weight.flip(2, 3).transpose(0, 1)
    made: Iterable[Tensor] = (_phase(x, turned, bias, dy, dx) for dy, dx in PHASES)
    if torch.is_grad_enabled():
        made = _TransposedPhases.apply(x, turned, bias)
    for (dy, dx), pixels in zip(PHASES, made, strict=True):
        yield Phase(dy, dx, pixels)


def _phase(x: Tensor, turned: Tensor, bias: Tensor | None, dy: int, dx: int) -> Tensor:
    """Return the pixels of one phase; `turned`: the kernel (cout, cin, 3, 3), its rows and columns in reverse."""
    pixels = functional.conv2d(x, turned[:, :, dy::2, dx::2], bias, padding=(1 - dy, 1 - dx))
    pixels[:, :, x.shape[2] :] = 0
    pixels[..., x.shape[3] :] = 0
    return functional.relu_(pixels)


class _TransposedPhases(torch.autograd.Function):
    """The pixels of all phases. Autograd alone would copy them whole for each edge that becomes zero, and in planes."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, turned: Tensor, bias: Tensor | None) -> tuple[Tensor, ...]:
        made = tuple(_phase(x, turned, bias, dy, dx) for dy, dx in PHASES)
        ctx.save_for_backward(x, turned, *made)
        return made

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        x, turned, *made = ctx.saved_tensors
        total: Any = 0
        by_turned, by_bias = torch.empty_like(turned), turned.new_zeros(len(turned))
        for (dy, dx), pixels, gradient in zip(PHASES, made, gradients, strict=True):
            # with layouts that differ it takes ten times as long; it is zero at the edge, as the pixels are
            gradient = gradient.contiguous(memory_format=torch.channels_last)
            gradient = torch.ops.aten.threshold_backward(gradient, pixels, 0)
            kernel, padding = turned[:, :, dy::2, dx::2], [1 - dy, 1 - dx]
            by_x, by_turned[:, :, dy::2, dx::2], by_one_bias = torch.ops.aten.convolution_backward(
                gradient, x, kernel, [len(kernel)], [1, 1], padding, [1, 1], False, [0, 0], 1, [True, True, True]
            )
            total = total + by_x
            by_bias += by_one_bias
        return total, by_turned, by_bias if ctx.needs_input_grad[2] else None


# [dy, a, tap, k]: pixel a of a pair takes element k of the kernel from phase dy of its own pair or the one after (dy = 0), or
# of the one before or its own (dy = 1)
_TAPS = torch.tensor(
    [
        [[[float(a + k - 1 == 2 * (tap - dy) + dy) for k in range(3)] for tap in range(2)] for a in range(2)]
        for dy in range(2)
    ]
)


def conv_of_phases(phases: Iterable[Phase], weight: Tensor, bias: Tensor | None) -> Tensor:
    """Return a 3x3 convolution (zeros outside) of an image in phases, (N, cout, 2H, 2W); `weight` (cout, cin, 3, 3)."""
    select = _TAPS.to(weight)
    total: Any = 0
    for dy, dx, pixels in phases:
        height, width = pixels.shape[2] - 1 + dy, pixels.shape[3] - 1 + dx
        kernel = torch.einsum("atk,bul,ockl->oabctu", select[dy], select[dx], weight).flatten(0, 2)
        total = total + functional.conv2d(pixels, kernel, padding=(dy, dx))[:, :, :height, :width].float()
    image = functional.pixel_shuffle(total, 2)
    return image if bias is None else image + bias[:, None, None]


class _Join(torch.autograd.Function):
    """The image of all phases. Autograd alone would copy it whole for each phase that is written into it."""

    @staticmethod
    def forward(ctx: Any, *phases: Tensor) -> Tensor:
        n, c, height, width = phases[-1].shape
        image = phases[-1].new_empty(n, 2 * height, 2 * width, c).permute(0, 3, 1, 2)
        for (dy, dx), pixels in zip(PHASES, phases, strict=True):
            image[:, :, dy::2, dx::2] = pixels[:, :, :height, :width]
        return image

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, ...]:
        gradient = gradient.permute(0, 2, 3, 1)
        parts = (functional.pad(gradient[:, dy::2, dx::2], (0, 0, 0, 1 - dx, 0, 1 - dy)) for dy, dx in PHASES)
        return tuple(part.permute(0, 3, 1, 2) for part in parts)


def join(phases: Iterable[Phase]) -> Tensor:
    """Return the image (N, C, 2H, 2W) of phases, without what they have beyond it; channels_last."""
    return _Join.apply(*(phase.pixels for phase in phases))


def conv_stride2(x: Tensor, weight: Tensor) -> Tensor:
    """Return TensorFlow's 4x4 stride-2 SAME convolution without bias: zeros, one before, one (odd sizes: two) after."""
    height, width = x.shape[-2:]
    if height % 2 == 0 and width % 2 == 0:
        return functional.conv2d(x, weight, stride=2, padding=1)
    return functional.conv2d(functional.pad(x, (1, 1 + width % 2, 1, 1 + height % 2)), weight, stride=2)
