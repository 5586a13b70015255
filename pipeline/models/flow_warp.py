"""Baseline: the last given frame, moved on along the optical flow between the last two at constant velocity.

The flow f(x) takes the point x of frame t-1 to x + f(x) in frame t. What is seen at x in frame t+k, and has kept its
velocity v, stood at x - (k+1)v in frame t-1, so v solves

    v = f(x - (k+1) v)

and the prediction is frame t sampled at x - k v (bilinear, borders repeated): one resampling, whatever k. v starts as
f(x) and takes half-steps to the right-hand side, which do not swing between the two sides of a motion edge as whole
steps do. On driving scenes with DIS flow that is 0.8 dB above f(x) itself at t+1 and 1.1 dB at t+5; more steps change
less than 0.1 dB.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.models.base import Network

if TYPE_CHECKING:
    from torch import Tensor, nn


class Predict(params.Strict):
    """Settings of prediction."""

    flow: params.Name = Field("dis", description="entry of models that estimates the flow, computed once per dataset")


class Params(params.Model):
    """flow_warp in params.yaml."""

    task: ClassVar[str] = "prediction"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: nothing is imported")
    predict: Predict = Field(default_factory=Predict)


def build(p: Params) -> nn.Module:
    """Return the baseline."""
    import torch
    from torch import nn

    from pipeline.models.warping import sample, velocity

    class FlowWarp(nn.Module, Network):
        """Moves the last frame along the context's flow."""

        def predict(self, frames: Tensor, horizon: int, *, seeds: list[int], flow: Tensor | None = None) -> Tensor:
            """Return (B, horizon, 3, H, W) from (B, 2 or more, 3, H, W) and flow (B, 2, H, W) px; seeds are not used.

            Raises RetakeError without flow.
            """
            if flow is None:
                raise RetakeError("flow_warp needs the flow between its two input frames: make it with the flow stage")
            return torch.stack([sample(frames[:, -1], -k * velocity(flow, k)) for k in range(1, horizon + 1)], 1)

    return FlowWarp()
