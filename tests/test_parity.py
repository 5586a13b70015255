"""Parity with the published networks, operators, losses and metrics: one check a case of tests/golden/README.md.

    pytest tests/test_parity.py --golden DIR --golden-seed N

Without --golden: the cases in tests/golden, and those that only lie in `shared/golden` beside the repository. A check
reads its case's arrays and weights and asserts the tolerances of the case's README; no size, seed or value is written
here.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import parity_arflow
import parity_cinn
import parity_cinn_flow
import parity_dtvnet
import parity_metrics
import parity_tecogan
import pytest
import torch
from conftest import ROOT, SHARED
from golden.fill import state_dict

from pipeline import params
from pipeline.losses import laplacian
from pipeline.losses.vgg import Vgg
from pipeline.models import dmvfn
from pipeline.models.dmvfn import network as dmvfn_network

CARRIED = ROOT / "tests" / "golden"
Arrays = dict[str, np.ndarray]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folders = list(_folders(metafunc.config.getoption("--golden")))
        metafunc.parametrize("case", folders, ids=[folder.name for folder in folders])


def _folders(given: str | None) -> Iterator[Path]:
    """Yield the case folders in `given`, or in tests/golden and then those that only `shared/golden` has."""
    root = Path(given) if given else CARRIED
    if not root.is_dir():
        raise pytest.UsageError(f"--golden {root}: no such folder")
    own = _cases(root)
    yield from own
    if given is None and (SHARED / "golden").is_dir():
        carried = {folder.name for folder in own}
        yield from (folder for folder in _cases(SHARED / "golden") if folder.name not in carried)


def _cases(root: Path) -> list[Path]:
    return sorted(folder for folder in root.iterdir() if folder.is_dir() and folder.name[0] not in "._")


def test_case(case: Path, pytestconfig: pytest.Config) -> None:
    assert case.name in CASES, f"{case}: no check knows this case"
    with np.load(case / "case.npz") as file:
        arrays = {name: file[name] for name in file.files}
    CASES[case.name](case, arrays, int(pytestconfig.getoption("--golden-seed")))


def test_every_case_is_checked() -> None:
    assert {folder.name for folder in _cases(CARRIED)} <= set(CASES)


def weights(case: Path, seed: int) -> dict[str, torch.Tensor]:
    """Return the case's weights under their published keys."""
    return {key: torch.from_numpy(value) for key, value in state_dict(case, seed).items()}


def close(actual: Any, expected: Any, tolerance: float, what: str) -> None:
    """Assert that two arrays have one shape and differ by at most `tolerance`."""
    actual = np.asarray(actual.detach() if isinstance(actual, torch.Tensor) else actual, np.float64)
    expected = np.asarray(expected, np.float64)
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, expected {expected.shape}"
    error = np.abs(actual - expected).max()
    assert error <= tolerance, f"{what}: off by {error:.3g}, at most {tolerance:.3g}"


# DMVFN


