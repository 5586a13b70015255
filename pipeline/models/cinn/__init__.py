"""i2v-cINN, "Stochastic Image-to-Video Synthesis using cINNs" (CVPR 2021, arXiv 2105.04551): its flow, and the whole.

A frame in, a video out: Gaussian noise becomes a motion code by a flow that sees the frame's embedding (`cinn_ae`), and a
decoder (`cinn_stage1`) makes 16 frames of frame and code. Only the flow is trained here. Defaults are the published BAIR
settings; `network.control` true is the model with end points. The others differ in

    iPER         encoder.z_dim 128, augment 0.2 each
    landscape    stage1 and encoder as their own entries say, lr_epochs 6, augment margin 16, else 0, quirks batch_statistics
    DTDB         stage1 and encoder as their own entries say, lr_epochs 6, augment margin 16, 0.3 each, hue 0.15; waterfall
                 quirks batch_statistics

Follows the published code: the log-determinant leaves out the activations (constant but for jumps, so that training is the
same), every ActNorm is set by the first batch that passes it, in evaluation too, and with control half of the clips are
mirrored (`augment.flip`) though their end points are not. Quirk:

    batch_statistics    in training the frozen encoder's batch normalisation takes the statistics of the batch; in prediction it
                        takes the stored ones, which never change

Different on purpose: predictions have exactly as many frames as were asked for, and the clip's motion (`motion`) may have
15 frames, where the published query has 16 of which 15 are encoded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from pipeline import params
from pipeline.models import cinn_ae, cinn_stage1
from pipeline.models.cinn_recipe import Recipe
from pipeline.tasks import animation

if TYPE_CHECKING:
    from pipeline.models.cinn.training import Cinn


class Network(params.Strict):
    """What the weights depend on."""

    blocks: int = Field(default=20, ge=1, description="of the flow")
    width: int = Field(default=512, ge=1, description="of the networks in its couplings")
    depth: int = Field(default=2, ge=0, description="inner layers of the networks in its couplings")
    control: bool = Field(
        default=False, description="whether the end point of the robot's arm is part of the condition"
    )
    stage1: cinn_stage1.Network = Field(
        default_factory=cinn_stage1.Network, description="`network` of the video auto-encoder that it starts from"
    )
    encoder: cinn_ae.Network = Field(
        default_factory=cinn_ae.Network, description="`network` of the conditioning auto-encoder that it starts from"
    )


class Train(Recipe, animation.Train):
    """The published recipe: one Adam, its rate halved every few epochs."""

    batch: params.Count = Field(50)
    epochs: params.Count = Field(31)
    window: Literal[17] = Field(17)
    stage1: str = Field(
        default="data/checkpoints/cinn_stage1/bair.pt",
        description="data/checkpoints/<model>/<dataset>.pt of the video auto-encoder, trained or imported",
    )
    encoder: str = Field(
        default="data/checkpoints/cinn_ae/bair.pt",
        description="data/checkpoints/<model>/<dataset>.pt of the conditioning auto-encoder, trained or imported",
    )
    lr: float = Field(default=1.0e-5, gt=0, description="learning rate in the first epochs")
    lr_epochs: int = Field(
        default=7, ge=1, description="epochs after which the learning rate is multiplied by lr_gamma"
    )
    lr_gamma: float = Field(default=0.5, gt=0, le=1, description="factor of the learning rate")
    quirks: list[Literal["batch_statistics"]] = Field(
        default_factory=list,
        description="published behaviour that looks wrong; batch_statistics: in training the frozen encoder's batch "
        "normalisation takes the statistics of the batch (published: landscape and waterfall)",
    )

    @field_validator("stage1", "encoder")
    @classmethod
    def _checkpoint(cls, value: str) -> str:
        if not params.CHECKPOINT.fullmatch(value):
            raise ValueError(
                f"{value!r} is no checkpoint of another entry: write data/checkpoints/<model>/<dataset>.pt"
            )
        return value


class Predict(params.Strict):
    """Settings of prediction alone."""

    weights: Literal["last", "best"] = Field(
        default="best", description="last: the end of training; best, as published: the step with the best validation"
    )


class Params(params.Model):
    """i2v-cINN in params.yaml."""

    task: ClassVar[str] = "animation"
    network: Network = Field(default_factory=Network)
    train: Train | None = Field(None, description="null: nothing is trained (imported weights)")
    predict: Predict = Field(default_factory=Predict)

    @property
    def pretrained(self) -> list[str]:
        """The imported weights, or those that choose the best weights."""
        return super().pretrained + (self.train.pretrained if self.train is not None else [])

    @model_validator(mode="after")
    def _one_size(self) -> Params:
        if self.network.stage1.size != self.network.encoder.size:
            raise ValueError(
                f"network.stage1.size {self.network.stage1.size} and network.encoder.size {self.network.encoder.size} differ"
            )
        return self

    def check(self, height: int, width: int) -> None:
        """Raise ValueError for frames (pixels) of another size than the network's."""
        cinn_stage1.check(self.network.stage1.size, height, width)


def build(p: Params) -> Cinn:
    """Return the whole with new weights (torch's global generator)."""
    from pipeline.models.cinn.training import Cinn

    return Cinn(p)
