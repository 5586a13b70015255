"""3x3 convolutions by Winograd's algorithm along rows, F(4, 3): half the multiplications, equal up to the order of sums.

Four neighbouring outputs of a row need 12 products with each of the kernel's rows; six combinations of the six inputs
that they see need 6 (Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016). The combinations
are matrix products, and what lies between them is one grouped convolution of three taps, which oneDNN runs at full speed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

TILE = 4  # outputs that are computed together
# Rows: the combinations. Columns: the six inputs of a tile, the first and the last of which belong to its neighbours.
OF_INPUTS = torch.tensor(
    [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0], [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]]
).float()  # fmt: skip
OF_TAPS = torch.tensor([[6, 0, 0], [-4, -4, -4], [-4, 4, -4], [1, 2, 4], [1, -2, 4], [0, 0, 24]]).double() / 24
TO_OUTPUTS = torch.tensor([[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]]).float()
COMBINATIONS = len(OF_INPUTS)


def pays(inputs: int, outputs: int, dilation: int, pixels: int) -> bool:
    """Return whether a layer is faster this way: where channels are many, combining them costs less than it saves.

    Measured with one and two threads (bench/results.md): 1.2 to 1.4 times as fast from 128 channels on, slower below 80,
    on small images, and with dilations that make tiles wider than their rows.
    """
    return min(inputs, outputs) >= 64 and inputs * outputs >= 12000 and dilation <= TILE and pixels >= 400


class Convolution(nn.Conv2d):
    """A square 3x3 or 1x1 convolution that keeps the size, or one with a stride: torch's own, faster where `pays` says so.

    Without gradients, in float32, on a CPU in channels_last; anything else is torch's.
    """

    _kept: tuple[tuple[int, int], Tensor] | None = None  # of which weights, and what they became

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H, W) of (N, inputs, H, W)."""
        if (
            torch.is_grad_enabled()
            or x.device.type != "cpu"
            or x.dtype != torch.float32
            or torch.is_autocast_enabled("cpu")
            or self.kernel_size != (3, 3)
            or self.stride != (1, 1)
            or self.padding != self.dilation
            or not pays(self.in_channels, self.out_channels, self.dilation[0], x.shape[2] * x.shape[3])
        ):
            return super().forward(x)
        return self.by_rows(x)

    def by_rows(self, x: Tensor) -> Tensor:
        """Return what torch's convolution does, by Winograd's algorithm; a dilation d makes d interleaved images."""
        n, channels, height, width = x.shape
        apart = self.dilation[0]
        tiles = -(-width // (TILE * apart))
        x = x.permute(0, 2, 3, 1)
        if spare := TILE * apart * tiles - width:
            x = functional.pad(x, (0, 0, 0, spare))
        x = x.unflatten(2, (TILE * tiles, apart)).transpose(2, 3).reshape(-1, tiles, TILE, channels)
        inner = OF_INPUTS[:, 1:-1].expand(len(x) * tiles, -1, -1)
        seen = torch.bmm(inner, x.flatten(0, 1)).view(-1, tiles, COMBINATIONS, channels)
        seen[:, 1:, 0].add_(x[:, :-1, -1], alpha=4)  # the neighbours' inputs: OF_INPUTS[0, 0] and [5, 5]
        seen[:, :-1, -1].add_(x[:, 1:, 0])
        kernel, bias = self._combinations()
        seen = seen.view(n, height, apart * tiles, COMBINATIONS * channels).permute(0, 3, 1, 2)
        made = torch.conv2d(seen, kernel, bias, 1, (apart, 0), (apart, 1), COMBINATIONS)
        made = made.permute(0, 2, 3, 1).reshape(-1, COMBINATIONS, self.out_channels)
        y = torch.bmm(TO_OUTPUTS.expand(len(made), -1, -1), made).view(n, height, apart, TILE * tiles, -1)
        y = y.transpose(2, 3).reshape(n, height, TILE * apart * tiles, -1)[:, :, :width]
        return y.permute(0, 3, 1, 2).contiguous(memory_format=torch.channels_last)

    def _combinations(self) -> tuple[Tensor, Tensor]:
        """Return the grouped convolution's kernel (6 x outputs, inputs, 3, 1), kept until weights change, and its bias."""
        weight = self.weight
        state = (weight._version, weight.data_ptr())
        if self._kept is None or self._kept[0] != state:
            kernel = torch.einsum("ik,ocyk->iocy", OF_TAPS, weight.double()).float().flatten(0, 1)
            self._kept = state, kernel[..., None].contiguous()
        bias = weight.new_zeros(COMBINATIONS, self.out_channels)
        if self.bias is not None:
            bias[1] = self.bias  # that combination counts once in each of the four outputs
        return self._kept[1], bias.flatten()
