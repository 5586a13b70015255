"""DTVNet's three networks: flow encoder, generator, discriminator (ECCV 2020, section 3).

Modules are named and numbered so that state dicts have the published keys. The widths that are written as plain numbers
follow from the 32 frames: 64 channels are 32 flow fields, 96 are 32 frames in three colours.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RetakeError
from pipeline.models.dtvnet import FRAMES, SIZE, Network

SLOPE = 0.2
EPSILON = 1e-5  # of every normalisation


class FlowEncoder(nn.Module):
    """The paper's optical-flow encoder (OFE): flow of 32 frames of size x size px, published 128, to one motion vector."""

    def __init__(self, width: int, motion: int, size: int = SIZE) -> None:
        super().__init__()
        self.size, last = size, 16 * width
        self.downConv1 = nn.Conv3d(2, width, (3, 4, 4), (1, 2, 2), 1, bias=False)
        for i in range(2, 6):
            outputs = width << (i - 1)
            self.add_module(f"downConv{i}", nn.Conv3d(outputs // 2, outputs, 4, 2, 1, bias=False))
            self.add_module(f"downBN{i}", nn.BatchNorm3d(outputs, EPSILON))
        self.downConv6 = nn.Conv3d(last, last, (2, size // 32, size // 32), bias=False)
        self.fc1 = nn.Linear(last, motion)

    @property
    def trained(self) -> bool:
        """Whether the weights have seen a training step."""
        return bool(self.get_submodule("downBN2").num_batches_tracked)

    def forward(self, flow: Tensor, *, batch_statistics: bool = False) -> Tensor:
        """Return motion vectors (B, motion) of `flow`, (B, 2, 32, size, size) px, x first.

        `batch_statistics`: normalise by the batch in evaluation too, and leave the running statistics alone. Raises
        RetakeError for other sizes.
        """
        check_clip(flow, self.size, "flow encoder")
        x = self.downConv1(flow)
        for i in range(2, 6):
            norm: Any = self.get_submodule(f"downBN{i}")
            x = self.get_submodule(f"downConv{i}")(x)
            if batch_statistics:
                x = functional.batch_norm(x, None, None, norm.weight, norm.bias, training=True, eps=EPSILON)
            else:
                x = norm(x)
            x = functional.leaky_relu(x, SLOPE, inplace=True)
        return self.fc1(self.downConv6(x).flatten(1))


def check_clip(x: Tensor, size: int, network: str) -> None:
    """Raise RetakeError when `x`, (B, channels, T, H, W), is not of 32 frames of size x size px."""
    frames, height, width = x.shape[2:]
    if (frames, height, width) != (FRAMES, size, size):
        raise RetakeError(
            f"DTVNet's {network} takes {FRAMES} frames of {size}x{size} pixels, not {frames} of {width}x{height}: "
            "set height and width of the dataset to the model's network.size, and flow's export to sky where that is 128"
        )


def normalised(vectors: Tensor) -> Tensor:
    """Return (B, motion) vectors with mean 0 and variance 1 over the batch; a batch of one becomes zero."""
    variance, mean = torch.var_mean(vectors, 0, correction=0)
    return (vectors - mean) / (variance + EPSILON).sqrt()


def convolution(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, padding: int = 1) -> list[nn.Module]:
    """Return a convolution without bias, batch norm and ReLU."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [conv, nn.BatchNorm2d(outputs, EPSILON), nn.ReLU(inplace=True)]


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions that see mirrored borders, added to the input."""

    def __init__(self, width: int) -> None:
        super().__init__()
        first, second = convolution(width, width, padding=0), convolution(width, width, padding=0)
        self.conv_block = nn.Sequential(nn.ReflectionPad2d(1), *first, nn.ReflectionPad2d(1), *second[:2])

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, width, H, W)."""
        return x + self.conv_block(x)


class EqualisedLinear(nn.Module):
    """Linear layer with weights from N(0, 1), scaled by sqrt(2 / inputs) where they are used."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.scale = (2 / inputs) ** 0.5
        self.linear = nn.ParameterDict({"bias": torch.zeros(outputs), "weight_orig": torch.randn(outputs, inputs)})

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, outputs)."""
        return functional.linear(x, self.linear["weight_orig"] * self.scale, self.linear["bias"])


def perceptron(width: int, layers: int) -> nn.Sequential:
    """Return equalised linear layers, each with leaky ReLU."""
    return nn.Sequential(
        *(part for _ in range(layers) for part in (EqualisedLinear(width, width), nn.LeakyReLU(SLOPE)))
    )


class AdaIN(nn.Module):
    """Adaptive instance norm: each channel gets the scale and the shift that the style says."""

    def __init__(self, motion: int, width: int) -> None:
        super().__init__()
        self.style = EqualisedLinear(motion, 2 * width)
        nn.init.ones_(self.style.linear["bias"][:width])

    def forward(self, x: Tensor, style: Tensor) -> Tensor:
        """Return (N, width, H, W); `style`: (N, motion)."""
        scale, shift = self.style(style)[..., None, None].chunk(2, 1)
        return scale * functional.instance_norm(x, eps=EPSILON) + shift


class MotionStream(nn.Module):
    """Features of the image and a motion vector to 32 flow fields."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        width, motion, blocks = network.channels, network.motion, range(network.motion_blocks)
        self.conv = nn.Sequential(*convolution(2 * width, width))
        self.opt = perceptron(motion, 3)
        self.model_img = nn.ModuleList(ResidualBlock(width) for _ in blocks)
        self.model_A = nn.ModuleList(perceptron(motion, 2) for _ in blocks)
        self.model_AdaIN = nn.ModuleList(AdaIN(motion, width) for _ in blocks)
        self.model_opt = nn.Sequential(nn.Conv2d(width, 2 * FRAMES, 3, padding=1), nn.LeakyReLU(0.1))

    def forward(self, x: Tensor, vector: Tensor) -> Tensor:
        """Return flow (N, 64, H, W), channels 2t and 2t + 1 are x and y of frame t; `x`: (N, 2 channels, H, W)."""
        x, motion = self.conv(x), self.opt(vector)
        for block, style, adain in zip(self.model_img, self.model_A, self.model_AdaIN, strict=True):
            x = adain(block(x), style(motion))
        return self.model_opt(x)


class Generator(nn.Module):
    """The paper's dynamic video generator (DVG): an image and a motion vector to 32 frames, all at once."""

    def __init__(self, network: Network) -> None:
        super().__init__()
        width, frames = network.channels, 3 * FRAMES
        self.share = nn.Sequential(
            nn.ReflectionPad2d(2),
            *convolution(3, width, 5, padding=0),
            *convolution(width, 2 * width, stride=2),
            *convolution(2 * width, 2 * width),
        )
        self.img_path = nn.Sequential(*(ResidualBlock(2 * width) for _ in range(network.content_blocks)))
        self.opt_path = MotionStream(network)
        self.decoder = nn.Sequential(
            *convolution(2 * width + 2 * FRAMES, frames),
            *convolution(frames, frames),
            nn.ConvTranspose2d(frames, frames, 3, 2, 1, output_padding=1, bias=False),
            nn.BatchNorm2d(frames, EPSILON),
            nn.ReLU(inplace=True),
            nn.ReflectionPad2d(2),
            nn.Conv2d(frames, frames, 5),
            nn.Tanh(),
        )

    def forward(self, image: Tensor, vector: Tensor) -> tuple[Tensor, Tensor]:
        """Return a video (B, 3, 32, H, W) in [-1,1] and its flow (B, 64, H/2, W/2), of the image's dtype.

        `image`: (B, 3, H, W) in [-1,1], H and W even; `vector`: (B, motion), normalised. The flow has x and y of frame t in
        channels 2t and 2t + 1, in pixels of its own size.
        """
        x = self.share(image)
        flow = self.opt_path(x, vector)
        video = self.decoder(torch.cat([self.img_path(x), flow], 1))
        return video.unflatten(1, (3, FRAMES)).to(image), flow.to(image)


def options(state: Mapping[str, Tensor]) -> dict[str, int]:
    """Return what a generator's state dict says of `network` in params.yaml; {} for another network's."""
    try:
        return {
            "channels": state["share.1.weight"].shape[0],
            "motion": state["opt_path.opt.0.linear.bias"].shape[0],
            "content_blocks": sum(key.startswith("img_path.") and key.endswith("block.1.weight") for key in state),
            "motion_blocks": sum(
                key.startswith("opt_path.model_img.") and key.endswith("block.1.weight") for key in state
            ),
        }
    except KeyError:
        return {}


class Discriminator(nn.Module):
    """Scores whole videos, without the image or the motion that they were made from; used in training alone."""

    def __init__(self, width: int, size: int = SIZE) -> None:
        super().__init__()
        self.size = size

        def down(inputs: int, outputs: int, slope: float = SLOPE) -> list[nn.Module]:
            conv = nn.Conv3d(inputs, outputs, 4, 2, 1, bias=False)
            return [conv, nn.InstanceNorm3d(outputs, EPSILON), nn.LeakyReLU(slope, inplace=True)]

        first = nn.Conv3d(3, width, (3, 4, 4), (1, 2, 2), 1, bias=False)
        self.slice1 = nn.Sequential(first, nn.LeakyReLU(SLOPE, inplace=True))
        self.slice2 = nn.Sequential(*down(width, 2 * width), *down(2 * width, 4 * width))
        self.slice3 = nn.Sequential(*down(4 * width, 8 * width), *down(8 * width, 16 * width, 0.01))
        self.slice4 = nn.Sequential(nn.Conv3d(16 * width, 1, (2, size // 32, size // 32), bias=False))

    def forward(self, video: Tensor) -> Tensor:
        """Return one score a video, (B, 1), not bounded; `video`: (B, 3, 32, size, size).

        Raises RetakeError for other sizes.
        """
        check_clip(video, self.size, "discriminator")
        return self.slice4(self.slice3(self.slice2(self.slice1(video)))).flatten(1).to(video)


# Losses


def _least_squares(scores: Tensor, real: bool) -> Tensor:
    return (scores - float(real)).square().mean()


def _cross_entropy(scores: Tensor, real: bool) -> Tensor:
    return functional.binary_cross_entropy_with_logits(scores, torch.full_like(scores, float(real)))


def _wasserstein(scores: Tensor, real: bool) -> Tensor:
    return -scores.mean() if real else scores.mean()


# {published name: loss of scores (B, 1) that should say "real" or "generated"}
ADVERSARIAL: dict[str, Callable[[Tensor, bool], Tensor]] = {
    "lsgan": _least_squares,
    "vanilla": _cross_entropy,
    "wgangp": _wasserstein,
}


def gradient_penalty(discriminator: nn.Module, real: Tensor, fake: Tensor, alpha: Tensor) -> Tensor:
    """Return the mean of (|g| - 1)^2; g: the score's gradient between a real and a generated video.

    `real`, `fake`: (B, 3, 32, 128, 128), without gradients of their own; `alpha`: (B, 1), the share of the real one.
    """
    share = alpha.view(-1, 1, 1, 1, 1)
    mixed = (share * real + (1 - share) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(mixed).sum(), mixed, create_graph=True)
    # As published; it keeps the norm's slope finite where the gradient is zero
    length = (gradient.flatten(1) + 1e-16).norm(dim=1)
    return (length - 1).square().mean()


def flow_target(flow: Tensor) -> Tensor:
    """Return what the generator's flow is compared with, (B, 2T, H/2, W/2): half the size, in its pixels.

    `flow`: (B, T, 2, H, W) px; resized bilinearly with aligned corners.
    """
    height, width = flow.shape[-2:]
    size = (height // 2, width // 2)
    return functional.interpolate(flow.flatten(1, 2), size, mode="bilinear", align_corners=True) / 2
