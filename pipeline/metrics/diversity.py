"""Diversity (i2v-cINN): how far several samples of one start are apart, as features of a network.

Mean over ordered pairs of different samples of the mean squared difference of their features. `vgg`: five taps of VGG16 of
every frame, normalised before the resize to 224, the features not normalised; `i3d`: the 400 scores of the TF-hub I3D;
`dti3d`: the 1024 features of DTFVD's network on the first 16 frames, times 1000. One value a window.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from pydantic import Field

from pipeline import params
from pipeline.metrics import Undefined, sets

LABEL = "Diversity"
BETTER = "higher"
SCALE = 1.0
NEEDS = "samples"


class Params(params.Metric):
    """Diversity of the samples of a window."""

    network: Literal["vgg", "i3d", "dti3d"] = Field(description="whose features are compared")
    drop: int | None = Field(
        None,
        ge=2,
        description="windows that do not fill a batch of so many are left out (i2v-cINN: i3d 16, dti3d 20); null: none",
    )


def label(p: Params) -> str:
    """Return the column's name for people."""
    return f"Diversity ({p.network.upper()})"


def settings(p: Params) -> dict[str, Any]:
    """Return what a reader must know to compare values."""
    what = {
        "vgg": "VGG16, relu1_2 to relu5_3 of every frame, normalised before the resize to 224",
        "i3d": f"{sets.I3D['tfhub'][1]}, 400 scores",
        "dti3d": "I3D_16, 1024 features of the first 16 frames, times 1000",
    }
    counted = "all" if p.drop is None else f"what does not fill a batch of {p.drop} is left out"
    return {"name": label(p), "features": what[p.network], "pairs": "ordered, of different samples", "counted": counted}


def needs_weights(p: Params) -> list[str]:
    """Return the rows of workflow/weights.csv that `build` loads."""
    return [{"vgg": "vgg16", "i3d": sets.I3D["tfhub"][0], "dti3d": "dtfvd_16"}[p.network]]


def build(p: Params, device: str) -> Callable[[np.ndarray], float]:
    """Return the function (samples (S, T, H, W, 3) float32 in [0,1]) -> diversity of the window.

    It raises Undefined for a single sample, and for clips that the network does not take.
    """
    measure = {"vgg": _vgg, "i3d": _i3d, "dti3d": _dti3d}[p.network](device)

    def diversity(samples: np.ndarray) -> float:
        if len(samples) < 2:
            raise Undefined("diversity needs two samples of a window or more: look at the protocol's `samples`")
        return measure(samples)

    return diversity


def _i3d(device: str) -> Callable[[np.ndarray], float]:
    from pipeline.metrics.networks import videos

    scores = sets.Distance(*sets.i3d_scores("tfhub", device), device, "clips", shortest=sets.SHORTEST)
    return lambda samples: videos.i3d_diversity(np.stack([scores.features(s) for s in samples], axis=1))


def _dti3d(device: str) -> Callable[[np.ndarray], float]:
    from pipeline.metrics.networks import videos

    textures = sets.Distance(*sets.i3d_textures(16, device), device, "clips", shortest=3)
    return lambda samples: videos.texture_diversity(np.stack([textures.features(s[:16]) for s in samples]))


def _vgg(device: str) -> Callable[[np.ndarray], float]:
    import torch

    from pipeline import weights
    from pipeline.losses import vgg16
    from pipeline.metrics.networks import vgg, videos

    state = {name: value.to(device) for name, value in weights.load("vgg16").items()}

    def measure(samples: np.ndarray) -> float:
        diversities = []
        for step in range(samples.shape[1]):  # the taps of a frame take 25 MB
            images = torch.from_numpy(samples[:, step].copy()).permute(0, 3, 1, 2).to(device)
            with torch.no_grad(), torch.backends.cudnn.flags(enabled=True, deterministic=True, allow_tf32=False):
                taps = vgg16.features(state, vgg.diversity_input(2 * images - 1))
            diversities.append(videos.vgg_diversity([t[None].cpu().numpy() for t in taps], len(samples)))
        return float(np.mean(diversities))

    return measure
