"""What ARFlow does to images and flow around its network: resizing, and the AR step's draws (paper, section 3.2).

Images are (B, 3, H, W) float32 in [0, 1], flow is (B, 2, H, W) px. A spatial transform is a (B, 3, 3) float64 matrix T
that moves points in coordinates from -1 to 1, corner to corner; an image is sampled at T's inverse.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import RetakeError

if TYPE_CHECKING:
    from pipeline.models.arflow import AR

DRAWS = 64  # transforms drawn together until one keeps the image full
ATTEMPTS = 200


def resize(images: Tensor, height: int, width: int) -> Tensor:
    """Return images (..., h, w) at another size, as scikit-image's `resize` with its defaults.

    Linear with half-pixel alignment; a side that shrinks by a factor f is first blurred with sigma (f - 1) / 2. Both
    see the image mirrored about its edge pixels' centres. Both work a side at a time: one matrix does it.
    """
    for axis, size in ((-2, height), (-1, width)):
        if images.shape[axis] != size:
            matrix = torch.from_numpy(_matrix(images.shape[axis], size)).to(images)
            images = matrix @ images if axis == -2 else images @ matrix.T
    return images


@functools.lru_cache(maxsize=64)
def _matrix(old: int, new: int) -> np.ndarray:
    """Return what resizes one side, (new, old) float64."""
    positions = (np.arange(new) + 0.5) * old / new - 0.5
    low = np.floor(positions).astype(int)
    matrix = np.zeros((new, old))
    for place, share in ((low, low + 1 - positions), (low + 1, positions - low)):
        np.add.at(matrix, (np.arange(new), _mirrored(place, old)), share)
    sigma = (old / new - 1) / 2
    if sigma <= 0:
        return matrix
    reach = int(4 * sigma + 0.5)
    offsets = np.arange(-reach, reach + 1)
    kernel = np.exp(-0.5 * (offsets / sigma) ** 2)
    blur = np.zeros((old, old))
    for offset, share in zip(offsets, kernel / kernel.sum(), strict=True):
        np.add.at(blur, (np.arange(old), _mirrored(np.arange(old) + offset, old)), share)
    return matrix @ blur


def _mirrored(index: np.ndarray, size: int) -> np.ndarray:
    if size == 1:
        return np.zeros_like(index)
    index = np.abs(index) % (2 * size - 2)
    return np.where(index < size, index, 2 * size - 2 - index)


def resize_flow(flow: Tensor, height: int, width: int) -> Tensor:
    """Return flow (B, 2, h, w) at another size, bilinear with aligned corners, its values in pixels of that size."""
    scale = flow.new_tensor([width / flow.shape[-1], height / flow.shape[-2]]).view(2, 1, 1)
    return F.interpolate(flow, (height, width), mode="bilinear", align_corners=True) * scale


# Colours


def photometric(pairs: Tensor, ar: AR, rng: np.random.Generator) -> Tensor:
    """Return pairs (B, 2, 3, H, W) with their colours changed; each pair has its own draw, its two frames share it.

    Brightness, contrast and saturation in random order, blur, gamma; all but gamma on 8-bit values, as Pillow has them.
    """
    changed = []
    for pair in pairs:
        x = (pair * 255).floor()
        jitter = [(name, getattr(ar, name)) for name in ("brightness", "contrast", "saturation")]
        for i in rng.permutation(len(jitter)):
            name, spread = jitter[i]
            if spread:
                x = _blend(x, name, rng.uniform(1 - spread, 1 + spread))
        if ar.blur and rng.random() < 0.5:
            x = (_gaussian(x, rng.uniform(0, 3)) + 0.5).floor()
        x = x / 255
        changed.append((x ** rng.uniform(0.7, 1.5)).clamp(0, 1) if ar.gamma else x)
    return torch.stack(changed)


def _blend(x: Tensor, name: str, factor: float) -> Tensor:
    """Return frames (n, 3, H, W), values 0 to 255, moved by a factor from black, their mean grey, or their own grey."""
    grey = (0.299 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:] + 0.5).floor()
    if name == "brightness":
        centre = torch.zeros_like(grey)
    elif name == "contrast":
        centre = (grey.mean((1, 2, 3), keepdim=True) + 0.5).floor()
    else:
        centre = grey
    return (centre + factor * (x - centre)).clamp(0, 255).floor()


def _gaussian(x: Tensor, sigma: float) -> Tensor:
    reach = int(3 * sigma + 0.5)
    if not reach:
        return x
    offsets = torch.arange(-reach, reach + 1, device=x.device, dtype=x.dtype)
    kernel = torch.exp(-0.5 * (offsets / sigma) ** 2)
    kernel = (kernel / kernel.sum()).expand(3, 1, 1, -1)
    x = F.conv2d(F.pad(x, (reach, reach, 0, 0), mode="replicate"), kernel, groups=3)
    return F.conv2d(F.pad(x, (0, 0, reach, reach), mode="replicate"), kernel.transpose(2, 3), groups=3)


# Places


def draw_transforms(count: int, ar: AR, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return transforms of frame 1 and frame 2, (count, 3, 3) each.

    Frame 2's is its own small draw on top of frame 1's; draws that sample from outside the image are drawn again.
    Mirroring, the same for both, comes last. Raises RetakeError when the ranges leave almost no transform inside.
    """
    first, second = [], []
    for _ in range(count):
        one = _inside(ar, 0, np.eye(3), rng)
        two = _inside(ar, 1, one, rng)
        mirror = np.diag(
            [-1.0 if ar.mirror and rng.random() < 0.5 else 1.0, -1.0 if ar.flip and rng.random() < 0.5 else 1.0, 1.0]
        )
        first.append(mirror @ one)
        second.append(mirror @ two)
    return np.stack(first), np.stack(second)


