"""Two published tools around ARFlow: the export of flow for DTVNet, and the colours of its flow pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np
import torch

from pipeline.models.arflow.transform import resize_flow

SIDE = 128


class Estimator(Protocol):
    """Anything that gives the flow first -> second, (H, W, 2) float32 px, of (H, W, 3) uint8 RGB images."""

    def estimate(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Return the flow."""


def sky_export(estimator: Estimator, frames: Sequence[np.ndarray]) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (i, flow) for the flow files that DTVNet was trained with, of one clip's n frames (H, W, 3) uint8 RGB.

    File i = 0 ... n-2 is named like frame i and holds the flow from frame i-1 to frame i, (128, 128, 2) float32 in
    pixels of 128x128; the first is the flow of frame 0 to itself (near 0, not 0), and the last frame has none. Flow is
    resized twice: `estimate` brings it from the test size (published: 384x640) to the frames' (360x640), and this from
    there. The published code also means to begin anew every 32 frames, but its counter never moves.
    """
    for i in range(len(frames) - 1):
        flow = torch.from_numpy(estimator.estimate(frames[max(i - 1, 0)], frames[i])).permute(2, 0, 1)[None]
        yield i, resize_flow(flow, SIDE, SIDE)[0].permute(1, 2, 0).contiguous().numpy()


def picture(flow: np.ndarray, largest: float = 256.0) -> np.ndarray:
    """Return flow (H, W, 2) px in ARFlow's colours, (H, W, 3) uint8 RGB.

    Hue is the direction, saturation 8 |flow| / largest. For comparison with published pictures; the project's own
    colours are `store.flow.colours`.
    """
    u, v = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    hue = np.mod(np.arctan2(v, u) / np.float32(2 * np.pi), 1)
    saturation = np.clip(8 * np.hypot(u, v) / np.float32(largest), 0, 1)[..., None]
    # HSV at full value: red, green and blue are trapezia along the hue, a third of a turn apart
    phase = np.mod(6 * hue[..., None] + np.array([5, 3, 1], np.float32), 6)
    return ((1 - saturation * np.clip(np.minimum(phase, 4 - phase), 0, 1)) * 255).astype(np.uint8)
