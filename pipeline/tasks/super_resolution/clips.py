"""The scenes that super-resolution is tested on, their low resolution, and what of them is scored.

A scene is a clip of the test split. Its low resolution is the clip of that name in the split `test_lr`, where the dataset
has one, and else made by `degrade_frame`, not rounded to 8 bits.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import plan
from pipeline.errors import RetakeError
from pipeline.store.frames import Store
from pipeline.tasks.super_resolution import SCALE, Protocol
from pipeline.tasks.super_resolution.grid import FRAME_TAPS, SIGMA, degrade_frame

if TYPE_CHECKING:
    from torch import Tensor


def low_store(fields: plan.Fields) -> Store | None:
    """Return the dataset's own low resolution; None where the test split is degraded."""
    return Store(fields["low"]) if fields["low"] is not None else None


def scenes(high: Store, low: Store | None, protocol: Protocol) -> list[str]:
    """Return the clips that are tested: those that both stores have (low: None where `high` is degraded).

    Raises RetakeError when there are none, when the two differ in frames, or nothing would be left to score.
    """
    tested = [clip for clip in high.clips if low is None or clip in low.clips]
    if not tested:
        have = f", {low.path} has {', '.join(low.clips)}" if low is not None else ""
        raise RetakeError(f"{high.path} has {', '.join(high.clips) or 'no scenes'}{have}: no scene to upscale")
    for clip in tested:
        count = len(high.clips[clip])
        if low is not None and list(low.frame[low.clips[clip]]) != list(high.frame[high.clips[clip]]):
            raise RetakeError(
                f"{low.path}, {clip}: {len(low.clips[clip])} frames, {high.path} has {count}, or other numbers: make "
                "both stores again from archives that belong together"
            )
        scored_part((count, *high.size[high.clips[clip][0]]), protocol, f"{high.path}, {clip}")
    return tested


def scored_part(shape: Sequence[int], protocol: Protocol, where: str) -> tuple[slice, tuple[slice, slice]]:
    """Return the frames of a scene of `shape` (T, H, W) that are scored, and the rows and columns of each.

    Raises RetakeError when no frame or no pixel would be left.
    """
    frames, height, width = (int(n) for n in shape)
    if frames <= 2 * protocol.trim:
        raise RetakeError(
            f"{where}: a scene of {frames} frames, of which trim {protocol.trim} leaves out {protocol.trim} at both ends: "
            f"at least {2 * protocol.trim + 1} are needed. Lower `trim`, or leave the scene out"
        )
    scored = slice(protocol.trim, frames - protocol.trim)
    if protocol.border == "kept":
        return scored, (slice(0, height), slice(0, width))
    try:
        top, left, height, width = border_crop(height, width)
    except RetakeError as error:
        raise RetakeError(f"{where}: {error}; set the protocol's `border` to kept") from None
    return scored, (slice(top, top + height), slice(left, left + width))


def border_crop(height: int, width: int) -> tuple[int, int, int, int]:
    """Return top, left, height, width of the part that is scored: multiples of 32, at least 16 less than the frame.

    Raises RetakeError when nothing would be left.
    """

    def side(size: int) -> int:
        kept = size // 32 * 32
        while kept > size - 16:
            kept -= 32
        return kept

    kept = side(height), side(width)
    if min(kept) <= 0:
        raise RetakeError(f"frames of {width}x{height} pixels: the metrics need sides of at least 48")
    return (height - kept[0]) // 2, (width - kept[1]) // 2, *kept


def low_resolution(high: Store, low: Store | None, clip: str) -> Iterator[np.ndarray]:
    """Yield the frames of a scene at low resolution, (h, w, 3) float32 in [0,1], one at a time."""
    if low is not None:
        for row in low.clips[clip]:
            yield low.image(row).astype(np.float32) / np.float32(255)
    else:
        for row in high.clips[clip]:
            yield degrade_frame(high.image(row))


def facts(high: Store, low: Store | None, protocol: Protocol) -> dict[str, Any]:
    """Return what a prediction store says of its test set: protocol, where low resolution is from, what is not there."""
    tested = scenes(high, low, protocol)
    made = f"degraded: blur of sigma {SIGMA}, {FRAME_TAPS} taps, every {SCALE}th pixel, not rounded to 8 bits"
    partial = [s.meta.get("partial") for s in (high, low) if s is not None]
    if len(tested) < len(high.clips):
        partial.append(f"{len(tested)} of {len(high.clips)} scenes have low resolution")
    return {
        "protocol": {k: getattr(protocol, k) for k in ("saved", "trim", "border")},
        "low": low.identity if low is not None else "",
        "input": "the dataset's" if low is not None else made,
        "partial": "; ".join(dict.fromkeys(p for p in partial if p)) or None,
        "samples": 1,
    }


def file_order(names: Iterable[str]) -> list[str]:
    """Return file names as the published scripts sort them: by name, then by the integer of all digits in the name."""

    def number(name: str) -> int:
        digits = "".join(c for c in name.rsplit("/", 1)[-1] if c in "0123456789")
        return int(digits) if digits else -1

    return sorted(sorted(names), key=number)


def eight_bits(output: Tensor, saved: str) -> np.ndarray:
    """Return one output (1, 3, H, W) around [0,1] as the image that is scored, (H, W, 3) uint8; `saved` as in params."""
    levels = (output[0].permute(1, 2, 0).float() * 255).clamp(0, 255)
    return (levels.round() if saved == "rounded" else levels).byte().cpu().numpy()
