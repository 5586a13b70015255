"""Parity of DTVNet with the published networks, losses, data reader and learning rates.

`CASES`: {case folder's name: function of (folder, seed) that asserts}.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from golden.fill import state_dict
from torch import Tensor, nn

from pipeline import frames
from pipeline.datasets import sky_timelapse
from pipeline.models import dtvnet
from pipeline.models.dtvnet import network, training


def arrays(case: Path) -> dict[str, np.ndarray]:
    with np.load(case / "case.npz") as data:
        return {name: data[name] for name in data.files}


def weights(case: Path, seed: int) -> dict[str, Tensor]:
    return {name: torch.from_numpy(value) for name, value in state_dict(case, seed).items()}


def close(actual: Any, expected: Any, tolerance: float, what: str) -> None:
    """Assert that two arrays have one shape and differ by at most `tolerance`."""
    actual = np.asarray(actual.detach() if isinstance(actual, Tensor) else actual, np.float64)
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, published {expected.shape}"
    error = np.abs(actual - expected).max()
    assert error <= tolerance, f"{what}: off by {error:.2e}, allowed {tolerance:.0e}"


def close_relative(actual: Any, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Assert that each value differs by at most `tolerance` of itself."""
    error = np.abs(np.asarray(actual, np.float64) / np.asarray(expected, np.float64) - 1).max()
    assert error <= tolerance, f"{what}: off by {error:.2e} of the value, allowed {tolerance:.0e}"


def enlarged(lowres: np.ndarray) -> Tensor:
    """Return (..., h, w) with each value repeated so that the sides are what the networks take."""
    times = dtvnet.SIZE // lowres.shape[-1]
    return torch.from_numpy(lowres).repeat_interleave(times, -1).repeat_interleave(times, -2)


def generator(case: Path, seed: int) -> None:
    a, state = arrays(case), weights(case, seed)
    net = network.Generator(dtvnet.Network(**network.options(state)))
    training.load("generator", net, state)
    image = torch.from_numpy(a["image"]).permute(0, 3, 1, 2).float() / 127.5 - 1
    vectors = network.normalised(torch.from_numpy(a["motion"]))
    close(vectors, a["motion_normalised"], 2e-5, "motion_normalised")
    net.eval()
    with torch.no_grad():
        video, flow = net(image, vectors)
        close(video, a["frames"], 2e-5, "frames")
        close(flow, a["flow64"], 2e-4, "flow64")
        alone = network.normalised(torch.from_numpy(a["motion"][:1]))
        assert not alone.any()
        close(net(image[:1], alone)[1], a["flow64_b1"], 2e-4, "flow64_b1")
        if "motion_b" in a:
            other = net(image, network.normalised(torch.from_numpy(a["motion_b"])))[1]
            close(other, a["flow64_motion_b"], 2e-4, "flow64_motion_b")
        net.train()
        video, flow = net(image, vectors)
    close(flow, a["flow64_train"], 2e-4, "flow64_train")
    close([video.mean(), video.std(correction=0)], a["frames_train_mean_std"], 2e-5, "frames_train_mean_std")


def flow_encoder(case: Path, seed: int) -> None:
    a, state = arrays(case), weights(case, seed)
    net = network.FlowEncoder(len(state["downConv1.weight"]), len(state["fc1.weight"]))
    training.load("encoder", net, state)
    flow = enlarged(a["flow_lowres"])
    net.eval()
    with torch.no_grad():
        close(net(flow), a["vector_eval"], 1e-4, "vector_eval")
        close(net(flow, batch_statistics=True), a["vector_train"], 1e-4, "vector_train, without training")
        net.train()
        close(net(flow), a["vector_train"], 1e-4, "vector_train")


