"""The conditioning auto-encoder of i2v-cINN (CVPR 2021, arXiv 2105.04551): what the flow knows of the start frame.

A ResNet-50 encodes single frames, a BigGAN decodes them; only the encoder is kept, and gives `cinn` its condition. Defaults
are the published BAIR settings. The others differ in

    iPER         z_dim 128, epochs 140, augment 0.1 each, saturation 0.2, hue 0
    landscape    size 128, z_dim 128, norm bn, kl 1.0e-4, epochs 200, augment margin 16, 0.3 each
    fire         size 128, z_dim 128, epochs 120, augment margin 16, 0.3 each, hue 0.15
    vegetation, clouds, waterfall    as fire, epochs 60, 200, 100; waterfall norm bn

Follows the published code: what is decoded in training is the mean and not a sample, the log-variance of its likelihood stays
0, images enter without ImageNet's statistics, and the decoder's spectral normalisation starts from the same vector on every
call. Different on purpose: the discriminator is not run before the epoch in which its loss begins to count, so that its
ActNorm is set by images of that epoch. Where training is cut by `max_steps`, epochs are as many equal parts of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline import params
from pipeline.losses.augment import Augment
from pipeline.models.cinn_recipe import Recipe

if TYPE_CHECKING:
    from pipeline.models.cinn_ae.training import AutoEncoder

CODE_PARTS = {32: 30, 64: 40, 128: 100}  # values of the code that condition the decoder's blocks


class Network(params.Strict):
    """What the weights depend on."""

    size: Literal[32, 64, 128] = Field(
        default=64, description="side of the frames, pixels (published: 64 and 128; 32 is for demos)"
    )
    z_dim: int = Field(default=64, description="values of the embedding")
    norm: Literal["in", "bn"] = Field(
        default="in", description="the encoder's normalisation: of each image (in), or of the batch (bn)"
    )
    width: int = Field(default=96, ge=4, description="unit of the decoder's channels (published: 96)")

    @model_validator(mode="after")
    def _fits(self) -> Network:
        if self.z_dim <= CODE_PARTS[self.size]:
            raise ValueError(
                f"z_dim {self.z_dim}: the decoder of {self.size} px needs more than {CODE_PARTS[self.size]}"
            )
        if self.size == 32 and self.norm == "in":
            raise ValueError(
                "norm in: at 32 px the last features are single pixels, which have no statistics; set norm bn"
            )
        return self


class Train(Recipe):
    """The published recipe: frames are clips of length 1."""

    batch: params.Count = Field(30)
    epochs: params.Count = Field(60)
    window: Literal[1] = Field(1)

    augment: Augment = Field(
        default_factory=lambda: Augment(brightness=0.2, contrast=0.2, saturation=0.2, hue=0.1),
        description="resizing, cropping, flipping and colour jitter",
    )
    lr: float = Field(
        default=2.0e-4, gt=0, description="learning rate of both Adam optimisers, halved where training stalls"
    )
    kl: float = Field(default=1.0e-5, ge=0, description="weight of the codes' divergence from N(0, I)")
    perceptual: float = Field(
        default=1.0, ge=0, description="weight of LPIPS in the reconstruction (published: 1); 0 needs no VGG weights"
    )
    vgg_weights: str = Field(
        default="vgg16",
        description="torchvision's VGG16, read where perceptual is not 0: a file, or a name in workflow/weights.csv",
    )
    discriminator_from: int = Field(default=20, ge=0, description="epochs before the discriminator's loss counts")
    quirks: list[Literal["lpips_dropout"]] = Field(
        default=["lpips_dropout"],
        description="published behaviour that looks wrong; lpips_dropout: LPIPS drops half of its features by chance",
    )


class Params(params.Model):
    """The conditioning auto-encoder in params.yaml; imported weights have the encoder alone."""

    task: ClassVar[str] = "animation"
    network: Network = Field(default_factory=Network)
    train: Train | None = Field(None, description="null: nothing is trained (imported weights)")

    @property
    def pretrained(self) -> list[str]:
        """The imported weights, or VGG16's for LPIPS."""
        used = self.train is not None and self.train.perceptual
        return super().pretrained + ([self.train.vgg_weights] if self.train is not None and used else [])

    def check(self, height: int, width: int) -> None:
        """Raise ValueError for frames (pixels) of another size than the network's."""
        if (height, width) != (self.network.size, self.network.size):
            raise ValueError(f"frames of {width}x{height} pixels: network.size is {self.network.size}, square")


def build(p: Params) -> AutoEncoder:
    """Return the network with new weights (torch's global generator)."""
    from pipeline.models.cinn_ae.training import AutoEncoder

    return AutoEncoder(p)
