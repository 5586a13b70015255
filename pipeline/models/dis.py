"""DIS optical flow: Kroeger et al., Fast Optical Flow using Dense Inverse Search (ECCV 2016), as OpenCV has it."""

from __future__ import annotations

from typing import ClassVar, Literal

import cv2
import numpy as np
from pydantic import Field

from pipeline.models.base import Network
from pipeline.params import Estimation, Model

PRESETS = {
    "ultrafast": cv2.DISOPTICAL_FLOW_PRESET_ULTRAFAST,
    "fast": cv2.DISOPTICAL_FLOW_PRESET_FAST,
    "medium": cv2.DISOPTICAL_FLOW_PRESET_MEDIUM,
}
# The side of a patch at the finest pyramid level. Below it OpenCV chooses levels by the width alone, and crashes on
# wide images.
SMALLEST = {"ultrafast": 32, "fast": 32, "medium": 16}


class Predict(Estimation):
    """Settings of DIS."""

    preset: Literal["ultrafast", "fast", "medium"] = Field(
        "medium",
        description="OpenCV's presets: about 2, 4 and 20 ms for a pair of 832x256 on one core; medium is the most exact",
    )


class Params(Model):
    """DIS."""

    task: ClassVar[str] = "flow"
    network: None = Field(None, description="null: there are no weights")
    train: None = Field(None, description="null: nothing is trained")
    checkpoint: None = Field(None, description="null: there are no weights")
    predict: Predict = Field(default_factory=Predict, description="settings of the estimator")

    def check(self, height: int, width: int) -> None:
        """Raise ValueError for frames smaller than a patch at the preset's finest level."""
        least = SMALLEST[self.predict.preset]
        if min(height, width) < least:
            raise ValueError(f"DIS {self.predict.preset} needs sides of at least {least} px, not {width}x{height}")


class Dis(Network):
    """Stateless, so that threads may share it; the buffers that OpenCV allocates for a pair cost below 3 %."""

    def __init__(self, preset: str) -> None:
        self.preset = PRESETS[preset]

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the flow first -> second, (H, W, 2) float32 px, of two (H, W, 3) uint8 RGB images."""
        grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in (first, second)]
        return cv2.DISOpticalFlow.create(self.preset).calc(grey[0], grey[1], None)  # type: ignore[call-overload]


def build(p: Params) -> Dis:
    """Return the estimator."""
    return Dis(p.predict.preset)
