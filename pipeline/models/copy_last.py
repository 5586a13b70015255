"""Baseline: the last given frame, repeated. What every predictor must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline import params
from pipeline.models.base import Network

if TYPE_CHECKING:
    from torch import nn


class Params(params.Model):
    """copy_last in params.yaml."""

    task: ClassVar[str] = "prediction"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: nothing is imported")
    predict: None = Field(None, description="null: nothing to set")


def build(p: Params) -> nn.Module:
    """Return the baseline."""
    from torch import Tensor, nn

    class CopyLast(nn.Module, Network):
        """Repeats the last frame."""

        context = 1

        def predict(self, frames: Tensor, horizon: int, *, seeds: list[int], flow: Tensor | None = None) -> Tensor:
            """Return (B, horizon, 3, H, W), the last of (B, 1 or more, 3, H, W); seeds and flow are not used."""
            return frames[:, -1:].repeat(1, horizon, 1, 1, 1)

    return CopyLast()
