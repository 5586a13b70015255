"""Training clips by index arithmetic, and what every task's validation has."""

from __future__ import annotations

import abc
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from pipeline.errors import RetakeError
from pipeline.params import Train
from pipeline.store.frames import Store
from pipeline.tasks.common import windows
from pipeline.tasks.common.windows import Window


def spread(windows: list[Window], count: int) -> list[Window]:
    """Return so many windows, evenly spread; all where there are fewer."""
    places = np.linspace(0, len(windows) - 1, min(count, len(windows))).round().astype(int)
    return [windows[place] for place in places]


class TrainingClips:
    """Training clips of a store, cropped and augmented: a map-style dataset for a DataLoader.

    The item (step, index) depends on seed, step and index only, so that a resumed run, another number of workers or another
    number of processes sees the same clips. `augment(clip (n, h, w, 3) uint8, rng)` is the model's.
    """

    def __init__(
        self, store: Store, train: Train, augment: Callable[[np.ndarray, np.random.Generator], np.ndarray]
    ) -> None:
        self.store, self.train, self.augment = store, train, augment
        self.windows = windows.windows(store, train.window, every=train.windows == "all") * train.repeats
        if len(self.windows) < train.batch:
            raise RetakeError(
                f"{store.path} has {len(self.windows)} training windows, fewer than one batch of {train.batch}: "
                "lower train.batch in the model's entry, or give more data"
            )
        if train.crop is not None and (store.size.min() < train.crop):
            height, width = store.size.min(axis=0)
            raise RetakeError(
                f"{store.path}: frames of {width}x{height} are smaller than the crop of {train.crop}: lower train.crop"
            )

    def steps_per_epoch(self, processes: int) -> int:
        """Return batches in a pass: each process takes ceil(windows / processes) of them, last partial batch dropped."""
        return max(-(-len(self.windows) // processes) // (self.train.batch // processes), 1)

    def order(self, epoch: int) -> np.ndarray:
        """Return the permutation of window indices of one epoch."""
        return np.random.default_rng([self.train.seed, epoch]).permutation(len(self.windows))

    def indices(self, step: int, rank: int, processes: int) -> list[tuple[int, int]]:
        """Return (step, window index) of one process's share of the batch of `step`."""
        share = self.train.batch // processes
        epoch, batch = divmod(step, self.steps_per_epoch(processes))
        order = self.order(epoch)
        order = np.resize(order, -(-len(order) // processes) * processes)[rank::processes]
        return [(step, int(i)) for i in order[batch * share : (batch + 1) * share]]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, item: tuple[int, int]) -> Any:
        """Return one clip, (n, 3, h, w) uint8 tensor."""
        return self.images(*self.drawn(item))

    def drawn(self, item: tuple[int, int]) -> tuple[str, range, np.random.Generator]:
        """Return the clip of an item, the positions of its frames, and the generator of what is drawn next."""
        step, index = item
        rng = np.random.default_rng([self.train.seed, step, index])
        clip, start = self.windows[index]
        n, stride = self.train.window, 1
        if self.train.windows == "random":
            frames = len(self.store.clips[clip])
            stride = int(rng.integers(1, max(min(self.train.max_stride, frames // n), 1) + 1))
            start = int(rng.integers(0, frames - (n - 1) * stride))
        return clip, range(start, start + n * stride, stride), rng

    def images(self, clip: str, positions: range, rng: np.random.Generator) -> Any:
        """Return frames of a clip, cropped and augmented, (n, 3, h, w) uint8 tensor."""
        import torch

        height, width = (int(x) for x in self.store.size[self.store.clips[clip][0]])
        side = self.train.crop
        crop = None
        if side is not None:
            crop = (int(rng.integers(height - side + 1)), int(rng.integers(width - side + 1)), side, side)
        images = self.augment(self.store.read(clip, positions, crop), rng)
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


class Validation(abc.ABC):
    """What is measured while a network trains.

    A task's own is made of (frames of the validation split, their exact flow or None, network, windows, batch).
    """

    BETTER: ClassVar[Literal["higher", "lower"]] = "higher"

    @abc.abstractmethod
    def score(self, device: Any) -> tuple[str, float]:
        """Return the name of the measure and its value."""

    def show(self, device: Any, stem: Path) -> list[Path]:
        """Write what validation looks like, as files whose names begin with `stem`; return them."""
        return []