def _inside(ar: AR, frame: int, base: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return the first draw on top of `base`, (3, 3), that samples inside the image."""
    low, high = 2 * frame, 2 * frame + 1
    reach = ar.translate[frame] / 2
    for _ in range(ATTEMPTS):
        draws = np.stack(
            [
                rng.uniform(ar.zoom[low], ar.zoom[high], DRAWS),
                rng.uniform(ar.squeeze[low], ar.squeeze[high], DRAWS),
                rng.uniform(-reach, reach, DRAWS),
                rng.uniform(-reach, reach, DRAWS),
                rng.uniform(ar.rotate[low], ar.rotate[high], DRAWS),
            ],
            axis=1,
        )
        candidates = transform(draws) @ base
        good = np.flatnonzero(~outside(candidates))
        if len(good):
            return candidates[good[0]]
    raise RetakeError(
        f"models.*.train.ar: none of {ATTEMPTS * DRAWS} transforms of frame {frame + 1} stays inside the image; "
        "raise the zoom, or narrow squeeze, translate and rotate"
    )


def transform(draws: np.ndarray) -> np.ndarray:
    """Return matrices (B, 3, 3) of draws (B, 5): zoom, squeeze, translation in x and y, angle in radians."""
    zoom, squeeze, x, y, angle = np.asarray(draws, np.float64).T
    wide, high = zoom * squeeze, zoom / squeeze
    zero, one = np.zeros_like(zoom), np.ones_like(zoom)
    rows = [
        [np.cos(angle) * wide, np.sin(angle) * high, x],
        [-np.sin(angle) * wide, np.cos(angle) * high, y],
        [zero, zero, one],
    ]
    return np.stack([np.stack(row, axis=-1) for row in rows], axis=-2)


def outside(matrices: np.ndarray) -> np.ndarray:
    """Return whether one of the image's corners is sampled from outside the image, (B,) bool."""
    corners = np.array([[-1, -1, 1, 1], [-1, 1, -1, 1], [1, 1, 1, 1]], np.float64)
    return np.any(np.abs((np.linalg.inv(matrices) @ corners)[:, :2]) > 1, axis=(1, 2))


def move_image(image: Tensor, matrices: np.ndarray) -> Tensor:
    """Return images (or masks, or flow) sampled at the inverse of T, 0 where that lies outside.

    Outside is a place below 0 or from the size on, in pixels; past the last pixel's centre its value is repeated.
    """
    height, width = image.shape[-2:]
    inverse = torch.from_numpy(np.linalg.inv(matrices)).to(image.device)
    places = _apply(inverse, _pixels(height, width, image.device)[None])
    x, y = places.unbind(-1)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    grid = _to_unit(places).to(image.dtype)
    return F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=True) * inside[:, None]


