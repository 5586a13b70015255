"""The conditional flow of i2v-cINN: a motion code to a Gaussian residual, and back (arXiv 2105.04551).

Twenty blocks, each ActNorm, an activation, two affine couplings and a fixed shuffle. Every block sees the same condition: the
embedding of the start frame and, with end-point control, where the robot's arm is to end. Module names are those of the
published checkpoints.

As published, the activation (slope 0.9 below zero) counts nothing in the log-determinant. Its true part is piecewise
constant, so training is the same with it; only the value of the loss differs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from pipeline.errors import RetakeError
from pipeline.losses.patch import ActNorm
from pipeline.models import published
from pipeline.models.cinn_ae.network import Perceptron

SLOPE = 0.9  # of the activation below zero
BINS = 10  # of each coordinate of an end point
COORDINATES = 3
ROUNDING = 1e-6  # by which a position at the end of its range may miss it
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
            logdet = logdet + math.log(SLOPE) * negative.to(x.dtype).sum(1)
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
        self.condition = condition
        self.sub_layers = nn.ModuleList(
            Block(channels, condition, width, depth, alone=control and i % ALONE != 0) for i in range(blocks)
        )

    def forward(self, code: Tensor, condition: Tensor, *, exact: bool = False) -> tuple[Tensor, Tensor]:
        """Return the residuals (B, channels) and log-determinants (B,) of codes (B, channels) and conditions (B, E).

        The first batch sets every ActNorm, in evaluation mode too. `exact`: with the activations' part of the
        log-determinant, which the published value leaves out.
        """
        total = code.new_zeros(len(code))
        with _full_precision(code):
            for block in self.sub_layers:
                code, logdet = block(code, condition, exact=exact)
                total = total + logdet
        return code, total

    def inverse(self, residual: Tensor, condition: Tensor) -> Tensor:
        """Return the codes (B, channels) of residuals (B, channels) and conditions (B, E)."""
        with _full_precision(residual):
            for block in reversed(self.sub_layers):
                assert isinstance(block, Block)
                residual = block.inverse(residual, condition)
        return residual

    def load_published(self, state: Mapping[str, Tensor]) -> None:
        """Copy the weights of a published flow (`cINN.pth`), or of one of our own.

        Raises RetakeError when they are of a flow of other sizes, or of another network.
        """
        own, given = _sizes(self.state_dict()), _sizes(state)
        others = [f"{name} {given[name]} instead of {own[name]}" for name in given if given[name] != own[name]]
        if others:
            raise RetakeError(
                f"the flow's checkpoint does not fit: {', '.join(others)}. The condition is the encoder's embedding "
                f"(network.encoder.z_dim), and with network.control {COORDINATES * BINS} values more"
            )
        published.load(self, state, "the checkpoint is not of the conditional flow")
        for i, block in enumerate(self.sub_layers):
            order = block.get_buffer("shuffle.forward_shuffle_idx")
            back = block.get_buffer("shuffle.backward_shuffle_idx")
            if not order.sort()[0].equal(torch.arange(len(order))) or not back.equal(order.argsort()):
                raise RetakeError(f"the flow's checkpoint is damaged: the shuffle of block {i} is no permutation")


def _full_precision(x: Tensor) -> torch.autocast:
    """Return a context without mixed precision: in 8 bits of mantissa, twenty blocks do not invert."""
    return torch.autocast(x.device.type, enabled=False)


def _sizes(state: Mapping[str, Tensor]) -> dict[str, int | bool]:
    """Return what the keys and shapes of a flow's weights say of its settings; {} for another network's weights."""
    inputs = [state[key].shape[1] for key in state if key.endswith(".coupling.s.0.main.0.weight")]
    if not inputs or "sub_layers.0.norm_layer.loc" not in state:
        return {}
    channels = state["sub_layers.0.norm_layer.loc"].shape[1]
    control = len(set(inputs)) > 1
    return {
        "channels": channels,
        "condition": max(inputs) - channels // 2,
        "blocks": len(inputs),
        "control": control,
    }


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
    if not ((endpoints >= -ROUNDING) & (endpoints <= 1 + ROUNDING)).all():  # NaN fails both
        raise RetakeError(
            f"end points from {endpoints.min():.7g} to {endpoints.max():.7g} of the arm's reach: they must lie in [0,1] of it, "
            "BAIR's x from 0.426 to 0.855, y from -0.308 to 0.232, z from 0.191 to 0.317"
        )
    bins = (BINS * endpoints - 1e-4).long()
    return nn.functional.one_hot(bins, BINS).flatten(1).to(endpoints.dtype)
