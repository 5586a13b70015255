"""The networks of i2v-cINN's first stage: video encoder, decoder, temporal discriminator (the spatial one: losses.patch).

In here frames are RGB in [-1,1], and clips have their channels before the time, (B, 3, T, S, S). Modules are named like
those of the published checkpoints.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.models.cinn_stage1 import Z_DIM, Network

GROUPS = 16
SLOPE = 0.2
HIDDEN = 128  # channels through which SPADE sees the start frame
GAIN = 0.02  # of SPADE's convolutions at the start
SMALLEST = 4  # pixels at a side of the encoder's last and the decoder's first features

Stride = tuple[int, int, int]  # time, height, width


class Layout(NamedTuple):
    """Spatial strides of the encoder's and the temporal discriminator's stages, enlargement of the decoder's last two."""

    encoder: Sequence[int]
    judge: Sequence[int]
    decoder: Sequence[int]


LAYOUTS = {
    32: Layout((1, 1, 2, 2), (1, 1, 1, 2), (1, 1)),
    64: Layout((1, 2, 2, 2), (1, 1, 2, 2), (2, 1)),
    128: Layout((2, 2, 2, 2), (1, 2, 2, 2), (2, 2)),
}


class ResidualBlock(nn.Module):
    """Two 3x3x3 convolutions and a skip, which is a convolution too where the size or the width changes."""

    def __init__(self, inputs: int, outputs: int, stride: Stride) -> None:
        super().__init__()
        self.conv1 = nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.GroupNorm(GROUPS, outputs)
        self.conv2 = nn.Conv3d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.GroupNorm(GROUPS, outputs)
        self.downsample = nn.Sequential()
        if stride != (1, 1, 1) or inputs != outputs:
            skip = nn.Conv3d(inputs, outputs, 3, stride, padding=1, bias=False)
            self.downsample.extend([skip, nn.GroupNorm(GROUPS, outputs)])

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs, T / stride, H / stride, W / stride), rounded up."""
        h = functional.relu(self.bn1(self.conv1(x)))
        return functional.relu(self.bn2(self.conv2(h)) + self.downsample(x))


def _stages(channels: Sequence[int], times: Sequence[int], spaces: Sequence[int]) -> nn.Sequential:
    """Return four stages of two residual blocks, the first of which has the stage's stride in time and in space."""
    return nn.Sequential(
        *(
            nn.Sequential(
                ResidualBlock(inputs, outputs, (time, space, space)), ResidualBlock(outputs, outputs, (1, 1, 1))
            )
            for inputs, outputs, time, space in zip(channels, channels[1:], times, spaces, strict=False)
        )
    )


class Encoder(nn.Module):
    """3D ResNet-18 that gives the posterior of a clip's motion code."""

    def __init__(self, p: Network) -> None:
        super().__init__()
        widths = p.channels
        self.conv1 = nn.Conv3d(3, widths[0], (3, 7, 7), (2, 2, 2), padding=(1, 3, 3), bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, widths[0])
        self.layer = _stages(widths, (1, 2, 2, 2), LAYOUTS[p.size].encoder)
        self.conv_mu = nn.Conv2d(widths[-1], Z_DIM, SMALLEST)
        self.conv_var = nn.Conv2d(widths[-1], Z_DIM, SMALLEST)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, clip: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (B, 64) each, of a clip (B, 3, T, S, S), T at most 16."""
        x = self.layer(functional.relu(self.norm1(self.conv1(clip)))).squeeze(2)
        return self.conv_mu(x).flatten(1), self.conv_var(x).flatten(1)


class TemporalDiscriminator(nn.Module):
    """3D ResNet-18 that judges a clip; the first block of each stage is spectrally normalised."""

    def __init__(self, size: int, channels: Sequence[int]) -> None:
        super().__init__()
        width = channels[0]
        self.conv1 = nn.Conv3d(3, width, (3, 7, 7), (1, 2, 2), padding=(1, 3, 3), bias=False)
        self.norm1 = nn.GroupNorm(GROUPS, width)
        self.layer = _stages(channels, (2, 2, 2, 2), LAYOUTS[size].judge)
        self.fc = nn.Linear(channels[-1], 1, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Conv3d):
                nn.init.orthogonal_(module.weight)
        for stage in self.layer:
            block = stage[0]  # type: ignore[index]
            for convolution in (block.conv1, block.conv2, block.downsample[0]):
                nn.utils.spectral_norm(convolution)

    def forward(self, clip: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return logits (B, 1), large means real, and the four stages' features of a clip (B, 3, T, S, S), T 9 to 16."""
        x = functional.relu(self.norm1(self.conv1(clip)))
        x = functional.max_pool3d(x, 3, (1, 2, 2), padding=1)
        features = []
        for stage in self.layer:
            x = stage(x)
            features.append(x)
        return self.fc(functional.avg_pool3d(x, (1, SMALLEST, SMALLEST)).flatten(1)), features


