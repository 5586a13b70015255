"""Optical flow: two consecutive frames in, the motion from the first to the second out.

A pair is (clip, number of its first frame). Tested are the pairs with ground truth, which is a store of fields as the
flow stage writes them with the estimator `truth`: NaN where the set has none.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RetakeError
from pipeline.store.frames import Store
from pipeline.tasks import prediction
from pipeline.tasks.p_flow import Protocol, test_inputs, training_inputs  # noqa

Pair = tuple[str, int]


def pairs(truth: Store) -> list[Pair]:
    """Return the pairs that have ground truth, in the store's order."""
    return [(clip, int(truth.frame[row])) for clip, rows in truth.clips.items() for row in rows]


def key(pair: Pair) -> str:
    """Return the name of a pair in scores: "<clip>:<frame>"."""
    return f"{pair[0]}:{pair[1]}"


def row(store: Store, pair: Pair) -> int:
    """Return the row of a pair's first frame, or of its field; raises RetakeError where the store has none."""
    clip, frame = pair
    found = next((r for r in store.clips.get(clip, range(0)) if store.frame[r] == frame), None)
    if found is None:
        raise RetakeError(f"{store.path} has no {clip} frame {frame}: make it again with `snakemake {store.path}`")
    return found


def images(frames: Store, pair: Pair) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the frame before a pair and its two frames, (H, W, 3) uint8; where the clip begins, the first twice.

    Raises RetakeError where the second frame is missing or of another size.
    """
    clip, frame = pair
    first, second = row(frames, pair), row(frames, (clip, frame + 1))
    if (frames.size[first] != frames.size[second]).any():
        raise RetakeError(f"{frames.path}, {clip} frame {frame}: the next frame has another size")
    starts = first == frames.clips[clip].start or frames.frame[first - 1] != frame - 1
    return frames.image(first if starts else first - 1), frames.image(first), frames.image(second)


class TrainingClips(prediction.TrainingClips):
    """Training clips as in prediction. In a store of frames of different sizes they are resized to the training size.

    Only there: frames of one size are resized by the training step, without rounding to 8 bits.
    """

    def __getitem__(self, item: tuple[int, int]) -> Any:
        """Return one clip, (n, 3, h, w) uint8 tensor."""
        import torch
        from torch.nn import functional

        clip = super().__getitem__(item)
        train: Any = self.train
        size = (train.height, train.width)
        if (self.store.size == self.store.size[0]).all() or tuple(clip.shape[-2:]) == size:
            return clip
        resized = functional.interpolate(clip.float(), size, mode="bilinear", align_corners=False)
        return resized.round().to(torch.uint8)


class Validation:
    """The network's own validation over evenly spaced pairs: endpoint error, or its loss where there is no truth."""

    better = "lower"

    def __init__(self, store: Store, truth: Store | None, network: Any, count: int, batch: int) -> None:
        self.store, self.truth, self.network = store, truth, network
        if truth is not None:
            found = pairs(truth)
        else:
            rows = [(clip, r) for clip, rows in store.clips.items() for r in rows[:-1]]
            found = [(c, int(store.frame[r])) for c, r in rows if store.frame[r + 1] == store.frame[r] + 1]
        if not found:
            raise RetakeError(f"{store.path}: no two consecutive frames to validate with: set train.validation to null")
        self.pairs = prediction.chosen(found, count)

    def show(self, device: Any, stem: Path) -> list[Path]:
        """Return no files: there is nothing to look at."""
        return []

    def score(self, device: Any) -> tuple[str, float]:
        """Return "val_epe" (px) or "val_loss" and its mean over pairs, one by one: sizes may differ."""
        import torch

        values: list[float] = []
        for pair in self.pairs:
            _, first, second = images(self.store, pair)
            batch = torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2)[None].to(device).float() / 255
            flow = None
            if self.truth is not None:
                field = self.truth.image(row(self.truth, pair))
                flow = torch.from_numpy(field.copy()).permute(2, 0, 1)[None].to(device)
            found = self.network.validate(batch, flow)
            name = next(iter(found))
            values.append(found[name])
        return name, float(np.mean(values))


def training_clips(fields: dict[str, Any], train: Any, network: Any) -> TrainingClips:
    """Return the clips that a network is trained on."""
    return TrainingClips(Store(fields["frames"]), train, network.augment)


def validation(fields: dict[str, Any], train: Any, network: Any, batch: int) -> Validation | None:
    """Return what scores a network during training; None where its recipe names no split for that."""
    if train.validation is None:
        return None
    return Validation(
        Store(fields["validation"]),
        Store(fields["truth"]) if fields["truth"] is not None else None,
        network,
        train.validate_windows,
        batch,
    )
