"""Training of super-resolution: clips of high-resolution scenes; validation by upscaling."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from pipeline import params
from pipeline.drawing.encode import write_video
from pipeline.drawing.images import write_image
from pipeline.store.frames import Store
from pipeline.tasks.common import train
from pipeline.tasks.super_resolution import SCALE, Train
from pipeline.tasks.super_resolution.grid import degrade_frame

if TYPE_CHECKING:
    from torch import Tensor

RATE = 10  # frames a second of what validation shows


class Draw(NamedTuple):
    """What augmentation drew for a clip: where its crop lies in each frame, whether the first frame stands for all, flip."""

    top: np.ndarray
    left: np.ndarray
    still: bool
    flip: bool


def draw(height: int, width: int, frames: int, crop: int, moving: float, rng: np.random.Generator) -> Draw:
    """Return the augmentation of one clip: with probability `moving` a camera path over its first frame, crop, flip.

    The path's steps are floor(U(-3.5, 4.5)) pixels an axis: -4 and 4 come half as often as the others. Where the path would leave
    a small frame it stays at the edge. Unlike published, every crop position may be drawn, the last one too.
    """
    still = bool(rng.random() < moving)
    places = []
    for size in (width, height):
        path = np.zeros(frames, np.int64)
        if still:
            path[1:] = np.cumsum(np.floor(rng.uniform(-3.5, 4.5, frames - 1)).astype(np.int64))
            path = np.minimum(path - path.min(), size - crop)
        places.append(path + rng.integers(size - crop - path.max() + 1))
    return Draw(places[1], places[0], still, bool(rng.random() < 0.5))


class TrainingClips(train.TrainingClips):
    """Training clips of high-resolution scenes, (n, 3, crop, crop) uint8: a map-style dataset for a DataLoader.

    As in all tasks a clip depends on seed, step and index only. `train.crop` is 4 times the low-resolution side plus 8.
    """

    train: Train

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        """Return one clip, cropped, moved and flipped as `draw` says, then handed to the model's `augment`."""
        import torch

        step, index = item
        recipe, crop = self.train, self.train.crop
        assert crop is not None
        rng = np.random.default_rng([recipe.seed, step, index])
        clip, start = self.windows[index]
        height, width = (int(x) for x in self.store.size[self.store.clips[clip][0]])
        drawn = draw(height, width, recipe.window, crop, recipe.moving_first_frame, rng)
        top, left = int(drawn.top.min()), int(drawn.left.min())
        region = (top, left, int(drawn.top.max()) - top + crop, int(drawn.left.max()) - left + crop)
        frames = self.store.read(clip, [start] if drawn.still else range(start, start + recipe.window), region)
        images = np.stack(
            [
                frames[0 if drawn.still else i][y - top : y - top + crop, x - left : x - left + crop]
                for i, (y, x) in enumerate(zip(drawn.top, drawn.left, strict=True))
            ]
        )
        if drawn.flip:
            images = images[:, :, ::-1]
        images = self.augment(images, rng)
        return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


class Validation(train.Validation):
    """Mean PSNR (dB) of upscaled clips of the validation split, whole frames, evenly spaced."""

    FRAMES = 10  # of a clip, as many as the published recipe unrolls

    def __init__(self, store: Store, truth: Store | None, network: Any, count: int, batch: int) -> None:
        self.store, self.network = store, network
        starts = [(c, s) for c, rows in store.clips.items() for s in range(max(len(rows) - self.FRAMES, 0) + 1)]
        self.windows = train.spread(starts, count)

    def score(self, device: Any) -> tuple[str, float]:
        """Return "val_psnr" and the mean over frames of the PSNR of outputs clipped to [0,1]."""
        import torch

        values: list[float] = []
        for clip, start in self.windows:
            for frame, _, output in self._upscaled(clip, start, device):
                target = torch.from_numpy(frame).permute(2, 0, 1)[None].to(device).float() / 255
                error = (output[..., : frame.shape[0], : frame.shape[1]].clamp(0, 1) - target).square().mean()
                values.append(-10 * math.log10(max(float(error), 1e-10)))
        return "val_psnr", float(np.mean(values))

    def show(self, device: Any, stem: Path) -> list[Path]:
        """Write one frame (`<stem>.validation.png`) and one clip (`.validation.mp4`): input, output, truth; return both."""
        clip, start = self.windows[len(self.windows) // 2]
        rows = []
        for frame, low, output in self._upscaled(clip, start, device):
            made = (output[0].clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()
            given = (255 * low).round().astype(np.uint8).repeat(SCALE, 0).repeat(SCALE, 1)
            rows.append(np.hstack([x[: frame.shape[0], : frame.shape[1]] for x in (given, made, frame)]))
        picture, film = (stem.with_name(f"{stem.name}.validation{suffix}") for suffix in (".png", ".mp4"))
        write_image(picture, rows[len(rows) // 2])
        write_video(film, rows, RATE)
        return [picture, film]

    def _upscaled(self, clip: str, start: int, device: Any) -> Iterator[tuple[np.ndarray, np.ndarray, Tensor]]:
        """Yield each frame of a clip, its low resolution (h, w, 3) float32 and the output (1, 3, 4h, 4w)."""
        import torch

        frames = self.store.read(clip, range(start, min(start + self.FRAMES, len(self.store.clips[clip]))))
        given = [degrade_frame(frame) for frame in frames]
        tensors = (torch.from_numpy(low).permute(2, 0, 1)[None].to(device) for low in given)
        yield from zip(frames, given, self.network.predict(tensors), strict=True)


def training_clips(fields: dict[str, Any], recipe: params.Train, network: Any) -> TrainingClips:
    """Return the clips that a network is trained on."""
    return TrainingClips(Store(fields["frames"]), recipe, network.augment)


def validation(fields: dict[str, Any], recipe: params.Train, network: Any, batch: int) -> Validation | None:
    """Return what measures a network while it trains; None where its recipe names no split for that."""
    if recipe.validation is None:
        return None
    return Validation(Store(fields["validation"]), None, network, recipe.validate_windows, batch)
