"""Stage 1 of i2v-cINN: published layouts, training step, ActNorm, augmentation, LPIPS, checkpoints."""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_cinn import params
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from pipeline import weights
from pipeline.errors import RetakeError
from pipeline.losses import patch, updates, vgg16
from pipeline.losses.augment import Augment, augment, jitter
from pipeline.models.cinn_stage1 import build, network, training

GOLDEN = ROOT / "tests" / "golden"
PUBLISHED: dict[str, tuple[dict[str, Any], float, float]] = {  # network, millions of parameters of encoder and decoder
    "bair": ({"size": 64, "channel_factor": 64, "channels": [64, 128, 256, 512, 512]}, 73.6, 152.8),
    "landscape": ({"size": 128, "channel_factor": 32, "channels": [64, 128, 128, 256, 512]}, 40.5, 40.9),
    "dtdb": ({"size": 128, "channel_factor": 32, "channels": [64, 64, 128, 256, 512]}, 38.8, 40.9),
}
TINY = {"size": 64, "channel_factor": 8, "channels": [16] * 5}
STILL = Augment(brightness=0, contrast=0, saturation=0, hue=0)


@pytest.fixture(autouse=True)
def _seeded() -> Iterator[None]:
    """One thread: small tensors gain nothing from more, and lose much where other jobs share the cores."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def model(size: int = 64, **recipe: Any) -> training.CinnStage1:
    changes = {"perceptual": 0, "epochs": 2, "discriminator_channels": [16] * 5, **recipe}
    return build(params({**TINY, "size": size}, changes))


def untrained(**network: Any) -> training.CinnStage1:
    return build(params({**TINY, **network}))


def stage(net: training.CinnStage1, step: int, steps: int = 2) -> SimpleNamespace:
    """Return what the train stage hands to `training_step`; of two epochs, step 0 is in the first, 1 in the second."""
    fabric = SimpleNamespace(world_size=1, autocast=nullcontext)
    return SimpleNamespace(fabric=fabric, optimisers=net.configure(), step=step, steps=steps)


def batch(clips: int) -> dict[str, Tensor]:
    return {"clip": torch.rand(clips, 17, 3, 64, 64)}


def state_of(net: nn.Module) -> dict[str, Tensor]:
    return {key: value.clone() for key, value in net.state_dict().items()}


def changed_parts(before: dict[str, Tensor], net: nn.Module) -> set[str]:
    return {key.split(".")[0] for key, value in net.state_dict().items() if not torch.equal(value, before[key])}


# Networks


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_keys_shapes_and_parameter_counts(name: str) -> None:
    layout, encoder, decoder = PUBLISHED[name]
    with torch.device("meta"):
        net = build(params(layout))
    listed = json.loads((GOLDEN / "cinn_stage1" / f"published_keys_{name}.json").read_text())
    assert {key: list(value.shape) for key, value in net.state_dict().items()} == listed
    for part, millions in ((net.encoder, encoder), (net.decoder, decoder)):
        assert sum(weight.numel() for weight in part.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("size", [64, 128])
def test_published_keys_and_shapes_of_the_discriminators(size: int) -> None:
    with torch.device("meta"):
        parts = {
            "disc_t": network.TemporalDiscriminator(size, (64, 64, 128, 256, 512)),
            "disc_s": patch.PatchDiscriminator(),
        }
    own = {
        f"{name}.{key}": list(value.shape) for name, part in parts.items() for key, value in part.state_dict().items()
    }
    listed = json.loads((GOLDEN / "cinn_disc" / "keys.json").read_text())
    flags = {f"disc_s.main.{i}.initialized": [] for i in (3, 6, 9)}  # in buffers.npz, not in keys.json
    assert own == {**listed, **flags}


def test_defaults_are_the_published_bair_settings() -> None:
    p = params({}, {})
    assert p.network.model_dump() == PUBLISHED["bair"][0]
    assert p.train is not None
    assert (p.train.batch, p.train.epochs, p.train.window, p.train.seed) == (10, 55, 17, 42)
    assert (p.train.perceptual, p.train.reconstruction, p.train.kl) == (30, 10, 1e-5)


@pytest.mark.parametrize("factor", [0, 4, 12])
def test_a_channel_factor_that_does_not_work_is_refused(factor: int) -> None:
    with pytest.raises(ValidationError, match="channel_factor"):
        params({"channel_factor": factor})


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 128])
def test_sizes_of_codes_and_frames(size: int) -> None:
    net = untrained(size=size).eval()
    clip = torch.rand(1, 17, 3, size, size)
    z, mu, logvar = net.encode(clip[:, 1:])
    assert z.shape == mu.shape == logvar.shape == (1, 64)
    frames = net.decode(clip[:, 0], z)
    assert frames.shape == (1, 16, 3, size, size)
    assert frames.min() >= 0 and frames.max() <= 1
    assert net.encode(clip[:, 1:16])[0].shape == (1, 64)  # motion transfer
    judge = network.TemporalDiscriminator(size, [16] * 5)
    for length in (12, 16):
        assert judge(torch.rand(1, 3, length, size, size))[0].shape == (1, 1)


@torch.no_grad()
def test_a_draw_has_the_posterior_s_mean_and_deviation() -> None:
    net = untrained().eval()
    mu, logvar = torch.linspace(-2, 2, 64).repeat(20_000, 1), torch.linspace(-3, 1, 64).repeat(20_000, 1)
    net.encoder.forward = lambda clip: (mu, logvar)  # type: ignore[method-assign]
    z, _, _ = net.encode(torch.rand(1, 16, 3, 64, 64))
    deviation = (0.5 * logvar[0]).exp()
    assert ((z.mean(0) - mu[0]).abs() / deviation).max() < 5 / 20_000**0.5
    torch.testing.assert_close(z.std(0), deviation, rtol=0.03, atol=0)


@torch.no_grad()
def test_the_start_frame_is_resized_once_for_each_size(monkeypatch: pytest.MonkeyPatch) -> None:
    sides, resize = [], functional.interpolate

    def counted(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        y = resize(x, *args, **kwargs)
        if x.ndim == 4:
            sides.append(y.shape[-1])
        return y

    net = untrained().eval()
    monkeypatch.setattr(functional, "interpolate", counted)
    net.decode(torch.rand(1, 3, 64, 64), torch.zeros(1, 64))
    assert sides == [4, 8, 16, 32, 64]


@pytest.mark.parametrize("frames", [5, 16, 18])
def test_clips_of_another_length_are_refused(frames: int) -> None:
    net = model()
    clip = torch.rand(1, frames, 3, 64, 64)
    for use in (
        net.reconstruct,
        lambda clip: net.validate({"clip": clip}),
        lambda clip: net.training_step({"clip": clip}, stage(net, 0)),
    ):
        with pytest.raises(RetakeError, match=f"a clip of {frames} frames: stage 1 needs 17"):
            use(clip)
    with pytest.raises(RetakeError, match="a clip of 14 frames: the encoder takes 16 frames"):
        net.encode(torch.rand(1, 14, 3, 64, 64))


def test_frames_of_another_size_are_refused() -> None:
    net = model()
    uses: list[Callable[[], Any]] = [
        lambda: net.encode(torch.rand(1, 16, 3, 32, 64)),
        lambda: net.decode(torch.rand(1, 3, 32, 64), torch.zeros(1, 64)),
        lambda: net.training_step({"clip": torch.rand(1, 17, 3, 32, 64)}, stage(net, 0)),
        lambda: net.p.check(32, 64),
    ]
    for use in uses:
        with pytest.raises((RetakeError, ValueError), match="frames of 64x32 pixels: this network takes 64x64"):
            use()


def test_predictions_follow_their_seeds_and_the_clip_s_motion() -> None:
    net = untrained().eval()
    start, motion = torch.rand(2, 1, 3, 64, 64), torch.rand(2, 17, 3, 64, 64)
    drawn = net.predict(start, 16, seeds=[1, 2])
    assert drawn.shape == (2, 16, 3, 64, 64)
    torch.testing.assert_close(net.predict(start[1:], 16, seeds=[2]), drawn[1:], atol=1e-3, rtol=0)
    given = net.predict(start, 20, seeds=[1, 2], motion=motion)
    mu, logvar = net.encoder(training.signed(motion[:, 1:]))
    z = training.sample(mu, logvar, training.draws([1, 2], mu))
    torch.testing.assert_close(given[:, :16], net.decode(start[:, 0], z), atol=1e-3, rtol=0)
    torch.testing.assert_close(given[:, 16:], net.decode(given[:, 15], z)[:, :4], atol=1e-3, rtol=0)
    net.predict(start, 1, seeds=[1, 2], motion=motion[:, :16])  # 15 frames are encoded
    with pytest.raises(RetakeError, match="a clip of 13 frames: the encoder takes 16"):
        net.predict(start, 1, seeds=[1, 2], motion=motion[:, :14])


def test_the_engines_know_which_weights_are_read() -> None:
    assert params({}, {}).pretrained == ["vgg16"]
    assert params({}, {"perceptual": 0}).pretrained == params({}).pretrained == []


# Training


def test_the_first_epoch_trains_encoder_and_decoder_alone() -> None:
    net = model()
    before = state_of(net)
    values = net.training_step(batch(1), stage(net, 0))
    assert changed_parts(before, net) == {"encoder", "decoder"}
    assert set(values) == {"Loss_L1", "Loss_KL", "Loss_VAE"}
    assert values["Loss_VAE"] == pytest.approx(10 * values["Loss_L1"] + 1e-5 * values["Loss_KL"], rel=1e-5)


class Distance:
    """Stands in for LPIPS: quick, and not symmetric."""

    def to(self, device: Any) -> Distance:
        return self

    def __call__(self, a: Tensor, b: Tensor, *, dropout: bool) -> Tensor:
        assert dropout
        return (a - b).square().mean((1, 2, 3)) + a.mean((1, 2, 3))


def descent(net: training.CinnStage1) -> dict[str, torch.optim.Optimizer]:
    """Return optimisers whose steps are proportional to the gradients; Adam's would enlarge rounding."""
    parts = {"vae": [net.encoder, net.decoder], "disc_t": [net.disc_t], "disc_s": [net.disc_s]}
    return {
        name: torch.optim.SGD([weight for module in modules for weight in module.parameters()], lr=0.05)
        for name, modules in parts.items()
    }