def discriminator(case: Path, seed: int) -> None:
    a, state = arrays(case), weights(case, seed)
    net = network.Discriminator(len(state["slice1.0.weight"]))
    training.load("discriminator", net, state)
    real, fake = enlarged(a["real_lowres"]), enlarged(a["fake_lowres"])
    scores_real, scores_fake = net(real), net(fake)
    close(scores_real, a["score_real"], 1e-4, "score_real")
    close(scores_fake, a["score_fake"], 1e-4, "score_fake")
    for mode, loss in network.ADVERSARIAL.items():
        found = [loss(scores_fake, False), loss(scores_real, True), loss(scores_fake, True)]
        close(torch.stack(found), a[f"gan_{mode}"], 1e-4, f"gan_{mode}")

    alpha = torch.from_numpy(a["gp_alpha"])
    penalty = dtvnet.Train.model_fields["gradient_penalty"].default * network.gradient_penalty(net, real, fake, alpha)
    close_relative(penalty.detach(), a["gp"], 1e-3, "gp")
    penalty.backward()
    norms = [norm(net.get_parameter(f"{layer}.weight")) for layer in ("slice1.0", "slice2.0", "slice3.3", "slice4.0")]
    close_relative(norms, a["gp_weight_gradnorm"], 1e-3, "gp_weight_gradnorm")
    mixed = torch.lerp(fake, real, alpha.view(-1, 1, 1, 1, 1)).requires_grad_()
    net(mixed).sum().backward()
    lengths = mixed.grad.double().flatten(1).norm(dim=1)
    close_relative(lengths, a["gp_input_grad_norm"], 1e-3, "gp_input_grad_norm")


def norm(weight: nn.Parameter) -> float:
    assert weight.grad is not None
    return float(weight.grad.double().norm())


def data(case: Path, seed: int) -> None:
    a = arrays(case)
    clip = sky_timelapse.FIRST
    assert int(a["n_frames"]) >= sky_timelapse.LEAST
    assert len(a["flow_lowres"]) == int(a["n_frames"]) - 1
    settings = dict(kind="sky_timelapse", codec="raw", archives="all", paper="dtvnet")
    stored = sky_timelapse.Params(height=dtvnet.SIZE, width=dtvnet.SIZE, **settings)
    images = [frames.resized(image, stored) for image in a["frames4"]]
    shown = np.stack([images[i % len(images)] for i in range(clip)])
    given = {
        "clip": torch.from_numpy(shown).permute(0, 3, 1, 2)[None].float() / 255,
        "flow": enlarged(a["flow_lowres"][:clip].transpose(0, 3, 1, 2))[None],
    }
    model = dtvnet.build(dtvnet.Params(kind="dtvnet", checkpoint=None))
    image, video, flow, target = (part[0] for part in model.prepared(given))
    close(every(video, a["clip_sub"]), a["clip_sub"], 1e-5, "clip_sub")
    close(video.double().mean((2, 3)), a["clip_mean"], 1e-5, "clip_mean")
    close(every(flow, a["flow_in_sub"]), a["flow_in_sub"], 1e-5, "flow_in_sub")
    close(every(target, a["flow_gt_sub"]), a["flow_gt_sub"], 1e-5, "flow_gt_sub")
    close(every(image, a["first_image"]), a["first_image"], 1e-5, "first_image")

    factors = a["lr_factor"]
    full = int((factors == 1).sum())
    found = [training.rate_factor(epoch, len(factors), full) for epoch in range(1, len(factors) + 1)]
    close(found, factors, 1e-5, "lr_factor")


def every(x: Tensor, sampled: np.ndarray) -> Tensor:
    """Return x at every n-th place of each dimension, n as the smaller array has it."""
    return x[tuple(slice(None, None, size // small) for size, small in zip(x.shape, sampled.shape, strict=True))]


CASES: dict[str, Callable[[Path, int], None]] = {
    "dtvnet_generator": generator,
    "dtvnet_generator_small": generator,
    "dtvnet_flow_encoder": flow_encoder,
    "dtvnet_discriminator": discriminator,
    "dtvnet_data": data,
}
