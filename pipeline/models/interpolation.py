"""Baselines: each frame enlarged four times without learning. What every super-resolution network must beat.

Both lie on the grid of the degradation, which took low-resolution pixel i from high-resolution pixel 4i:

* `bicubic`: TensorFlow 1's resizer (a = -0.75, no half-pixel shift), which is also what TecoGAN's generator adds its output to.
  Resizers that align centres (OpenCV's, Pillow's, torch's) would be 1.5 pixels off that grid.
* `nearest`: a sample's block of 4x4 pixels begins one pixel before the pixel it was taken from. Blocks that begin there,
  as most tools make them, lie 1.5 pixels off on average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from pipeline import params
from pipeline.models.base import Network
from pipeline.tasks.super_resolution import grid

if TYPE_CHECKING:
    from torch import nn


class Predict(params.Strict):
    """Settings of enlarging."""

    method: Literal["bicubic", "nearest"] = Field(
        "bicubic", description="what stands between the samples of low resolution"
    )


class Params(params.Model):
    """Interpolation in params.yaml."""

    task: ClassVar[str] = "super_resolution"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: nothing is imported")
    predict: Predict = Field(default_factory=Predict)


def build(p: Params) -> nn.Module:
    """Return the baseline."""
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

    resize = {"bicubic": grid.resize_bicubic, "nearest": grid.resize_nearest}[p.predict.method]

    class Interpolation(nn.Module, Network):
        """Interpolates."""

        def predict(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
            """Yield (N, 3, 4h, 4w), not clipped, for each of the frames (N, 3, h, w) in [0,1]."""
            return map(resize, frames)

    return Interpolation()
