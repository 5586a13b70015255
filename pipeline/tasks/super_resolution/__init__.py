"""Video super-resolution: low-resolution frames in, frames four times as large out."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline import params

SCALE = 4
BORDER = 4  # high-resolution pixels at each side of a training crop that only the blur sees


class Train(params.Train):
    """Keys that every trained super-resolution model has: how a scene becomes clips."""

    windows: Literal["all"] = Field(description="every start of every scene is a training window")
    moving_first_frame: float = Field(
        ge=0,
        le=1,
        description="share of clips that are the first frame alone, moved by up to 4 px a frame (published: 0.3)",
    )
