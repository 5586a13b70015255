"""ARFlow: cost volume, losses, AR step, sizes, checkpoints, training."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from skimage.transform import resize as skimage_resize

from pipeline import weights
from pipeline.errors import RetakeError
from pipeline.losses import unflow
from pipeline.metrics import Undefined, flow_errors
from pipeline.models import arflow
from pipeline.models.arflow import published, transform
from pipeline.models.arflow.network import PWCLite, correlation, correlation_shifts

RECIPE: dict[str, Any] = {
    "batch": 2,
    "epochs": 1,
    "max_steps": None,
    "seed": 0,
    "window": 2,
    "windows": "all",
    "max_stride": 1,
    "crop": None,
    "validation": None,
    "validate_every": 1,
    "validate_windows": 1,
    "checkpoint_every": 1,
    "height": 64,
    "width": 64,
    "random_crop": None,
    "start": None,
    "kaiming": True,
    "lr": 3.0e-4,
    "weight_decay": 1.0e-6,
    "loss": {"l1": 0.15, "ssim": 0.85, "ternary": 0.0, "occlusion": "range_map"},
    "switch": None,
    "smooth_order": 2,
    "smooth_weight": 10.0,
    "ar": None,
}
AR: dict[str, Any] = {
    "weight": 0.01,
    "brightness": 0.5,
    "contrast": 0.5,
    "saturation": 0.5,
    "gamma": True,
    "blur": True,
    "zoom": [1.0, 1.5, 0.985, 1.015],
    "squeeze": [0.86, 1.16, 1.0, 1.0],
    "translate": [0.2, 0.015],
    "rotate": [-0.2, 0.2, -0.015, 0.015],
    "mirror": True,
    "flip": True,
    "noise": 0.04,
    "superpixels": None,
}


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def params(
    *, train: dict[str, Any] | None = None, frames: int = 2, estimator: str = "reduced", upsample: bool = True, **predict: Any
) -> arflow.Params:
    tree = {
        "kind": "arflow",
        "network": {
            "frames": frames,
            "estimator": estimator,
            "upsample": upsample,
            "quirks": {"half_pixel_warp": False},
        },
        "train": train,
        "checkpoint": None,
        "predict": {"fit": "resize", "height": None, "width": None, "weights": "last", **predict},
    }
    return arflow.Params.model_validate(tree)


def ar(**changes: Any) -> arflow.AR:
    return arflow.AR.model_validate({**AR, **changes})


def smooth_image(rng: np.random.Generator, height: int, width: int, grain: int) -> np.ndarray:
    noise = rng.random((height // grain + 2, width // grain + 2, 3), np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)


def render(seed: int, height: int, width: int, largest: float = 3.0) -> tuple[np.ndarray, np.ndarray]:
    """Return a pair (2, H, W, 3) uint8, a textured disc over a textured ground, both moving, and its exact flow (H, W, 2)."""
    rng = np.random.default_rng(seed)
    margin = 8
    ground, disc = (
        0.6 * smooth_image(rng, height + 2 * margin, width + 2 * margin, 10)
        + 0.4 * smooth_image(rng, height + 2 * margin, width + 2 * margin, 3)
        for _ in range(2)
    )
    moves = rng.uniform(-largest, largest, (2, 2))
    centre, radius = rng.uniform(0.35, 0.65, 2) * (width, height), 0.3 * height
    x, y = np.meshgrid(np.arange(width), np.arange(height))

    def view(texture: np.ndarray, dx: float, dy: float) -> np.ndarray:
        matrix = np.array([[1, 0, dx - margin], [0, 1, dy - margin]], np.float32)
        return cv2.warpAffine(texture, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)

    images = []
    for time in (0, 1):
        inside = np.hypot(x - centre[0] - time * moves[1, 0], y - centre[1] - time * moves[1, 1]) < radius
        images.append(np.where(inside[..., None], view(disc, *(time * moves[1])), view(ground, *(time * moves[0]))))
    inside = np.hypot(x - centre[0], y - centre[1]) < radius
    flow = np.where(inside[..., None], moves[1], moves[0]).astype(np.float32)
    return (np.stack(images).clip(0, 1) * 255).astype(np.uint8), flow


class Training:
    """A few rendered pairs, a network, and the train stage's loop without the stage."""

    def __init__(self, train: dict[str, Any], height: int, width: int, pairs: int) -> None:
        import lightning_fabric

        rendered = [render(seed, height, width) for seed in range(pairs)]
        self.clips = [clip for clip, _ in rendered]
        self.flow = np.stack([flow for _, flow in rendered])
        recipe = {**RECIPE, "height": height, "width": width, **train}
        torch.manual_seed(0)
        self.network = arflow.build(params(train=recipe))
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
        named = self.network.configure()
        module, *optimisers = fabric.setup(self.network, *named.values())
        self.state = SimpleNamespace(
            fabric=fabric, module=module, optimisers=dict(zip(named, optimisers, strict=True)), step=0, steps=1000
        )

    def step(self, seed: int = 0) -> dict[str, float]:
        step = self.state.step
        rng = np.random.default_rng([seed, step])
        order = np.random.default_rng([seed, step // 2]).permutation(len(self.clips))
        chosen = np.resize(order, 2 * len(self.clips))[2 * (step % 2) :][:2]
        batch = np.stack([self.network.augment(self.clips[i], rng) for i in chosen])
        torch.manual_seed(step)
        losses = self.network.training_step(torch.from_numpy(batch).permute(0, 1, 4, 2, 3).float() / 255, self.state)
        self.state.step += 1
        return losses

    def epe(self) -> float:
        found = self.network.estimate_batch(np.stack(self.clips))
        return float(np.linalg.norm(found - self.flow, axis=-1).mean())

    def still(self) -> float:
        return float(np.linalg.norm(self.flow, axis=-1).mean())
