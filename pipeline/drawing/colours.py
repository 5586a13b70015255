"""Optical flow as a picture."""

from __future__ import annotations

import numpy as np


def colours(flow: np.ndarray, scale: float) -> np.ndarray:
    """Return flow as a picture, (height, width, 3) uint8 RGB: the colour wheel of Baker et al. (ICCV 2007).

    Hue is the direction, saturation the length over `scale` px; longer vectors are darkened, pixels without flow black.
    """
    known = np.nan_to_num(flow) / np.float32(scale)
    u, v = known[..., 0], known[..., 1]
    length = np.hypot(u, v)[..., None]
    place = (np.arctan2(-v, -u) / np.float32(np.pi) + 1) / 2 * (len(_WHEEL) - 1)
    low = place.astype(np.intp)
    share = (place - low)[..., None]
    hue = (1 - share) * _WHEEL[low] + share * _WHEEL[(low + 1) % len(_WHEEL)]
    colour = np.where(length <= 1, 1 - length * (1 - hue), 0.75 * hue)
    colour[np.isnan(flow).any(axis=-1)] = 0
    return (255 * colour).astype(np.uint8)


def scale_of(flow: np.ndarray) -> float:
    """Return a scale for `colours`: the length, px, that 99 % of the vectors stay below, and at least 1 px."""
    length = np.hypot(flow[..., 0], flow[..., 1])
    known = length[np.isfinite(length)]
    return max(float(np.percentile(known, 99)), 1.0) if known.size else 1.0


def _wheel() -> np.ndarray:
    """Return the 55 hues of the wheel, float32 RGB in [0, 1]; neighbouring hues differ about equally to the eye."""
    corners = {"red": (1, 0, 0), "yellow": (1, 1, 0), "green": (0, 1, 0), "cyan": (0, 1, 1), "blue": (0, 0, 1)}
    stops = np.array([*corners.values(), (1, 0, 1), (1, 0, 0)], np.float32)
    starts = np.cumsum([0, 15, 6, 4, 11, 13, 6])  # hues from one corner to the next
    hues = np.arange(starts[-1])
    return np.stack([np.interp(hues, starts, stops[:, c]) for c in range(3)], axis=-1).astype(np.float32)


_WHEEL = _wheel()
