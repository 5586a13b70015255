"""DTVNet, "Dynamic Time-lapse Video Generation via Single Still Image" (ECCV 2020; DTVNet+: arXiv 2008.04776).

One image and a motion vector in, 32 frames out, all at once; the first frame is the image again. The vector comes from
the flow of a clip, or is drawn: then one image has many futures.

As published, though it looks wrong, each an option:
* `network.range: unit`: videos are in [0,1] while the image is in [-1,1] and the generator ends in tanh, half of whose
  range is never used. `symmetric` has videos in [-1,1] too.
* quirk `batch_statistics`: in prediction a motion vector is normalised over its batch, so that a clip depends on the clips
  beside it, and a batch of one gets no motion at all; the flow encoder's batch norms do likewise. Without it running
  averages from training are used, and drawn vectors as they are drawn. In training it is the batch always.
* quirk `untrained_encoder`: published checkpoints hold no flow encoder, and the published test takes one with new weights.
  Without it that is refused. Ours is saved with the rest.

Of the published options, the generator without flow and with a 3-D decoder are not here: neither was used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline import params

if TYPE_CHECKING:
    from pipeline.models.dtvnet.training import DTVNet

FRAMES = 32
SIZE = 128  # px, published sides of the videos that the flow encoder and the discriminator take


class Network(params.Strict):
    """What the weights depend on; the defaults are the published ones."""

    flow: params.Name = Field(
        default="arflow_sky", description="entry of models that estimates the flow that motion vectors are made from"
    )
    flow_of: params.Name | None = Field(
        default=None,
        description="dataset whose flow is read, by clip and frame number; null: the flow of the frames themselves",
    )
    channels: int = Field(
        default=64,
        ge=2,
        multiple_of=2,
        description="base channels of the generator; flow encoder and discriminator have half as many",
    )
    size: int = Field(
        default=SIZE,
        ge=32,
        multiple_of=32,
        description="sides of the flow and the videos that flow encoder and discriminator take, px; the generator takes any even ones",
    )
    motion: int = Field(default=512, ge=1, description="components of the motion vector")
    content_blocks: int = Field(default=9, ge=1, description="residual blocks of the content stream")
    motion_blocks: int = Field(default=6, ge=1, description="residual blocks of the motion stream")
    range: Literal["unit", "symmetric"] = Field(
        default="unit",
        description="range of the videos that the generator learns: unit, [0,1], or symmetric, [-1,1] like the image",
    )


class Train(params.Train):
    """Three Adam optimisers, clips of 32 square frames; the defaults are the published recipe."""

    batch: int = Field(
        default=4,
        ge=2,
        description="clips in a batch, over all processes; motion vectors are normalised over a process's share",
    )
    epochs: int = Field(default=199, ge=1, description="passes over the training clips")
    full_rate_epochs: int = Field(
        default=99,
        ge=0,
        description="epochs at the full learning rates, which then fall linearly to almost zero",
    )
    seed: int = Field(default=0, description="of weights, sampling and gradient penalty")
    window: Literal[32] = Field(default=32, description="frames of a training clip; the networks take 32")
    crop: None = Field(default=None, description="null: the flow is of whole frames")
    lr_generator: float = Field(default=3e-4, gt=0, description="learning rate of the generator")
    lr_discriminator: float = Field(default=3e-5, gt=0, description="learning rate of the discriminator")
    lr_encoder: float = Field(default=3e-4, gt=0, description="learning rate of the flow encoder")
    gan_mode: Literal["lsgan", "vanilla", "wgangp"] = Field(
        default="lsgan",
        description="adversarial loss: lsgan, least squares; vanilla, cross entropy; wgangp, Wasserstein",
    )
    adversarial: float = Field(
        default=0.5,
        ge=0,
        description="weight of the adversarial loss in the discriminator's objective; the generator's has 1; 0: no discriminator",
    )
    gradient_penalty: float = Field(
        default=10, ge=0, description="weight of the gradient penalty in the discriminator's objective"
    )
    l1_video: float = Field(default=100, ge=0, description="weight of the video's L1 loss")
    l1_flow: float = Field(default=1, ge=0, description="weight of the flow's L1 loss")
    init: float = Field(
        default=0.02,
        gt=0,
        description="standard deviation of the generator's and the discriminator's new convolution weights",
    )

    @model_validator(mode="after")
    def _falls(self) -> Train:
        if self.full_rate_epochs > self.epochs:
            raise ValueError(f"full_rate_epochs {self.full_rate_epochs} is more than epochs {self.epochs}: lower it")
        return self


class Predict(params.Strict):
    """Settings of prediction alone."""

    weights: Literal["last", "best"] = Field(
        default="last", description="last: the end of training, as published; best: the step with the best validation"
    )
    quirks: list[Literal["batch_statistics", "untrained_encoder"]] = Field(
        default=[],
        description="published behaviour that looks wrong; batch_statistics: motion vectors are normalised over their batch, one alone becomes zero; untrained_encoder: a flow encoder that never saw training is used all the same",
    )


class Params(params.Model):
    """DTVNet in params.yaml."""

    task: ClassVar[str] = "animation"
    EXPORTS: ClassVar[tuple[str, ...]] = ("pairs", "sky")
    network: Network = Field(default=Network(), description="what the weights depend on")
    train: Train | None = Field(default=None, description="null: nothing is trained (imported weights)")
    predict: Predict = Field(
        default=Predict(), description="settings of prediction alone; changing them never retrains"
    )

    @property
    def flow(self) -> str:
        """The flow estimator; training reads its flow as well as prediction."""
        return self.network.flow

    @property
    def flow_of(self) -> str | None:
        """The dataset whose flow is read."""
        return self.network.flow_of

    def check(self, height: int, width: int) -> None:
        """Raise ValueError when a side is odd or below 4, naming the nearest size."""
        check(height, width)


def check(height: int, width: int) -> None:
    """Raise ValueError when the generator cannot work on frames of this size (pixels), naming the nearest one."""
    if height % 2 or width % 2 or min(height, width) < 4:
        nearest = [max(side + side % 2, 4) for side in (width, height)]
        raise ValueError(
            f"frames of {width}x{height} pixels: DTVNet needs even sides of at least 4; nearest: {nearest[0]}x{nearest[1]}"
        )


def build(p: Params) -> DTVNet:
    """Return the network with new weights (torch's global generator)."""
    from pipeline.models.dtvnet.training import DTVNet

    return DTVNet(p)
