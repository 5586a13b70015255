"""The patch discriminator of i2v-cINN's first stage and of its conditioning auto-encoder, and the hinge losses.

The discriminator is PatchGAN's (arXiv 1611.07004) with spectral normalisation, and with ActNorm (Glow, arXiv
1807.03039, section 3.1) where PatchGAN has batch norm. Module names are those of the published checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional

EPSILON = 1e-6
SLOPE = 0.2


class ActNorm(nn.Module):
    """A scale and an offset for each channel, which the first batch sets so that it leaves with mean 0 and deviation 1.

    Later they are trained like other parameters. `initialized` stands in the state dict, so that a reloaded network is
    not set anew.
    """

    initialized: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.scale = nn.Parameter(torch.ones(1, channels, 1, 1))
        self.register_buffer("initialized", torch.tensor(0, dtype=torch.uint8))

    @torch.no_grad()
    def initialise(self, x: Tensor) -> None:
        """Set scale and offset from a batch (B, C, H, W), by its unbiased deviation over batch and pixels.

        In training by several processes the batch is that of all of them, so that all set the same.
        """
        if self.training and distributed.is_available() and distributed.is_initialized():
            parts = [torch.empty_like(x) for _ in range(distributed.get_world_size())]
            distributed.all_gather(parts, x.contiguous())
            x = torch.cat(parts)
        self.loc.copy_(-x.mean((0, 2, 3), keepdim=True))
        self.scale.copy_(1 / (x.std((0, 2, 3), keepdim=True) + EPSILON))
        self.initialized.fill_(1)

    def forward(self, x: Tensor) -> Tensor:
        """Return `scale * (x + loc)` of (B, C, H, W); the first batch in training mode sets both before."""
        if self.training and not self.initialized:
            self.initialise(x)
        return self.scale * (x + self.loc)


class PatchDiscriminator(nn.Module):
    """Judges image patches of 70 pixels' width."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 64, 2), nn.LeakyReLU(SLOPE)]
        for inputs, outputs, stride in ((64, 128, 2), (128, 256, 2), (256, 512, 1)):
            layers += [_convolution(inputs, outputs, stride), ActNorm(outputs), nn.LeakyReLU(SLOPE)]
        self.main = nn.Sequential(*layers, _convolution(512, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits (N, 1, H/8 - 2, W/8 - 2) of images (N, 3, H, W) float32 in [-1,1]; large means real."""
        return self.main(images)


def _convolution(inputs: int, outputs: int, stride: int) -> nn.Module:
    return nn.utils.spectral_norm(nn.Conv2d(inputs, outputs, 4, stride, padding=1))


def hinge_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Return the hinge loss of a discriminator from its logits of real and of generated input, any shape."""
    return (functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()) / 2


def hinge_generator(fake: Tensor) -> Tensor:
    """Return the hinge loss of a generator from the discriminator's logits of generated input, any shape."""
    return -fake.mean()
