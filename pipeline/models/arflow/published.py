"""The colours of ARFlow's published flow pictures."""

from __future__ import annotations

import numpy as np


def picture(flow: np.ndarray, largest: float = 256.0) -> np.ndarray:
    """Return flow (H, W, 2) px in ARFlow's colours, (H, W, 3) uint8 RGB.

    Hue is the direction, saturation 8 |flow| / largest. For comparison with published pictures; the project's own
    colours are `drawing.colours`.
    """
    u, v = flow[..., 0].astype(np.float32), flow[..., 1].astype(np.float32)
    hue = np.mod(np.arctan2(v, u) / np.float32(2 * np.pi), 1)
    saturation = np.clip(8 * np.hypot(u, v) / np.float32(largest), 0, 1)[..., None]
    # HSV at full value: red, green and blue are trapezia along the hue, a third of a turn apart
    phase = np.mod(6 * hue[..., None] + np.array([5, 3, 1], np.float32), 6)
    return ((1 - saturation * np.clip(np.minimum(phase, 4 - phase), 0, 1)) * 255).astype(np.uint8)
