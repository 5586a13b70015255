"""Video prediction: context frames in, the following frames out.

A window is (clip, start): `protocol.window` consecutive frames of a clip, by position. Its inputs are the `context` frames
from index `first`, its targets the `horizon` frames after them. Windows are index arithmetic over frames stored once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RetakeError
from pipeline.params import Train
from pipeline.store.frames import Store
from pipeline.tasks.p_prediction import Protocol, test_inputs, training_inputs  # noqa
from pipeline.tasks.p_prediction import Protocol as Prediction

Window = tuple[str, int]


def windows(store: Store, protocol: Prediction) -> list[Window]:
    """Return the test windows of a store, in its order of clips.

    Raises RetakeError when a clip is shorter than the window.
    """
    return _windows(store, protocol.window, every=protocol.windows == "all")


def _windows(store: Store, length: int, *, every: bool) -> list[Window]:
    short = [f"{clip} ({len(rows)})" for clip, rows in store.clips.items() if len(rows) < length]
    if short:
        raise RetakeError(
            f"{store.path}: {len(short)} clips are shorter than the window of {length} frames: {', '.join(short[:10])}. "
            "Lower `window`, or leave those clips out of the dataset"
        )
    return [
        (clip, start) for clip, rows in store.clips.items() for start in range(len(rows) - length + 1 if every else 1)
    ]


def key(window: Window) -> str:
    """Return the name of a window in prediction stores and scores: "<clip>:<start>"."""
    return f"{window[0]}:{window[1]}"


def inputs(store: Store, window: Window, protocol: Prediction) -> np.ndarray:
    """Return the context frames of a window, (context, height, width, 3) uint8."""
    at = window[1] + protocol.first
    return store.read(window[0], range(at, at + protocol.context))


def targets(store: Store, window: Window, protocol: Prediction) -> np.ndarray:
    """Return the frames to predict, (horizon, height, width, 3) uint8."""
    return np.stack([store.image(row) for row in target_rows(store, window, protocol)])


def target_rows(store: Store, window: Window, protocol: Prediction) -> range:
    """Return the rows of a store that hold the frames to predict."""
    at = window[1] + protocol.first + protocol.context
    return store.clips[window[0]][at : at + protocol.horizon]


class TrainingClips:
    """Training clips of a store, cropped and augmented: a map-style dataset for a DataLoader.

    `sample(step, index)` depends on seed, step and index only, so that a resumed run, another number of workers or another
    number of processes sees the same clips. `augment(clip (n, h, w, 3) uint8, rng)` is the model's.
    """

    def __init__(
        self, store: Store, train: Train, augment: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    ) -> None:
        self.store, self.train, self.augment = store, train, augment
        self.windows = _windows(store, train.window, every=train.windows == "all")
        if len(self.windows) < train.batch:
            raise RetakeError(
                f"{store.path} has {len(self.windows)} training windows, fewer than one batch of {train.batch}"
            )
        if train.crop is not None and (store.size.min() < train.crop):
            height, width = store.size.min(axis=0)
            raise RetakeError(f"{store.path}: frames of {width}x{height} are smaller than the crop of {train.crop}")

    def steps_per_epoch(self, processes: int) -> int:
        """Return batches in a pass: each process takes ceil(windows / processes) of them, last partial batch dropped."""
        return max(-(-len(self.windows) // processes) // (self.train.batch // processes), 1)

    def order(self, epoch: int) -> np.ndarray:
        """Return the permutation of window indices of one epoch."""
        return np.random.default_rng([self.train.seed, epoch]).permutation(len(self.windows))

    def indices(self, step: int, rank: int, processes: int) -> list[tuple[int, int]]:
        """Return (step, window index) of one process's share of the batch of `step`."""
        share = self.train.batch // processes
        epoch, at = divmod(step, self.steps_per_epoch(processes))
        order = self.order(epoch)
        order = np.resize(order, -(-len(order) // processes) * processes)[rank::processes]
        return [(step, int(i)) for i in order[at * share : (at + 1) * share]]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: tuple[int, int]) -> Any:
        """Return one clip, (n, 3, h, w) uint8 tensor."""
        import torch

        step, index = item
        rng = np.random.default_rng([self.train.seed, step, index])
        clip, start = self.windows[index]
        n, stride = self.train.window, 1
        if self.train.windows == "random":
            frames = len(self.store.clips[clip])
            stride = int(rng.integers(1, max(min(self.train.max_stride, frames // n), 1) + 1))
            start = int(rng.integers(0, frames - (n - 1) * stride))
        rows = self.store.clips[clip]
        height, width = (int(x) for x in self.store.size[rows[0]])
        side = self.train.crop
        crop = None
        if side is not None:
            crop = (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)
        images = self.store.read(clip, range(start, start + n * stride, stride), crop)
        images = self.augment(images, rng)
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


class Validation:
    """Mean PSNR (dB) of the next frame over evenly spaced windows of the validation split."""

    better = "higher"

    def __init__(self, store: Store, truth: Store | None, network: Any, count: int, batch: int) -> None:
        self.store, self.network, self.batch = store, network, batch
        starts = [(clip, s) for clip, rows in store.clips.items() for s in range(len(rows) - network.context)]
        self.windows = chosen(starts, count)

    def show(self, device: Any, stem: Path) -> list[Path]:
        """Return no files: there is nothing to look at."""
        return []

    def score(self, device: Any) -> tuple[str, float]:
        """Return "val_psnr" and the mean over windows of the next frame's PSNR."""
        import torch

        values: list[float] = []
        with torch.no_grad():
            for i in range(0, len(self.windows), self.batch):
                some = self.windows[i : i + self.batch]
                images = np.stack([self.store.read(c, range(s, s + self.network.context + 1)) for c, s in some])
                frames = torch.from_numpy(images).permute(0, 1, 4, 2, 3).to(device).float() / 255
                predicted = self.network.predict(frames[:, :-1], 1, seeds=list(range(i, i + len(some))), flow=None)
                error = (predicted[:, 0] - frames[:, -1]).square().flatten(1).mean(1)
                values += (-10 * error.clamp_min(1e-10).log10()).tolist()
        return "val_psnr", float(np.mean(values))


def chosen(windows: list[Window], count: int) -> list[Window]:
    """Return so many windows, evenly spread; all where there are fewer."""
    at = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int)
    return [windows[i] for i in at]


def context_flow(flow: Store, frames: Store, window: Window, protocol: Prediction) -> np.ndarray:
    """Return the flow between the last two context frames of a window, (H, W, 2) px; raises RetakeError without."""
    clip, start = window
    frame = int(frames.frame[frames.clips[clip][start + protocol.first + protocol.context - 2]])
    row = next((r for r in flow.clips.get(clip, range(0)) if flow.frame[r] == frame), None)
    if row is None:
        raise RetakeError(
            f"{flow.path} has no flow of {clip} frame {frame}: make it again with `snakemake {flow.path}`"
        )
    return flow.image(row)


def training_clips(fields: dict[str, Any], train: Any, network: Any) -> TrainingClips:
    """Return the clips that a network is trained on."""
    return TrainingClips(Store(fields["frames"]), train, network.augment)


def validation(fields: dict[str, Any], train: Any, network: Any, batch: int) -> Validation | None:
    """Return what scores a network during training; None where its recipe names no split for that."""
    if train.validation is None:
        return None
    return Validation(Store(fields["validation"]), None, network, train.validate_windows, batch)
