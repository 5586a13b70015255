"""What the entries for exact flow share: nothing is estimated or trained."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from pipeline.errors import RetakeError
from pipeline.params import Model


class Exact(Model):
    """Exact flow in place of an estimate."""

    task: ClassVar[str] = "flow"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: there are no weights")
    predict: None = Field(None, description="null: nothing is estimated")


def build(p: Exact) -> None:
    """Refuse: nothing is estimated. Raises RetakeError."""
    raise RetakeError("exact flow is read from the dataset by the flow stage; name an estimator")
