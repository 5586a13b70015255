"""Training of animation: clips with what the model reads beside them; validation by PSNR against repeating the start."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipeline import params, plan
from pipeline.errors import RetakeError
from pipeline.store.frames import Store
from pipeline.tasks.animation import clips
from pipeline.tasks.common import train


class TrainingClips(train.TrainingClips):
    """Training clips as of all tasks, each a dict with the flow and the end point that the model reads."""

    def __init__(self, store: Store, flow: Store | None, recipe: params.Train, network: Any) -> None:
        super().__init__(store, recipe, network.augment)
        self.flow, self.controlled = flow, network.controlled
        if flow is not None and (recipe.crop is not None or recipe.max_stride > 1):
            raise RetakeError(
                "flow is of whole frames that follow each other: set train.crop to null and max_stride to 1"
            )

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Return `clip` (n, 3, h, w) uint8 and, if read, `flow` (n, 2, h, w) px and `endpoint` (values,), float32."""
        import torch

        clip, positions, rng = self.drawn(item)
        given = {"clip": self.images(clip, positions, rng)}
        if self.flow is not None:
            fields = clips.flow(self.flow, self.store, clip, positions)
            given["flow"] = torch.from_numpy(np.ascontiguousarray(fields.transpose(0, 3, 1, 2)))
        if self.controlled:
            given["endpoint"] = torch.from_numpy(self.store.values(clip)[positions[-1]])
        return given


class Validation(train.Validation):
    """How much nearer to the truth, in dB, a clip is that was made with its own motion than its start again and again.

    Mean over evenly spaced clips of the validation split; the frame at the start counts in neither.
    """

    def __init__(self, items: TrainingClips, network: Any, count: int, batch: int) -> None:
        self.items, self.network, self.batch = items, network, batch
        self.places = train.spread([("", place) for place in range(len(items.windows))], count)

    def score(self, device: Any) -> tuple[str, float]:
        """Return "val_psnr_gain" and its mean over clips."""
        import torch

        gains: list[float] = []
        for first in range(0, len(self.places), self.batch):
            together = [self.items[0, place] for _, place in self.places[first : first + self.batch]]
            batch = {key: torch.stack([item[key] for item in together]).to(device) for key in together[0]}
            truth = batch["clip"].float() / 255
            inputs = {"endpoint": batch["endpoint"]} if "endpoint" in batch else {}
            if self.network.motion is not None:
                inputs["motion"] = batch["flow"] if self.network.motion == "flow" else truth
            drawn, seeds = int(self.network.draws_start), list(range(first, first + len(together)))
            with torch.no_grad():
                made = self.network.predict(truth[:, :1], truth.shape[1] - 1 + drawn, seeds=seeds, **inputs)[:, drawn:]
            gains += (_psnr(made, truth[:, 1:]) - _psnr(truth[:, :1], truth[:, 1:])).tolist()
        return "val_psnr_gain", float(np.mean(gains))


def _psnr(clip: Any, truth: Any) -> Any:
    """Return the mean PSNR, dB, over the frames of each clip of (B, T, 3, H, W)."""
    error = (clip - truth).square().mean((2, 3, 4))
    return (-10 * error.clamp_min(1e-10).log10()).mean(1)


def training_clips(fields: plan.Fields, recipe: params.Train, network: Any) -> TrainingClips:
    """Return the clips that a network is trained on."""
    return _clips(fields["frames"], fields["flow"], recipe, network)


def validation(fields: plan.Fields, recipe: params.Train, network: Any, batch: int) -> Validation | None:
    """Return what measures a network while it trains; None where its recipe names no split for that."""
    if recipe.validation is None:
        return None
    items = _clips(fields["validation"], fields["validation_flow"], recipe, network)
    return Validation(items, network, recipe.validate_windows, batch)


def _clips(frames: str, flow: str | None, recipe: params.Train, network: Any) -> TrainingClips:
    store = Store(frames)
    return TrainingClips(store, clips.open_flow(flow, store) if flow is not None else None, recipe, network)
