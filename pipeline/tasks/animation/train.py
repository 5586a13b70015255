"""Training of animation: clips with what the model reads beside them, and what chooses the best weights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from pipeline import params, plan, weights
from pipeline.errors import RetakeError, log
from pipeline.registry import registry
from pipeline.store.frames import Store
from pipeline.tasks.animation import clips
from pipeline.tasks.common import train


class TrainingClips(train.TrainingClips):
    """Training clips as of all tasks, each a dict with the flow and the end point that the model reads."""

    def __init__(
        self, store: Store, flow: Store | None, recipe: params.Train, network: Any, *, augmented: bool = True
    ) -> None:
        super().__init__(store, recipe, network.augment if augmented else lambda clip, _: network.prepare(clip))
        self.flow, self.controlled = flow, network.controlled
        if flow is not None and (recipe.crop is not None or recipe.max_stride > 1):
            raise RetakeError(
                "flow is of whole frames that follow each other: set train.crop to null and max_stride to 1"
            )

    def __getitem__(self, item: tuple[int, int]) -> dict[str, Any]:
        """Return `clip` (n, 3, h, w) uint8, or as the network changes it, and if read `flow` (n, 2, h, w) px and `endpoint` (values,), float32."""
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
    """What evenly spaced clips of the validation split say of a network, as it is used and not as it is trained.

    A distance of sets, where the recipe names one whose weights are here: of clips that the network makes from these. Else
    the network's own `validate`, the mean of its first loss. Else how much nearer to the truth, in dB, a clip is that was
    made with its own motion than its start again and again; the frame at the start counts in neither.
    """

    def __init__(self, items: TrainingClips, network: Any, count: int, batch: int) -> None:
        self.items, self.network, self.batch = items, network, batch
        self.places = train.spread([("", place) for place in range(len(items.windows))], count)
        self.metric: Any = getattr(items.train, "distance", None)
        names = registry("metrics")[self.metric.kind].needs_weights(self.metric) if self.metric is not None else []
        if not all(map(weights.here, names)):
            log.info("the best weights are chosen by the loss: %s is not in data/weights", ", ".join(names))
            self.metric = None
        self.by_loss = hasattr(network, "validate")
        self.BETTER = "lower" if self.metric is not None or self.by_loss else "higher"  # type: ignore[misc]

    def score(self, device: Any) -> tuple[str, float]:
        """Return "val_psnr_gain" and its mean over clips, or the name and value of what decides instead."""
        import torch

        self.network.eval()
        with torch.no_grad():
            measured = self._distance(device) if self.metric is not None else self._mean(device)
        self.network.train()
        return measured

    def _mean(self, device: Any) -> tuple[str, float]:
        """Return the mean of the network's own loss, or of the gain."""
        values: list[float] = []
        name = "val_psnr_gain"
        for batch in self._batches(device):
            clip = batch["clip"]
            if self.by_loss:
                name, value = next(iter(self.network.validate(batch).items()))
                values += [value] * len(clip)
            else:
                made = self._made(batch, len(values))
                values += (_psnr(made, clip[:, 1:]) - _psnr(clip[:, :1], clip[:, 1:])).tolist()
        return name, float(np.mean(values))

    def _distance(self, device: Any) -> tuple[str, float]:
        """Return the distance of clips that the network makes to the true ones, their starts left out."""
        distance = registry("metrics")[self.metric.kind].build(self.metric, str(device))
        features: list[list[np.ndarray]] = [[], []]
        for batch in self._batches(device):
            pair = self._made(batch, len(features[0])), batch["clip"][:, 1:]
            for kept, clips_of in zip(features, pair, strict=True):
                kept += [distance.features(c) for c in clips_of.permute(0, 1, 3, 4, 2).clamp(0, 1).cpu().numpy()]
        made, true = (np.concatenate(kept) for kept in features)
        return f"val_{self.items.train.best}", distance.distance(made, true).value  # type: ignore[attr-defined]

    def _batches(self, device: Any) -> Iterator[dict[str, Any]]:
        """Yield clips in [0,1] on the device, with what the network reads beside them; what is drawn is always the same."""
        import torch

        for first in range(0, len(self.places), self.batch):
            torch.manual_seed(first)
            together = [self.items[0, place] for _, place in self.places[first : first + self.batch]]
            batch = {key: torch.stack([item[key] for item in together]).to(device) for key in together[0]}
            yield batch | {"clip": batch["clip"].float() / 255}

    def _made(self, batch: dict[str, Any], first: int) -> Any:
        """Return the clips that the network makes of a batch's starts, with their own motion where it validates so."""
        clip, drawn = batch["clip"], int(self.network.draws_start)
        inputs = {"endpoint": batch["endpoint"]} if "endpoint" in batch else {}
        if self.network.motion is not None and self.network.validated_with == "own":
            inputs["motion"] = batch["flow"] if self.network.motion == "flow" else clip
        seeds = list(range(first, first + len(clip)))
        return self.network.predict(clip[:, :1], clip.shape[1] - 1 + drawn, seeds=seeds, **inputs)[:, drawn:]


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
    items = _clips(fields["validation"], fields["validation_flow"], recipe, network, augmented=False)
    return Validation(items, network, recipe.validate_windows, batch)


def _clips(frames: str, flow: str | None, recipe: params.Train, network: Any, **how: bool) -> TrainingClips:
    store = Store(frames)
    return TrainingClips(store, clips.open_flow(flow, store) if flow is not None else None, recipe, network, **how)
