"""Video super-resolution: low-resolution frames in, frames four times as large out.

Low resolution is made from high resolution: Gaussian blur of sigma 1.5, then every 4th pixel, so that a low-resolution
pixel (i, j) lies on the high-resolution pixel (4i, 4j). Training crops are blurred by 9 taps without borders, whole frames
by 13 taps with mirrored borders. Test scenes are upscaled whole; a warm-up of up to five frames, played backwards, gives
the first frame a past.

A scene is a clip of the test split. Its low resolution is the clip of that name in the split `test_lr`, where the dataset
has one, and else made by `degrade_frame`, not rounded to 8 bits.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeVar

import cv2
import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.drawing.encode import write_video
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError
from pipeline.store.frames import Store
from pipeline.tasks import prediction
from pipeline.tasks.p_super_resolution import Protocol as SuperResolution

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")

from pipeline.tasks.p_super_resolution import Protocol, test_inputs, training_inputs  # noqa

SCALE = 4
SIGMA = 1.5
BORDER = 4  # high-resolution pixels at each side of a training crop that only the blur sees
TRAINING_TAPS = 2 * BORDER + 1
FRAME_TAPS = 13  # OpenCV's automatic size for float images
WARM_UP = 5
RATE = 10  # frames a second of what validation shows


class Train(params.Train):
    """Keys that every trained super-resolution model has: how a scene becomes clips."""

    windows: Literal["all"] = Field("all", description="every start of every scene is a training window")
    moving_first_frame: float = Field(
        0.3,
        ge=0,
        le=1,
        description="share of clips that are the first frame alone, moved by up to 4 px a frame (published: 0.3)",
    )


# Degradation


def gaussian(taps: int) -> np.ndarray:
    """Return the blur's samples of sigma 1.5, (taps,) float64, summing to 1."""
    x = np.arange(taps) - taps // 2
    kernel = np.exp(-(x**2) / (2 * SIGMA**2))
    return kernel / kernel.sum()


def degrade_crops(crops: Tensor) -> tuple[Tensor, Tensor]:
    """Return low-resolution frames (..., 3, s, s) and targets (..., 3, 4s, 4s) of training crops, float32 in [0,1].

    `crops`: (..., 3, 4s + 8, 4s + 8) float32 in [0,1], on any device. The targets are the crops without their border of
    4 pixels; the low resolution is not rounded to 8 bits.
    """
    import torch
    from torch.nn import functional

    side = tuple(crops.shape[-2:])
    if any(n < TRAINING_TAPS or (n - 2 * BORDER) % SCALE for n in side):
        raise RetakeError(
            f"training crops of {side[1]}x{side[0]} pixels: sides must be 4 times the low resolution plus 8"
        )
    taps = torch.from_numpy(gaussian(TRAINING_TAPS)).to(crops)
    flat = crops.reshape(-1, 1, *side)
    with torch.autocast(crops.device.type, enabled=False):  # 8 bits of mantissa would round the input
        small = functional.conv2d(flat, taps.view(1, 1, -1, 1), stride=(SCALE, 1))
        small = functional.conv2d(small, taps.view(1, 1, 1, -1), stride=(1, SCALE))
    low = small.view(*crops.shape[:-2], *small.shape[-2:])
    return low, crops[..., BORDER:-BORDER, BORDER:-BORDER]


def degrade_frame(frame: np.ndarray) -> np.ndarray:
    """Return a whole frame at low resolution, (ceil(H/4), ceil(W/4), 3) float32 in [0,1], not rounded.

    `frame`: (H, W, 3) uint8.
    """
    size = (FRAME_TAPS, FRAME_TAPS)
    blurred = cv2.GaussianBlur(frame.astype(np.float32), size, SIGMA, borderType=cv2.BORDER_REFLECT_101)
    return blurred[::SCALE, ::SCALE] / np.float32(255)


# Enlargement: the grid of the degradation

# Taps at offsets -1, 0, 1, 2 of the cubic kernel with a = -0.75, one row for each phase 0, 1/4, 1/2, 3/4
_A = 0.75
_POWERS = np.array([[(phase / SCALE) ** k for k in range(4)] for phase in range(SCALE)])
_CUBIC = np.array(
    [[0, 1, 0, 0], [-_A, 0, _A, 0], [2 * _A, _A - 3, 3 - 2 * _A, -_A], [-_A, 2 - _A, _A - 2, _A]], dtype=np.float64
)
BICUBIC_TAPS: list[list[float]] = (_POWERS @ _CUBIC).tolist()


