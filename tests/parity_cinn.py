"""Parity of i2v-cINN's first stage with the published networks, losses and loaders.

`CASES`: {case folder's name: function of (folder, seed) that asserts}. Sizes and channels are read from the case.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden.fill import state_dict
from torch import Tensor

from pipeline.losses import augment, patch
from pipeline.models.cinn_stage1 import Params, build, training
from pipeline.models.cinn_stage1.network import TemporalDiscriminator

DECODED = (0, 7, 15)  # frames of `decoded_frames`
RECONSTRUCTED = (3, 12)  # frames of `recon_frames`
JUDGED = (0, 6)  # frames of `map_s_real` and `map_s_fake`


def arrays(case: Path) -> dict[str, np.ndarray]:
    with np.load(case / "case.npz") as data:
        return {name: data[name] for name in data.files}


def weights(case: Path, seed: int) -> dict[str, Tensor]:
    return {name: torch.as_tensor(value) for name, value in state_dict(case, seed).items()}


def close(actual: Any, published: Any, tolerance: float, what: str) -> None:
    values = [np.asarray(x.detach() if isinstance(x, Tensor) else x, np.float64) for x in (actual, published)]
    assert values[0].shape == values[1].shape, f"{what}: shape {values[0].shape}, published {values[1].shape}"
    error = float(np.abs(values[0] - values[1]).max())
    assert error <= tolerance, f"{what}: off by {error:.2e}, allowed {tolerance:.0e}"


def relative(actual: Tensor, published: np.ndarray, tolerance: float, what: str) -> None:
    close(actual, published, tolerance * abs(float(published)), what)


def settings(shapes: dict[str, list[int]], size: int) -> dict[str, Any]:
    """Return the `network` of params.yaml that has these published keys (prefixes `encoder.`, `decoder.`)."""
    return {
        "size": size,
        "channel_factor": shapes["decoder.conv_img.weight"][1],
        "channels": channels(shapes, "encoder"),
    }


def channels(shapes: dict[str, list[int]], prefix: str) -> list[int]:
    """Return the channels of a 3D ResNet's first convolution and stages."""
    keys = [f"{prefix}.conv1.weight", *(f"{prefix}.layer.{stage}.0.bn1.weight" for stage in range(4))]
    return [shapes[key][0] for key in keys]


def params(network: dict[str, Any], train: dict[str, Any] | None = None) -> Params:
    return Params.model_validate({"kind": "cinn_stage1", "network": network, "train": train})


@torch.no_grad()
def stage1(case: Path, seed: int) -> None:
    a = {name: torch.from_numpy(value) for name, value in arrays(case).items()}
    size = a["video"].shape[-1]
    model = build(params(settings(json.loads((case / "keys.json").read_text()), size))).eval()
    model.load_published(weights(case, seed))
    clip = a["video"].transpose(1, 2)

    mu, logvar = model.encoder(clip[:, :, 1:])
    close(mu, a["mu"], 1e-4, "mu")
    close(logvar, a["logvar"], 1e-4, "logvar")
    close(training.sample(mu, logvar, a["eps"]), a["z"], 1e-4, "z")
    shorter, shorter_logvar = model.encoder(clip[:, :, 1:-1])
    close(shorter, a["mu_15frames"], 1e-4, "mu_15frames")
    close(shorter_logvar, a["logvar_15frames"], 1e-4, "logvar_15frames")

    decoded = model.decoder(a["start"], a["motion"]).transpose(1, 2)
    stride = size // a["decoded_frames"].shape[-1]
    close(decoded[:, DECODED, :, ::stride, ::stride], a["decoded_frames"], 1e-4, "decoded_frames")
    close(decoded.flatten(2).mean(2), a["decoded_frame_mean"], 1e-4, "decoded_frame_mean")
    close(decoded.flatten(2).std(2, correction=0), a["decoded_frame_std"], 1e-4, "decoded_frame_std")
    again = model.decoder(clip[:, :, 0], mu).transpose(1, 2)
    close(again[:, RECONSTRUCTED, :, ::2, ::2], a["recon_frames"], 1e-4, "recon_frames")
    outside = model.decode((a["start"] + 1) / 2, a["motion"])
    close(2 * outside - 1, decoded, 1e-4, "decode in [0,1]")