class Spade(nn.Module):
    """Group norm whose scale and offset are computed from the start frame (SPADE, arXiv 1903.07291)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.groups = next(n for n in range(GROUPS, 0, -1) if channels % n == 0)
        self.conv = nn.Conv2d(3, HIDDEN, 3, padding=1)
        self.conv_gamma = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        self.conv_beta = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        for name, weight in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(weight)
            else:
                nn.init.xavier_uniform_(weight, GAIN)

    def forward(self, x: Tensor, start: Tensor) -> Tensor:
        """Return x (B, C, T, H, W) normalised and modulated, the same at all times. `start`: (B, 3, H, W)."""
        hidden = functional.leaky_relu(self.conv(start), SLOPE)
        gamma, beta = (convolution(hidden).unsqueeze(2) for convolution in (self.conv_gamma, self.conv_beta))
        return functional.group_norm(x, self.groups) * (1 + gamma) + beta


class AdaIn(nn.Module):
    """Instance norm whose scale and offset are computed from the motion code."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(Z_DIM, 2 * channels)

    def forward(self, x: Tensor, z: Tensor) -> Tensor:
        """Return x (B, C, T, H, W) normalised and modulated. `z`: (B, 64)."""
        gamma, beta = self.linear(z)[:, :, None, None, None].chunk(2, 1)
        return gamma * functional.instance_norm(x) + beta


class GeneratorBlock(nn.Module):
    """Residual block that sees the start frame in front of its first convolution, the motion in front of its second."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        middle = min(inputs, outputs)
        self.norm_0 = Spade(inputs)
        self.conv_0 = nn.utils.spectral_norm(nn.Conv3d(inputs, middle, 3, padding=1))
        self.norm_1 = AdaIn(middle)
        self.conv_1 = nn.utils.spectral_norm(nn.Conv3d(middle, outputs, 3, padding=1))
        self.norm_s = nn.Sequential()
        self.conv_s: nn.Module = nn.Identity()
        if inputs != outputs:
            self.norm_s.add_module("bn", nn.GroupNorm(GROUPS, inputs))
            self.conv_s = nn.utils.spectral_norm(nn.Conv3d(inputs, outputs, 1, bias=False))

    def forward(self, x: Tensor, start: Tensor, z: Tensor) -> Tensor:
        """Return (B, outputs, T, H, W). `start`: (B, 3, H, W); `z`: (B, 64)."""
        h = self.conv_0(functional.leaky_relu(self.norm_0(x, start), SLOPE))
        h = self.conv_1(functional.leaky_relu(self.norm_1(h, z), SLOPE))
        return h + self.conv_s(self.norm_s(x))


class Decoder(nn.Module):
    """Makes the 16 frames that follow a start frame, all at once, from the motion code."""

    def __init__(self, p: Network) -> None:
        super().__init__()
        n = p.channel_factor
        self.fc = nn.Linear(Z_DIM, SMALLEST * SMALLEST * 16 * n)
        self.head_0 = GeneratorBlock(16 * n, 16 * n)
        self.g_0 = GeneratorBlock(16 * n, 16 * n)
        self.g_1 = GeneratorBlock(16 * n, 8 * n)
        self.g_2 = GeneratorBlock(8 * n, 4 * n)
        self.g_3 = GeneratorBlock(4 * n, 2 * n)
        self.g_4 = GeneratorBlock(2 * n, n)
        self.conv_img = nn.Conv3d(n, 3, 3, padding=1)
        third, last = LAYOUTS[p.size].decoder
        self.factors: list[Stride] = [(2, 2, 2)] * 3 + [(2, third, third), (1, last, last)]

    def forward(self, start: Tensor, z: Tensor) -> Tensor:
        """Return the clip (B, 3, 16, S, S) that follows the start frame (B, 3, S, S) with the motion z (B, 64)."""
        x = self.fc(z).view(len(z), -1, 1, SMALLEST, SMALLEST)
        resized: dict[int, Tensor] = {}  # the start frame at the sides of the blocks
        blocks = (self.head_0, self.g_0, self.g_1, self.g_2, self.g_3, self.g_4)
        for block, factors in zip(blocks, [(1, 1, 1), *self.factors], strict=True):
            x = functional.interpolate(x, scale_factor=[float(f) for f in factors], mode="nearest")
            side = x.shape[-1]
            if side not in resized:
                resized[side] = functional.interpolate(start, (side, side), mode="bilinear", align_corners=True)
            x = block(x, resized[side], z)
        return torch.tanh(self.conv_img(functional.leaky_relu(x, SLOPE)))