def resize_bicubic(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) enlarged four times by TensorFlow 1's bicubic (a = -0.75), borders repeated.

    Output sample i lies at i / 4 of the input (no half-pixel shift), where the degradation took it from.
    """
    from torch.nn import functional

    for axis in (2, 3):
        size = x.shape[axis]
        pad = (0, 0, 1, 2) if axis == 2 else (1, 2, 0, 0)
        padded = functional.pad(x, pad, mode="replicate")
        a, b, c, d = (padded.narrow(axis, offset, size) for offset in range(4))
        x = interleave([x] + [a * p + b * q + c * r + d * s for p, q, r, s in BICUBIC_TAPS[1:]], axis)
    return x


def resize_nearest(x: Tensor) -> Tensor:
    """Return images (N, C, H, W) enlarged four times: output sample i is the input's nearest to i / 4, of two the first."""
    import torch

    for axis in (2, 3):
        last = x.shape[axis] - 1
        at = torch.arange(SCALE * x.shape[axis], device=x.device).add(1).div(SCALE, rounding_mode="floor")
        x = x.index_select(axis, at.clamp(max=last))
    return x


def interleave(phases: list[Tensor], axis: int) -> Tensor:
    """Return images whose samples along `axis` come from each of `phases` in turn."""
    import torch

    return torch.stack(phases, axis + 1).flatten(axis, axis + 1)


def eight_bits(output: Tensor, saved: str) -> np.ndarray:
    """Return one output (1, 3, H, W) around [0,1] as the image that is scored, (H, W, 3) uint8; `saved` as in params."""
    levels = (output[0].permute(1, 2, 0).float() * 255).clamp(0, 255)
    return (levels.round() if saved == "rounded" else levels).byte().cpu().numpy()


# Scenes: which are tested, order of files, warm-up


def scenes(high: Store, low: Store | None, protocol: SuperResolution) -> list[str]:
    """Return the clips that are tested: those that both stores have (low: None where `high` is degraded).

    Raises RetakeError when there are none, when the two differ in frames, or nothing would be left to score.
    """
    found = [clip for clip in high.clips if low is None or clip in low.clips]
    if not found:
        have = f", {low.path} has {', '.join(low.clips)}" if low is not None else ""
        raise RetakeError(f"{high.path} has {', '.join(high.clips) or 'no scenes'}{have}: no scene to upscale")
    for clip in found:
        count = len(high.clips[clip])
        if low is not None and list(low.frame[low.clips[clip]]) != list(high.frame[high.clips[clip]]):
            raise RetakeError(
                f"{low.path}, {clip}: {len(low.clips[clip])} frames, {high.path} has {count}, or other numbers: make "
                "both stores again from archives that belong together"
            )
        scored_part((count, *high.size[high.clips[clip][0]]), protocol, f"{high.path}, {clip}")
    return found


def scored_part(shape: Sequence[int], protocol: SuperResolution, where: str) -> tuple[slice, tuple[slice, slice]]:
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
        raise RetakeError(f"frames of {width}x{height} pixels: TecoGAN's metrics need sides of at least 48")
    return (height - kept[0]) // 2, (width - kept[1]) // 2, *kept


def low_resolution(high: Store, low: Store | None, clip: str) -> Iterator[np.ndarray]:
    """Yield the frames of a scene at low resolution, (h, w, 3) float32 in [0,1], one at a time."""
    if low is not None:
        for row in low.clips[clip]:
            yield low.image(row).astype(np.float32) / np.float32(255)
    else:
        for row in high.clips[clip]:
            yield degrade_frame(high.image(row))


def facts(high: Store, low: Store | None, protocol: SuperResolution) -> dict[str, Any]:
    """Return what a prediction store says of its test set: protocol, where low resolution is from, what is not there."""
    found = scenes(high, low, protocol)
    made = f"degraded: blur of sigma {SIGMA}, {FRAME_TAPS} taps, every {SCALE}th pixel, not rounded to 8 bits"
    partial = [s.meta.get("partial") for s in (high, low) if s is not None]
    if len(found) < len(high.clips):
        partial.append(f"{len(found)} of {len(high.clips)} scenes have low resolution")
    return {
        "protocol": {k: getattr(protocol, k) for k in ("saved", "trim", "border")},
        "low": low.identity if low is not None else "",
        "input": "the dataset's" if low is not None else made,
        "partial": "; ".join(dict.fromkeys(p for p in partial if p)) or None,
        "samples": 1,
    }


