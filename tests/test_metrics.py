"""Metrics: closed forms, a float64 reference written out, pytorch-msssim, the published sizes, LPIPS's weights."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.lib.stride_tricks import sliding_window_view

from pipeline import params, weights
from pipeline.errors import RetakeError
from pipeline.metrics import Undefined, epe, lpips, ms_ssim, psnr, ssim, structure
from pipeline.metrics.networks import perceptual

WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


def built(module: Any, device: str = "cpu", **keys: Any) -> Any:
    kind = module.__name__.rpartition(".")[2]
    return module.build(module.Params(kind=kind, **keys), device)


def natural(height: int, width: int, seed: int = 0, frames: int = 1) -> np.ndarray:
    """Smooth shapes with flat areas and fine grain, (frames, height, width, 3) float32 in [0,1]."""
    rng = np.random.default_rng(seed)
    noise = rng.normal(size=(frames, height, width, 3)).astype(np.float32)
    image = np.stack([cv2.GaussianBlur(f, (0, 0), 6) for f in noise])
    image = np.clip(0.5 + image / image.std() * 0.4, 0, 1) + 0.01 * noise * (image > 0)
    return np.clip(image, 0, 1).astype(np.float32)


def reference(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Wang's formula in float64 with a full 2-D window: (SSIM, contrast-structure) of two frames, (3,) each."""
    taps = np.exp(-((np.arange(11) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(taps, taps)
    window /= window.sum()
    x, y = (sliding_window_view(a.astype(np.float64), (11, 11), axis=(0, 1)) for a in (x, y))

    def mean(a: np.ndarray) -> np.ndarray:
        return np.einsum("hwcij,ij->hwc", a, window)

    mx, my = mean(x), mean(y)
    # about the mean: no cancellation
    dx, dy = x - mx[..., None, None], y - my[..., None, None]
    vx, vy, cov = mean(dx * dx), mean(dy * dy), mean(dx * dy)
    cs = (2 * cov + 0.03**2) / (vx + vy + 0.03**2)
    both = (2 * mx * my + 0.01**2) / (mx**2 + my**2 + 0.01**2) * cs
    return both.mean(axis=(0, 1)), cs.mean(axis=(0, 1))


def reference_ms(x: np.ndarray, y: np.ndarray) -> float:
    """Five scales in float64; a zero row or column before the image where a side is odd."""
    x, y = x.astype(np.float64), y.astype(np.float64)
    product = np.ones(3)
    for level, weight in enumerate(WEIGHTS):
        both, cs = reference(x, y)
        product *= np.maximum(both if level == 4 else cs, 0) ** weight
        x, y = (np.pad(a, ((a.shape[0] % 2, 0), (a.shape[1] % 2, 0), (0, 0))) for a in (x, y))
        x, y = (a.reshape(a.shape[0] // 2, 2, a.shape[1] // 2, 2, 3).mean(axis=(1, 3)) for a in (x, y))
    return float(product.mean())


def test_equal_images() -> None:
    image = natural(176, 192, frames=2)
    assert built(ssim)(image, image) == pytest.approx([1, 1], abs=1e-12)
    assert built(ms_ssim)(image, image) == pytest.approx([1, 1], abs=1e-12)
    assert built(psnr)(image, image).tolist() == [np.inf, np.inf]


@pytest.mark.parametrize(("a", "b"), [(0.25, 0.75), (0.0, 1.0), (1.0, 0.7), (0.9, 0.9001)])
def test_flat_images(a: float, b: float) -> None:
    """Only luminance differs: SSIM is its term, MS-SSIM that of the fifth scale."""
    x, y = np.full((1, 176, 176, 3), a, np.float32), np.full((1, 176, 176, 3), b, np.float32)
    a, b = float(np.float32(a)), float(np.float32(b))
    luminance = (2 * a * b + 1e-4) / (a * a + b * b + 1e-4)
    assert built(ssim)(x, y)[0] == pytest.approx(luminance, abs=1e-6)
    assert built(ms_ssim)(x, y)[0] ** (1 / 0.1333) == pytest.approx(luminance, abs=1e-6)
    assert built(psnr)(x, y)[0] == pytest.approx(-20 * np.log10(abs(a - b)), abs=1e-4)


def test_shift_of_brightness_leaves_the_structure() -> None:
    x = natural(176, 176) * np.float32(0.5)
    _, cs = structure.full_size(x, x + np.float32(0.25), "cpu")
    assert cs == pytest.approx(np.ones((1, 3)), abs=1e-6)


def test_psnr_is_a_mean_over_pixels_and_channels() -> None:
    x, y = natural(40, 56, 1, frames=3), natural(40, 56, 2, frames=3)
    mse = ((x.astype(np.float64) - y) ** 2).mean(axis=(1, 2, 3))
    assert built(psnr)(x, y) == pytest.approx(-10 * np.log10(mse), abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    height=st.integers(11, 48),
    width=st.integers(11, 48),
    seed=st.integers(0, 99),
    change=st.sampled_from(["noise", "shift", "darker", "other", "flat", "negative", "brighter", "paper", "blocks"]),
    rows=st.sampled_from([1, 1 << 20]),
)
def test_ssim_is_the_float64_definition(height: int, width: int, seed: int, change: str, rows: int) -> None:
    x = natural(height, width, seed)
    rng = np.random.default_rng(seed)
    y = {
        "noise": np.clip(x + rng.normal(0, 0.05, x.shape), 0, 1),
        "shift": np.roll(x, (1, 2), (1, 2)),
        "darker": x * 0.7,
        "other": rng.random(x.shape),
        "flat": np.full_like(x, 0.9),
        "negative": 1 - x,
        "brighter": np.clip(x + rng.uniform(0, 0.1), 0, 1),  # about where v is no longer blurred in float32
        "paper": np.clip(0.95 + rng.normal(0, 0.02, x.shape), 0, 1),
        "blocks": np.kron(rng.random((1, 12, 12, 3)) > 0.5, np.ones((1, 4, 4, 1)))[:, :height, :width],
    }[change].astype(np.float32)
    if change in ("paper", "blocks"):  # smooth and bright, or flat beside edges: hard for float32
        x = np.clip(y * np.float32(1 - rng.uniform(0, 0.1)) + rng.normal(0, 0.02, y.shape), 0, 1).astype(np.float32)
    before = structure.STRIP_BYTES
    structure.STRIP_BYTES = rows  # strips of 22 rows, or one
    try:
        found = built(ssim)(x, y)[0]
    finally:
        structure.STRIP_BYTES = before
    assert found == pytest.approx(reference(x[0], y[0])[0].mean(), abs=1e-6)


@pytest.mark.parametrize(("height", "width"), [(161, 163), (176, 192), (170, 181)])
@pytest.mark.parametrize("factor", [0.7, 1.0])
def test_ms_ssim_is_the_float64_definition(height: int, width: int, factor: float) -> None:
    x = natural(height, width)
    y = np.clip(np.roll(x, 1, 2) * np.float32(factor) + np.float32(0.02) * natural(height, width, 3), 0, 1)
    assert built(ms_ssim)(x, y)[0] == pytest.approx(reference_ms(x[0], y[0]), abs=1e-6)


def published(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    import pytorch_msssim

    a, b = (torch.tensor(t).permute(0, 3, 1, 2) for t in (x, y))
    return tuple(  # type: ignore[return-value]
        f(a, b, data_range=1.0, size_average=False).numpy() for f in (pytorch_msssim.ssim, pytorch_msssim.ms_ssim)
    )


@pytest.mark.parametrize("change", ["noise", "shift", "darker", "negative"])
def test_agreement_with_pytorch_msssim(change: str) -> None:
    x = natural(192, 257, 5, frames=2)
    noise = np.random.default_rng(0).normal(0, 0.05, x.shape)
    y = {"noise": x + noise, "shift": np.roll(x, (1, 2), (1, 2)), "darker": 0.7 * x, "negative": 1 - x}[change]
    y = np.clip(y, 0, 1).astype(np.float32)
    single, multi = published(x, y)
    assert built(ssim)(x, y) == pytest.approx(single, abs=1e-4)
    assert built(ms_ssim)(x, y) == pytest.approx(multi, abs=1e-4)


def test_agreement_with_pytorch_msssim_on_kitti(shared: Path) -> None:
    files = sorted((shared / "data" / "kitti_sample").rglob("*.png"))[:4]
    images = [cv2.resize(cv2.imread(str(f))[..., ::-1], (832, 256)) for f in files]
    frames = (np.stack(images) / np.float32(255)).astype(np.float32)
    single, multi = published(frames[:-1], frames[1:])
    assert built(ssim)(frames[:-1], frames[1:]) == pytest.approx(single, abs=1e-4)
    assert built(ms_ssim)(frames[:-1], frames[1:]) == pytest.approx(multi, abs=1e-4)


def test_torch_path_is_the_same_function() -> None:
    """What runs on a GPU, on the CPU: any device name but cpu takes torch."""
    x, y = natural(163, 181, 1, frames=2), natural(163, 181, 2, frames=2)
    y = (0.8 * x + 0.2 * y).astype(np.float32)
    tensors = [torch.tensor(a).double().permute(0, 3, 1, 2) for a in (x, y)]
    for found, expected in zip(structure.terms(*tensors), structure.full_size(x, y, "cpu"), strict=True):
        assert found == pytest.approx(expected, abs=1e-6)
    coarser = np.concatenate([ms_ssim._coarser(a, b) for a, b in zip(x, y, strict=True)])
    assert ms_ssim._coarser(*tensors) == pytest.approx(coarser, abs=1e-6)


@pytest.mark.gpu
def test_gpu_gives_the_same_values() -> None:
    x, y = natural(256, 448, 1, frames=3), natural(256, 448, 2, frames=3)
    for module in (ssim, ms_ssim):
        assert built(module, "cuda")(x, y) == pytest.approx(built(module)(x, y), abs=1e-6)


def test_too_small_frames_are_undefined() -> None:
    x = natural(64, 64)
    with pytest.raises(Undefined, match="MS-SSIM needs sides of more than 160 px, the frames are 64x64"):
        built(ms_ssim)(x, x)
    assert built(ssim)(x, x)[0] == pytest.approx(1)
    with pytest.raises(Undefined, match="SSIM needs sides of at least 11 px, the frames are 64x10"):
        built(ssim)(x[:, :10], x[:, :10])
    with pytest.raises(Undefined):
        built(ms_ssim)(*[natural(160, 300)] * 2)
    built(ms_ssim)(*[natural(161, 300)] * 2)


def test_nothing_is_remembered_of_arrays_that_may_change() -> None:
    x, y = natural(32, 32, 1), natural(32, 32, 2)
    before = built(ssim)(x, y)[0]
    y[:] = x
    assert before < 0.9
    assert built(ssim)(x, y)[0] == pytest.approx(1)


def test_ssim_and_ms_ssim_share_the_first_scale(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = natural(176, 176, 1), natural(176, 176, 2)
    apart = built(ssim)(x, y)[0], built(ms_ssim)(x, y)[0]
    calls: list[tuple[int, ...]] = []
    terms = structure.terms
    monkeypatch.setattr(structure, "terms", lambda a, b: calls.append(a.shape[:2]) or terms(a, b))
    x.flags.writeable = y.flags.writeable = False
    assert (built(ssim)(x, y)[0], built(ms_ssim)(x, y)[0]) == apart
    assert calls == [(176, 176), (88, 88), (44, 44), (22, 22), (11, 11)]


def test_epe() -> None:
    flow = np.zeros((2, 4, 5, 2), np.float32)
    truth = flow + np.float32([3, 4])
    assert built(epe)(flow, truth).tolist() == [5, 5]
    truth[1, :, :3] = np.nan
    truth[1, :, 3:] = [0, 2]
    assert built(epe)(flow, truth).tolist() == [5, 2]
    truth[0] = np.nan
    assert np.array_equal(built(epe)(flow, truth), [np.nan, 2], equal_nan=True)
    assert epe.NO_VALUE == "no pixel has exact flow"


@pytest.fixture(scope="module")
def random_trunks() -> dict[str, dict[str, torch.Tensor]]:
    import torchvision

    torch.manual_seed(0)
    return {
        "alexnet": torchvision.models.alexnet(weights=None).state_dict(),
        "squeezenet": torchvision.models.squeezenet1_1(weights=None).state_dict(),
    }


@pytest.fixture
def trunks(random_trunks: Any, monkeypatch: pytest.MonkeyPatch) -> dict[str, dict[str, torch.Tensor]]:
    """Stand-ins for the ImageNet weights; torchvision may not download."""
    monkeypatch.setattr(weights, "load", lambda name: random_trunks[name])

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a download")

    monkeypatch.setattr("torch.hub.load_state_dict_from_url", refuse)
    return random_trunks


@pytest.mark.parametrize(("net", "trunk"), [("alex", "alexnet"), ("squeeze", "squeezenet")])
def test_lpips_is_the_package_with_the_published_channel_order(net: str, trunk: str, trunks: Any) -> None:
    import lpips as package

    x, y = natural(64, 80, 1, frames=2), natural(64, 80, 2, frames=2)
    theirs = package.LPIPS(pretrained=True, pnet_rand=True, net=net, verbose=False)  # heads of version 0.1
    theirs.net.load_state_dict({k: trunks[trunk][f"features.{k.partition('.')[2]}"] for k in theirs.net.state_dict()})
    tensors = [torch.tensor(a).permute(0, 3, 1, 2) * 2 - 1 for a in (x, y)]
    with torch.no_grad():
        rgb = theirs(*tensors).flatten().numpy()
        bgr = theirs(*(t.flip(1) for t in tensors)).flatten().numpy()
    assert built(lpips, net=net, colour="rgb")(x, y) == pytest.approx(rgb, rel=1e-5)
    least = perceptual.SHORTEST[net]
    assert built(lpips, net=net)(x[:, :least], y[:, :least]).shape == (2,)
    with pytest.raises(RuntimeError), torch.no_grad():
        theirs(*(t[:, :, : least - 1] for t in tensors))
    with pytest.raises(Undefined, match=f"at least {least} px, the frames are 80x{least - 1}"):
        built(lpips, net=net)(x[:, : least - 1], y[:, : least - 1])
    assert built(lpips, net=net, colour="bgr")(x, y) == pytest.approx(bgr, rel=1e-5)
    assert rgb.min() > 0
    assert abs(rgb - bgr).max() > 1e-6
    assert built(lpips, net=net, colour="bgr")(x, x).tolist() == [0, 0]


def test_lpips_refuses_values_that_are_no_image(trunks: Any) -> None:
    metric = built(lpips, net="alex", colour="rgb")
    x = natural(64, 64, frames=2)
    metric(x, np.clip(x, 0, 1) + np.float32(5e-4))
    for bad, words in ((255.0, "prediction frame 2: values from .* to 255.0"), (np.nan, "values from nan to nan")):
        y = x.copy()
        y[1, 3, 4, 0] = bad
        with pytest.raises(RetakeError, match=words):
            metric(y, x)
    with pytest.raises(RetakeError, match="target frame 1"):
        metric(x, x - 1)


def test_a_target_goes_through_lpips_once(trunks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all samples, and of windows that overlap; the oldest are forgotten, another size or order is another image."""
    passes: list[int] = []
    load = perceptual.load

    def counted(net: str) -> Any:
        network = load(net)
        network.net.register_forward_hook(lambda *_: passes.append(1))
        return network

    monkeypatch.setattr(perceptual, "load", counted)
    metric = built(lpips, net="alex", colour="rgb")
    frames, guess = natural(64, 80, 1, frames=4), natural(64, 80, 2, frames=3)
    first = metric(guess, frames[:3])
    assert len(passes) == 6
    assert metric(guess, frames[:3]).tolist() == first.tolist()
    assert len(passes) == 9
    later = metric(guess, frames[1:])
    assert len(passes) == 13
    assert later.tolist() == built(lpips, net="alex", colour="rgb")(guess, frames[1:]).tolist()
    passes.clear()
    metric(guess.reshape(3, 80, 64, 3), frames[:3].reshape(3, 80, 64, 3))
    assert len(passes) == 6
    monkeypatch.setattr(perceptual, "KEPT_BYTES", 0)
    metric(guess, frames[:3])
    metric(guess, frames[:3])
    assert len(passes) == 6 + 3 + 6


def test_lpips_of_a_long_clip_holds_few_features(trunks: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    alive: list[weakref.ref[torch.Tensor]] = []
    most: list[int] = []
    load = perceptual.load

    def watched(net: str) -> Any:
        network = load(net)

        def count(_: Any, __: Any, layers: Any) -> None:
            alive.append(weakref.ref(layers[0]))
            most.append(sum(ref() is not None for ref in alive))

        network.net.register_forward_hook(count)
        return network

    x, y = natural(64, 64, 1, frames=20), natural(64, 64, 2, frames=20)
    whole = built(lpips, net="alex", colour="rgb")(x, y)
    monkeypatch.setattr(perceptual, "load", watched)
    monkeypatch.setattr(perceptual, "AT_ONCE", 2)
    monkeypatch.setattr(perceptual, "KEPT_BYTES", 0)
    metric = built(lpips, net="alex", colour="rgb")
    assert metric(x, y).tolist() == whole.tolist()
    assert len(alive) == 40
    assert max(most) <= 8
    x[18, 0, 0] = 2
    with pytest.raises(RetakeError, match="prediction frame 19"):
        metric(x, y)


def test_lpips_names_its_weights() -> None:
    rows = {row.name for row in weights.fetch.sources(weights.SOURCES, key="name", extra=("use",))}
    for net in lpips.TRUNKS:
        assert set(lpips.needs_weights(lpips.Params(kind="lpips", net=net, colour="bgr"))) <= rows


def test_every_metric_says_what_it_is() -> None:
    keys = {lpips: {"net": "alex", "colour": "bgr"}}
    registry = params.registry("metrics")
    for module in (psnr, ssim, ms_ssim, lpips, epe):
        kind = module.__name__.rpartition(".")[2]
        assert registry[kind].module is module
        told = module.settings(module.Params(kind=kind, **keys.get(module, {})))
        assert told["name"] == module.LABEL
        assert (module.BETTER, module.NEEDS) in {("higher", "frames"), ("lower", "frames"), ("lower", "flow")}
