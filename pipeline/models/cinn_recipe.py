"""What the published recipes of the three cINN trainings share."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from pipeline import params
from pipeline.losses.augment import Augment


class Recipe(params.Train):
    """Random windows of whole frames, resized and augmented clip by clip."""

    seed: params.Seed = Field(42)
    windows: Literal["all", "random"] = Field("random")
    crop: None = Field(None)
    validate_windows: params.Count = Field(256)

    augment: Augment = Field(
        default_factory=Augment, description="resizing, cropping, flipping and colour jitter, each clip as a whole"
    )
