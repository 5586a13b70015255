"""The conditional flow of i2v-cINN: a motion code to a Gaussian residual, and back (arXiv 2105.04551).

Twenty blocks, each ActNorm, an activation, two affine couplings and a fixed shuffle. Every block sees the same condition: the
embedding of the start frame and, with end-point control, where the robot's arm is to end. Module names are those of the
published checkpoints.

As published, the activation (slope 0.9 below zero) counts nothing in the log-determinant. Its true part is piecewise
constant, so training is the same with it; only the value of the loss differs.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from pipeline.errors import RetakeError
from pipeline.losses.patch import ActNorm
from pipeline.models.cinn_ae.network import Perceptron

SLOPE = 0.9  # of the activation below zero
BINS = 10  # of each coordinate of an end point
COORDINATES = 3
ALONE = 4  # with control, couplings see the other half only in every fourth block, and else the condition alone


class Coupling(nn.Module):
    """Each half of a vector scaled and moved by what two networks make of the other half and the condition.

    `alone`: of the condition alone.
    """

    def __init__(self, channels: int, condition: int, width: int, depth: int, alone: bool) -> None:
        super().__init__()
        half = channels // 2
        inputs = condition if alone else half + condition
        self.alone = alone
        self.s = nn.ModuleList(Perceptron(inputs, width, depth, half) for _ in range(2))
        self.t = nn.ModuleList(Perceptron(inputs, width, depth, half) for _ in range(2))

    def forward(self, x: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return (B, channels) and the log-determinant of each sample (B,)."""
        kept, changed = x.chunk(2, 1)
        first, shift = self._affine(0, kept, condition)
        kept, changed = changed * first.exp() + shift, kept
        second, shift = self._affine(1, kept, condition)
        return torch.cat([kept, changed * second.exp() + shift], 1), (first + second).sum(1)

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """Return what `forward` made `y` of."""
        kept, changed = y.chunk(2, 1)
        for i in (1, 0):
            scale, shift = self._affine(i, kept, condition)
            kept, changed = (changed - shift) * (-scale).exp(), kept
        return torch.cat([changed, kept], 1)

    def _affine(self, i: int, kept: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logarithm of the scale, and the shift."""
        seen = condition if self.alone else torch.cat([kept, condition], 1)
        return self.s[i](seen), self.t[i](seen)


class Shuffle(nn.Module):
    """A permutation of the channels, drawn once."""

    forward_shuffle_idx: Tensor
    backward_shuffle_idx: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        order = torch.randperm(channels)
        self.register_buffer("forward_shuffle_idx", order)
        self.register_buffer("backward_shuffle_idx", order.argsort())


class Block(nn.Module):
    """ActNorm, activation, coupling, shuffle."""

    def __init__(self, channels: int, condition: int, width: int, depth: int, alone: bool) -> None:
        super().__init__()
        self.norm_layer = ActNorm(channels)
        self.coupling = Coupling(channels, condition, width, depth, alone)
        self.shuffle = Shuffle(channels)

    def forward(self, x: Tensor, condition: Tensor, *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Return (B, channels) and the log-determinant of each sample (B,); the first batch ever sets ActNorm."""
        x, scaling = self.normalised(x)
        negative = x < 0
        x, logdet = self.coupling(torch.where(negative, SLOPE * x, x), condition)
        logdet = logdet + scaling
        if exact:
            logdet = logdet + negative.sum(1) * math.log(SLOPE)
        return x[:, self.shuffle.forward_shuffle_idx], logdet

    def normalised(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return what ActNorm makes of `x` and its log-determinant, a scalar: all samples have the same."""
        norm = self.norm_layer
        x = x[:, :, None, None]
        if not norm.initialized:  # in evaluation too, as published
            norm.initialise(x)
        return norm(x)[:, :, 0, 0], norm.scale.abs().log().sum()

    def inverse(self, y: Tensor, condition: Tensor) -> Tensor:
        """Return what `forward` made `y` of."""
        x = self.coupling.inverse(y[:, self.shuffle.backward_shuffle_idx], condition)
        x = torch.where(x < 0, x / SLOPE, x)[:, :, None, None]
        return (x / self.norm_layer.scale - self.norm_layer.loc)[:, :, 0, 0]


class ConditionalFlow(nn.Module):
    """The chain of blocks.

    `channels`: of the motion code, even. `condition`: values of the condition. `width`, `depth`: of the networks in the
    couplings. `control`: whether three of four blocks see the condition alone, as the published model with end points.
    """

    def __init__(self, channels: int, condition: int, *, blocks: int, width: int, depth: int, control: bool) -> None:
        super().__init__()
        self.sub_layers = nn.ModuleList(
            Block(channels, condition, width, depth, alone=control and i % ALONE != 0) for i in range(blocks)
        )

    def forward(self, code: Tensor, condition: Tensor, *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Return the residuals (B, channels) and log-determinants (B,) of codes (B, channels) and conditions (B, E).

        The first batch sets every ActNorm, in evaluation mode too. `exact`: with the activations' part of the
        log-determinant, which the published value leaves out.
        """
        total = code.new_zeros(len(code))
        for block in self.sub_layers:
            code, logdet = block(code, condition, exact=exact)
            total = total + logdet
        return code, total

    def inverse(self, residual: Tensor, condition: Tensor) -> Tensor:
        """Return the codes (B, channels) of residuals (B, channels) and conditions (B, E)."""
        for block in reversed(self.sub_layers):
            assert isinstance(block, Block)
            residual = block.inverse(residual, condition)
        return residual


def likelihood(residual: Tensor, logdet: Tensor) -> dict[str, Tensor]:
    """Return the loss of residuals (B, channels) and log-determinants (B,), and its parts, without the constant of 2 pi.

    `nll_loss`: how unlikely the residuals are under N(0, I); `nlogdet_loss`: minus the mean log-determinant.
    """
    parts = {"nll_loss": 0.5 * residual.square().sum(1).mean(), "nlogdet_loss": -logdet.mean()}
    return {"loss": parts["nll_loss"] + parts["nlogdet_loss"], **parts}


def one_hot(endpoints: Tensor) -> Tensor:
    """Return end points (B, 3) in [0,1] as three codes of ten bins, (B, 30) of 0 and 1.

    A bin holds its upper border: 0.1 is in bin 0, 1 in bin 9. Raises RetakeError for values outside [0,1].
    """
    if not ((endpoints >= 0) & (endpoints <= 1)).all():  # NaN fails both
        raise RetakeError(
            f"end points from {endpoints.min():.4g} to {endpoints.max():.4g}: they must lie in [0,1], as the dataset "
            "normalises the arm's position"
        )
    bins = (BINS * endpoints - 1e-4).long()
    return nn.functional.one_hot(bins, BINS).flatten(1).to(endpoints.dtype)
