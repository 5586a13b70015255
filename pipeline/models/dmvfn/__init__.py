"""DMVFN, "A Dynamic Multi-Scale Voxel Flow Network for Video Prediction" (CVPR 2023, arXiv 2303.09875).

Two frames in, the next frame out: nine blocks estimate, from coarse to fine, where the next frame's pixels come from in
both frames and how to blend them; a router chooses the blocks that a pair needs. Longer horizons feed predictions back.

Different from the published code on purpose: in a batch every sample runs the blocks that its own router chose (there,
sample 0 decided for all), draws come from a seed for each sample, and a bad size is refused at once. As published: BGR
inside, also for VGG; routing is drawn in prediction too; when nothing is chosen the older frame is the prediction. The
router's input is averaged before its last convolution, not after, and coarse motion is convolved before its columns are
enlarged: the same numbers for fewer multiply-adds, so a table's GMACs are below what a counter says of the published code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, model_validator

from pipeline import params
from pipeline.losses import laplacian

if TYPE_CHECKING:
    from pipeline.models.dmvfn.network import DMVFN

BLOCKS = 9
MULTIPLE = 16


def _routing(value: Any) -> Any:
    if value in ("sampled", "all") or (
        isinstance(value, list) and len(value) == BLOCKS and all(gate in (0, 1) for gate in value)
    ):
        return value
    hint = " (all blocks: all)" if value is False else ""
    raise ValueError(f'must be "sampled", "all" or a list of {BLOCKS} zeros and ones, not {value!r}{hint}')


class Network(params.Strict):
    """What the weights depend on."""

    routing: bool = Field(
        True, description='whether there is a router; false is the paper\'s "w/o routing": all blocks run'
    )


class Train(params.Train):
    """The published recipe for KITTI takes one optimiser step for each three consecutive frames of a clip."""

    batch: params.Count = Field(64)
    epochs: params.Count = Field(300)
    seed: params.Seed = Field(1234)
    window: params.Frames = Field(9)
    crop: params.Side | None = Field(256)
    validation: str | None = Field("test")
    validate_every: params.Count = Field(211)
    checkpoint_every: params.Count = Field(211)

    lr: float = Field(1e-4, gt=0, description="peak learning rate, reached at the end of the warm-up")
    min_lr: float = Field(1e-5, ge=0, description="learning rate at the first and the last step")
    warmup_steps: int = Field(2000, ge=0, description="batches of linear warm-up, before the cosine")
    weight_decay: float = Field(1e-3, ge=0, description="of AdamW, on all parameters")
    vgg_weight: float = Field(
        0.5, ge=0, description="weight of the perceptual loss (published: 0.5); 0 needs no VGG weights"
    )
    vgg_channels: Literal["bgr", "rgb"] = Field(
        "bgr", description="channel order that VGG sees: bgr as published, rgb as VGG was trained"
    )
    augment: Literal["published", "none"] = Field(
        "published", description="published: quarter turns, channel reversal and flips, each clip as a whole"
    )

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if self.window < 3:
            raise ValueError(f"window {self.window}: a training clip needs at least 3 frames, two inputs and a target")
        if self.crop is not None and not laplacian.fits(self.crop, self.crop):
            raise ValueError(f"crop {self.crop}: the Laplacian loss needs a multiple of 32, at least 64")
        if self.crop is None and self.augment != "none":
            raise ValueError('crop null: quarter turns need a square crop; set crop, or augment: "none"')
        if self.min_lr > self.lr:
            raise ValueError(f"min_lr {self.min_lr} is above lr {self.lr}")
        return self


class Predict(params.Strict):
    """Settings of prediction alone."""

    routing: Annotated[
        Literal["sampled", "all"] | Annotated[list[Literal[0, 1]], Field(min_length=BLOCKS, max_length=BLOCKS)],
        BeforeValidator(_routing),
    ] = Field(
        "sampled",
        description="sampled: the router draws each frame's blocks, as published; off: all nine; nine 0 and 1: those",
    )
    weights: Literal["last", "best"] = Field(
        "last", description="last: the end of training, as published; best: the step with the best validation PSNR"
    )


class Params(params.Model):
    """DMVFN in params.yaml."""

    task: ClassVar[str] = "prediction"
    network: Network = Field(default_factory=Network)
    train: Train | None = Field(None, description="null: nothing is trained (imported weights)")
    predict: Predict = Field(default_factory=Predict)

    @model_validator(mode="after")
    def _router_exists(self) -> Params:
        if self.predict.routing == "sampled" and not self.network.routing:
            raise ValueError('predict.routing "sampled" needs a router: set network.routing true, or routing all')
        return self

    @property
    def pretrained(self) -> list[str]:
        """The imported weights, or VGG19's for the perceptual loss."""
        return super().pretrained + (["vgg19"] if self.train is not None and self.train.vgg_weight else [])

    def check(self, height: int, width: int) -> None:
        """Raise ValueError when a side is no multiple of 16, naming the nearest sizes."""
        check(height, width)


def check(height: int, width: int) -> None:
    """Raise ValueError when DMVFN cannot work on frames of this size (pixels), naming the nearest sizes."""
    if height % MULTIPLE or width % MULTIPLE or min(height, width) < MULTIPLE:
        near = [
            sorted({max(side // MULTIPLE, 1) * MULTIPLE, max(-(-side // MULTIPLE), 1) * MULTIPLE})
            for side in (height, width)
        ]
        sizes = ", ".join(f"{w}x{h}" for h in near[0] for w in near[1])
        raise ValueError(
            f"frames of {width}x{height} pixels: DMVFN needs sides that are multiples of {MULTIPLE}; nearest: {sizes}"
        )


def build(p: Params) -> DMVFN:
    """Return the network with new weights (torch's global generator)."""
    from pipeline.models.dmvfn.network import DMVFN

    return DMVFN(p)
