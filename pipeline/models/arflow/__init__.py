"""ARFlow, "Learning by Analogy" (CVPR 2020, arXiv 2003.13045): two or three frames in, optical flow out.

PWCLite warps and correlates feature pyramids from 1/64 to 1/4 of the size. It is trained without ground truth: images
are compared through the flow; the AR step then transforms images and flow alike and takes the transformed flow as the
target of a second pass.

Different from the published code on purpose: an empty visibility mask gives no NaN, start weights are matched by name,
and a training without flow ground truth validates by the unsupervised loss. The AR step draws its angles from the
configured ranges (published: frame 2's is always `rotate[2]`; the copy of the code in DTVNet moreover draws frame 1's
from U(-rotate[0], rotate[1]), which for a symmetric range is `rotate[1]` itself), its Gaussian blur is a true one
where Pillow's is three boxes, and superpixels need not be connected. As published, though an oversight there: weights
start from torch's default unless `kaiming` is set.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from pipeline import params

if TYPE_CHECKING:
    from pipeline.models.arflow.model import ARFlow

MULTIPLE = 64

Side = Annotated[int, Field(ge=MULTIPLE, multiple_of=MULTIPLE)]
Share = Annotated[float, Field(ge=0)]
Occlusion = Literal["range_map", "forward_backward"]
Four = Annotated[list[float], Field(min_length=4, max_length=4)]
Two = Annotated[list[float], Field(min_length=2, max_length=2)]


class Quirks(params.Strict):
    """Behaviours of published versions that are not what the paper describes."""

    half_pixel_warp: bool = Field(
        False,
        description="warp as the code in DTVNet does under PyTorch 1.3 and newer: half a pixel off at the borders",
    )


class Network(params.Strict):
    """What the weights depend on."""

    frames: Literal[2, 3] = Field(
        2, description="2: a pair; 3: the multi-view network (published weights only, no training)"
    )
    estimator: Literal["reduced", "dense"] = Field(
        "reduced", description="layers see the two before them (published), or all"
    )
    upsample: bool = Field(
        True,
        description="true (published): flow at full size; false: at a quarter, brought to full size in prediction alone",
    )
    quirks: Quirks = Field(default_factory=Quirks)


class Loss(params.Strict):
    """What the photometric loss compares, and which pixels count."""

    l1: Share = Field(0.15, description="weight of the absolute difference")
    ssim: Share = Field(0.85, description="weight of the SSIM distance")
    ternary: Share = Field(0.0, description="weight of the ternary (census) distance")
    occlusion: Occlusion = Field(
        "range_map",
        description="pixels that count; range_map: reached by the flow back; forward_backward: where both flows agree",
    )

    @model_validator(mode="after")
    def _something(self) -> Loss:
        if not self.l1 + self.ssim + self.ternary:
            raise ValueError("l1, ssim and ternary are all 0: nothing is compared")
        return self


class Switch(Loss):
    """The loss that replaces the first one."""

    step: int = Field(50000, ge=0, description="batches before it takes over (published: 50 epochs of 1000)")


class Superpixels(params.Strict):
    """Occlusion: a third pass on a crop, 8 to 15 superpixels of frame 2 made noise (off in all published trainings)."""

    height: Side = Field(description="height of the crop, pixels (published code: 320)")
    width: Side = Field(description="width of the crop, pixels (published code: 704)")


class AR(params.Strict):
    """The AR step. Four numbers are a range for frame 1, and one for what frame 2 has on top of it."""

    weight: Share = Field(0.01, description="weight of the AR loss")
    brightness: float = Field(0.5, ge=0, le=1, description="factors are drawn from 1 - b to 1 + b")
    contrast: float = Field(0.5, ge=0, le=1, description="likewise")
    saturation: float = Field(0.5, ge=0, le=1, description="likewise")
    gamma: bool = Field(True, description="exponent from 0.7 to 1.5")
    blur: bool = Field(True, description="with probability 1/2 a Gaussian blur with sigma from 0 to 3 px")
    zoom: Four = Field([1.0, 1.5, 0.985, 1.015], description="ranges of zoom")
    squeeze: Four = Field(
        [0.86, 1.16, 1.0, 1.0], description="ranges of the aspect ratio's root: width times it, height over it"
    )
    translate: Two = Field(
        [0.2, 0.015],
        description="full widths of the translation's range, frame 1 and frame 2; an image is 2 wide and 2 high",
    )
    rotate: Four = Field([-0.2, 0.2, -0.015, 0.015], description="ranges of the angle, radians")
    mirror: bool = Field(True, description="left and right exchanged with probability 1/2")
    flip: bool = Field(True, description="top and bottom exchanged with probability 1/2")
    noise: Share = Field(
        0.04, description="largest standard deviation of the Gaussian noise; a step draws its own from 0 on"
    )
    superpixels: Superpixels | None = Field(None, description="null: no third pass")

    @model_validator(mode="after")
    def _ranges(self) -> AR:
        for name in ("zoom", "squeeze", "rotate"):
            four = getattr(self, name)
            if four[0] > four[1] or four[2] > four[3]:
                raise ValueError(f"{name} {four}: each of the two ranges goes from the smaller to the larger number")
        if min(*self.zoom, *self.squeeze) <= 0:
            raise ValueError("zoom and squeeze must be above 0")
        if min(self.translate) < 0:
            raise ValueError("translate must not be negative")
        return self


class Train(params.Train):
    """The published recipe: Adam at a constant rate, no gradient clipping; 1000 epochs of at most 1000 batches."""

    epochs: params.Count = Field(1000)
    max_steps: params.Count | None = Field(1000000)
    validation: str | None = Field("test")
    validate_windows: params.Count = Field(200)

    height: Side = Field(
        256, description="height that the frames are trained at, pixels; after the random crop they are resized to it"
    )
    width: Side = Field(832, description="width that the frames are trained at, pixels")
    random_crop: Annotated[list[int], Field(min_length=2, max_length=2)] | None = Field(
        None, description="height and width of a random crop of the stored frames; null: whole frames"
    )
    start: str | None = Field(
        None, description="data/checkpoints/<model>/<dataset>.pt, or a published file, to start from; null: new weights"
    )
    kaiming: bool = Field(
        False, description="new weights by Kaiming's rule, which learn many times faster; false: torch's, as published"
    )
    lr: float = Field(1e-4, gt=0, description="learning rate")
    weight_decay: Share = Field(1e-6, description="L2 in the gradient of weights; biases have none")
    loss: Loss = Field(default_factory=Loss, description="photometric loss and occlusion, from the start")
    switch: Switch | None = Field(None, description="what replaces it later; null: nothing does")
    smooth_order: Literal[1, 2] = Field(
        2, description="differences of the flow whose size is punished: first or second"
    )
    smooth_weight: Share = Field(75.0, description="weight of the smoothness")
    ar: AR | None = Field(None, description="the AR step; null: none")

    @model_validator(mode="after")
    def _consistent(self) -> Train:
        if self.crop is not None:
            raise ValueError("crop must be null: ARFlow's crop is not square, it is random_crop")
        if self.window != 2:
            raise ValueError(f"window {self.window}: the losses take pairs, window must be 2")
        box = self.ar.superpixels if self.ar else None
        if box and (box.height > self.height or box.width > self.width):
            raise ValueError(f"ar.superpixels: {box.width}x{box.height} does not fit into {self.width}x{self.height}")
        return self


class Predict(params.Estimation):
    """Settings of estimation alone."""

    fit: Literal["resize", "pad"] = Field(
        "resize", description="how sides become multiples of 64: resize (published), or pad by repeating the border"
    )
    height: Side | None = Field(
        256, description="fit resize: height that flow is estimated at; null: the frame's, rounded up"
    )
    width: Side | None = Field(
        832, description="fit resize: width that flow is estimated at; null: the frame's, rounded up"
    )
    weights: Literal["last", "best"] = Field(
        "best", description="last: the end of training; best: the step with the best validation"
    )

    @model_validator(mode="after")
    def _pad_alone(self) -> Predict:
        if (self.height is None) != (self.width is None):
            raise ValueError("height and width are both given or both null")
        if self.fit == "pad" and self.height is not None:
            raise ValueError("fit pad keeps the frame's size: height and width must be null")
        return self


class Params(params.Model):
    """ARFlow in params.yaml."""

    task: ClassVar[str] = "flow"
    network: Network = Field(default_factory=Network)
    train: Train | None = Field(None, description="null: nothing is trained (imported weights)")
    predict: Predict = Field(default_factory=Predict)

    @model_validator(mode="after")
    def _trainable(self) -> Params:
        if self.train is not None and self.network.frames != 2:
            raise ValueError(
                "network.frames 3: the multi-view network is imported, its training was not published; set train null"
            )
        if self.train is not None and self.train.ar is not None and not self.network.upsample:
            raise ValueError("train.ar works on flow at full size: set network.upsample true")
        return self

    @property
    def pretrained(self) -> list[str]:
        """The imported weights, or a published file that training starts from."""
        start = self.train.start if self.train is not None else None
        return super().pretrained + ([start] if start is not None and not params.CHECKPOINT.fullmatch(start) else [])

    def check(self, height: int, width: int) -> None:
        """Raise ValueError for frames (pixels) that the random crop does not fit into."""
        crop = self.train.random_crop if self.train else None
        if crop and (crop[0] > height or crop[1] > width):
            raise ValueError(
                f"frames of {width}x{height} pixels are smaller than train.random_crop {crop[1]}x{crop[0]}"
            )


def build(p: Any) -> ARFlow:
    """Return the estimator, an nn.Module with new weights (torch's global generator)."""
    from pipeline.models.arflow.model import ARFlow

    return ARFlow(p)