def move_flow(flow: Tensor, first: np.ndarray, second: np.ndarray) -> Tensor:
    """Return the flow between the moved frames: T2(p + F(p)) - T1(p), itself moved by T1."""
    height, width = flow.shape[-2:]
    pixels = _pixels(height, width, flow.device)[None]
    start = _apply(torch.from_numpy(first).to(flow.device), pixels)
    end = _apply(torch.from_numpy(second).to(flow.device), pixels + flow.permute(0, 2, 3, 1).double())
    return move_image((end - start).permute(0, 3, 1, 2).to(flow.dtype), first)


def _pixels(height: int, width: int, device: torch.device) -> Tensor:
    """Return each pixel's x and y, (H, W, 2) float64."""
    y = torch.arange(height, dtype=torch.float64, device=device)
    x = torch.arange(width, dtype=torch.float64, device=device)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def _to_unit(places: Tensor) -> Tensor:
    height, width = places.shape[1:3]
    return places * places.new_tensor([2 / (width - 1), 2 / (height - 1)]) - 1


def _apply(matrices: Tensor, places: Tensor) -> Tensor:
    """Return places (B or 1, H, W, 2), in pixels, moved by matrices (B, 3, 3)."""
    height, width = places.shape[1:3]
    unit = _to_unit(places)
    moved = (
        torch.einsum("bij,bhwj->bhwi", matrices[:, :2, :2], unit.expand(len(matrices), -1, -1, -1))
        + matrices[:, None, None, :2, 2]
    )
    return (moved + 1) * moved.new_tensor([(width - 1) / 2, (height - 1) / 2])


# Occlusion


def cover(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Return images with 8 to 15 random superpixels each replaced by uniform noise."""
    covered = []
    for image in images:
        labels = superpixels(np.ascontiguousarray(image.detach().float().cpu().numpy().transpose(1, 2, 0)))
        chosen = rng.permutation(np.unique(labels))[: rng.integers(8, 16)]
        mask = torch.from_numpy(np.isin(labels, chosen)).to(image.device)
        noise = torch.from_numpy(rng.random(image.shape, np.float32)).to(image)
        covered.append(torch.where(mask, noise, image))
    return torch.stack(covered)


def superpixels(image: np.ndarray, segments: int = 200, compactness: float = 50.0, rounds: int = 10) -> np.ndarray:
    """Return SLIC superpixels (Achanta et al., TPAMI 2012), (H, W) int labels, of (H, W, 3) float32 RGB in [0, 1].

    K-means over colour in CIELAB and place, each pixel choosing among the nine nearest cells of the starting grid.
    Connectivity is not enforced: at this compactness place dominates.
    """
    height, width = image.shape[:2]
    spacing = (height * width / segments) ** 0.5
    rows, columns = max(round(height / spacing), 1), max(round(width / spacing), 1)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    place = np.float32(compactness / spacing)
    points = np.concatenate(
        [cv2.cvtColor(image, cv2.COLOR_RGB2LAB), x[..., None] * place, y[..., None] * place], axis=-1
    )
    cell_y, cell_x = (y * rows / height).astype(int), (x * columns / width).astype(int)
    labels = cell_y * columns + cell_x
    flat = points.reshape(-1, points.shape[-1])
    for _ in range(rounds):
        count = np.bincount(labels.ravel(), minlength=rows * columns)
        sums = [np.bincount(labels.ravel(), weights=flat[:, c], minlength=rows * columns) for c in range(flat.shape[1])]
        centres = (np.stack(sums, axis=-1) / np.maximum(count, 1)[:, None]).astype(np.float32)
        centres[count == 0] = np.inf  # an empty cluster attracts nobody
        nearest = np.full((height, width), np.inf, np.float32)
        for dy in (-1, 0, 1):
            for dx in (-1, 0, 1):
                candidate = (cell_y + dy).clip(0, rows - 1) * columns + (cell_x + dx).clip(0, columns - 1)
                far = ((points - centres[candidate]) ** 2).sum(axis=-1)
                closer = far < nearest
                nearest[closer], labels[closer] = far[closer], candidate[closer]
    return labels


def random_box(size: Sequence[int], box: Sequence[int], rng: np.random.Generator) -> tuple[slice, slice]:
    """Return the rows and columns of a random box in an image; `size` and `box` are (height, width)."""
    top, left = (int(rng.integers(side - part + 1)) for side, part in zip(size, box, strict=True))
    return slice(top, top + box[0]), slice(left, left + box[1])
