"""As `truth`, but only where the second frame shows the pixel too; for datasets that tell (KITTI's `flow_noc`)."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.params import Model


class Params(Model):
    """Ground truth of the pixels that are not occluded."""

    task: ClassVar[str] = "flow"
    network: None = Field(description="null: there are no weights")
    train: None = Field(description="null: nothing is trained")
    checkpoint: None = Field(description="null: there are no weights")
    predict: None = Field(description="null: nothing is estimated")
