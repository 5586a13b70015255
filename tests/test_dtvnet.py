"""DTVNet: sizes, motion vectors, prediction, training step against the published order, checkpoints, bad input."""

from __future__ import annotations

import contextlib
import copy
import logging
from types import SimpleNamespace
from typing import Any

import lightning_fabric
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from pipeline import weights
from pipeline.errors import RetakeError
from pipeline.models import dtvnet
from pipeline.models.dtvnet import network, training

TINY = {"channels": 2, "motion": 8, "content_blocks": 1, "motion_blocks": 2}
STAGE = {
    "max_steps": None, "windows": "all", "max_stride": 1,
    "validation": None, "validate_every": 1, "validate_windows": 1, "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def settings(*, train: dict[str, Any] | None = None, range: str = "unit", **predict: Any) -> dtvnet.Params:
    recipe = None if train is None else STAGE | train
    return dtvnet.Params(
        kind="dtvnet",
        checkpoint=None,
        network=TINY | {"range": range},
        train=recipe,
        predict=predict,
    )


def model(**changes: Any) -> training.DTVNet:
    return dtvnet.build(settings(**changes))


def strong(net: training.DTVNet) -> training.DTVNet:
    """Make the motion vector count: new weights hardly let it through."""
    for adain in net.generator.opt_path.model_AdaIN:
        adain.style.linear["weight_orig"].data *= 5
    return net


def images(count: int, height: int = 8, width: int = 12) -> Tensor:
    return torch.rand(count, 1, 3, height, width)


def flows(count: int, size: int = dtvnet.SIZE) -> Tensor:
    return torch.randn(count, dtvnet.FRAMES, 2, size, size)


# Networks


def test_published_sizes() -> None:
    with torch.device("meta"):
        net = dtvnet.build(dtvnet.Params(kind="dtvnet", checkpoint=None, train=STAGE))
    millions = {part: sum(w.numel() for w in child.parameters()) / 1e6 for part, child in net.named_children()}
    assert {part: round(count, 2) for part, count in millions.items()} == {
        "generator": 8.34, "encoder": 19.80, "motion_norm": 0, "discriminator": 11.16,
    }  # fmt: skip
    assert len(net.generator.state_dict()) == 268


def test_published_recipe() -> None:
    recipe = dtvnet.Train.model_validate(STAGE)
    assert (recipe.batch, recipe.epochs, recipe.seed, recipe.window) == (4, 199, 0, dtvnet.FRAMES)
    rates = [training.rate_factor(epoch, recipe.epochs, recipe.full_rate_epochs) for epoch in range(1, 200)]
    assert rates[:99] == [1] * 99
    assert rates[99] == pytest.approx(100 / 101)
    assert rates[-1] == pytest.approx(1 / 101)


def test_new_weights_are_drawn_as_published() -> None:
    net = dtvnet.build(dtvnet.Params(kind="dtvnet", checkpoint=None, train=STAGE))
    assert net.discriminator is not None
    for conv in (net.generator.decoder[10], net.generator.decoder[6], net.discriminator.slice3[0]):
        assert float(conv.weight.detach().std()) == pytest.approx(0.02, rel=0.02)
    assert not net.generator.decoder[10].bias.any()
    assert float(net.generator.share[5].weight.detach().mean()) == pytest.approx(1, abs=0.01)
    assert float(net.generator.opt_path.opt[0].linear["weight_orig"].detach().std()) == pytest.approx(1, rel=0.02)
    bias = net.generator.opt_path.model_AdaIN[0].style.linear["bias"]
    assert bias.tolist() == [1.0] * 64 + [0.0] * 64
    assert float(net.encoder.downConv6.weight.detach().std()) == pytest.approx(
        1 / (3 * 512 * 32) ** 0.5, rel=0.02
    )  # torch's own


def test_penalty_of_a_linear_score() -> None:
    direction = torch.randn(3 * 4 * 4 * 4)
    score = nn.Sequential(nn.Flatten(), nn.Linear(len(direction), 1))
    score[1].weight.data[:] = direction
    real, fake = torch.rand(2, 3, 4, 4, 4), torch.rand(2, 3, 4, 4, 4)
    penalty = network.gradient_penalty(score, real, fake, torch.rand(2, 1))
    assert float(penalty.detach()) == pytest.approx((float(direction.norm()) - 1) ** 2, rel=1e-5)


def test_flow_target_is_in_its_own_pixels_and_keeps_the_corners() -> None:
    x = torch.linspace(-3, 5, 16).expand(12, 16)
    y = torch.linspace(2, -1, 12)[:, None].expand(12, 16)
    fields = torch.stack([torch.stack([x * t, y * t]) for t in range(3)])[None]
    target = network.flow_target(fields)
    assert target.shape == (1, 6, 6, 8)
    for t in range(3):
        assert torch.allclose(target[0, 2 * t], torch.linspace(-1.5, 2.5, 8).expand(6, 8) * t, atol=1e-5)
        assert torch.allclose(target[0, 2 * t + 1], torch.linspace(1, -0.5, 6)[:, None].expand(6, 8) * t, atol=1e-5)


# Prediction


def test_prediction_is_in_range_and_of_any_horizon() -> None:
    net, frames = model(), images(2)
    for horizon in (1, 5, 32):
        video = net.predict(frames, horizon, seeds=[1, 2])
        assert video.shape == (2, horizon, 3, 8, 12)
        assert video.dtype == torch.float32
        assert 0 <= float(video.min()) < float(video.max()) <= 1


def test_a_seed_gives_the_same_bytes_in_any_batch() -> None:
    net, frames = strong(model()), images(3)
    together = net.predict(frames, 32, seeds=[5, 6, 1 << 40])
    assert torch.equal(together, net.predict(frames, 32, seeds=[5, 6, 1 << 40]))
    alone = torch.cat([net.predict(frames[i : i + 1], 32, seeds=[s]) for i, s in enumerate((5, 6, 1 << 40))])
    assert torch.allclose(alone, together, atol=1e-6)
    other = net.predict(frames, 32, seeds=[5, 7, (1 << 40) + (1 << 33)])
    assert torch.allclose(other[0], together[0], atol=1e-6)
    assert (other[1:] - together[1:]).abs().amax((1, 2, 3, 4)).min() > 1e-4


def test_published_normalisation_depends_on_the_batch_and_silences_a_clip_alone() -> None:
    net, frames = strong(model(quirks=["batch_statistics"])), images(2)
    alone = net.predict(frames[:1], 32, seeds=[5])
    still = net.eval().generator(2 * frames[:1, 0] - 1, torch.zeros(1, 8))[0].transpose(1, 2).clamp(0, 1)
    assert torch.equal(alone, still)
    first, second = net.predict(frames, 32, seeds=[5, 6]), net.predict(frames, 32, seeds=[5, 7])
    assert (first[0] - second[0]).abs().max() > 1e-4
    net.p = settings()
    assert (net.predict(frames[:1], 32, seeds=[5]) - alone).abs().max() > 1e-4


def test_longer_horizons_go_on_from_the_last_frame() -> None:
    net, frames = model(), images(2)
    video = net.predict(frames, 70, seeds=[1, 2])
    assert torch.equal(video[:, :32], net.predict(frames, 32, seeds=[1, 2]))
    for last in (31, 62):
        following = net.predict(video[:, last : last + 1], 32, seeds=[1, 2])
        count = min(31, 69 - last)
        assert torch.equal(video[:, last + 1 : last + 1 + count], following[:, 1 : 1 + count])


def test_symmetric_range_is_the_whole_range_of_tanh() -> None:
    unit, symmetric, frames = model(), model(range="symmetric"), images(2)
    symmetric.load_state_dict(unit.state_dict())
    vectors = unit._vectors([0, 1], None)
    raw = unit.eval().generator(2 * frames[:, 0] - 1, vectors)[0].transpose(1, 2)
    for net, expected in ((unit, raw.clamp(0, 1)), (symmetric, (raw + 1) / 2)):
        assert torch.allclose(net.predict(frames, 32, seeds=[0, 1]), expected, atol=1e-6)
    clip = {"clip": torch.rand(2, 32, 3, 8, 8), "flow": flows(2, 8)}
    assert torch.allclose(symmetric.prepared(clip)[1], 2 * unit.prepared(clip)[1] - 1)


@pytest.mark.parametrize(("height", "width", "nearest"), [(7, 12, "12x8"), (8, 13, "14x8"), (2, 8, "8x4")])
def test_odd_and_small_sizes_are_refused(height: int, width: int, nearest: str) -> None:
    with pytest.raises(RetakeError, match=f"{width}x{height} pixels: .* even sides .* nearest: {nearest}"):
        model().predict(images(1, height, width), 1, seeds=[0])
    with pytest.raises(ValueError, match=nearest):
        settings().check(height, width)


def test_prediction_while_training_leaves_training_as_it_was() -> None:
    net = model(quirks=["batch_statistics", "untrained_encoder"]).train()
    before = copy.deepcopy(net.state_dict())
    first = net.predict(images(2), 32, seeds=[0, 0], motion=flows(2))
    assert net.training and net.generator.training
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    with pytest.raises(RetakeError):
        net.predict(images(2, 7), 32, seeds=[0, 0])
    assert net.training
    assert torch.isfinite(first).all()


# Motion from flow


def test_the_flow_encoder_needs_training() -> None:
    net = model()
    with pytest.raises(RetakeError, match=r"no trained flow encoder.*untrained_encoder"):
        net.predict(images(1), 1, seeds=[0], motion=flows(1))
    net.p.predict.quirks = ["untrained_encoder"]
    with pytest.raises(RetakeError, match="flow encoder takes 32 frames of 128x128 pixels, not 32 of 64x64"):
        net.predict(images(1), 1, seeds=[0], motion=flows(1, 64))


def test_motion_is_normalised_by_what_training_saw() -> None:
    net, given = strong(model()), flows(6)
    for _ in range(3):
        net.motion_norm(net.encoder(given.transpose(1, 2)))
    frames = images(3)
    together = net.predict(frames, 32, seeds=[0] * 3, motion=given[:3])
    alone = net.predict(frames[:1], 32, seeds=[0], motion=given[:1])
    assert torch.allclose(alone[0], together[0], atol=1e-5)


# Training


class Judge(nn.Module):
    """Stands in for the discriminator on small videos."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv3d(3, 2, 4, 4), nn.InstanceNorm3d(2)
        self.score = nn.Linear(2 * 8 * (size // 4) ** 2, 1)

    def forward(self, video: Tensor) -> Tensor:
        return self.score(functional.leaky_relu(self.norm(self.conv(video)), 0.2).flatten(1))


def trainable(size: int = 8, **train: Any) -> training.DTVNet:
    """Return a model with stand-ins for the two networks that take nothing but 128x128."""
    torch.manual_seed(3)
    net = strong(model(train=train))
    net.encoder = nn.Sequential(nn.Flatten(), nn.Linear(2 * 32 * size**2, 8))  # type: ignore[assignment]
    net.discriminator = Judge(size)  # type: ignore[assignment]
    return net


def state(net: training.DTVNet, steps: int = 10) -> Any:
    fabric = SimpleNamespace(autocast=contextlib.nullcontext, world_size=1)
    return SimpleNamespace(fabric=fabric, optimisers=net.configure(), step=0, steps=steps)


def batch(size: int = 8, count: int = 3) -> dict[str, Tensor]:
    return {"clip": torch.rand(count, 32, 3, size, size), "flow": flows(count, size)}


def published_step(net: training.DTVNet, batch: dict[str, Tensor], optimisers: dict[str, Any]) -> dict[str, float]:
    """Take a step in the published order, each loss by its own pass, the penalty's gradients through the generator."""
    image, real, flow, target = net.prepared(batch)
    judge, ones = net.discriminator, torch.ones(len(real), 1, dtype=real.dtype)
    assert judge is not None
    fake, fake_flow = net.generator(image, network.normalised(net.encoder(flow)))
    judge.requires_grad_(True)
    optimisers["discriminator"].zero_grad()
    d_fake = functional.mse_loss(judge(fake.detach()), 0 * ones)
    d_real = functional.mse_loss(judge(real), ones)
    alpha = torch.rand(len(real), 1, dtype=real.dtype).view(-1, 1, 1, 1, 1)
    mixed = alpha * real + (1 - alpha) * fake
    gradient = torch.autograd.grad(judge(mixed), mixed, ones, create_graph=True)[0]
    penalty = (((gradient.flatten(1) + 1e-16).norm(2, dim=1) - 1) ** 2).mean()
    (0.5 * (d_fake + d_real) + 10 * penalty).backward(retain_graph=True)
    optimisers["discriminator"].step()
    judge.requires_grad_(False)
    optimisers["generator"].zero_grad()
    optimisers["encoder"].zero_grad()
    adversarial = functional.mse_loss(judge(fake), ones)
    video, motion = functional.l1_loss(fake, real), functional.l1_loss(fake_flow, target)
    (adversarial + 100 * video + motion).backward()
    optimisers["generator"].step()
    optimisers["encoder"].step()
    named = {"d_fake": d_fake, "d_real": d_real, "gradient_penalty": penalty, "g_adversarial": adversarial}
    return {name: float(loss.detach()) for name, loss in (named | {"l1_video": video, "l1_flow": motion}).items()}


def test_a_step_equals_the_published_order() -> None:
    # Doubles: where a gradient is zero but for rounding, Adam would make a whole step of the rounding
    ours = trainable().double()
    theirs = copy.deepcopy(ours)
    start = copy.deepcopy(ours.state_dict())
    running, optimisers = state(ours), theirs.configure()
    for step in range(2):
        clips = {key: value.double() for key, value in batch().items()}
        running.step = step
        torch.manual_seed(step)
        losses = ours.training_step(clips, running)
        torch.manual_seed(step)
        published = published_step(theirs, clips, optimisers)
        assert losses == pytest.approx(published | {"lr": 3e-4}, rel=1e-6)
    other = theirs.state_dict()
    for key, value in ours.state_dict().items():
        if key.startswith("motion_norm"):  # the published model keeps no averages
            continue
        assert torch.allclose(value, other[key], rtol=0, atol=1e-6), key
        assert "bias" in key or not torch.equal(value, start[key]), f"{key} was not trained"


def test_training_draws_nearer_and_remembers_what_motion_was() -> None:
    net, clips = trainable(lr_generator=3e-3), batch()
    clips["clip"] = clips["clip"].mean((1, 3, 4), keepdim=True).expand(-1, 32, -1, 8, 8).contiguous()
    running = state(net, 25)
    losses = []
    for step in range(running.steps):
        running.step = step
        losses.append(net.training_step(clips, running))
    assert losses[-1]["l1_video"] < 0.5 * losses[0]["l1_video"]
    assert int(net.motion_norm.num_batches_tracked) == running.steps
    vectors = net.eval().encoder(net.prepared(clips)[2])
    assert (net.motion_norm(vectors) - network.normalised(vectors)).abs().max() < 0.5


@pytest.mark.parametrize("mode", ["vanilla", "wgangp"])
def test_other_adversarial_losses_train(mode: str) -> None:
    net = trainable(gan_mode=mode, gradient_penalty=0)
    before = copy.deepcopy(net.state_dict())
    net.training_step(batch(), state(net))
    for part in ("generator.decoder.10.weight", "encoder.1.weight", "discriminator.conv.weight"):
        assert not torch.equal(net.state_dict()[part], before[part])


def test_rates_fall_by_epochs_whatever_the_steps() -> None:
    for steps in (199 * 3, 199):
        net, clips = trainable(), batch(count=2)
        running = state(net, steps)
        for epoch, factor in ((1, 1), (99, 1), (100, 100 / 101), (199, 1 / 101)):
            for step in ((epoch - 1) * steps // 199, epoch * steps // 199 - 1):
                running.step = step
                assert net.training_step(clips, running)["lr"] == pytest.approx(3e-4 * factor)
                rates = {part: o.param_groups[0]["lr"] for part, o in running.optimisers.items()}
                assert rates == pytest.approx(
                    {"generator": 3e-4 * factor, "discriminator": 3e-5 * factor, "encoder": 3e-4 * factor}
                )


def test_state_dicts_are_all_that_a_training_needs_to_go_on() -> None:
    clips = [batch() for _ in range(3)]

    def run(net: training.DTVNet, running: Any, steps: range) -> None:
        for step in steps:
            running.step = step
            torch.manual_seed(step)
            net.training_step(clips[step], running)

    whole = trainable()
    run(whole, state(whole), range(3))
    first = trainable()
    before = state(first)
    run(first, before, range(2))
    second = trainable()
    after = state(second)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for part, optimiser in after.optimisers.items():
        optimiser.load_state_dict(copy.deepcopy(before.optimisers[part].state_dict()))
    run(second, after, range(2, 3))
    assert weights.digest(second.state_dict()) == weights.digest(whole.state_dict())


def test_processes_average_their_gradients() -> None:
    net = trainable()
    before, running = copy.deepcopy(net.state_dict()), state(net)
    averaged = []

    def all_reduce(gradients: tuple[Tensor, ...], reduce_op: str) -> tuple[Tensor, ...]:
        averaged.append((len(gradients), reduce_op))
        return tuple(torch.zeros_like(gradient) for gradient in gradients)

    running.fabric.world_size, running.fabric.all_reduce = 2, all_reduce
    net.training_step(batch(), running)
    count = {part: len(list(child.parameters())) for part, child in net.named_children()}
    assert averaged == [(count["discriminator"], "mean"), (count["generator"] + count["encoder"], "mean")]
    assert all(torch.equal(weight, before[name]) for name, weight in net.named_parameters())


def test_mixed_precision_trains_weights_in_full() -> None:
    net, clips = trainable(), batch()
    fabric = lightning_fabric.Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")
    named = net.configure()
    _, *optimisers = fabric.setup(net, *named.values())
    running = SimpleNamespace(fabric=fabric, optimisers=dict(zip(named, optimisers, strict=True)), step=0, steps=2)
    before = copy.deepcopy(net.state_dict())
    losses = net.training_step(clips, running)
    exact = trainable()
    assert losses["l1_video"] == pytest.approx(exact.training_step(clips, state(exact))["l1_video"], rel=0.01)
    for weight in net.parameters():
        assert weight.dtype == torch.float32
        assert torch.isfinite(weight).all()
    assert not torch.equal(net.generator.decoder[10].weight, before["generator.decoder.10.weight"])


def test_the_real_networks_train() -> None:
    net = model(train={"batch": 2})
    losses = net.training_step(batch(dtvnet.SIZE, 2), state(net))
    assert set(losses) == {"d_fake", "d_real", "gradient_penalty", "g_adversarial", "l1_video", "l1_flow", "lr"}
    assert net.encoder.trained
    with pytest.raises(RetakeError, match="flow encoder takes 32 frames of 128x128 pixels, not 32 of 64x64"):
        net.training_step(batch(64, 2), state(net))
    mixed = batch(64, 2) | {"flow": flows(2)}
    with pytest.raises(RetakeError, match="discriminator takes 32 frames of 128x128 pixels, not 32 of 64x64"):
        net.training_step(mixed, state(net))


def test_a_batch_of_one_cannot_be_trained() -> None:
    net = trainable()
    with pytest.raises(RetakeError, match=r"raise train.batch, or start fewer processes"):
        net.training_step(batch(count=1), state(net))
    with pytest.raises(ValidationError, match="batch"):
        settings(train={"batch": 1})


@pytest.mark.parametrize(
    ("key", "value"), [("window", 16), ("crop", 64), ("epochs", 50), ("gan_mode", "hinge"), ("l1_video", -1)]
)
def test_recipes_that_cannot_be_are_refused(key: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=key):
        settings(train={key: value})


# Checkpoints


def test_published_files_load_alone_and_together(caplog: pytest.LogCaptureFixture) -> None:
    given = model(train={})
    generator, discriminator = given.generator.state_dict(), given.discriminator.state_dict()  # type: ignore[union-attr]
    torch.manual_seed(1)
    net = model(train={})
    net.load_published({f"module.{key}": value for key, value in discriminator.items()})
    assert torch.equal(net.discriminator.slice4[0].weight, discriminator["slice4.0.weight"])  # type: ignore[union-attr]
    assert not torch.equal(net.generator.share[1].weight, generator["share.1.weight"])
    net = model(train={})
    with caplog.at_level(logging.WARNING, logger="retake"):
        net.load_published(generator, discriminator)
    assert "no flow encoder" in caplog.text
    for part, state in (("generator", generator), ("discriminator", discriminator)):
        assert weights.digest(net.get_submodule(part).state_dict()) == weights.digest(state)


def test_an_import_gives_the_same_bytes_each_time() -> None:
    state, digests = model().generator.state_dict(), set()
    for seed in (1, 2):
        torch.manual_seed(seed)
        net = model(quirks=["untrained_encoder", "batch_statistics"])
        net.encoder.downBN2.num_batches_tracked += 1
        draw = torch.get_rng_state()
        net.load_published(state)
        assert torch.equal(torch.get_rng_state(), draw)
        assert not net.encoder.trained
        digests.add(weights.digest(net.state_dict()))
    assert len(digests) == 1


def test_own_checkpoints_load_with_and_without_a_discriminator() -> None:
    trained = model(train={"batch": 2})
    trained.training_step(batch(dtvnet.SIZE, 2), state(trained))
    own = trained.state_dict()
    net = model()
    net.load_published(own)
    assert weights.digest(net.state_dict()) == weights.digest(
        {key: value for key, value in own.items() if not key.startswith("discriminator.")}
    )
    assert net.predict(images(1), 3, seeds=[0], motion=flows(1)).shape == (1, 3, 3, 8, 12)
    again = model(train={})
    again.load_published(own)
    assert weights.digest(again.state_dict()) == weights.digest(own)


def test_foreign_and_broken_checkpoints_are_refused() -> None:
    net = model()
    state = net.generator.state_dict()
    with pytest.raises(RetakeError, match=r"no weights of DTVNet's.*fnet.conv.weight"):
        net.load_published({"fnet.conv.weight": torch.zeros(1)})
    with pytest.raises(RetakeError, match=r"DTV_D.pth is for an entry with `train`"):
        net.load_published(network.Discriminator(1).state_dict())
    with pytest.raises(RetakeError, match=r"not of this generator; keys 1 missing: decoder.10.bias"):
        net.load_published({key: value for key, value in state.items() if key != "decoder.10.bias"})
    with pytest.raises(RetakeError, match=r"1 unknown: decoder.12.weight"):
        net.load_published(state | {"decoder.12.weight": torch.zeros(1)})
    with pytest.raises(RetakeError, match=r"1 of another shape: decoder.10.bias"):
        net.load_published(state | {"decoder.10.bias": torch.zeros(3)})
    with pytest.raises(RetakeError, match=r"network.motion 16, not 8, network.content_blocks 3, not 1"):
        other = dtvnet.Network(**(TINY | {"motion": 16, "content_blocks": 3}))
        net.load_published(network.Generator(other).state_dict())
