"""Metrics of a whole set: FID, FVD and DTFVD; features of a network, and their Fréchet distance.

`build(name, device)` gives the two halves; a distance with another name has another network, preprocessing or formula,
and does not compare. No remainders are dropped: every frame or clip counts. Weights come by pipeline/weights.py alone.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from pipeline.errors import RetakeError
from pipeline.metrics import frechet

AT_ONCE = 16  # frames through Inception


@dataclass(frozen=True)
class Kind:
    """What a distance is: row of workflow/weights.csv, its settings as the table prints them, formula."""

    weights: str
    settings: dict[str, Any]
    route: frechet.Route = "auto"


SETS = {
    "fid": Kind("inception", {
        "name": "FID", "network": "Inception of pytorch-fid, pool3, 2048", "resize": "299 bilinear, half-pixel, no antialiasing",
        "unit": "frames",
    }),
    "fvd": Kind("i3d_tf", {
        "name": "FVD", "network": "TF-hub I3D kinetics-400, 400 logits", "resize": "224, TF1 bilinear", "range": [-1, 1],
        "unit": "clips", "distance": "tensorflow-gan",
    }, "tensorflow"),
    "fvd_pytorch": Kind("i3d_rgb", {
        "name": "FVD (PyTorch I3D)", "network": "model_rgb.pth, 400 logits", "resize": "224, corner-aligned", "range": [0, 1],
        "unit": "clips",
    }),
    "dtfvd_16": Kind("dtfvd_16", {
        "name": "DTFVD 16", "network": "I3D_16, 1024 features", "resize": "224, corner-aligned", "range": [-1, 1],
        "unit": "first 16 frames of a clip",
    }),
    "dtfvd_32": Kind("dtfvd_32", {
        "name": "DTFVD 32", "network": "I3D_32, 1024 features", "resize": "224, corner-aligned", "range": [-1, 1],
        "unit": "clips of 32 frames",
    }),
}  # fmt: skip


@dataclass
class Distance:
    """A built distance. `features`: (T, H, W, 3) float32 RGB in [0,1] -> (rows, D) float32."""

    kind: Kind
    features: Callable[[np.ndarray], np.ndarray]

    def distance(self, predicted: np.ndarray, true: np.ndarray) -> tuple[float, str]:
        """Return the distance of two sets of features, and what it is, with the number of samples and the interval."""
        value = frechet.distance(predicted, true, self.kind.route)
        told = {**self.kind.settings, "samples": len(predicted)}
        span = frechet.interval(predicted, true, route=self.kind.route)
        if span:
            told["95 % bootstrap interval"] = [round(side, 4) for side in span]
        return value, json.dumps(told, ensure_ascii=False)


def build(name: str, device: str) -> Distance:
    """Return a distance of `SETS`; raises weights.Missing when its weights cannot be had."""
    kind = SETS[name]
    forward = _inception(kind, device) if name == "fid" else _video(name, kind, device)

    def features(images: np.ndarray) -> np.ndarray:
        import torch

        tensor = torch.from_numpy(images.copy()).permute(0, 3, 1, 2)
        # TF32 would cost three digits
        with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
            return forward(tensor.to(device)).float().cpu().numpy()

    return Distance(kind, features)


def _inception(kind: Kind, device: str) -> Callable[[Any], Any]:
    """Return the function of (T, 3, H, W) frames in [0,1] -> (T, 2048)."""
    import torch

    from pipeline import weights
    from pipeline.metrics.networks import inception

    network = inception.build(weights.load(kind.weights)).to(device)
    return lambda frames: torch.cat([network(part)[0][:, :, 0, 0] for part in frames.split(AT_ONCE)])


def _video(name: str, kind: Kind, device: str) -> Callable[[Any], Any]:
    """Return the function of (T, 3, H, W) frames in [0,1] -> (1, D)."""
    from pipeline import weights
    from pipeline.metrics.networks import i3d, videos
    from pipeline.store import tensorflow

    if name == "fvd":
        state = i3d.from_tensorflow(tensorflow.read(weights.path(kind.weights)))
        network = i3d.tensorflow().load(state, kind.weights).to(device)
        return lambda frames: network.scores(videos.tensorflow_input(2 * frames[None] - 1))
    state = weights.load(kind.weights)
    if name == "fvd_pytorch":
        network = i3d.kinetics().load(state, kind.weights).to(device)
        return lambda frames: network.scores(videos.pytorch_input(2 * frames[None] - 1))
    length = int(name.removeprefix("dtfvd_"))
    network = i3d.textures(length).load(state, kind.weights).to(device)

    def textures(frames: Any) -> Any:
        if length == 32 and len(frames) != 32:
            raise RetakeError(f"DTFVD 32 needs clips of exactly 32 frames, this one has {len(frames)}")
        return network.features(videos.texture_input(2 * frames[None] - 1, length))

    return textures
