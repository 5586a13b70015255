"""The conditioning auto-encoder's networks: a ResNet-50 encoder and a BigGAN decoder (arXiv 1809.11096, appendix B).

Images are (N, 3, S, S) float32 RGB in [-1,1]; S is 64 or 128. Module names are those of the published checkpoints.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RetakeError
from pipeline.models import published
from pipeline.models.cinn_ae import Network

LOGVAR = (-30.0, 10.0)  # range that log-variances are clamped to
NORMS: dict[str, type[nn.Module]] = {"in": nn.InstanceNorm2d, "bn": nn.BatchNorm2d}

CLASSES = 1000  # of BigGAN; here they are soft, made of the code
CLASS_WIDTH = 2000  # of the layers that make them
CLASS_VALUES = 128
WIDTHS = {
    32: (16, 8, 4, 1),
    64: (16, 16, 8, 4, 1),
    128: (16, 16, 8, 4, 2, 1),
}  # of the decoder's feature maps, in units of its width
PART = {32: 10, 64: 10, 128: 20}  # values of the code that condition one block
START = 4  # side of the first feature map
EPSILON = 1e-4  # of batch and spectral normalisation


class Head(nn.Module):
    """The last layer of the encoder: a 1x1 convolution of the averaged features (N, 2048) to (N, values)."""

    def __init__(self, inputs: int, values: int) -> None:
        super().__init__()
        self.sub_layers = nn.ModuleList([nn.Conv2d(inputs, values, 1)])

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, values)."""
        return self.sub_layers[0](x[:, :, None, None])[:, :, 0, 0]


class Encoder(nn.Module):
    """ResNet-50 that gives a Gaussian of codes; images enter as they are, without ImageNet's statistics, as published."""

    def __init__(self, p: Network) -> None:
        super().__init__()
        self.model = torchvision.models.resnet50(norm_layer=NORMS[p.norm])
        self.model.fc = Head(self.model.fc.in_features, 2 * p.z_dim)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log-variance, (N, z_dim) each."""
        mean, logvar = self.model(images).chunk(2, 1)
        return mean, logvar.clamp(*LOGVAR)

    def embed(self, frames: Tensor) -> Tensor:
        """Return the embedding (N, z_dim), the mean, of frames (N, 3, S, S) float32 RGB in [0,1]."""
        return self(2 * frames - 1)[0]


class Spectral(nn.Module):
    """A linear layer or convolution whose weight is divided by an estimate of its largest singular value.

    The estimate takes one power iteration from the stored vector `weight_u` on every call, in evaluation too, and never
    stores its result; gradients flow through it. `weight_v` is carried as in published checkpoints and never read.
    """

    def __init__(self, module: nn.Linear | nn.Conv2d) -> None:
        super().__init__()
        weight = nn.Parameter(module.weight.detach())
        del module.weight
        module.register_parameter("weight_bar", weight)
        for name in ("weight_u", "weight_v"):
            module.register_buffer(name, _unit(torch.randn(len(weight))))
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        m = self.module
        bar = m.get_parameter("weight_bar")
        matrix = bar.flatten(1)
        image = matrix @ _unit(matrix.T @ m.get_buffer("weight_u"))
        weight = bar / (_unit(image) @ image)
        if isinstance(m, nn.Conv2d):
            return functional.conv2d(x, weight, m.bias, padding=m.padding)
        return functional.linear(x, weight, m.bias)


def _unit(a: Tensor) -> Tensor:
    return a / (a.norm() + EPSILON)


def conv(inputs: int, outputs: int, kernel: int, *, bias: bool = True) -> Spectral:
    """Return a convolution that keeps the size, 1x1 or 3x3."""
    return Spectral(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=bias))


class ConditionalNorm(nn.Module):
    """Batch normalisation whose scale (about 1) and offset are linear in a condition."""

    def __init__(self, channels: int, condition: int) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(channels, eps=EPSILON, affine=False)
        self.gamma_embed = Spectral(nn.Linear(condition, channels, bias=False))
        self.beta_embed = Spectral(nn.Linear(condition, channels, bias=False))

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (N, channels, H, W)."""
        gamma, beta = self.gamma_embed(condition), self.beta_embed(condition)
        return (1 + gamma)[:, :, None, None] * self.bn(x) + beta[:, :, None, None]


