"""Baseline: each frame enlarged four times, every pixel the nearest one of low resolution.

On the grid of the degradation: a sample's block of 4x4 pixels begins one pixel before the pixel it was taken from. Blocks
that begin there, as most tools make them, lie 1.5 pixels off on average.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline import params
from pipeline.tasks import super_resolution

if TYPE_CHECKING:
    from torch import nn


class Params(params.Model):
    """nearest in params.yaml."""

    task: ClassVar[str] = "super_resolution"
    network: None = Field(description="null: there are no weights")
    train: None = Field(description="null: nothing is trained")
    checkpoint: None = Field(description="null: nothing is imported")
    predict: None = Field(description="null: nothing to set")


def build(p: Params) -> nn.Module:
    """Return the baseline."""
    from collections.abc import Iterable, Iterator

    from torch import Tensor, nn

    class Nearest(nn.Module):
        """Repeats samples."""

        def predict(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
            """Yield (N, 3, 4h, 4w) for each of the frames (N, 3, h, w) in [0,1]."""
            return map(super_resolution.resize_nearest, frames)

    return Nearest()
