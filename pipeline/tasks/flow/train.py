"""Training of flow networks: clips as of all tasks, resized; validation by endpoint error."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import numpy as np

from pipeline import params
from pipeline.errors import RetakeError
from pipeline.store.frames import Store
from pipeline.tasks.common import train
from pipeline.tasks.flow.clips import images, pairs


class TrainingClips(train.TrainingClips):
    """Training clips as of all tasks. In a store of frames of different sizes they are resized to the training size.

    Only there: frames of one size are resized by the training step, without rounding to 8 bits.
    """

    def __getitem__(self, item: tuple[int, int]) -> Any:
        """Return one clip, (n, 3, h, w) uint8 tensor."""
        import torch
        from torch.nn import functional

        clip = super().__getitem__(item)
        recipe: Any = self.train
        size = (recipe.height, recipe.width)
        if (self.store.size == self.store.size[0]).all() or tuple(clip.shape[-2:]) == size:
            return clip
        resized = functional.interpolate(clip.float(), size, mode="bilinear", align_corners=False)
        return resized.round().to(torch.uint8)


class Validation(train.Validation):
    """The network's own validation over evenly spaced pairs: endpoint error, or its loss where there is no truth."""

    BETTER: ClassVar[Literal["higher", "lower"]] = "lower"

    def __init__(self, store: Store, truth: Store | None, network: Any, count: int, batch: int) -> None:
        self.store, self.truth, self.network = store, truth, network
        if truth is not None:
            every = pairs(truth)
        else:
            rows = [(clip, r) for clip, rows in store.clips.items() for r in rows[:-1]]
            every = [(c, int(store.frame[r])) for c, r in rows if store.frame[r + 1] == store.frame[r] + 1]
        if not every:
            raise RetakeError(f"{store.path}: no two consecutive frames to validate with: set train.validation to null")
        self.pairs = train.spread(every, count)

    def score(self, device: Any) -> tuple[str, float]:
        """Return "val_epe" (px) or "val_loss" and its mean over pairs, one by one: sizes may differ."""
        import torch

        values: list[float] = []
        for pair in self.pairs:
            _, first, second = images(self.store, pair)
            batch = torch.from_numpy(np.stack([first, second])).permute(0, 3, 1, 2)[None].to(device).float() / 255
            flow = None
            if self.truth is not None:
                field = self.truth.image(self.truth.row(*pair))
                flow = torch.from_numpy(field.copy()).permute(2, 0, 1)[None].to(device)
            measured = self.network.validate(batch, flow)
            name = next(iter(measured))
            values.append(measured[name])
        return name, float(np.mean(values))


def training_clips(fields: dict[str, Any], recipe: params.Train, network: Any) -> TrainingClips:
    """Return the clips that a network is trained on."""
    return TrainingClips(Store(fields["frames"]), recipe, network.augment)


def validation(fields: dict[str, Any], recipe: params.Train, network: Any, batch: int) -> Validation | None:
    """Return what measures a network while it trains; None where its recipe names no split for that."""
    if recipe.validation is None:
        return None
    return Validation(
        Store(fields["validation"]),
        Store(fields["truth"]) if fields["truth"] is not None else None,
        network,
        recipe.validate_windows,
        batch,
    )
