"""DMVFN, its losses and the two baselines: learning, routing in batches, schedule, augmentation, bad input."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import lightning_fabric
import numpy as np
import pytest
import torch
from golden.fill import fill, state_dict
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pydantic import ValidationError
from torch.nn import functional

from pipeline.errors import RetakeError
from pipeline.losses import laplacian, vgg
from pipeline.models import copy_last, dmvfn, flow_warp
from pipeline.models.dmvfn import network
from pipeline.models.warping import velocity

GOLDEN = Path(__file__).parent / "golden"
TRAIN: dict[str, Any] = {
    "batch": 2, "epochs": 1, "max_steps": None, "seed": 0, "window": 3, "windows": "all", "max_stride": 1, "crop": 64,
    "validation": None, "validate_every": 1, "validate_windows": 1, "checkpoint_every": 1,
    "lr": 1e-4, "min_lr": 1e-5, "warmup_steps": 2000, "weight_decay": 1e-3,
    "vgg_weight": 0, "vgg_channels": "bgr", "augment": "published",
}  # fmt: skip


def settings_of(router: bool = True, routing: Any = "sampled", **train: Any) -> dmvfn.Params:
    raw = {"network": {"routing": router}, "predict": {"routing": routing, "weights": "last"}}
    recipe = {**TRAIN, **train} if train else None
    return dmvfn.Params.model_validate({"kind": "dmvfn", "checkpoint": None, "train": recipe, **raw})


def make(router: bool = True, routing: Any = "sampled", *, seed: int = 0, **train: Any) -> network.DMVFN:
    torch.manual_seed(seed)
    return dmvfn.build(settings_of(router, routing, **train))


@pytest.fixture(scope="module")
def filled() -> network.DMVFN:
    """A network whose routing probabilities span 0..1."""
    net = make()
    net.load_published({k: torch.from_numpy(v) for k, v in state_dict(GOLDEN / "dmvfn").items()})
    return net


def pan(dx: int, dy: int, frames: int, size: int = 64, seed: int = 0) -> np.ndarray:
    """Return a smooth texture that moves by (dx, dy) whole pixels a frame, (frames, size, size, 3) float32 in [0,1]."""
    side = size + 2 * 8 * frames
    texture = cv2.GaussianBlur(np.random.default_rng(seed).random((side, side, 3)).astype(np.float32), (0, 0), 3)
    texture = (texture - texture.min()) / (texture.max() - texture.min())
    at = 8 * frames
    crops = [texture[at - dy * i : at - dy * i + size, at - dx * i : at - dx * i + size] for i in range(frames)]
    return np.stack(crops)


def tensor(clip: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(clip.transpose(0, 3, 1, 2)))


def trainer(net: network.DMVFN, steps: int, precision: Any = "32-true") -> SimpleNamespace:
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision=precision)
    named = net.configure()
    module, *optimisers = fabric.setup(net, *named.values())
    ready = dict(zip(named, optimisers, strict=True))
    return SimpleNamespace(fabric=fabric, module=module, optimisers=ready, step=0, steps=steps)


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return -10 * math.log10(max(float((a - b).square().mean()), 1e-20))


# Learning


def test_overfits_a_batch() -> None:
    clips = torch.stack([tensor(pan(3, 0, 3, seed=seed)) for seed in (1, 2)])
    net = make(False, "all", lr=1e-3, warmup_steps=15, augment="none")
    state = trainer(net, 40)

    def quality() -> float:
        return psnr(net.predict(clips[:, :2], 1, seeds=[0, 0])[:, 0], clips[:, 2])

    before = quality()
    for step in range(state.steps):
        state.step = step
        losses = net.training_step(clips, state)
    assert quality() >= before + 6
    assert set(losses) == {"laplacian", "loss", "lr"}


def test_one_optimiser_step_a_triplet_at_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    net = make(warmup_steps=4, lr=1e-3)
    state = trainer(net, 10)
    state.step = 2
    rates, optimiser = [], state.optimisers["adamw"]
    step = optimiser.step
    monkeypatch.setattr(optimiser, "step", lambda: (rates.append(optimiser.param_groups[0]["lr"]), step()))
    before = {name: p.detach().clone() for name, p in net.named_parameters()}
    losses = net.training_step(tensor(pan(1, 0, 6))[None], state)
    assert rates == [pytest.approx(5.05e-4)] * 4
    assert losses["lr"] == rates[0]
    still = [name for name, p in net.named_parameters() if torch.equal(p, before[name])]
    assert not still, "parameters without gradient: the router, or blocks that were gated off"


def test_training_draws_come_from_the_global_generator_alone(filled: network.DMVFN) -> None:
    pair = tensor(pan(2, 1, 2)).flatten(0, 1)[None]

    def run(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return torch.stack(filled(pair))

    assert torch.equal(run(3), run(3))
    assert not torch.equal(run(3), run(4))


def test_a_loss_that_is_not_finite_changes_nothing() -> None:
    net = make(warmup_steps=1)
    state = trainer(net, 10)
    clip = tensor(pan(1, 0, 4))[None]
    clip[0, 2, 0, 0, 0] = math.nan
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with pytest.raises(FloatingPointError, match="triplet 1 of 2"):
        net.training_step(clip, state)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


def test_vgg_joins_the_loss_but_not_the_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import weights

    asked: list[str] = []
    monkeypatch.setattr(weights, "load", lambda name: (asked.append(name), random_vgg())[1])
    net = make(vgg_weight=0.5, warmup_steps=1)
    state = trainer(net, 10)
    losses = net.training_step(tensor(pan(1, 0, 3))[None], state)
    assert asked == ["vgg19-dcbb9e9d.pth"]
    assert losses["loss"] == pytest.approx(losses["laplacian"] + 0.5 * losses["vgg"], rel=1e-5)
    assert losses["vgg"] > 0
    assert set(net.state_dict()) == set(make().state_dict())


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_other_layout_and_precision_give_nearly_the_same(precision: Any, filled: network.DMVFN) -> None:
    frames = tensor(pan(2, 1, 2, size=128))[None]
    net = make(routing="all")
    net.load_state_dict(filled.state_dict())
    expected = net.predict(frames, 2, seeds=[0])
    net = net.to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed"):
        actual = net.predict(frames, 2, seeds=[0])
    assert actual.dtype == torch.float32
    assert psnr(actual, expected) > (35 if precision == "bf16-mixed" else 100)


def test_trains_in_bf16() -> None:
    net = make(warmup_steps=1).to(memory_format=torch.channels_last)
    losses = net.training_step(tensor(pan(1, 0, 4))[None], trainer(net, 10, "bf16-mixed"))
    assert math.isfinite(losses["loss"])
    assert all(p.dtype == torch.float32 and p.isfinite().all() for p in net.parameters())


# Schedule and augmentation


@pytest.mark.parametrize(
    ("steps", "step", "rate"),
    [
        (63300, 0, 1e-5), (63300, 1, 1.0045e-5), (63300, 1000, 5.5e-5), (63300, 1999, 9.9955e-5), (63300, 2000, 1e-4),
        (63300, 20000, 8.217265746432625e-5), (63300, 31650, 5.7305216833469224e-5),
        (63300, 63299, 1.000000005909644e-5), (13800, 7900, 5.5e-5),
    ],
)  # fmt: skip
def test_schedule(steps: int, step: int, rate: float) -> None:
    assert network.learning_rate(step, steps, peak=1e-4, floor=1e-5, warmup=2000) == pytest.approx(rate, rel=1e-12)


@given(st.integers(1, 5000), st.integers(0, 3000), st.data())
def test_schedule_stays_between_floor_and_peak(steps: int, warmup: int, data: st.DataObject) -> None:
    step = data.draw(st.integers(0, steps - 1))
    assert 1e-5 <= network.learning_rate(step, steps, peak=1e-4, floor=1e-5, warmup=warmup) <= 1e-4 * (1 + 1e-12)


CORNERS = np.zeros((2, 4, 4, 3), np.uint8)
CORNERS[:, 0, 0], CORNERS[:, 0, 3] = (1, 2, 3), (4, 5, 6)


def test_augmentation_turns_and_reverses() -> None:
    net = make(augment="published")

    def scripted(*coins: bool) -> np.ndarray:
        values = iter(0.1 if coin else 0.9 for coin in coins)
        turned = net.augment(CORNERS, SimpleNamespace(random=lambda: next(values)))  # type: ignore[arg-type]
        assert next(values, None) is None, "coins left over"
        assert turned.shape == CORNERS.shape
        assert np.array_equal(turned[0], turned[1])
        return turned[0]

    no = (False, False, False)
    assert scripted(True, *no)[0, 3].tolist() == [1, 2, 3]  # clockwise: top left to top right
    assert scripted(False, True, *no)[3, 3].tolist() == [1, 2, 3]
    assert scripted(False, False, True, *no)[3, 0].tolist() == [1, 2, 3]
    assert np.array_equal(scripted(False, False, False, *no), CORNERS[0])
    assert scripted(False, False, False, True, False, False)[0, 0].tolist() == [3, 2, 1]
    assert scripted(False, False, False, False, True, False)[3, 0].tolist() == [1, 2, 3]
    assert scripted(False, False, False, False, False, True)[0, 3].tolist() == [1, 2, 3]


def test_augmentation_probabilities() -> None:
    net, rng, n = make(augment="published"), np.random.default_rng(0), 4000
    seen = Counter(net.augment(CORNERS, rng)[0].tobytes() for _ in range(n))
    # Flips mix the turns: a quarter turn of either sense (5/8) ends in four pictures alike, no or half a turn (3/8)
    # in four others, each in two channel orders.
    expected = {}
    for quarter, vertical, horizontal, reverse in itertools.product((False, True), repeat=4):
        image = np.rot90(CORNERS[0], -1) if quarter else CORNERS[0]
        image = image[:: -1 if vertical else 1, :: -1 if horizontal else 1, :: -1 if reverse else 1]
        expected[image.tobytes()] = (5 / 8 if quarter else 3 / 8) / 8
    assert set(seen) == set(expected)
    for image, probability in expected.items():
        assert abs(seen[image] / n - probability) < 4.5 * math.sqrt(probability * (1 - probability) / n)


def test_no_augmentation() -> None:
    net = make(augment="none")
    assert net.augment(CORNERS, np.random.default_rng(0)) is CORNERS


# Routing


@settings(max_examples=12, deadline=None)
@given(arrays.arrays(bool, (3, 9)), st.sampled_from([(16, 48), (32, 32)]))
def test_a_batch_equals_its_samples(filled: network.DMVFN, gates: np.ndarray, size: tuple[int, int]) -> None:
    pair = torch.from_numpy(fill("pair.x", (3, 6, *size))).abs().clamp(0, 1)
    together = filled.next_frame(pair, gates)
    for i in range(3):
        alone = filled.next_frame(pair[i : i + 1], gates[i : i + 1])
        assert torch.allclose(together[i : i + 1], alone, atol=2e-5)


def test_sampled_predictions_depend_on_the_samples_seed_alone(filled: network.DMVFN) -> None:
    frames = torch.stack([tensor(pan(i, 1, 2, size=32, seed=i)) for i in range(4)])
    seeds = [7, 7 + (1 << 32), 9, 7]
    together = filled.predict(frames, 3, seeds=seeds)
    assert together.shape == (4, 3, 3, 32, 32)
    assert together.dtype == torch.float32
    for i, seed in enumerate(seeds):
        assert torch.allclose(together[i], filled.predict(frames[i : i + 1], 3, seeds=[seed])[0], atol=2e-5)
    same = frames[:1].expand(8, -1, -1, -1, -1)
    high = filled.predict(same, 1, seeds=[7 + (i << 32) for i in range(8)])
    assert len({frame.numpy().tobytes() for frame in high}) > 1, "seeds that differ above bit 32 drew the same"


def test_draws_follow_the_probabilities(filled: network.DMVFN) -> None:
    n = 2000
    pair = tensor(pan(2, 1, 2, size=16)).flatten(0, 1)[None]
    p = filled.probabilities(pair)[0].detach().numpy()
    assert p.min() < 0.2 < 0.8 < p.max()
    draws = np.stack([np.random.Generator(np.random.PCG64(seed)).random(9) for seed in range(n)])
    share = filled.choose(pair.expand(n, -1, -1, -1), draws).mean(0)
    assert np.abs(share - p).max() < 4.5 * 0.5 / math.sqrt(n)


def test_router_pools_as_its_convolutions_would(filled: network.DMVFN) -> None:
    pair = torch.rand(2, 6, 32, 48, generator=torch.Generator().manual_seed(0))
    direct = filled.routing(pair).mean((2, 3))
    assert torch.allclose(filled._pooled(pair), direct, atol=1e-6)


def test_no_block_gives_the_older_frame_and_is_counted(filled: network.DMVFN) -> None:
    pair = torch.rand(3, 6, 16, 16, generator=torch.Generator().manual_seed(0))
    gates = np.zeros((3, 9))
    gates[1, 4] = 1
    filled.notes()
    frame = filled.next_frame(pair, gates)
    assert torch.equal(frame[[0, 2]], pair[[0, 2], :3])
    assert not torch.equal(frame[1], pair[1, :3])
    assert filled.empty_selections == 2
    assert [note.split(";")[0] for note in filled.notes()] == ["no block was selected in 2 of 3 frames"]
    assert filled.notes() == []


def test_fixed_vector_and_off(filled: network.DMVFN) -> None:
    frames = tensor(pan(2, 1, 2, size=32))[None]
    bgr = frames.flip(2)
    for routing, gates in (("all", [1] * 9), ([1, 0, 0, 1, 0, 0, 0, 1, 0], [1, 0, 0, 1, 0, 0, 0, 1, 0])):
        net = make(routing=routing)
        net.load_state_dict(filled.state_dict())
        assert not net.stochastic
        first = filled.next_frame(bgr[0].flatten(0, 1)[None], np.array([gates]))
        second = filled.next_frame(torch.cat([bgr[:, 1], first], 1), np.array([gates]))
        expected = torch.stack([first, second], 1).flip(2)  # RGB outside, BGR inside
        assert torch.equal(net.predict(frames, 2, seeds=[0]), expected)
    assert filled.stochastic


@pytest.mark.parametrize("scale", [1, 2, 4])
def test_a_block_ends_with_its_transposed_convolution(filled: network.DMVFN, scale: int) -> None:
    block = filled.blocks()[{4: 0, 2: 3, 1: 6}[scale]][0]
    x = torch.rand(2, 17, 32, 48, generator=torch.Generator().manual_seed(0))
    slow, detail = block._paths(x, scale)
    enlarged = functional.interpolate(slow, scale_factor=2 * scale, mode="bilinear", align_corners=False)
    expected = block.lastconv(torch.cat([enlarged, detail], 1))[:, [4, 0, 1, 2, 3]]
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(block(x, scale), expected, rtol=0, atol=1e-6)
    with torch.no_grad():
        added = torch.ones(2, 5, 32, 48)
        block.add_to(added, x, scale)
    torch.testing.assert_close(added, 1 + expected, rtol=0, atol=1e-6)


def test_a_known_warp_has_the_gradients_of_a_warp() -> None:
    generator = torch.Generator().manual_seed(0)
    pair, gradient = (torch.rand(2, 6, 16, 32, generator=generator, dtype=torch.double) for _ in range(2))
    flow = (4 * torch.randn(2, 4, 16, 32, generator=generator, dtype=torch.double)).requires_grad_()
    warped = network.warp_pair(pair, flow)
    known = network.Warped.apply(pair, flow, warped.detach())
    assert torch.equal(known, warped)
    (expected,), (actual,) = (torch.autograd.grad(each, flow, gradient) for each in (warped, known))
    torch.testing.assert_close(actual, expected)


def test_gradients_of_gated_blocks_are_those_of_their_definition(filled: network.DMVFN) -> None:
    """A block that is gated off moves no state, though its prediction shows what it would do, and its gate learns."""
    pair = torch.rand(2, 6, 32, 48, generator=torch.Generator().manual_seed(0))
    hard = torch.tensor([[1.0, 0, 0, 1, 1, 0, 0, 1, 0], [0, 1, 1, 0, 1, 0, 1, 0, 1]])
    p = filled.probabilities(pair)
    gates, warped, motion, expected = hard + p - p.detach(), pair, pair.new_zeros(2, 5, 32, 48), []
    for i, (block, scale) in enumerate(filled.blocks()):
        step = block(torch.cat([pair, warped, motion], 1), scale)
        now, motion = motion + step, motion + step * gates[:, i].view(-1, 1, 1, 1)
        warped = network.warp_pair(pair, motion[:, 1:])
        shown = now if i < 8 else motion
        expected.append(network.blend(network.warp_pair(pair, shown[:, 1:]), shown[:, :1]))
    actual = filled(pair, hard)
    parameters = list(filled.parameters())
    weights = torch.rand(9, 2, 3, 32, 48, generator=torch.Generator().manual_seed(1))
    totals = [(torch.stack(each) * weights).sum() for each in (expected, actual)]
    torch.testing.assert_close(totals[1], totals[0])
    for ours, theirs in zip(*(torch.autograd.grad(total, parameters) for total in reversed(totals)), strict=True):
        assert (ours - theirs).norm() <= 1e-4 * theirs.norm()


def test_without_routing_is_all_blocks(filled: network.DMVFN) -> None:
    net = make(False, "all")
    net.load_published({k: v for k, v in filled.state_dict().items() if not k.startswith(("routing", "l1"))})
    x = torch.rand(2, 9, 32, 32, generator=torch.Generator().manual_seed(0))
    for ours, gated in zip(net(x), filled(x, torch.ones(2, 9)), strict=True):
        assert torch.allclose(ours, gated, atol=1e-6)
    assert torch.allclose(net(x)[-1], net.next_frame(x[:, :6], np.ones((2, 9))), atol=1e-6)
    assert sum(p.numel() for p in net.parameters()) == 3_559_930 - 11_305
    assert sum(p.numel() for p in filled.parameters()) == 3_559_930


# Bad input


@pytest.mark.parametrize(
    ("height", "width", "words"),
    [(480, 854, "854x480.*848x480, 864x480"), (375, 1242, "1232x368, 1248x368, 1232x384, 1248x384"), (8, 16, "16x16$")],
)
def test_sizes(height: int, width: int, words: str, filled: network.DMVFN) -> None:
    with pytest.raises(ValueError, match=words):
        settings_of().check(height, width)
    with pytest.raises(RetakeError, match=words):
        filled.predict(torch.zeros(1, 2, 3, height, width), 1, seeds=[0])


def test_good_sizes() -> None:
    for height, width in ((512, 1024), (256, 832), (256, 448), (16, 16)):
        settings_of().check(height, width)


def test_too_few_frames(filled: network.DMVFN) -> None:
    with pytest.raises(RetakeError, match="from 2 frames, 1 were given"):
        filled.predict(torch.zeros(1, 1, 3, 16, 16), 1, seeds=[0])


def test_weights_that_are_nan() -> None:
    net = make()
    torch.nn.init.constant_(net.l1.bias, math.nan)
    with pytest.raises(RetakeError, match="router gives NaN"):
        net.predict(torch.zeros(1, 2, 3, 16, 16), 1, seeds=[0])


def published() -> dict[str, torch.Tensor]:
    return {k: torch.from_numpy(v) for k, v in state_dict(GOLDEN / "dmvfn").items()}


@pytest.mark.parametrize("prefix", ["module.", ""])
def test_published_checkpoint(prefix: str, filled: network.DMVFN) -> None:
    net = make(seed=1)
    net.load_published({prefix + k.removeprefix("module."): v for k, v in published().items()})
    assert all(torch.equal(v, filled.state_dict()[k]) for k, v in net.state_dict().items())


def _drop(state: dict[str, torch.Tensor]) -> None:
    del state["module.block3.conv_sq.0.bias"]


def _add(state: dict[str, torch.Tensor]) -> None:
    state["module.block9.conv_sq.0.bias"] = torch.zeros(1)


def _reshape(state: dict[str, torch.Tensor]) -> None:
    state["module.l1.bias"] = torch.zeros(6)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_drop, r"1 missing: block3\.conv_sq\.0\.bias"),
        (_add, r"1 unknown: block9\.conv_sq\.0\.bias"),
        (_reshape, r"1 of another shape: l1\.bias \(6,\) instead of \(9,\)"),
    ],
)
def test_published_checkpoint_spoilt(spoil: Callable[[dict[str, torch.Tensor]], None], words: str) -> None:
    state, net = published(), make(seed=1)
    before = net.l1.weight.clone()
    spoil(state)
    with pytest.raises(RetakeError, match=words):
        net.load_published(state)
    assert torch.equal(net.l1.weight, before)


def test_checkpoint_of_another_network(filled: network.DMVFN) -> None:
    with pytest.raises(RetakeError, match=r"has a router: set network\.routing true"):
        make(False, "all").load_published(filled.state_dict())
    with pytest.raises(RetakeError, match=r"has no router: set network\.routing false"):
        make().load_published(make(False, "all").state_dict())
    keys = json.loads((GOLDEN / "arflow" / "keys.json").read_text())
    with pytest.raises(RetakeError, match="looks like a checkpoint of ARFlow"):
        make().load_published({key: torch.zeros(shape) for key, shape in keys.items()})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"predict": {"routing": False, "weights": "last"}}, "all blocks: all"),
        ({"predict": {"routing": [1, 0, 1], "weights": "last"}}, "list of 9 zeros and ones"),
        ({"predict": {"routing": [2] * 9, "weights": "last"}}, "list of 9 zeros and ones"),
        ({"network": {"routing": False}}, "needs a router"),
        ({"train": {**TRAIN, "window": 2}}, "at least 3 frames"),
        ({"train": {**TRAIN, "crop": 48}}, "crop 48: the Laplacian loss needs a multiple of 32"),
        ({"train": {**TRAIN, "crop": 32}}, "at least 64"),
        ({"train": {**TRAIN, "crop": None}}, "quarter turns need a square crop"),
        ({"train": {**TRAIN, "lr": 1e-6}}, "above lr"),
        ({"train": {**TRAIN, "warmup": 5}}, "warmup"),
    ],
)
def test_bad_params(change: dict[str, Any], words: str) -> None:
    parts = {"train": TRAIN, "network": {"routing": True}, "predict": {"routing": "sampled", "weights": "last"}}
    raw = {"kind": "dmvfn", "checkpoint": None, **parts}
    dmvfn.Params.model_validate(raw)
    with pytest.raises(ValidationError, match=words):
        dmvfn.Params.model_validate({**raw, **change})


# Losses


def direct_bands(images: torch.Tensor) -> list[torch.Tensor]:
    """The definition: 5x5 convolutions of reflect-padded images, zero insertion, float64."""
    kernel = torch.outer(torch.tensor([1, 4, 6, 4, 1]), torch.tensor([1, 4, 6, 4, 1])).double()[None, None] / 256

    def blur(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        padded = functional.pad(x.flatten(0, 1)[:, None], (2, 2, 2, 2), mode="reflect")
        return functional.conv2d(padded, weight).view(x.shape)

    found = []
    for _ in range(5):
        smaller = blur(images, kernel)[..., ::2, ::2]
        spread = torch.zeros_like(images)
        spread[..., ::2, ::2] = smaller
        found.append(images - blur(spread, 4 * kernel))
        images = smaller
    return found


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 4), st.integers(2, 4), st.integers(0, 2**31))
def test_laplacian_is_its_definition(rows: int, columns: int, seed: int) -> None:
    images = torch.rand(3, 2, 3, 32 * rows, 32 * columns, generator=torch.Generator().manual_seed(seed))
    expected = [direct_bands(image.double()) for image in images]
    for j, band in enumerate(laplacian.bands(images)):
        for i in range(3):
            assert torch.allclose(band[i].double(), expected[i][j], atol=2e-6)
    sums = [sum(float((a - b).abs().mean()) for a, b in zip(expected[i], expected[2], strict=True)) for i in range(2)]
    assert laplacian.losses(images[:2], images[2]).tolist() == pytest.approx(sums, abs=1e-5)


def test_laplacian_does_not_see_a_constant_shift() -> None:
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert float(laplacian.losses((image + 0.25)[None], image)[0]) < 1e-5


@pytest.mark.parametrize(("height", "width"), [(32, 64), (64, 80), (48, 64)])
def test_laplacian_sizes(height: int, width: int) -> None:
    with pytest.raises(RetakeError, match=f"{width}x{height} pixels: both sides must be multiples of 32"):
        laplacian.bands(torch.zeros(1, 3, height, width))


def random_vgg() -> dict[str, torch.Tensor]:
    shapes = json.loads((GOLDEN / "dmvfn_losses" / "keys.json").read_text())
    return {key: torch.from_numpy(fill(key, shape)) for key, shape in shapes.items()}


def test_vgg() -> None:
    net = vgg.Vgg({**random_vgg(), "classifier.0.weight": torch.zeros(1)})
    a, b = (tensor(pan(i, 0, 2, size=32, seed=i)) for i in (0, 1))
    assert net.terms(a, a).tolist() == [0.0] * 5
    assert (net.terms(a, b) > 0).all()
    assert not torch.allclose(net.terms(a.flip(1), b.flip(1)), net.terms(a, b)), "channel order must matter"
    target = b.clone().requires_grad_()
    prediction = a.clone().requires_grad_()
    net.terms(prediction, target).sum().backward()
    assert target.grad is None
    assert prediction.grad is not None
    assert prediction.grad.abs().sum() > 0


def test_vgg_channel_order_is_an_option() -> None:
    target, last = tensor(pan(1, 0, 1, seed=1)), tensor(pan(1, 0, 1, seed=2))
    values = []
    for order in ("bgr", "rgb"):
        net = make(vgg_weight=0.5, vgg_channels=order)
        net._vgg = vgg.Vgg(random_vgg())
        fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1)
        flip = order == "rgb"
        values.append(
            net.losses([last.flip(1) if flip else last] * 9, target.flip(1) if flip else target, fabric)["vgg"]
        )
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-6)


def test_vgg_of_another_file() -> None:
    with pytest.raises(RetakeError, match=r"not torchvision's VGG19.*features\.0\.weight"):
        vgg.Vgg({"features.1.weight": torch.zeros(1)})


# Baselines


def test_copy_last() -> None:
    frames = torch.stack([tensor(pan(1, 2, 3, size=16, seed=seed)) for seed in (0, 1)])
    net = copy_last.build(copy_last.Params(kind="copy_last", network=None, train=None, checkpoint=None, predict=None))
    predicted = net.predict(frames, 4, seeds=[0, 0], flow=None)
    assert predicted.shape == (2, 4, 3, 16, 16)
    assert all(torch.equal(predicted[:, k], frames[:, -1]) for k in range(4))


def baseline() -> Any:
    return flow_warp.build(
        flow_warp.Params.model_validate(
            {"kind": "flow_warp", "network": None, "train": None, "checkpoint": None, "predict": {"flow": "dis"}}
        )
    )


def test_flow_warp_is_exact_on_a_translated_texture() -> None:
    motions, horizon, border = [(3, 0), (-2, 1), (0, -3)], 4, 13
    clips = torch.stack([tensor(pan(dx, dy, 2 + horizon, seed=i)) for i, (dx, dy) in enumerate(motions)])
    flow = torch.tensor(motions, dtype=torch.float32)[:, :, None, None].expand(-1, -1, 64, 64)
    predicted = baseline().predict(clips[:, :2], horizon, seeds=[0] * 3, flow=flow)
    inner = (..., slice(border, -border), slice(border, -border))
    assert torch.allclose(predicted[inner], clips[:, 2:][inner], atol=1e-5)
    alone = baseline().predict(clips[1:2, :2], horizon, seeds=[0], flow=flow[1:2])
    assert torch.allclose(predicted[1:2], alone, atol=1e-6)


def test_flow_warp_carries_velocities_along() -> None:
    rate, k = 0.02, 3  # a zoom about x = 0: f(x) = rate x, so v = rate x / (1 + (k+1) rate)
    x = torch.arange(96.0).expand(1, 1, 32, 96)
    flow = torch.cat([rate * x, torch.zeros_like(x)], 1)
    exact = rate * x / (1 + (k + 1) * rate)
    left = (velocity(flow, k)[:, :1] - exact).abs().max()
    assert left < 0.15 * (flow[:, :1] - exact).abs().max()


def test_flow_warp_without_flow() -> None:
    with pytest.raises(RetakeError, match="needs the flow between its two input frames"):
        baseline().predict(torch.zeros(1, 2, 3, 16, 16), 1, seeds=[0])