def discriminators(case: Path, seed: int) -> None:
    a, state = arrays(case), weights(case, seed)
    real, fake = (torch.from_numpy(a[name]) for name in ("real", "fake"))
    shapes = {name: list(value.shape) for name, value in state.items()}
    judge = TemporalDiscriminator(real.shape[-1], channels(shapes, "disc_t")).eval()
    judge.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("disc_t.")})
    clips = [x.transpose(1, 2).clone().requires_grad_() for x in (real, fake)]
    (logit_real, maps_real), (logit_fake, maps_fake) = (judge(clip) for clip in clips)
    close(logit_real, a["logit_t_real"], 1e-4, "logit_t_real")
    close(logit_fake, a["logit_t_fake"], 1e-4, "logit_t_fake")
    for i, features in enumerate(maps_real):
        close(features.shape, a[f"fmap{i}_shape"], 0, f"fmap{i}_shape")
        relative(features.abs().mean(), a[f"fmap{i}_real_mean_abs"], 1e-4, f"fmap{i}_real_mean_abs")
    close(maps_real[-1], a["fmap3_real"], 1e-4, "fmap3_real")
    relative(training.feature_distance(maps_fake, maps_real), a["fmap_l1"], 1e-4, "fmap_l1")
    squared = [(f - r).square().mean() for f, r in zip(maps_fake, maps_real, strict=True)]
    relative(torch.stack(squared).mean(), a["fmap_l2"], 1e-4, "fmap_l2")

    penalty = training.gradient_penalty(logit_real, clips[0])
    relative(penalty, a["gradient_penalty"], 1e-3, "gradient_penalty")
    pair = torch.cat([clips[0], clips[0].flip(-1)]).detach().requires_grad_()
    penalty = training.gradient_penalty(judge(pair)[0], pair)
    relative(penalty, a["gradient_penalty_batch2"], 1e-3, "gradient_penalty_batch2")
    relative(patch.hinge_discriminator(logit_real, logit_fake), a["hinge_disc_t"], 1e-4, "hinge_disc_t")
    relative(patch.hinge_generator(logit_fake), a["hinge_gen_t"], 1e-4, "hinge_gen_t")

    spatial = patch.PatchDiscriminator().eval()
    spatial.load_state_dict({name[7:]: value for name, value in state.items() if name.startswith("disc_s.")})
    map_real, map_fake = (spatial(frames[0, JUDGED]) for frames in (real, fake))
    close(map_real, a["map_s_real"], 1e-4, "map_s_real")
    close(map_fake, a["map_s_fake"], 1e-4, "map_s_fake")
    relative(patch.hinge_discriminator(map_real, map_fake), a["hinge_disc_s"], 1e-4, "hinge_disc_s")
    relative(patch.hinge_generator(map_fake), a["hinge_gen_s"], 1e-4, "hinge_gen_s")
    mu, logvar = (torch.from_numpy(a[name]) for name in ("kl_mu", "kl_logvar"))
    relative(training.kl(mu, logvar), a["kl"], 1e-4, "kl")


def augmentation(case: Path, seed: int) -> None:
    a = arrays(case)
    size, margin = a["crop"].shape[-1], a["resized_plus16"].shape[-1] - a["crop"].shape[-1]
    x, y = (int(offset) for offset in a["crop_offset_xy"])

    def placed(size: int, margin: int = 0, corner: tuple[int, int] = (0, 0), flip: bool = False) -> np.ndarray:
        frames = np.ascontiguousarray(a["input"].transpose(0, 2, 3, 1))
        return np.stack([augment.placed(frame, size, margin, corner, flip) for frame in frames])

    def planes(frames: np.ndarray) -> np.ndarray:
        return frames.transpose(0, 3, 1, 2)

    resized = placed(size)
    close(planes(resized), a["resized"], 1e-4, "resized")
    close(planes(placed(size + margin)), a["resized_plus16"], 1e-4, "resized_plus16")
    close(planes(placed(size, flip=True)), a["flipped"], 1e-4, "flipped")
    close(planes(placed(size, margin, (x, y))), a["crop"], 0.05, "crop")
    plain = a["resized_plus16"][..., y : y + size, x : x + size]
    close(planes(placed(size, margin, (x, y))), plain, 1e-4, "crop, without kornia's stretch")
    signed = training.signed(torch.from_numpy(a["resized"])[None])[0].transpose(0, 1)
    close(signed, a["normalized"], 1e-4, "normalized")
    for i, (factors, order) in enumerate(zip(a["jitter_params"], a["jitter_order"], strict=True)):
        changed = planes(resized).copy()
        for frame in changed:
            augment.jitter(frame, factors, order)
        close(changed, a["jittered"][i], 1e-4, f"jittered {i}")


CASES: dict[str, Callable[[Path, int], None]] = {
    "cinn_stage1": stage1,
    "cinn_disc": discriminators,
    "cinn_augment": augmentation,
}
