"""Parity of the metrics' networks and formulas with the published ones.

`CASES`: {case folder's name: function of (folder, seed) that asserts}.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden.fill import state_dict
from torch import Tensor

from pipeline.losses import vgg16
from pipeline.metrics import frechet
from pipeline.metrics.networks import i3d, vgg, videos


def arrays(case: Path) -> dict[str, np.ndarray]:
    with np.load(case / "case.npz") as data:
        return {name: data[name] for name in data.files}


def weights(case: Path, seed: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in state_dict(case, seed).items()}


def close(found: Any, wanted: Any, tolerance: float, what: str) -> None:
    found, wanted = np.asarray(found, np.float64), np.asarray(wanted, np.float64)
    assert found.shape == wanted.shape, f"{what}: shape {found.shape}, published {wanted.shape}"
    error = float(np.abs(found - wanted).max())
    assert error <= tolerance, f"{what}: off by {error:.2e}, allowed {tolerance:.0e}"


def relative(found: float, wanted: np.ndarray, tolerance: float, what: str) -> None:
    close(found, float(wanted), tolerance * abs(float(wanted)), what)


@torch.no_grad()
def kinetics(case: Path, seed: int) -> None:
    a = arrays(case)
    net = i3d.kinetics().load(weights(case, seed), "i3d")
    video = torch.from_numpy(a["video"])
    x = videos.pytorch_input(video)
    crop = x[:, :, :2, 100:104, 100:104].transpose(1, 2)
    close(crop, a["preprocessed_crop"], 1e-5, "preprocessed_crop")
    for frames in (16, 17):
        stages = net.stages(x[:, :, :frames])
        taps = [stages[k] for k in ("1a_7x7", "pool 3b", "3c", "pool 4b", "4f", "5c", "average")]
        close([t.shape for t in taps], a[f"stage_shape_{frames}"], 0, f"stage_shape_{frames}")
        if frames == 16:
            close([float(t.mean()) for t in taps], a["stage_mean_16"], 1e-3, "stage_mean_16")
            close(net.scores_of(stages).softmax(1), a["softmax_16"], 1e-3, "softmax_16")
            close([float(t.std(correction=0)) for t in taps], a["stage_std_16"], 1e-3, "stage_std_16")
        close(net.scores_of(stages), a[f"logits_{frames}"], 1e-3, f"logits_{frames}")
    close(net.scores(2 * x[:, :, :16] - 1), a["logits_16_range_pm1"], 1e-3, "logits_16_range_pm1")


@torch.no_grad()
def textures(case: Path, seed: int) -> None:
    a, state = arrays(case), weights(case, seed)
    short, long = (i3d.textures(length).load(state, "dti3d") for length in (16, 32))
    video = torch.from_numpy(a["video"])
    x = videos.texture_input(video[:, :16], 16)
    close(short.features(x), a["features_16"], 1e-3, "features_16")
    close(short.scores(x)[..., None], a["logits_16"], 1e-3, "logits_16")
    close(long.features(videos.texture_input(video, 32)), a["features_32"], 1e-3, "features_32")
    for frames in (12, 10):
        repeated = videos.texture_input(video[:, :frames], 16)
        close(short.features(repeated), a[f"features_16_from_{frames}"], 1e-3, f"features_16_from_{frames}")


def fvd(case: Path, seed: int) -> None:
    a = arrays(case)
    x, y = a["features_a"], a["features_b"]
    n = int(a["singular_n"])
    relative(frechet.distance(x, y), a["frechet"], 1e-3, "frechet")
    relative(frechet.distance(x, y, "svd"), a["frechet"], 1e-3, "frechet by singular values")
    relative(frechet.distance(x, y, "tensorflow"), a["frechet_svd"], 1e-3, "frechet_svd")
    relative(frechet.distance(x[:n], y[:n]), a["frechet_singular"], 1e-2, "frechet_singular")
    relative(frechet.distance(x[:n], y[:n], "tensorflow"), a["frechet_svd_singular"], 1e-2, "frechet_svd_singular")
    close(frechet.distance(x, x), a["frechet_same"], 1e-3, "frechet_same")
    for rows in (47, 13):
        assert frechet.kept(rows, 20) == int(a[f"rows_kept_of_{rows}_batch_20"]), rows


def diversity(case: Path, seed: int) -> None:
    a = arrays(case)
    samples = int(a["samples_per_instance"])
    maps = [a[f"vgg_feature_{i}"] for i in range(5)]
    relative(videos.vgg_diversity(maps, samples), a["vgg_score"], 1e-5, "vgg_score")
    fed = vgg.diversity_input(torch.from_numpy(a["vgg_input_video"]))
    close(fed[:, :, 100:104, 60:64], a["vgg_input_crop"], 1e-4, "vgg_input_crop")
    relative(videos.i3d_diversity(a["i3d_embeddings"]), a["i3d_score"], 1e-5, "i3d_score")
    relative(videos.texture_diversity(a["dti3d_embeddings"]), a["dti3d_score"], 1e-5, "dti3d_score")


@torch.no_grad()
def cinn_lpips(case: Path, seed: int) -> None:
    a, state = arrays(case), weights(case, seed)
    trunk = {
        "features." + name.partition(".")[2].partition(".")[2]: v for name, v in state.items() if name[:3] == "net"
    }
    heads = [state[f"lin{i}.model.1.weight"] for i in range(5)]
    x, y = (torch.from_numpy(a[name]) for name in "ab")
    for name, own in (("shift", vgg16.SHIFT), ("scale", vgg16.SCALE)):
        close(own, state[f"scaling_layer.{name}"].flatten(), 1e-6, name)
    lpips = vgg16.Lpips(trunk, heads)
    close(lpips(x, y, dropout=False), a["distance"], 1e-5, "distance")
    close(lpips(y, x, dropout=False), a["distance_ba"], 1e-5, "distance_ba")
    shift, scale = (state[f"scaling_layer.{name}"] for name in ("shift", "scale"))
    for i, feature in enumerate(vgg16.features(trunk, (x - shift) / scale)):
        close(feature.mean((2, 3)), a[f"feature{i}_mean"], 1e-5, f"feature{i}_mean")


CASES: dict[str, Callable[[Path, int], None]] = {
    "i3d": kinetics,
    "dti3d": textures,
    "fvd": fvd,
    "diversity": diversity,
    "cinn_lpips": cinn_lpips,
}