def dmvfn_case(case: Path, arrays: Arrays, seed: int) -> None:
    raw = {"network": {"routing": True}, "predict": {"routing": "sampled", "weights": "last"}}
    net = dmvfn.build(dmvfn.Params.model_validate({"kind": "dmvfn", "train": None, "checkpoint": None, **raw}))
    net.load_published(weights(case, seed))
    x = torch.from_numpy(arrays["x"])
    target = x[:, 6:]

    close(net.probabilities(x[:, :6]), arrays["prob_train"], 1e-5, "prob_train")
    predictions = net(x, torch.from_numpy(arrays["routing_train"]))
    for i, prediction in enumerate(predictions):
        close(prediction, arrays[f"train_merged_{i}"], 1e-4, f"train_merged_{i}")
    loss = torch.stack([0.8 ** (8 - i) * (p - target).abs().mean() for i, p in enumerate(predictions)]).sum()
    close(loss, arrays["train_l1_loss"], 1e-5, "train_l1_loss")
    loss.backward()
    gradients = {f"module.{name}": p.grad for name, p in net.named_parameters()}
    named = [name for name in arrays if name.startswith("grad:")]
    assert named
    for name in named:
        close(gradients[name.removeprefix("grad:")], arrays[name], 1e-3 * np.abs(arrays[name]).max(), name)
    norm = torch.stack([g.double().square().sum() for g in gradients.values() if g is not None]).sum().sqrt()
    close(norm, arrays["grad_norm_all"], 1e-3 * float(arrays["grad_norm_all"]), "grad_norm_all")

    gates = arrays["routing_eval"]
    pair = x[: len(gates), :6]
    close(net.probabilities(pair), arrays["prob_eval"], 1e-5, "prob_eval")
    selected = np.flatnonzero(gates[0])
    assert len(selected) == sum(name.startswith("eval_merged_") for name in arrays)
    for k, last in enumerate(selected):  # the k-th output is the frame that the blocks up to the k-th make
        until = gates * (np.arange(gates.shape[1]) <= last)
        close(net.next_frame(pair, until), arrays[f"eval_merged_{k}"], 1e-4, f"eval_merged_{k}")
    close(net.next_frame(pair, np.ones_like(gates)), arrays["eval_all_last"], 1e-4, "eval_all_last")

    given, seen = arrays["rollout_routing"], []

    def choose(pair: torch.Tensor, step: int) -> np.ndarray:
        seen.append(net.probabilities(pair).detach().numpy()[0])
        return given[step][None]

    net.empty_selections = 0
    images = torch.from_numpy(arrays["rollout_imgs"])
    rollout = net.rollout(images[:, 2:4], len(given), choose)
    close(rollout, arrays["rollout_preds"], 1e-4, "rollout_preds")
    close(np.stack(seen), arrays["rollout_prob"], 1e-5, "rollout_prob")
    assert net.empty_selections == (given.sum(1) == 0).sum()


def dmvfn_warp(case: Path, arrays: Arrays, seed: int) -> None:
    flow = torch.from_numpy(arrays["flow"]).requires_grad_()
    warped = dmvfn_network.warp(torch.from_numpy(arrays["img"]), flow)
    close(warped, arrays["warped"], 1e-4, "warped")
    warped.square().sum().backward()
    assert flow.grad is not None
    # The slope of bilinear sampling jumps at whole pixels, and at the border, where positions are clamped
    height, width = arrays["flow"].shape[-2:]
    at = arrays["flow"].astype(np.float64) + np.stack(np.meshgrid(np.arange(width), np.arange(height)))
    smooth = (np.abs(at - np.round(at)) > 1e-3).all(1, keepdims=True).repeat(2, 1)
    assert smooth.mean() > 0.1
    close(flow.grad.numpy()[smooth], arrays["grad_flow"][smooth], 1e-3, "grad_flow")


def dmvfn_losses(case: Path, arrays: Arrays, seed: int) -> None:
    prediction, target = torch.from_numpy(arrays["pred"]).requires_grad_(), torch.from_numpy(arrays["gt"])

    bands = laplacian.bands(prediction)
    for j, band in enumerate(bands):
        close(band, arrays[f"lap_band_{j}"], 1e-5, f"lap_band_{j}")
    levels = [(a - b).abs().mean() for a, b in zip(bands, laplacian.bands(target), strict=True)]
    close(torch.stack(levels), arrays["lap_levels"], 1e-5, "lap_levels")
    loss = laplacian.losses(prediction[None], target)[0]
    close(loss, arrays["lap_loss"], 1e-5, "lap_loss")
    (gradient,) = torch.autograd.grad(loss, prediction)
    close(gradient, arrays["lap_grad"], 1e-6, "lap_grad")

    gain = float(arrays["vgg_weight_gain"])
    filled = {k: v * gain if k.endswith(".weight") else v for k, v in weights(case, seed).items()}
    vgg = Vgg(filled)
    taps = [(float(f.mean()), float(f.std(correction=0))) for f in vgg.features(prediction.detach())]
    close(taps, arrays["vgg_tap_mean_std"], 1e-3, "vgg_tap_mean_std")
    terms = vgg.terms(prediction, target)
    close(terms, arrays["vgg_terms"], 1e-5, "vgg_terms")
    close(terms.sum(), arrays["vgg_loss"], 1e-5, "vgg_loss")
    (gradient,) = torch.autograd.grad(terms.sum(), prediction)
    error = np.linalg.norm(gradient.numpy() - arrays["vgg_grad"]) / np.linalg.norm(arrays["vgg_grad"])
    assert error <= 2e-2, f"vgg_grad: relative error {error:.3g}"

    recipe = dmvfn.Train.model_construct(vgg_weight=0.5, vgg_channels="bgr")
    prediction_settings = dmvfn.Predict(routing="all", weights="last")
    net = dmvfn.build(
        dmvfn.Params.model_construct(network=dmvfn.Network(routing=False), train=recipe, predict=prediction_settings)
    )
    net._vgg = vgg
    nine = [(prediction.detach() * float(factor)).clamp(0, 1) for factor in arrays["nine_scale_factors"]]
    fabric = SimpleNamespace(autocast=contextlib.nullcontext)
    losses = net.losses(nine, target, fabric)
    close(losses["laplacian"], arrays["nine_l1"], 1e-5, "nine_l1")
    close(losses["vgg"], arrays["nine_vgg"], 1e-5, "nine_vgg")
    close(losses["loss"], arrays["nine_total"], 1e-5, "nine_total")


