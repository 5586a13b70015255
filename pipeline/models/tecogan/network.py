"""TecoGAN's networks and the recurrence that upscales a video (paper section 4; FNet and generator as in FRVSR).

Low-resolution frames are RGB in [0,1]; inside the generator and discriminator high-resolution frames lie in [-1,1].
Modules are named like the published TensorFlow variables, so that a checkpoint's names follow from the module tree.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RetakeError
from pipeline.models.base import for_cpu
from pipeline.models.tecogan import SCALE, SMALLEST, ops
from pipeline.tasks.super_resolution.warm_up import warmed

REACH = 24.0  # low-resolution pixels that flow can span
SLOPE = 0.2
WIDTH = 64
FED_BACK = 3 * SCALE * SCALE  # channels of the previous output, space to depth
SCOPES = {
    "fnet": "fnet/autoencode_unit",
    "generator": "generator/generator_unit",
    "discriminator": "tdiscriminator/discriminator_unit",
}


class UpConv(nn.ConvTranspose2d):
    """3x3 stride-2 transposed convolution with TensorFlow's SAME alignment."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, 2)

    def forward(self, x: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Return (N, outputs, 2H, 2W)."""
        return ops.conv_transposed(x, self.weight, self.bias)


class DownConv(nn.Conv2d):
    """4x4 stride-2 convolution with TensorFlow's SAME alignment, no bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 4, 2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, ceil(H/2), ceil(W/2))."""
        return ops.conv_stride2(x, self.weight)


class BatchNorm(nn.Module):
    """Offset without scale, always with the batch's own statistics; the moving ones are stored and never read."""

    moving_mean: Tensor
    moving_variance: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.beta = nn.Parameter(torch.zeros(channels))
        self.register_buffer("moving_mean", torch.zeros(channels))
        self.register_buffer("moving_variance", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return normalised (N, C, H, W); in evaluation too, as published."""
        return functional.batch_norm(
            x, self.moving_mean, self.moving_variance, None, self.beta, training=True, momentum=0.1, eps=0.001
        )


def conv(inputs: int, outputs: int) -> nn.Conv2d:
    """Return a 3x3 convolution that keeps the size, zeros outside."""
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def leaky(x: Tensor) -> Tensor:
    """Return leaky ReLU, in place: what made `x` does not need it for its gradient."""
    return functional.leaky_relu(x, SLOPE, inplace=True)


class Pair(nn.Module):
    """Two 3x3 convolutions, each with leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = conv(inputs, outputs), conv(outputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H, W)."""
        return leaky(self.conv_2(leaky(self.conv_1(x))))


class Single(nn.Module):
    """One 3x3 convolution, in a scope of its own as published."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = conv(inputs, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, H, W)."""
        return self.conv(x)


class FlowOutput(nn.Module):
    """Two 3x3 convolutions with leaky ReLU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.conv2 = conv(64, 32), conv(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 2, H, W), not bounded."""
        return self.conv2(leaky(self.conv1(x)))


class FNet(nn.Module):
    """Flow network: three halvings, three legacy bilinear doublings, no skip connections."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder_1, self.encoder_2, self.encoder_3 = Pair(6, 32), Pair(32, 64), Pair(64, 128)
        self.decoder_1, self.decoder_2, self.decoder_3 = Pair(128, 256), Pair(256, 128), Pair(128, 64)
        self.output_stage = FlowOutput()

    def forward(self, pair: Tensor) -> Tensor:
        """Return flow that warps the first frame to the second, (N, 2, H//8*8, W//8*8) float32, y first.

        `pair`: both low-resolution frames, (N, 6, H, W). Unit: low-resolution pixels, below 24.
        """
        x = for_cpu(pair)
        for encoder in (self.encoder_1, self.encoder_2, self.encoder_3):
            x = functional.max_pool2d(encoder(x), 2)
        for decoder in (self.decoder_1, self.decoder_2, self.decoder_3):
            x = ops.resize_bilinear(decoder(x), 2)
        return REACH * torch.tanh(self.output_stage(x).float())

    def flow(self, previous: Tensor, current: Tensor) -> Tensor:
        """Return the flow of (N, 3, H, W) frames at their own size: mirrored at the bottom and right, as published."""
        height, width = current.shape[-2:]
        return ops.pad_symmetric(self(torch.cat([previous, current], 1)), height % 8, width % 8)


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a ReLU between them, added to the input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_1, self.conv_2 = conv(WIDTH, WIDTH), conv(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 64, H, W)."""
        return self.conv_2(functional.relu_(self.conv_1(x))).add_(x)


class Enlargement(nn.Module):
    """The two transposed convolutions."""

    def __init__(self) -> None:
        super().__init__()
        self.conv_tran1, self.conv_tran2 = UpConv(WIDTH, WIDTH), UpConv(WIDTH, WIDTH)


class Generator(nn.Module):
    """Frame generator: adds what bicubic enlargement lacks. 16 blocks: 1,286,723 parameters; 10: 843,587."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.blocks = blocks
        self.input_stage = Single(3 + FED_BACK, WIDTH)
        for i in range(1, blocks + 1):
            self.add_module(f"resblock_{i}", ResidualBlock())
        self.conv_tran2highres = Enlargement()
        self.output_stage = Single(WIDTH, 3)

    @property
    def margin(self) -> int:
        """Low-resolution pixels around a tile that its output depends on."""
        return 2 * self.blocks + 2

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 3, 4H, 4W) float32 in [-1,1], not clipped.

        `x`: the frame in [0,1] (3 channels), and the previous output, warped, in [0,1], space to depth (48).
        """
        frame = x[:, :3].float()
        x = functional.relu_(self.input_stage(for_cpu(x)))
        for i in range(1, self.blocks + 1):
            x = self.get_submodule(f"resblock_{i}")(x)
        return 2 * (self._enlarged(x).float() + ops.resize_bicubic(frame)) - 1

    def _enlarged(self, x: Tensor) -> Tensor:
        """Return what is added to the bicubic frame, (N, 3, 4H, 4W), from features (N, 64, H, W)."""
        first, second = self.conv_tran2highres.conv_tran1, self.conv_tran2highres.conv_tran2
        last = self.output_stage.conv
        if x.device.type != "cpu":
            return last(functional.relu_(second(functional.relu_(first(x)))))
        x = ops.join(ops.conv_transposed_phases(x, first.weight, first.bias))
        return ops.conv_of_phases(ops.conv_transposed_phases(x, second.weight, second.bias), last.weight, last.bias)

    def tiled(self, x: Tensor, tile: int) -> Tensor:
        """Return what `forward` does, in square tiles of `tile` low-resolution pixels, each with `margin` around it.

        Equal to the whole frame everywhere, up to the order of sums: no output depends on more than its tile sees.
        """
        n, _, height, width = x.shape
        out = x.new_empty(n, 3, SCALE * height, SCALE * width, dtype=torch.float32)
        for top in range(0, height, tile):
            for left in range(0, width, tile):
                bottom, right = min(top + tile, height), min(left + tile, width)
                y, z = max(top - self.margin, 0), max(left - self.margin, 0)
                made = self(x[:, :, y : bottom + self.margin, z : right + self.margin])
                rows = slice(SCALE * (top - y), SCALE * (bottom - y))
                columns = slice(SCALE * (left - z), SCALE * (right - z))
                out[:, :, SCALE * top : SCALE * bottom, SCALE * left : SCALE * right] = made[:, :, rows, columns]
        return out


class DiscriminatorBlock(nn.Module):
    """4x4 stride-2 convolution, BatchNorm, leaky ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.BatchNorm = DownConv(inputs, outputs), BatchNorm(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs, ceil(H/2), ceil(W/2))."""
        return leaky(self.BatchNorm(self.conv1(x)))


class Dense(nn.Module):
    """256 channels to one, at each position."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(256, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, 1, H, W)."""
        return self.dense(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class Discriminator(nn.Module):
    """Discriminator: with 27 channels the published one, spatio-temporal, of frame triplets (section 4.1)."""

    def __init__(self, channels: int = 27) -> None:
        super().__init__()
        self.input_stage = Single(channels, 64)
        self.disblock_1, self.disblock_3 = DiscriminatorBlock(64, 64), DiscriminatorBlock(64, 64)
        self.disblock_5, self.disblock_7 = DiscriminatorBlock(64, 128), DiscriminatorBlock(128, 256)
        self.dense_layer_2 = Dense()

    def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Return probabilities (N, 1, H/16, W/16) and the four blocks' outputs, float32.

        `x`, (N, channels, H, W); of 27: 9 of frames, 9 of frames warped to the middle one, 9 of enlarged input.
        """
        x = leaky(self.input_stage(for_cpu(x)))
        layers = []
        for block in (self.disblock_1, self.disblock_3, self.disblock_5, self.disblock_7):
            x = block(x)
            layers.append(x.float())
        return torch.sigmoid(self.dense_layer_2(x).float()), layers


class State(NamedTuple):
    """What one frame hands to the next, on the network's device: the frame, and its output in [0,1], not clipped."""

    frame: Tensor
    output: Tensor


class Recurrent(nn.Module):
    """Flow network and generator, and the recurrence over the frames of a video."""

    def __init__(self, blocks: int) -> None:
        super().__init__()
        self.fnet = FNet()
        self.generator = Generator(blocks)

    def predicting(self) -> list[nn.Module]:
        """Return what upscaling runs through; in training there is a discriminator beside it."""
        return [self.fnet, self.generator]

    @torch.no_grad()
    def step(self, frame: Tensor, state: State | None, tile: int | None = None) -> State:
        """Return the state after one more frame; its `output` is the upscaled frame.

        `frame`: (N, 3, h, w) float32 in [0,1], sides of at least 8; `state`: None for the first frame.
        `tile`: see `Generator.tiled`; the flow network, small beside the generator in memory, always sees the whole frame.
        """
        n, _, height, width = frame.shape
        if state is None:
            fed_back = frame.new_zeros(n, FED_BACK, height, width)
        else:
            flow = self.fnet.flow(state.frame, frame)
            fed_back = ops.space_to_depth(ops.warp(state.output, ops.resize_bilinear(SCALE * flow, SCALE)))
        x = torch.cat([frame, fed_back], 1)
        made = self.generator(x) if tile is None or tile >= max(height, width) else self.generator.tiled(x, tile)
        return State(frame, (made + 1) / 2)

    def upscale(
        self, frames: Iterable[Tensor], *, published_dropping: bool = False, tile: int | None = None
    ) -> Iterator[Tensor]:
        """Yield each frame upscaled, (N, 3, 4h, 4w) float32 around [0,1], not clipped; memory does not grow.

        `frames`: (N, 3, h, w) float32 RGB in [0,1], N independent videos side by side, any size from 8x8. Up to five
        frames after the first are run through first, backwards, so that the first output has a past (section 4 of the
        specification); `published_dropping`: five outputs are dropped even when fewer frames were prepended.
        Raises RetakeError when a side is below 8 or the size changes.
        """
        for state in self.states(frames, published_dropping=published_dropping, tile=tile):
            yield state.output

    def states(
        self,
        frames: Iterable[Tensor],
        state: State | None = None,
        *,
        published_dropping: bool = False,
        tile: int | None = None,
    ) -> Iterator[State]:
        """Yield what `upscale` does with what the next frame needs; `state`: go on behind the frame it is of."""
        device = next(self.parameters()).device
        run = warmed(frames, published_dropping=published_dropping)
        for frame, kept in run if state is None else ((frame, True) for frame in frames):
            check_frame(frame, state)
            state = self.step(frame.to(device), state, tile)
            if kept:
                yield state


def check_frame(frame: Tensor, state: State | None) -> None:
    """Raise RetakeError when a low-resolution frame is too small, or not of the size of the one before."""
    height, width = frame.shape[-2:]
    if min(height, width) < SMALLEST:
        raise RetakeError(
            f"low-resolution frames of {width}x{height} pixels: TecoGAN's flow network halves three times and needs "
            f"sides of at least {SMALLEST}; pad the video, or upscale it with the bicubic model"
        )
    if state is not None and state.frame.shape != frame.shape:
        before = tuple(state.frame.shape[-2:])
        raise RetakeError(
            f"frames change size from {before[1]}x{before[0]} to {width}x{height} pixels: a video has one size; "
            "split it where the size changes"
        )


# Published variables


def variables(network: nn.Module) -> dict[str, str]:
    """Return {key of the state dict: TensorFlow variable} of all parts that `network` has."""
    names = {}
    for path, module in network.named_modules():
        head, *tail = path.split(".")
        scope = "/".join([SCOPES.get(head, head), *tail])
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            layer = "Conv2d_transpose" if isinstance(module, nn.ConvTranspose2d) else "Conv"
            leaves = {"weight": f"{layer}/weights", "bias": f"{layer}/biases"}
        elif isinstance(module, nn.Linear):
            leaves = {"weight": "kernel", "bias": "bias"}
        elif isinstance(module, BatchNorm):
            leaves = {leaf: leaf for leaf in ("beta", "moving_mean", "moving_variance")}
        else:
            continue
        own = module.state_dict()
        names.update({f"{path}.{leaf}": f"{scope}/{name}" for leaf, name in leaves.items() if leaf in own})
    return names


def from_tensorflow(value: Any) -> Tensor:
    """Return one variable in torch's layout: kernels [kh, kw, a, b] as (b, a, kh, kw), matrices transposed."""
    tensor = torch.as_tensor(value)
    return tensor.permute(3, 2, 0, 1) if tensor.ndim == 4 else tensor.T if tensor.ndim == 2 else tensor


def published_blocks(state: Mapping[str, Any]) -> int:
    """Return the number of residual blocks of a published generator, 0 where there is none."""
    matches = (re.fullmatch(r"generator/generator_unit/resblock_(\d+)/.*", name) for name in state)
    return max((int(m[1]) for m in matches if m), default=0)


def _check_blocks(network: nn.Module, blocks: int) -> None:
    generator = getattr(network, "generator", None)
    if blocks and generator is not None and blocks != generator.blocks:
        raise RetakeError(
            f"the checkpoint's generator has {blocks} residual blocks, network.blocks is {generator.blocks}: "
            f"set network.blocks to {blocks} in params.yaml, or name an entry of `models` that has as many"
        )


def load_own(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Copy weights of our own; those of a discriminator where both have one.

    Raises RetakeError when the generator has another number of blocks, or lists what is missing or of another shape.
    """
    blocks = {key.split(".")[1] for key in state if key.startswith("generator.resblock_")}
    _check_blocks(network, len(blocks))
    own = network.state_dict()
    missing = [key for key in own if key not in state and key.startswith(("fnet.", "generator."))]
    wrong = [key for key in own if key in state and state[key].shape != own[key].shape]
    if missing or wrong:
        raise RetakeError(
            f"the checkpoint is not of this TecoGAN network: missing {', '.join(missing[:4]) or 'nothing'}, "
            f"of another shape {', '.join(wrong[:4]) or 'nothing'}"
        )
    network.load_state_dict({key: state[key] for key in own if key in state}, strict=False)


def renamed(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return what `state` has of a flow network and a generator of any depth, under the keys of our state dicts."""
    with torch.device("meta"):
        names = variables(Recurrent(published_blocks(state)))
    return {key: from_tensorflow(state[name]) for key, name in names.items() if name in state}


def load_variables(network: nn.Module, state: Mapping[str, Any]) -> None:
    """Copy TensorFlow variables, selected by exact name, into all parts of `network`; further ones are ignored.

    `state`: {variable: array or tensor in TensorFlow's layout}; optimiser slots and averages in it do no harm. Where it
    has no discriminator, as checkpoints for inference have none, that of `network` stays as it is.
    Raises RetakeError when the generator has another number of blocks, or lists what is missing or of another shape.
    """
    _check_blocks(network, published_blocks(state))
    names, own = variables(network), network.state_dict()
    needed = {"fnet", "generator", *(name.split("/")[0] for name in state)}
    names = {key: name for key, name in names.items() if name.split("/")[0] in needed}
    missing = [name for name in names.values() if name not in state]
    if missing:
        held = ", ".join(sorted({name.split("/")[0] for name in state})) or "nothing"
        raise RetakeError(
            f"the checkpoint lacks {len(missing)} of TecoGAN's {len(names)} variables: {', '.join(missing[:8])}"
            f"{', …' if len(missing) > 8 else ''} (it holds: {held}). Give the checkpoint of TecoGAN or FRVSR"
        )
    loaded = {key: from_tensorflow(state[name]) for key, name in names.items()}
    wrong = [
        f"{names[key]} is {list(state[names[key]].shape)}, {list(own[key].shape)} in torch's order is needed"
        for key, value in loaded.items()
        if value.shape != own[key].shape
    ]
    if wrong:
        raise RetakeError(f"the checkpoint is of another network: {'; '.join(wrong[:8])}")
    network.load_state_dict(loaded, strict=False)