class GBlock(nn.Module):
    """BigGAN's residual block: twice the resolution."""

    def __init__(self, inputs: int, outputs: int, condition: int) -> None:
        super().__init__()
        self.HyperBN = ConditionalNorm(inputs, condition)
        self.conv0 = conv(inputs, outputs, 3)
        self.HyperBN_1 = ConditionalNorm(outputs, condition)
        self.conv1 = conv(outputs, outputs, 3)
        self.conv_sc = conv(inputs, outputs, 1)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (N, outputs, 2H, 2W)."""
        h = functional.relu(self.HyperBN(x, condition))
        h = self.conv0(functional.interpolate(h, scale_factor=2))
        h = self.conv1(functional.relu(self.HyperBN_1(h, condition)))
        return h + self.conv_sc(functional.interpolate(x, scale_factor=2))


class SelfAttention(nn.Module):
    """Every pixel looks at all pixels of the map at half its resolution (SAGAN, arXiv 1805.08318)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.theta = conv(channels, channels // 8, 1, bias=False)
        self.phi = conv(channels, channels // 8, 1, bias=False)
        self.g = conv(channels, channels // 2, 1, bias=False)
        self.o_conv = conv(channels // 2, channels, 1, bias=False)
        self.gamma = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Return (N, channels, H, W)."""
        theta = self.theta(x).flatten(2)
        phi, g = (functional.max_pool2d(part(x), 2).flatten(2) for part in (self.phi, self.g))
        attention = (theta.transpose(1, 2) @ phi).softmax(2)
        seen = (g @ attention.transpose(1, 2)).unflatten(2, x.shape[2:])
        return x + self.gamma * self.o_conv(seen)


class Generator(nn.Module):
    """BigGAN's generator; self-attention stands before its last block at 128 px, and is carried but not used at 64 px."""

    def __init__(self, p: Network) -> None:
        super().__init__()
        widths = [p.width * units for units in WIDTHS[p.size]]
        self.part = PART[p.size]
        first = p.z_dim - self.part * (len(widths) - 1)
        self.linear = nn.Linear(CLASSES, CLASS_VALUES, bias=False)
        self.G_linear = Spectral(nn.Linear(first, START * START * widths[0]))
        condition = self.part + CLASS_VALUES
        self.GBlock = nn.ModuleList(GBlock(a, b, condition) for a, b in itertools.pairwise(widths))
        self.attention = SelfAttention(2 * p.width)
        self.attends = p.size == 128
        self.attention.requires_grad_(self.attends)
        self.ScaledCrossReplicaBN = nn.BatchNorm2d(widths[-1], eps=EPSILON)
        self.colorize = conv(widths[-1], 3, 3)

    def forward(self, code: Tensor, classes: Tensor) -> Tensor:
        """Return images (N, 3, S, S) in [-1,1] of codes (N, z_dim) and the weights of classes (N, 1000)."""
        embedded = self.linear(classes)
        count = len(self.GBlock)
        first, *parts = code.split([code.shape[1] - count * self.part, *[self.part] * count], 1)
        x = self.G_linear(first).unflatten(1, (START, START, -1)).permute(0, 3, 1, 2)
        for i, (block, part) in enumerate(zip(self.GBlock, parts, strict=True)):
            if self.attends and i == count - 1:
                x = self.attention(x)
            x = block(x, torch.cat([part, embedded], 1))
        return self.colorize(functional.relu(self.ScaledCrossReplicaBN(x))).tanh()


class Perceptron(nn.Module):
    """Linear layers with leaky ReLUs (slope 0.01) between, `depth` of them from width to width."""

    def __init__(self, inputs: int, width: int, depth: int, outputs: int) -> None:
        super().__init__()
        sizes = [inputs, *[width] * (depth + 1)]
        layers: list[nn.Module] = []
        for size, following in itertools.pairwise(sizes):
            layers += [nn.Linear(size, following), nn.LeakyReLU()]
        self.main = nn.Sequential(*layers, nn.Linear(width, outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Return (B, outputs) of (B, inputs)."""
        return self.main(x)


class Decoder(nn.Module):
    """Codes to images, by way of soft classes."""

    def __init__(self, p: Network) -> None:
        super().__init__()
        self.map_to_class_embedding = Perceptron(p.z_dim, CLASS_WIDTH, 2, CLASSES)
        self.decoder = Generator(p)

    def classes(self, code: Tensor) -> Tensor:
        """Return the weights of the classes (N, 1000), adding up to 1."""
        return self.map_to_class_embedding(code).softmax(1)

    def forward(self, code: Tensor) -> Tensor:
        """Return images (N, 3, S, S) in [-1,1] of codes (N, z_dim)."""
        return self.decoder(code, self.classes(code))


def load_encoder(encoder: Encoder, state: Mapping[str, Tensor], p: Network) -> None:
    """Copy the published encoder's weights, keys `model.*`.

    Raises RetakeError for another encoder: of another z_dim, another normalisation, or another network.
    """
    head = state.get("model.fc.sub_layers.0.weight")
    if head is not None and len(head) != 2 * p.z_dim:
        raise RetakeError(
            f"the encoder's checkpoint gives embeddings of {len(head) // 2} values, its z_dim here is {p.z_dim}: set "
            f"z_dim {len(head) // 2}, or take the encoder that belongs to this model"
        )
    norm = "bn" if "model.bn1.running_mean" in state else "in"
    if head is not None and norm != p.norm:
        raise RetakeError(
            f"the encoder's checkpoint has the normalisation {norm}, its norm here is {p.norm}: set norm {norm}"
        )
    published.load(encoder, state, "the checkpoint is not of the conditioning encoder, a ResNet-50")