def test_a_step_is_what_the_formulas_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """All four networks after one step, against a plain writing of the specification's section 3."""
    monkeypatch.setattr(training, "load_lpips", lambda trunk: Distance())
    net = model(perceptual=30, lr=0.05, lr_gamma=1)
    other, before = copy.deepcopy(net), state_of(net)
    clips = batch(2)
    state = stage(net, 1)
    state.optimisers = descent(net)
    torch.manual_seed(5)
    values = net.training_step(clips, state)

    torch.manual_seed(5)
    losses = plain_step(other, clips["clip"])
    for name, value in losses.items():
        assert values[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name
    assert set(values) == set(losses) | {"Logits_Real_T", "Logits_Fake_T", "Logits_Real_S", "Logits_Fake_S"}
    for key, value in other.state_dict().items():
        wanted, change = ((state[key].float() - before[key]) for state in (other.state_dict(), net.state_dict()))
        rounding = 1e-6 * value.numel() ** 0.5  # a bias in front of a norm has no gradient but that
        assert (change - wanted).norm() <= 2e-3 * wanted.norm() + rounding, key


def test_the_optimisers_are_adam_as_published() -> None:
    net = model()
    optimisers = net.configure()
    assert {name: type(optimiser) for name, optimiser in optimisers.items()} == dict.fromkeys(
        ("vae", "disc_t", "disc_s"), torch.optim.Adam
    )
    given = [id(w) for o in optimisers.values() for group in o.param_groups for w in group["params"]]
    assert sorted(given) == sorted(id(weight) for weight in net.parameters())
    for optimiser in optimisers.values():
        (group,) = optimiser.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (2e-4, (0.5, 0.9), 1e-5)


def plain_step(net: training.CinnStage1, clip: Tensor) -> dict[str, float]:
    """Take one step with BAIR's weights and rate 0.05 in an epoch with discriminators; return the losses."""
    vae, temporal, spatial = descent(net).values()
    seq = 2 * clip - 1
    target = seq[:, 1:].transpose(1, 2)
    mu, logvar = net.encoder(target)
    gen = net.decoder(seq[:, 0], mu + torch.exp(logvar / 2) * torch.randn(mu.shape))
    first = int(torch.randint(5, ()))
    shown = torch.randint(2 * 16, (20,))
    flat_gen, flat_target = (x.transpose(1, 2).reshape(-1, 3, 64, 64) for x in (gen, target))

    real = target[:, :, first : first + 12].clone().requires_grad_()
    fake = gen[:, :, first : first + 12]
    out_real, out_fake = net.disc_t(real)[0], net.disc_t(fake.detach())[0]
    hinge_t = 0.5 * (functional.relu(1 - out_real).mean() + functional.relu(1 + out_fake).mean())
    slope = torch.autograd.grad(out_real.mean(), real, create_graph=True)[0]
    penalty = sum((s**2).sum() for s in slope) / len(slope)
    (hinge_t + 10 * penalty).backward()
    temporal.step()

    out_fake, out_real = net.disc_s(flat_gen[shown].detach()), net.disc_s(flat_target[shown])
    hinge_s = 0.5 * (functional.relu(1 - out_real).mean() + functional.relu(1 + out_fake).mean())
    hinge_s.backward()
    spatial.step()

    vae.zero_grad()
    maps_real = [m.detach() for m in net.disc_t(real)[1]]
    out_t, maps_fake = net.disc_t(fake)
    gen_s, gen_t = -net.disc_s(flat_gen[shown]).mean(), -out_t.mean()
    fmap = sum((a - b).abs().mean() for a, b in zip(maps_fake, maps_real, strict=True)) / 4
    lpips = Distance()(flat_gen, flat_target, dropout=True).mean()
    kl = -0.5 * (1 + logvar - mu**2 - torch.exp(logvar)).sum(1).mean()
    l1 = (gen - target).abs().mean()
    total = gen_s + 1 * gen_t + 10 * fmap + 30 * lpips + 1e-5 * kl + 10 * l1
    total.backward()
    vae.step()
    losses = dict(Loss_L1=l1, Loss_KL=kl, LPIPS=lpips, Loss_GEN_S=gen_s, Loss_GEN_T=gen_t, Loss_Fmap_T=fmap)
    losses |= dict(Loss_Disc_T=hinge_t, L_GP=penalty, Loss_Disc_S=hinge_s, Loss_VAE=total)
    return {name: float(value.detach()) for name, value in losses.items()}


def test_rates_fall_each_epoch_and_the_discriminators_later() -> None:
    net = model(epochs=4, pretrain=2, lr=1.0, lr_gamma=0.5)
    net._encode = lambda clip: (_ for _ in ()).throw(InterruptedError)  # type: ignore[method-assign]
    seen = []
    for step in (0, 9, 10, 29, 39):
        state = stage(net, step, steps=40)
        with pytest.raises(InterruptedError):
            net.training_step(batch(1), state)
        seen.append(tuple(optimiser.param_groups[0]["lr"] for optimiser in state.optimisers.values()))
    assert list(state.optimisers) == ["vae", "disc_t", "disc_s"]
    assert seen == [(1, 1, 1), (1, 1, 1), (0.5, 1, 1), (0.25, 1, 1), (0.125, 0.5, 0.5)]


def test_an_update_moves_the_optimiser_s_weights_alone() -> None:
    a, b = (nn.Parameter(torch.tensor(2.0)) for _ in range(2))
    updates.update(SimpleNamespace(world_size=1), torch.optim.SGD([a], lr=0.1), a**2 * b)
    assert a.item() == pytest.approx(2 - 0.1 * 8)
    assert b.item() == 2 and a.grad is None and b.grad is None


def test_divergence_and_penalty_in_closed_form() -> None:
    mu, logvar = torch.randn(3, 64), torch.randn(3, 64)
    posterior = torch.distributions.Normal(mu, (0.5 * logvar).exp())
    apart = torch.distributions.kl_divergence(posterior, torch.distributions.Normal(0, 1)).sum(1).mean()
    torch.testing.assert_close(training.kl(mu, logvar), apart)
    weight, clip = torch.randn(5), torch.randn(4, 5, requires_grad=True)
    penalty = training.gradient_penalty(clip @ weight, clip)  # the mean logit's slope at each of 4 clips: weight / 4
    torch.testing.assert_close(penalty, weight.square().sum() / 16)


def test_validation_in_closed_form_leaves_the_networks_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    net = model()
    clip = torch.rand(1, 17, 3, 64, 64)
    before = state_of(net)
    net.eval()
    assert set(net.validate({"clip": clip})) == {"val_l1"}
    assert not changed_parts(before, net)
    monkeypatch.setattr(net, "reconstruct", lambda clip: clip[:, 1:] + 0.1)
    assert net.validate({"clip": clip}) == pytest.approx({"val_l1": 0.2}, rel=1e-4)


HALF = """
import sys

import lightning_fabric
import torch

from test_cinn_stage1 import batch, model, stage

torch.set_num_threads(1)
fabric = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
torch.manual_seed(0)
net = model()
state = stage(net, 1)
named = state.optimisers
_, *optimisers = fabric.setup(net, *named.values())
state.fabric, state.optimisers = fabric, dict(zip(named, optimisers))
for step in range(2):
    torch.manual_seed(10 * step + fabric.global_rank)
    net.training_step(batch(1), state)
torch.save(net.state_dict(), f"{sys.argv[1]}/{fabric.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_keep_the_same_weights(tmp_path: Path) -> None:
    """ActNorm too, which each process would set by its own frames."""
    (tmp_path / "half.py").write_text(HALF)
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "half.py", "."]],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent}"},
    )
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["disc_s.main.3.initialized"]
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, atol=1e-6, rtol=1e-5, msg=key)


# ActNorm and LPIPS


def test_actnorm_is_set_by_the_first_batch_and_by_no_other() -> None:
    norm = patch.ActNorm(4)
    first = 3 * torch.randn(5, 4, 6, 7) + torch.arange(4.0).view(1, 4, 1, 1)
    torch.testing.assert_close(norm.eval()(first), first)
    y = norm.train()(first)
    torch.testing.assert_close(y.mean((0, 2, 3)), torch.zeros(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.std((0, 2, 3)), torch.ones(4), atol=1e-5, rtol=0)
    torch.testing.assert_close(norm(first + 9), y + 9 * norm.scale)


def test_actnorm_stays_as_it_was_set_when_it_is_reloaded() -> None:
    norm, again = patch.ActNorm(4), patch.ActNorm(4)
    norm(torch.randn(5, 4, 6, 7) + 2)
    again.load_state_dict(norm.state_dict())
    x = 10 * torch.randn(5, 4, 6, 7)
    torch.testing.assert_close(again(x), norm(x), atol=0, rtol=0)


def lpips() -> vgg16.Lpips:
    sizes = [(64, 3), *[(64, 64)], (128, 64), (128, 128), *[(256, 128), (256, 256), (256, 256)]]
    sizes += [(512, 256), *[(512, 512)] * 5]
    trunk = {}
    for layer, (outputs, inputs) in zip(vgg16.CONVOLUTIONS, sizes, strict=True):
        trunk[f"features.{layer}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        trunk[f"features.{layer}.bias"] = torch.zeros(outputs)
    return vgg16.Lpips(trunk, [torch.rand(1, channels, 1, 1) for channels in (64, 128, 256, 512, 512)])


def test_the_dropout_of_lpips_is_noise_around_its_value() -> None:
    distance = lpips()
    a, b = (2 * torch.rand(1, 3, 32, 32) - 1 for _ in range(2))
    exact = distance(a, b, dropout=False)
    assert torch.equal(exact, distance(a, b, dropout=False))
    assert float(distance(a, a, dropout=True)) == 0
    draws = torch.cat([distance(a, b, dropout=True) for _ in range(20)])
    assert draws.std() > 0
    torch.testing.assert_close(draws.mean(), exact[0], rtol=5 * float(draws.std() / exact) / 20**0.5, atol=0)


def test_lpips_is_read_only_where_it_has_weight(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def missing(name: str) -> None:
        asked.append(name)
        raise weights.Missing("no connection")

    monkeypatch.setattr(weights, "load", missing)
    model(perceptual=0).configure()
    assert not asked
    with pytest.raises(weights.Missing):
        model(perceptual=30).configure()
    assert asked == ["vgg16"]


def test_lpips_takes_a_file_and_the_package_s_heads(tmp_path: Path) -> None:
    torch.save(lpips().trunk, tmp_path / "vgg16.pth")
    distance = vgg16.load_lpips(str(tmp_path / "vgg16.pth"))
    assert [head.shape[1] for head in distance.heads] == [64, 128, 256, 512, 512]
    assert all((head >= 0).all() for head in distance.heads)


# Augmentation


def drawn(recipe: Augment, seed: int, clip: np.ndarray, size: int) -> np.ndarray:
    return augment(clip, np.random.default_rng(seed), size, recipe)


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (*shape, 3), dtype=np.uint8)


def test_augmentation_depends_on_the_seed_alone_and_keeps_the_range() -> None:
    clip = noise(3, 20, 30)
    recipe = Augment(margin=4, brightness=0.3, contrast=0.3, saturation=0.3, hue=0.15)
    first = drawn(recipe, 1, clip, 16)
    assert first.shape == (3, 16, 16, 3) and first.dtype == np.float32
    assert first.min() >= 0 and first.max() <= 1.00001
    assert np.array_equal(first, drawn(recipe, 1, clip, 16))
    assert not np.array_equal(first, drawn(recipe, 2, clip, 16))
    assert clip.dtype == np.uint8 and np.array_equal(clip, noise(3, 20, 30))


def test_all_frames_of_a_clip_are_changed_alike() -> None:
    clip = noise(1, 16, 16).repeat(3, axis=0)
    recipe = Augment(margin=4, hue=0.1)
    for seed in range(5):
        frames = drawn(recipe, seed, clip, 16)
        assert np.array_equal(frames[0], frames[1]) and np.array_equal(frames[0], frames[2])


def test_without_jitter_half_of_the_clips_are_mirrored_and_the_others_untouched() -> None:
    clip = noise(2, 16, 16)
    mirrored = 0
    for seed in range(200):
        frames = drawn(STILL, seed, clip, 16)
        flip = np.allclose(frames, clip[:, :, ::-1] / 255, atol=1e-6)
        assert flip or np.allclose(frames, clip / 255, atol=1e-6)
        mirrored += flip
    assert 70 < mirrored < 130
    never = STILL.model_copy(update={"flip": 0.0})
    assert all(np.allclose(drawn(never, seed, clip, 16), clip / 255, atol=1e-6) for seed in range(9))


def test_colours_that_are_looked_up_are_those_that_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of bytes some changes are looked up, of floats all are computed; frames are changed some at a time."""
    clip = noise(5, 16, 16)
    recipe = Augment(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.1)
    for seed in range(24):
        once = drawn(recipe, seed, clip, 16)
        np.testing.assert_allclose(once, drawn(recipe, seed, clip.astype(np.float32), 16), atol=2e-6)
        with monkeypatch.context() as patch:
            patch.setattr("pipeline.losses.augment.CACHED", 2 * 16 * 16)
            assert np.array_equal(once, drawn(recipe, seed, clip, 16))


def test_crops_begin_anywhere_in_the_margin() -> None:
    rows, columns = np.mgrid[:20, :20].astype(np.uint8)
    clip = np.stack([rows, columns, 0 * rows], -1)[None]
    recipe = Augment(margin=4, brightness=0, contrast=0, saturation=0, hue=0)
    crops = [255 * drawn(recipe, seed, clip, 16)[0] for seed in range(300)]
    corners = {(round(float(c[0, 0, 0])), round(float(c[..., 1].min()))) for c in crops}
    assert corners == {(y, x) for y in range(5) for x in range(5)}


def jittered(image: np.ndarray, factors: list[float], order: list[int]) -> np.ndarray:
    planes = image.astype(np.float32).transpose(2, 0, 1).copy()
    jitter(planes, np.array(factors), np.array(order))
    return planes.transpose(1, 2, 0)


@settings(max_examples=30, deadline=None)
@given(f=st.floats(0.5, 1.5), seed=st.integers(0, 99))
def test_jitter_of_each_kind_in_closed_form(f: float, seed: int) -> None:
    x = np.random.default_rng(seed).random((4, 5, 3)).astype(np.float32)
    value = x.max(-1, keepdims=True)
    saturation = (value - x.min(-1, keepdims=True)) / value
    ratio = np.minimum(f, 1 / saturation)  # of the new saturation, which ends at 1, and the old one
    for factors, wanted in (
        ([f, 1, 1, 0], np.clip(x + (f - 1), 0, 1)),
        ([1, f, 1, 0], np.clip(x * f, 0, 1)),
        ([1, 1, f, 0], value - (value - x) * ratio),
        ([1, 1, 1, 1 / 3], np.roll(x, 1, -1)),  # a third of a turn: red becomes green
        ([1, 1, 1, -1 / 3], np.roll(x, -1, -1)),
        ([1, 1, 1, 0], x),
    ):
        np.testing.assert_allclose(jittered(x, factors, [0, 1, 2, 3]), wanted, atol=2e-5)
    both = [1.5 * f, 1.2, 1, 0]
    np.testing.assert_allclose(
        jittered(x, both, [1, 0]), np.clip(np.clip(1.2 * x, 0, 1) + 1.5 * f - 1, 0, 1), atol=2e-5
    )
    np.testing.assert_allclose(
        jittered(x, both, [0, 1]), np.clip(1.2 * np.clip(x + 1.5 * f - 1, 0, 1), 0, 1), atol=2e-5
    )


# Checkpoints


def files(net: nn.Module, **changes: Any) -> dict[str, Any]:
    """Return a network's weights as published files, in their places."""
    own = net.state_dict()
    parts = {
        file: {
            "epoch": 7,
            "state_dict": {k.removeprefix(f"{part}."): v for k, v in own.items() if k.startswith(f"{part}.")},
        }
        for file, part in training.PUBLISHED.items()
    }
    return {file: tree for file, tree in {**parts, **changes}.items() if tree is not None and tree["state_dict"]}


@pytest.fixture(scope="module")
def trained() -> training.CinnStage1:
    torch.manual_seed(3)
    return model()


def test_published_files_are_loaded(trained: training.CinnStage1) -> None:
    net = untrained()
    net.load_published(files(trained))  # the discriminators have no place here
    for key, value in net.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key
    net = model()
    before = state_of(net)
    net.load_published({file: tree["state_dict"] for file, tree in files(trained, DISC_t=None, DISC_s=None).items()})
    assert changed_parts(before, net) == {"encoder", "decoder"}
    net.load_published(files(trained))
    assert all(torch.equal(value, trained.state_dict()[key]) for key, value in net.state_dict().items())


def test_our_own_weights_are_loaded(trained: training.CinnStage1) -> None:
    for net in (untrained(), model()):
        net.load_published(trained.state_dict())
        assert all(torch.equal(value, trained.state_dict()[key]) for key, value in net.state_dict().items())


def test_wrong_pairings_are_refused(trained: training.CinnStage1) -> None:
    right = files(trained)
    wider, deeper = files(untrained(channel_factor=16)), files(untrained(channels=[16, 16, 16, 32, 32]))
    for given_files, words in (
        (files(trained, GEN=None), "GEN is missing"),
        (files(trained, ENC=None), "ENC is missing"),
        (files(trained, GEN=right["ENC"]), r"GEN is not of this network: it holds an encoder \(ENC\)"),
        (files(trained, ENC=right["GEN"]), r"ENC is not of this network: it holds a decoder \(GEN\)"),
        (files(trained, DISC_t=right["DISC_s"]), r"DISC_t is not of this network: it holds a patch discriminator"),
        (
            files(trained, GEN=wider["GEN"]),
            r"GEN is not of this network: network has channel_factor 8, .*of another shape: fc.weight",
        ),
        (files(trained, ENC=deeper["ENC"]), r"ENC is not of this network: network has .* channels \[16"),
        (files(trained, ENC={**right["ENC"], "epoch": 8}), "GEN after 7 epochs, ENC after 8 epochs"),
        ({**right, "DISC_x": right["DISC_s"]}, r"no file 'DISC_x' \(did you mean 'DISC_"),
        (right["GEN"]["state_dict"], "these weights have no GEN: stage 1 needs the files GEN and ENC"),
        ({"decoder.conv_img.bias": torch.zeros(3)}, "GEN is not of this network.* keys .* missing: "),
    ):
        net = model()
        before = state_of(net)
        with pytest.raises(RetakeError, match=words):
            net.load_published(given_files)
        assert not changed_parts(before, net)


def test_a_training_s_state_goes_through_a_file(trained: training.CinnStage1, tmp_path: Path) -> None:
    net = copy.deepcopy(trained)
    net.training_step(batch(1), stage(net, 1))
    weights.save(tmp_path / "state.pt", {"network": net.state_dict()})
    again = model()
    again.load_state_dict(weights.load_tree(tmp_path / "state.pt")["network"])
    assert {key.split(".")[0] for key in again.state_dict()} == {"encoder", "decoder", "disc_t", "disc_s"}
    assert not changed_parts(state_of(net), again)
    assert again.disc_s.main[3].initialized