def cut(image: np.ndarray, height: int, width: int) -> np.ndarray | None:
    """Return an output at its target's size: what is larger is cut from the top left, as published; None if smaller."""
    fits = image.shape[0] >= height and image.shape[1] >= width
    return image[:height, :width] if fits else None


def file_order(names: Iterable[str]) -> list[str]:
    """Return file names as the published scripts sort them: by name, then by the integer of all digits in the name."""

    def number(name: str) -> int:
        digits = "".join(c for c in name.rsplit("/", 1)[-1] if c in "0123456789")
        return int(digits) if digits else -1

    return sorted(sorted(names), key=number)


def warm_up(frames: int) -> list[int]:
    """Return the positions of the frames that are run through before a clip of so many frames, in that order."""
    return list(range(min(WARM_UP, frames - 1), 0, -1))


def kept(frames: int, *, published_dropping: bool = False) -> list[int]:
    """Return the positions whose output is kept: all; as published, in a clip shorter than 6 frames only the last ones."""
    dropped = WARM_UP if published_dropping else len(warm_up(frames))
    return list(range(max(dropped - len(warm_up(frames)), 0), frames))


def warmed(frames: Iterable[T], *, published_dropping: bool = False) -> Iterator[tuple[T, bool]]:
    """Yield the frames of a clip with its warm-up before them, and whether the output of each is kept.

    Holds six frames at most, whatever the length of the clip.
    """
    rest = iter(frames)
    first = list(itertools.islice(rest, WARM_UP + 1))
    for i in warm_up(len(first)):
        yield first[i], False
    outputs = kept(len(first), published_dropping=published_dropping)
    for i, frame in enumerate(first):
        yield frame, i in outputs
    for frame in rest:
        yield frame, True


# Training clips


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


class TrainingClips(prediction.TrainingClips):
    """Training clips of high-resolution scenes, (n, 3, crop, crop) uint8: a map-style dataset for a DataLoader.

    As in prediction a clip depends on seed, step and index only. `train.crop` is 4 times the low-resolution side plus 8.
    """

    train: Train

    def __getitem__(self, item: tuple[int, int]) -> Tensor:
        """Return one clip, cropped, moved and flipped as `draw` says, then handed to the model's `augment`."""
        import torch

        step, index = item
        train, crop = self.train, self.train.crop
        assert crop is not None
        rng = np.random.default_rng([train.seed, step, index])
        clip, start = self.windows[index]
        height, width = (int(x) for x in self.store.size[self.store.clips[clip][0]])
        drawn = draw(height, width, train.window, crop, train.moving_first_frame, rng)
        top, left = int(drawn.top.min()), int(drawn.left.min())
        region = (top, left, int(drawn.top.max()) - top + crop, int(drawn.left.max()) - left + crop)
        frames = self.store.read(clip, [start] if drawn.still else range(start, start + train.window), region)
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


# Validation


class Validation:
    """Mean PSNR (dB) of upscaled clips of the validation split, whole frames, evenly spaced."""

    better = "higher"

    FRAMES = 10  # of a clip, as many as the published recipe unrolls

    def __init__(self, store: Store, truth: Store | None, network: Any, count: int, batch: int) -> None:
        self.store, self.network = store, network
        starts = [(c, s) for c, rows in store.clips.items() for s in range(max(len(rows) - self.FRAMES, 0) + 1)]
        self.windows = prediction.chosen(starts, count)

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


def training_clips(fields: dict[str, Any], train: Any, network: Any) -> TrainingClips:
    """Return the clips that a network is trained on."""
    return TrainingClips(Store(fields["frames"]), train, network.augment)


def validation(fields: dict[str, Any], train: Any, network: Any, batch: int) -> Validation | None:
    """Return what scores a network during training; None where its recipe names no split for that."""
    if train.validation is None:
        return None
    return Validation(Store(fields["validation"]), None, network, train.validate_windows, batch)
