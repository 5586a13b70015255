"""Baseline: each frame enlarged four times by bicubic interpolation. What every super-resolution network must beat.

TensorFlow 1's resizer (a = -0.75, no half-pixel shift), which is also what TecoGAN's generator adds its output to: output
pixel i lies at i / 4, just where the degradation took low resolution from. Resizers that align centres (OpenCV's, Pillow's,
torch's) would be 1.5 pixels off that grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline import params
from pipeline.tasks import super_resolution

if TYPE_CHECKING:
    from torch import nn


class Params(params.Model):
    """bicubic in params.yaml."""

    task: ClassVar[str] = "super_resolution"
    network: None = Field(description="null: there are no weights")
    train: None = Field(description="null: nothing is trained")
    checkpoint: None = Field(description="null: nothing is imported")
    predict: None = Field(description="null: nothing to set")


def build(p: Params) -> nn.Module:
    """Return the baseline."""
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

    class Bicubic(nn.Module):
        """Interpolates."""

        def predict(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
            """Yield (N, 3, 4h, 4w), not clipped, for each of the frames (N, 3, h, w) in [0,1]."""
            return map(super_resolution.resize_bicubic, frames)

    return Bicubic()
