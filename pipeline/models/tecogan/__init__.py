"""TecoGAN, "Learning Temporal Coherence via Self-Supervision for GAN-based Video Generation" (ACM TOG 39(4), 2020).

Low-resolution frames in, frames four times as large out, one after the other: each output is warped by estimated flow
and handed to the next frame. FRVSR, TecoGAN- and TecoGAN are one network with other numbers of blocks and recipes:

    FRVSR              blocks 10, ping_pong 0, vgg 0, adversarial 0
    TecoGAN-           blocks 10, ping_pong 0.5, vgg 0.2, adversarial 0.01, layers 1, start from FRVSR
    TecoGAN            blocks 16, the same
    without ping-pong  as TecoGAN, ping_pong 0
    DsOnly             as TecoGAN-, discriminator spatial, ping_pong 0: it sees single frames
    DsDt               as DsOnly, discriminator spatial_temporal: a second one sees warped triplets
    DsDtPP             as DsDt, ping_pong 0.5

The last three follow the paper's text. The published code cannot run them and their numbers are not established, so
they are not parity-checked: what each discriminator is given, that both count alike, and that their layers are compared too
are choices made here.

Follows the published code where the paper says otherwise: ping-pong is an L1 loss, content and warp losses sum over
colours, the VGG loss is a cosine distance. Different on purpose, each with a quirk that brings the published behaviour
back: clips shorter than 6 frames keep all their frames (`published_dropping`), and blocks that the starting weights lack
can learn (`zero_filled_blocks`: there they are all zeros, through which no gradient passes).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline import params
from pipeline.tasks import super_resolution

if TYPE_CHECKING:
    from pipeline.models.tecogan.training import TecoGAN

SCALE = 4
SMALLEST = 8  # pixels of a low-resolution side: the flow network halves three times


class Network(params.Strict):
    """What the weights depend on."""

    blocks: int = Field(
        10, ge=1, description="residual blocks of the generator (published: TecoGAN 16, FRVSR and TecoGAN- 10)"
    )


class Train(super_resolution.Train):
    """The published recipes: FRVSR first, TecoGAN from its weights, 500,000 steps each; `window` 10, `crop` 136."""

    epochs: params.Count = Field(100000)
    max_steps: params.Count | None = Field(500000)
    seed: params.Seed = Field(1)
    window: params.Frames = Field(10)
    crop: params.Side | None = Field(136)
    validation: str | None = Field("val")
    validate_every: params.Count = Field(100)
    validate_windows: params.Count = Field(4)
    checkpoint_every: params.Count = Field(10000)

    lr: float = Field(5e-5, gt=0, description="learning rate of all three Adam optimisers (published: 5.0e-5)")
    min_lr: float | None = Field(
        None, gt=0, description="learning rate that a cosine from `lr` ends at; null: constant, as published"
    )
    adam: Literal["pytorch", "tensorflow"] = Field(
        "tensorflow",
        description="where Adam adds its epsilon: tensorflow as published (outside the bias correction), or pytorch",
    )
    first_output: Literal["glorot", "zero"] = Field(
        "glorot",
        description="start of the output convolution: glorot as published; zero begins as bicubic and stands higher rates",
    )
    start: str | None = Field(
        None,
        description="data/checkpoints/<model>/<dataset>.pt, or a published TensorFlow checkpoint, to start from (published: FRVSR's); null: new weights",
    )
    warp: float = Field(1.0, ge=0, description="weight of the warp loss, flow network only (published: 1)")
    ping_pong: float = Field(
        0.0, ge=0, description="weight of the ping-pong loss (published: 0.5); 0: clips are not played backwards either"
    )
    vgg: float = Field(0.0, ge=0, description="weight of the VGG loss (published: 0.2); 0 needs no VGG weights")
    vgg_weights: str | None = Field(
        None, description="TF-slim's VGG19 checkpoint: a file, or a name in workflow/weights.csv; null where vgg is 0"
    )
    discriminator: Literal["merged", "spatial", "spatial_temporal"] = Field(
        "merged",
        description="merged: one, of triplets of frames, warped frames and input, as published; spatial: of single frames and input; spatial_temporal: that one and a second of warped triplets (the last two by the paper's text, not parity-checked)",
    )
    adversarial: float = Field(
        0.0, ge=0, description="weight of the adversarial loss (published: 0.01); 0: there is no discriminator"
    )
    layers: float = Field(0.0, ge=0, description="weight of the discriminator's layer loss (published: 1)")
    balance: float = Field(
        0.4,
        description="the discriminator is trained while the average of its advantage is below this (published: 0.4)",
    )
    quirks: list[Literal["zero_filled_blocks"]] = Field(
        default_factory=list,
        description="published behaviour that looks wrong; zero_filled_blocks: blocks that `start` lacks are set to zero and cannot learn",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if self.crop is None or (self.crop - 2 * super_resolution.BORDER) % SCALE:
            raise ValueError(
                f"crop {self.crop}: must be 4 times the low-resolution side plus 8 (published: 4*32 + 8 = 136)"
            )
        side = (self.crop - 2 * super_resolution.BORDER) // SCALE
        if side < SMALLEST:
            raise ValueError(f"crop {self.crop} is {side} low-resolution pixels: at least 8 are needed, crop 40")
        if self.vgg and self.vgg_weights is None:
            raise ValueError("vgg_weights: the VGG loss needs TF-slim's vgg_19.ckpt; name it, or set vgg to 0")
        if self.adversarial and self.frames < 3:
            raise ValueError(f"window {self.window}: the discriminator sees triplets, at least 3 frames are needed")
        if self.layers and not self.adversarial:
            raise ValueError("layers: without a discriminator (adversarial 0) there is no layer loss; set it to 0")
        if self.quirks and self.start is None:
            raise ValueError("quirks: zero_filled_blocks means something only with `start`")
        return self

    @property
    def frames(self) -> int:
        """Frames that the generator is unrolled over: 2 * window - 1 with ping-pong."""
        return 2 * self.window - 1 if self.ping_pong else self.window


class Predict(params.Strict):
    """Settings of upscaling alone."""

    tile: int | None = Field(
        None,
        ge=16,
        description="side, in low-resolution pixels, of the tiles that the generator works on where a frame does not fit in memory; null: whole frames",
    )
    quirks: list[Literal["published_dropping"]] = Field(
        default_factory=list,
        description="published behaviour that looks wrong; published_dropping: five outputs are dropped even when fewer frames were prepended",
    )


class Params(params.Model):
    """TecoGAN and FRVSR in params.yaml."""

    task: ClassVar[str] = "super_resolution"
    network: Network = Field(default_factory=Network)
    train: Train | None = Field(None, description="null: nothing is trained (imported weights)")
    predict: Predict = Field(default_factory=Predict)

    @property
    def pretrained(self) -> list[str]:
        """The imported weights, or what training starts from and VGG19's for its loss."""
        used = [self.train.start, self.train.vgg_weights if self.train.vgg else None] if self.train is not None else []
        return super().pretrained + [
            name for name in used if name is not None and not params.CHECKPOINT.fullmatch(name)
        ]

    def check(self, height: int, width: int) -> None:
        """Raise ValueError when frames of this high-resolution size are too small."""
        if min(height, width) < SCALE * SMALLEST:
            raise ValueError(
                f"frames of {width}x{height} pixels: a quarter of each side must be at least {SMALLEST}, so {SCALE * SMALLEST} pixels"
            )


def build(p: Params) -> TecoGAN:
    """Return the network with new weights (torch's global generator)."""
    from pipeline.models.tecogan.training import TecoGAN

    return TecoGAN(p)
