"""3x3 convolutions by Winograd's algorithm along columns, F(6, 3): 4 of 9 multiplications, equal up to the order of sums.

Six neighbouring outputs of a column need 18 products with each of the kernel's columns; eight combinations of the eight
inputs that they see need 8 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). Whole rows
are combined, by matrix products, and what lies between are eight convolutions of three taps, which oneDNN runs at full
speed. A dilation d makes d neighbouring rows one wider row.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 6  # outputs that are computed together
# Rows: the combinations. Columns: the eight inputs of a tile, the first and the last of which belong to its neighbours.
OF_INPUTS = torch.tensor(
    [[4, 0, -21, 0, 21, 0, -4, 0], [0, 4, 4, -17, -17, 4, 4, 0], [0, -4, 4, 17, -17, -4, 4, 0], [0, 2, 1, -10, -5, 8, 4, 0],
     [0, -2, 1, 10, -5, -8, 4, 0], [0, 8, 16, -10, -20, 2, 4, 0], [0, -8, 16, 10, -20, -2, 4, 0], [0, -4, 0, 21, 0, -21, 0, 4]]
).float() / 4  # fmt: skip
OF_TAPS = torch.tensor(
    [[90, 0, 0], [-20, -20, -20], [-20, 20, -20], [1, 2, 4], [1, -2, 4], [64, 32, 16], [64, -32, 16], [0, 0, 90]]
).double() / 90  # fmt: skip
TO_OUTPUTS = torch.tensor(
    [[32, 32, 32, 32, 32, 32, 32, 0], [0, 32, -32, 64, -64, 16, -16, 0], [0, 32, 32, 128, 128, 8, 8, 0],
     [0, 32, -32, 256, -256, 4, -4, 0], [0, 32, 32, 512, 512, 2, 2, 0], [0, 32, -32, 1024, -1024, 1, -1, 32]]
).float() / 32  # fmt: skip
COMBINATIONS = len(OF_INPUTS)


def pays(inputs: int, outputs: int, dilation: int, height: int, width: int) -> bool:
    """Return whether a layer is faster this way: where channels are many, combining them costs less than it saves.

    On one thread 1.2 to 1.4 times as fast from 96 channels on; slower below 64, on small images, and where tiles are much
    higher than the image.
    """
    covered = -(-height // (TILE * dilation)) * TILE * dilation
    many = min(inputs, outputs) >= 64 and inputs * outputs >= 6000
    return many and height * width >= 2000 and covered <= 1.2 * height


def plain(x: Tensor) -> bool:
    """Return whether nothing but the values of `x` is asked for: no gradients, float32, on a CPU."""
    return not (
        torch.is_grad_enabled()
        or x.device.type != "cpu"
        or x.dtype != torch.float32
        or torch.is_autocast_enabled("cpu")
    )


class Convolution(nn.Conv2d):
    """A square 3x3 or 1x1 convolution that keeps the size, or one with a stride: torch's own, faster where `pays` says so.

    Without gradients, in float32, on a CPU in channels_last; anything else is torch's.
    """

    _kept: tuple[tuple[int, int], list[Tensor]] | None = None  # of which weights, and what they became

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H, W) of (N, inputs, H, W)."""
        if (
            plain(x)
            and self.kernel_size == (3, 3)
            and self.stride == (1, 1)
            and self.padding == self.dilation
            and pays(self.in_channels, self.out_channels, self.dilation[0], x.shape[2], x.shape[3])
        ):
            return self.by_columns(x)
        return super().forward(x)

    def by_columns(self, x: Tensor) -> Tensor:
        """Return what torch's convolution does, by Winograd's algorithm."""
        n, channels, height, width = x.shape
        apart = self.dilation[0]
        tiles = -(-height // (TILE * apart))
        rows = functional.pad(x.permute(0, 2, 3, 1), (0, 0, 0, 0, apart, (TILE * tiles + 1) * apart - height))
        row = apart * width * channels
        seen = x.new_empty(COMBINATIONS, n, tiles, row)
        for image, combined in zip(rows.flatten(1), seen.unbind(1), strict=True):
            overlapping = image.unfold(0, COMBINATIONS * row, TILE * row).unflatten(1, (COMBINATIONS, row))
            torch.bmm(OF_INPUTS.expand(tiles, -1, -1), overlapping, out=combined.transpose(0, 1))
        seen = seen.view(COMBINATIONS, 1, n * tiles * apart, width, channels).permute(0, 1, 4, 2, 3)
        # The second combination counts once in each of the six outputs: it takes the bias along.
        biases = [self.bias if i == 1 else None for i in range(COMBINATIONS)]
        made = [
            torch.conv2d(one, kernel, bias, 1, (0, apart), (1, apart)).permute(0, 2, 3, 1).view(n * tiles, -1)
            for one, kernel, bias in zip(seen, self._combinations(), biases, strict=True)
        ]
        y = torch.bmm(TO_OUTPUTS.expand(n * tiles, -1, -1), torch.stack(made, 1))
        y = y.view(n, TILE * tiles * apart, width, self.out_channels)[:, :height]
        return y.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def _combinations(self) -> list[Tensor]:
        """Return the kernels of the convolutions between, (outputs, inputs, 1, 3) each, kept until weights change."""
        weight = self.weight
        state = (weight._version, weight.data_ptr())
        if self._kept is None or self._kept[0] != state:
            kernels = torch.einsum("ik,ockx->iocx", OF_TAPS, weight.double()).float().unsqueeze(3)
            self._kept = state, [kernel.contiguous(memory_format=torch.channels_last) for kernel in kernels]
        return self._kept[1]
