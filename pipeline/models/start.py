"""Baseline of animation: the start frame, repeated. What every model of motion must beat."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline import params
from pipeline.models.base import Network

if TYPE_CHECKING:
    from torch import nn


class Params(params.Model):
    """start in params.yaml."""

    task: ClassVar[str] = "animation"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: nothing is imported")
    predict: None = Field(None, description="null: nothing to set")


def build(p: Params) -> nn.Module:
    """Return the baseline."""
    from torch import Tensor, nn

    class Start(nn.Module, Network):
        """Repeats the start frame."""

        def predict(self, frames: Tensor, horizon: int, *, seeds: list[int]) -> Tensor:
            """Return (B, horizon, 3, H, W) from (B, 1, 3, H, W); seeds are not used."""
            return frames.repeat(1, horizon, 1, 1, 1)

    return Start()
