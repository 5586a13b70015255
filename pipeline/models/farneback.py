"""Farneback optical flow: Two-Frame Motion Estimation Based on Polynomial Expansion (SCIA 2003), as OpenCV has it."""

from __future__ import annotations

from typing import ClassVar

import cv2
import numpy as np
from pydantic import Field

from pipeline.models.base import Network
from pipeline.params import Estimation, Model


class Predict(Estimation):
    """The arguments of cv2.calcOpticalFlowFarneback; TecoGAN's tOF has 0.5, 3, 15, 3, 5, 1.2."""

    pyr_scale: float = Field(0.5, gt=0, lt=1, description="size of each pyramid level over that of the one below")
    levels: int = Field(3, ge=1, description="pyramid levels, the image itself included")
    winsize: int = Field(15, ge=1, description="side of the averaging window, pixels; larger is smoother")
    iterations: int = Field(3, ge=1, description="refinements at each level")
    poly_n: int = Field(5, ge=3, description="side of the neighbourhood of the polynomial expansion, pixels; 5 or 7")
    poly_sigma: float = Field(
        1.2, gt=0, description="Gaussian that weighs the neighbourhood, pixels; 1.1 for 5, 1.5 for 7"
    )


class Params(Model):
    """Farneback."""

    task: ClassVar[str] = "flow"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: there are no weights")
    predict: Predict = Field(default_factory=Predict, description="settings of the estimator")


class Farneback(Network):
    """Stateless, so that threads may share it."""

    def __init__(self, p: Predict) -> None:
        self.p = p

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the flow first -> second, (H, W, 2) float32 px, of two (H, W, 3) uint8 RGB images."""
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
        settings = self.p.model_dump(exclude={"export"})
        return cv2.calcOpticalFlowFarneback(grey[0], grey[1], None, flags=0, **settings)  # type: ignore[call-overload]


def build(p: Params) -> Farneback:
    """Return the estimator."""
    return Farneback(p.predict)
