"""Training of prediction: clips as of all tasks; validation by the next frame."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline import params
from pipeline.store.frames import Store
from pipeline.tasks.common import train
from pipeline.tasks.common.train import TrainingClips as TrainingClips


class Validation(train.Validation):
    """Mean PSNR (dB) of the next frame over evenly spaced windows of the validation split."""

    def __init__(self, store: Store, truth: Store | None, network: Any, count: int, batch: int) -> None:
        self.store, self.network, self.batch = store, network, batch
        starts = [(clip, s) for clip, rows in store.clips.items() for s in range(len(rows) - network.context)]
        self.windows = train.spread(starts, count)

    def score(self, device: Any) -> tuple[str, float]:
        """Return "val_psnr" and the mean over windows of the next frame's PSNR."""
        import torch

        values: list[float] = []
        with torch.no_grad():
            for i in range(0, len(self.windows), self.batch):
                together = self.windows[i : i + self.batch]
                images = np.stack([self.store.read(c, range(s, s + self.network.context + 1)) for c, s in together])
                frames = torch.from_numpy(images).permute(0, 1, 4, 2, 3).to(device).float() / 255
                predicted = self.network.predict(frames[:, :-1], 1, seeds=list(range(i, i + len(together))), flow=None)
                error = (predicted[:, 0] - frames[:, -1]).square().flatten(1).mean(1)
                values += (-10 * error.clamp_min(1e-10).log10()).tolist()
        return "val_psnr", float(np.mean(values))


def training_clips(fields: dict[str, Any], recipe: params.Train, network: Any) -> TrainingClips:
    """Return the clips that a network is trained on."""
    return TrainingClips(Store(fields["frames"]), recipe, network.augment)


def validation(fields: dict[str, Any], recipe: params.Train, network: Any, batch: int) -> Validation | None:
    """Return what measures a network while it trains; None where its recipe names no split for that."""
    if recipe.validation is None:
        return None
    return Validation(Store(fields["validation"]), None, network, recipe.validate_windows, batch)
