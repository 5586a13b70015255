"""Stage 1 of i2v-cINN (Dorkenwald et al., CVPR 2021, arXiv 2105.04551): a video VAE-GAN.

A 3D ResNet encodes frames 1 to 16 of a clip as a motion code of 64 values; a decoder makes those 16 frames from frame 0
and the code, all at once. A temporal and a patch discriminator train it further from the second epoch on. Stage 2, the kind
`cinn`, learns to draw motion codes. Defaults are the published BAIR settings. The others differ in

    iPER         batch 10, epochs 100, perceptual 40, kl 1.0e-4, augment 0.2 each
    landscape    size 128, channel_factor 32, channels [64, 128, 128, 256, 512], batch 7, epochs 100, reconstruction 20,
                 kl 1.0e-6, augment margin 16, 0.3 each, hue 0.15
    DTDB         size 128, channel_factor 32, channels [64, 64, 128, 256, 512], batch 7, epochs 60, kl 1.0e-6, augment as
                 landscape; one model for each texture

Follows the published code: the spatial adversarial loss has weight 1, the gradient penalty is taken of the mean logit, so
that it falls with the square of the batch, and the patch discriminator starts from torch's weights, though code to draw others
is there. Different on purpose: the discriminators are not run while the VAE is pretrained, so that ActNorm is set by frames of
the first epoch that they are trained in. Where training is cut by `max_steps`, epochs are as many equal parts of it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from pipeline import params
from pipeline.models.cinn_recipe import Recipe
from pipeline.tasks import animation

if TYPE_CHECKING:
    from pipeline.models.cinn_stage1.training import CinnStage1

FRAMES = 16  # that the decoder makes, and the encoder sees
Z_DIM = 64

Channels = Annotated[list[Annotated[int, Field(ge=16, multiple_of=16)]], Field(min_length=5, max_length=5)]


class Network(params.Strict):
    """What the weights depend on."""

    size: Literal[32, 64, 128] = Field(
        64, description="side of the square frames, pixels (published: 64 and 128; 32 is for demos)"
    )
    channel_factor: int = Field(
        64,
        ge=8,
        multiple_of=8,
        description="channels of the decoder's last block; its first has 16 times as many",
    )
    channels: Channels = Field(
        [64, 128, 256, 512, 512],
        description="channels of the encoder's first convolution and of its four stages",
    )


class Train(Recipe, animation.Train):
    """The published recipe: three Adam optimisers; the discriminators rest while the VAE is pretrained."""

    batch: params.Count = Field(10)
    epochs: params.Count = Field(55)
    window: Literal[17] = Field(17)
    lr: float = Field(2.0e-4, gt=0, description="learning rate of all three Adam optimisers in the first epoch")
    lr_gamma: float = Field(0.98, gt=0, le=1, description="factor of the learning rate from each epoch to the next")
    weight_decay: float = Field(1.0e-5, ge=0, description="L2 in the gradient of all weights")
    pretrain: int = Field(1, ge=0, description="epochs that train encoder and decoder alone")
    reconstruction: float = Field(10.0, ge=0, description="weight of the mean absolute error of frames in [-1,1]")
    perceptual: float = Field(30.0, ge=0, description="weight of LPIPS; 0 needs no VGG weights")
    vgg_weights: str = Field(
        "vgg16",
        description="torchvision's VGG16, read where perceptual is not 0: a file, or a name in workflow/weights.csv",
    )
    kl: float = Field(1.0e-5, ge=0, description="weight of the motion codes' divergence from N(0, I)")
    temporal: float = Field(1.0, ge=0, description="weight of the temporal adversarial loss; the spatial one has 1")
    features: float = Field(10.0, ge=0, description="weight of the distance of the temporal discriminator's features")
    penalty: float = Field(10.0, ge=0, description="weight of the temporal discriminator's gradient penalty")
    discriminator_channels: Channels = Field(
        [64, 64, 128, 256, 512],
        description="channels of the temporal discriminator's first convolution and of its four stages",
    )
    quirks: list[Literal["lpips_dropout"]] = Field(
        ["lpips_dropout"],
        description="published behaviour that looks wrong; lpips_dropout: LPIPS drops half of its features by chance",
    )


class Predict(params.Strict):
    """Settings of reconstruction alone."""

    weights: Literal["last", "best"] = Field(
        "best", description="last: the end of training; best, as published: the step with the best validation"
    )


class Params(params.Model):
    """Stage 1 in params.yaml; imported weights have no discriminators."""

    task: ClassVar[str] = "animation"
    network: Network = Field(default_factory=Network)
    train: Train | None = Field(None, description="null: nothing is trained (imported weights)")
    predict: Predict = Field(default_factory=Predict)

    @property
    def pretrained(self) -> list[str]:
        """The imported weights, or VGG16's for LPIPS and those that choose the best weights."""
        if self.train is None:
            return super().pretrained
        return ([self.train.vgg_weights] if self.train.perceptual else []) + self.train.pretrained

    def check(self, height: int, width: int) -> None:
        """Raise ValueError for frames (pixels) of another size than the network's."""
        check(self.network.size, height, width)


def check(size: int, height: int, width: int) -> None:
    """Raise ValueError for frames of height and width (pixels) that a network of this size cannot take."""
    if (height, width) != (size, size):
        raise ValueError(
            f"frames of {width}x{height} pixels: this network takes {size}x{size}. Set the dataset's height and width to it"
        )


def build(p: Params) -> CinnStage1:
    """Return the networks with new weights (torch's global generator)."""
    from pipeline.models.cinn_stage1.training import CinnStage1

    return CinnStage1(p)
