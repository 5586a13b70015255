"""Baseline of animation: the start frame, moved on along the clip's own first flow, frame after frame.

What is seen at x at time k, and has kept its velocity v, stood at x - k v in the start frame, so that v = f(x - k v) with f
the flow from the start to the next frame; solved as `flow_warp` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.models.base import Network
from pipeline.models.warping import sample, velocity

if TYPE_CHECKING:
    from torch import nn


class Predict(params.Strict):
    """Settings of prediction."""

    flow: params.Name = Field("arflow_sky", description="entry of models that estimates the flow")
    flow_of: params.Name | None = Field(
        None,
        description="dataset whose flow is read, by clip and frame number; null: the flow of the frames themselves",
    )


class Params(params.Model):
    """warp_start in params.yaml."""

    task: ClassVar[str] = "animation"
    EXPORTS: ClassVar[tuple[str, ...]] = ("pairs", "sky")
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: nothing is imported")
    predict: Predict = Field(default_factory=Predict)


def build(p: Params) -> nn.Module:
    """Return the baseline."""
    import torch
    from torch import Tensor, nn

    class WarpStart(nn.Module, Network):
        """Moves the start frame along the first flow of a clip."""

        motion = "flow"

        def predict(self, frames: Tensor, horizon: int, *, seeds: list[int], motion: Tensor | None = None) -> Tensor:
            """Return (B, horizon, 3, H, W) from (B, 1, 3, H, W) and flow (B, n, 2, H, W) px; seeds are not used.

            Raises RetakeError without flow, and for flow of another size.
            """
            if motion is None:
                raise RetakeError("warp_start needs the flow of a clip: take a protocol whose motion is clip or other")
            if motion.shape[-2:] != frames.shape[-2:]:
                (h, w), (height, width) = motion.shape[-2:], frames.shape[-2:]
                raise RetakeError(f"warp_start: the flow is {w}x{h}, the frames are {width}x{height}")
            moves = [k * velocity(motion[:, 1], k - 1) for k in range(1, horizon + 1)]
            return torch.stack([sample(frames[:, 0], -move) for move in moves], 1)

    return WarpStart()