def sample_pair(arrays: Arrays) -> list[np.ndarray]:
    """Return the two images of a case, (H, W, 3) RGB float32 in [0,1]: its own, or the published sample pair."""
    if "image_0_bgr" in arrays:
        images = [arrays[f"image_{i}_bgr"] for i in (0, 1)]
    else:
        samples = SHARED / "data" / "dmvfn_samples"
        if not samples.is_dir():
            pytest.skip("no folder `shared` with the published sample pair beside the repository")
        images = [cv2.imread(str(samples / f"sample_img_{i}.png")) for i in (0, 1)]
    scaled = [image.astype(np.float32) / (255 if image.dtype == np.uint8 else 1) for image in images]
    rows = [
        np.moveaxis(image.squeeze(), 0, -1) if image.squeeze().shape[0] == 3 else image.squeeze() for image in scaled
    ]
    return [np.ascontiguousarray(image[..., ::-1]) for image in rows]


def dmvfn_metrics(case: Path, arrays: Arrays, seed: int) -> None:
    a, b = sample_pair(arrays)
    noisy = np.ascontiguousarray(arrays["noise_pred_2"][0].transpose(1, 2, 0)[..., ::-1])  # stored BGR
    half, most = np.float32(0.5), np.float32(0.7)
    floats = np.stack([a, half * a + half * b, noisy, np.roll(b, (1, 2), (0, 1)), most * b])
    target = np.stack([b] * len(floats))
    truncated = np.floor(floats * np.float32(255)) / np.float32(255)
    kinds = params.registry("metrics")
    for kind, tolerance in (("psnr", 1e-3), ("ssim", 1e-4), ("ms_ssim", 1e-4)):
        score = kinds[kind].build(kinds[kind].Params.model_construct(kind=kind), "cpu")
        values = score(floats, target)
        close(values, arrays[f"{kind}_float"], tolerance, f"{kind}_float")
        close(score(truncated, target), arrays[f"{kind}_trunc8"], tolerance, f"{kind}_trunc8")
        cumulative = np.cumsum(values) / np.arange(1, len(values) + 1)
        close(cumulative, arrays[f"cumulative_{kind}_float"], tolerance, f"cumulative_{kind}_float")


CASES: dict[str, Any] = {
    "dmvfn": dmvfn_case,
    "dmvfn_warp": dmvfn_warp,
    "dmvfn_losses": dmvfn_losses,
    "dmvfn_metrics": dmvfn_metrics,
    **{
        name: lambda case, arrays, seed, check=check: check(case, seed)
        for module in (parity_arflow, parity_cinn, parity_cinn_flow, parity_dtvnet, parity_metrics, parity_tecogan)
        for name, check in module.CASES.items()
    },
}
