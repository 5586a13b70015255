"""Baseline: no motion at all. What every flow estimator must beat."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
from pydantic import Field

from pipeline.models.base import Network
from pipeline.params import Model


class Params(Model):
    """zero in params.yaml."""

    task: ClassVar[str] = "flow"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: there are no weights")
    predict: None = Field(None, description="null: nothing to set")


class Zero(Network):
    """Zero flow."""

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return (H, W, 2) float32 zeros for two (H, W, 3) images."""
        return np.zeros((*first.shape[:2], 2), np.float32)


def build(p: Params) -> Zero:
    """Return the estimator."""
    return Zero()
