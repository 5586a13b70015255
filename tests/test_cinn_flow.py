"""i2v-cINN's flow, its training and prediction, and the conditioning auto-encoder, by what must hold for any weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning_fabric as lightning
import numpy as np
import pytest
import torch
from torch import Tensor

from pipeline import weights
from pipeline.errors import RetakeError
from pipeline.losses.vgg16 import CONVOLUTIONS, Lpips
from pipeline.models import cinn, cinn_ae
from pipeline.models.cinn.flow import SLOPE, Block, ConditionalFlow, likelihood, one_hot
from pipeline.models.cinn.training import LEAST, REACH, Cinn
from pipeline.models.cinn_ae.network import Spectral
from pipeline.models.cinn_ae.training import AutoEncoder, balance, divergence
from pipeline.models.cinn_stage1.training import draws

MIXTURE = torch.tensor([[[2.0, 0, 1, -1], [-2, 0, 1, 1]], [[0, 3, -1, 0], [0, 3, 2, 0]]])  # condition, component, value
SPREAD = 0.4
STAGE1 = {"channel_factor": 8, "channels": [16] * 5}


def flow_of(channels: int = 4, condition: int = 2, *, control: bool = False, blocks: int = 5) -> ConditionalFlow:
    return ConditionalFlow(channels, condition, blocks=blocks, width=16, depth=1, control=control)


def conditions(count: int, which: Tensor | None = None) -> Tensor:
    which = torch.arange(count) % 2 if which is None else which
    return torch.nn.functional.one_hot(which, 2).float()


def mixture(condition: Tensor) -> Tensor:
    """Return draws of the mixture, one for each condition (B, 2)."""
    component = torch.randint(2, (len(condition),))
    return MIXTURE[condition.argmax(1), component] + SPREAD * torch.randn(len(condition), 4)


@pytest.fixture(scope="module")
def trained() -> ConditionalFlow:
    torch.manual_seed(0)
    flow, steps, lr = ConditionalFlow(4, 2, blocks=4, width=32, depth=1, control=False), 300, 1e-2
    optimiser = torch.optim.Adam(flow.parameters(), lr=lr)
    for step in range(steps):
        condition = conditions(128)
        loss = likelihood(*flow(mixture(condition), condition))["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.param_groups[0]["lr"] = lr * (1 - step / steps)
        optimiser.step()
    return flow.eval().requires_grad_(False)


# The flow


@pytest.mark.parametrize("control", [False, True])
@pytest.mark.parametrize(("kind", "bound"), [(torch.float32, 1e-4), (torch.float64, 1e-9)])
def test_inverse_of_forward_with_random_weights(control: bool, kind: torch.dtype, bound: float) -> None:
    torch.manual_seed(1)
    flow = ConditionalFlow(64, 94, blocks=20, width=64, depth=2, control=control).to(kind)
    code, condition = torch.randn(128, 64, dtype=kind), torch.randn(128, 94, dtype=kind)
    with torch.no_grad():
        residual, _ = flow(code, condition)
        assert (residual - code).abs().max() > 0.1
        assert (flow.inverse(residual, condition) - code).abs().max() < bound
        fresh = torch.randn_like(code)
        assert (flow(flow.inverse(fresh, condition), condition)[0] - fresh).abs().max() < bound


def test_inverse_of_forward_with_trained_weights(trained: ConditionalFlow) -> None:
    condition = conditions(256)
    code = mixture(condition)
    assert (trained.inverse(trained(code, condition)[0], condition) - code).abs().max() < 1e-4


def test_log_determinant_is_that_of_the_jacobian() -> None:
    torch.manual_seed(2)
    flow = flow_of(6).double()
    codes, condition = torch.randn(32, 6, dtype=torch.float64), torch.randn(32, 2, dtype=torch.float64)
    flow(codes, condition)  # sets ActNorm
    published, exact = flow(codes, condition)[1], flow(codes, condition, exact=True)[1]
    for i in range(3):
        jacobian = torch.autograd.functional.jacobian(lambda x, i=i: flow(x, condition[i : i + 1])[0], codes[i : i + 1])
        assert torch.linalg.slogdet(jacobian[0, :, 0])[1].item() == pytest.approx(exact[i].item(), abs=1e-9)
    negative = torch.zeros(32)
    x = codes
    for block in flow.sub_layers:
        assert isinstance(block, Block)
        negative += (block.normalised(x)[0] < 0).sum(1)
        x, _ = block(x, condition)
    assert negative.max() > 0
    assert torch.allclose(published - exact, -math.log(SLOPE) * negative.double(), atol=1e-9)


def test_with_control_three_of_four_blocks_see_the_condition_alone() -> None:
    flow, x, condition = flow_of(control=True), torch.randn(3, 4), torch.randn(3, 2)
    changed = x.clone()
    changed[:, 0] += 1  # of the half that is kept at first
    for i, block in enumerate(flow.sub_layers):
        coupling = block.get_submodule("coupling")
        same = coupling(changed, condition)[0][:, 0].equal(coupling(x, condition)[0][:, 0])
        assert same == (i % 4 != 0)


def test_the_first_batch_sets_act_norm_in_evaluation_too_and_no_later_one() -> None:
    torch.manual_seed(3)
    flow = flow_of(blocks=1).eval()
    codes = 3 + 5 * torch.randn(64, 4)
    block = flow.sub_layers[0]
    assert isinstance(block, Block)
    flow(codes, conditions(64))
    normed = block.normalised(codes)[0]
    assert normed.mean(0).abs().max() < 1e-5 and (normed.std(0) - 1).abs().max() < 1e-5

    reloaded = flow_of(blocks=1).train()
    reloaded.load_published(flow.state_dict())
    reloaded(torch.randn(64, 4), conditions(64))
    for key, value in flow.state_dict().items():
        assert value.equal(reloaded.state_dict()[key]), key


def _process(rank: int, folder: str, codes: Tensor) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.manual_seed(4)
    flow = torch.nn.parallel.DistributedDataParallel(flow_of())
    share = codes.chunk(2)[rank]
    flow(share, conditions(len(share)))[0].sum().backward()
    torch.save(flow.module.state_dict(), f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_set_act_norm_as_one_does(tmp_path: Path) -> None:
    codes = torch.randn(64, 4) * torch.tensor([1, 2, 3, 4])
    torch.multiprocessing.spawn(_process, (str(tmp_path), codes), nprocs=2)
    torch.manual_seed(4)
    flow = flow_of()
    flow(codes, conditions(64))
    for rank in (0, 1):
        state = torch.load(tmp_path / f"{rank}.pt")
        for key, value in flow.state_dict().items():
            assert torch.allclose(value.float(), state[key].float(), atol=1e-5), (rank, key)


def test_training_makes_a_conditional_mixture_gaussian(trained: ConditionalFlow) -> None:
    torch.manual_seed(5)
    for which in (0, 1):
        condition = conditions(4096, torch.full((4096,), which))
        residual, _ = trained(mixture(condition), condition)
        assert residual.mean(0).abs().max() < 0.15
        assert (residual.std(0) - 1).abs().max() < 0.15
        assert (torch.corrcoef(residual.T) - torch.eye(4)).abs().max() < 0.15
        # A Gaussian's quartiles hold half of it, those of a mixture that was only moved and scaled nearly nothing
        assert ((residual.abs() < 0.6745).float().mean(0) - 0.5).abs().max() < 0.2

        drawn = trained.inverse(torch.randn(4096, 4), condition)
        assert (drawn.mean(0) - MIXTURE[which].mean(0)).abs().max() < 0.2
        nearest = (drawn[:, None] - MIXTURE[which]).square().sum(2).argmin(1)
        assert 0.4 < nearest.float().mean() < 0.6


@pytest.mark.parametrize(
    ("position", "place"), [(0.0, 0), (0.1, 0), (0.1001, 1), (0.55, 5), (0.9, 8), (1.0, 9), (-1e-7, 0), (1 + 1e-7, 9)]
)
def test_bins_of_end_points(position: float, place: int) -> None:
    code = one_hot(torch.tensor([[position, 0.0, 1.0]]))
    assert code.shape == (1, 30) and code.dtype == torch.float32
    assert code[0].nonzero().flatten().tolist() == [place, 10, 29]


@pytest.mark.parametrize("wrong", [-1e-3, 1.001, math.nan])
def test_end_points_outside_are_refused(wrong: float) -> None:
    with pytest.raises(RetakeError, match="must lie in"):
        one_hot(torch.tensor([[0.5, wrong, 0.5]]))


# The whole


def params_of(*, control: bool = False, norm: str = "in", quirks: list[str] | None = None) -> cinn.Params:
    network = {"blocks": 3, "width": 16, "depth": 0, "control": control, "stage1": STAGE1, "encoder": {"norm": norm}}
    train = {"batch": 4, "epochs": 4, "lr": 1e-3, "lr_epochs": 2, "quirks": quirks or []}
    return cinn.Params.model_validate({"kind": "cinn", "network": network, "train": train})


def started(p: cinn.Params) -> Cinn:
    """Return a model whose ActNorms were set by motion codes, in evaluation mode."""
    torch.manual_seed(6)
    model = cinn.build(p).eval()
    model.flow(torch.randn(64, 64), torch.randn(64, model.flow.condition))
    return model


@pytest.fixture(scope="module")
def model() -> Cinn:
    return started(params_of())


def state_of(model: Any) -> Any:
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    named = model.configure()
    module, *optimisers = fabric.setup(model, *named.values())
    optimisers = dict(zip(named, optimisers, strict=True))
    return SimpleNamespace(fabric=fabric, module=module, optimisers=optimisers, step=0, steps=4)


def test_samples_depend_on_seed_and_start_frame_alone(model: Cinn) -> None:
    torch.manual_seed(7)
    frames = torch.rand(1, 1, 3, 64, 64)
    first = model.predict(frames, 16, seeds=[1])
    torch.manual_seed(8)
    assert first.shape == (1, 16, 3, 64, 64) and first.min() >= 0 and first.max() <= 1
    assert first.numpy().tobytes() == model.predict(frames, 16, seeds=[1]).numpy().tobytes()
    assert not first.equal(model.predict(frames, 16, seeds=[2]))
    assert not first.equal(model.predict(frames, 16, seeds=[1 + (1 << 63)]))
    residual = draws([1], frames)
    codes = [model.flow.inverse(residual, model.condition(start[:, 0], None)) for start in (frames, 1 - frames)]
    assert (codes[0] - codes[1]).abs().max() > 1e-3


def test_longer_videos_go_on_from_the_last_frame_with_the_same_code(model: Cinn) -> None:
    frames = torch.rand(1, 1, 3, 64, 64)
    video = model.predict(frames, 20, seeds=[3])
    assert video.shape[1] == 20
    assert video[:, :16].equal(model.predict(frames, 16, seeds=[3]))
    assert video[:, :5].equal(model.predict(frames, 5, seeds=[3]))
    code = model.flow.inverse(draws([3], frames), model.condition(frames[:, 0], None))
    assert video[:, 16:].equal(model.stage1.decode(video[:, 15], code)[:, :4].detach())


def test_motion_is_transferred(model: Cinn) -> None:
    torch.manual_seed(9)
    clip = torch.rand(1, 17, 3, 64, 64)
    onto = torch.rand(1, 1, 3, 64, 64)
    moved = model.predict(onto, 16, seeds=[0], motion=clip)
    assert moved.equal(model.predict(onto, 16, seeds=[5], motion=clip[:, :16]))  # neither seed nor frame 16 counts
    assert not moved.equal(model.predict(onto, 16, seeds=[0], motion=clip.flip(1)))
    assert model.predict(onto, 16, seeds=[0], motion=clip[:, :15]).shape == moved.shape
    with pytest.raises(RetakeError, match="15 frames or more, 14 were given"):
        model.predict(onto, 16, seeds=[0], motion=clip[:, :14])

    # Onto its own start frame, the flow's inverse undoes the flow: the code is the posterior's mean
    own = model.predict(clip[:, :1], 16, seeds=[0], motion=clip)
    _, mean, _ = model.stage1.encode(clip[:, 1:16])
    assert (own - model.stage1.decode(clip[:, 0], mean)).abs().max() < 1e-3


def test_end_points_control(model: Cinn) -> None:
    controlled = started(params_of(control=True))
    frames = torch.rand(1, 1, 3, 64, 64)
    corners = [torch.tensor([LEAST]) + share * torch.tensor([REACH]) for share in (0.0, 1.0)]
    residual = draws([1], frames)
    codes = [controlled.flow.inverse(residual, controlled.condition(frames[:, 0], corner)) for corner in corners]
    assert (codes[0] - codes[1]).abs().max() > 1e-3
    assert controlled.predict(frames, 2, seeds=[1], endpoint=corners[0]).shape[1] == 2
    with pytest.raises(RetakeError, match="must lie in"):
        controlled.predict(frames, 2, seeds=[1], endpoint=corners[1] + 0.2)
    with pytest.raises(RetakeError, match="give one for each clip"):
        controlled.predict(frames, 2, seeds=[1])
    with pytest.raises(RetakeError, match="without control"):
        controlled.predict(frames, 2, seeds=[1], endpoint=corners[0], motion=frames.expand(1, 16, 3, 64, 64))
    with pytest.raises(RetakeError, match="knows no end points"):
        model.predict(frames, 2, seeds=[1], endpoint=corners[0])


def test_bad_questions_are_refused(model: Cinn) -> None:
    frames = torch.rand(1, 1, 3, 64, 64)
    with pytest.raises(RetakeError, match="at least 1"):
        model.predict(frames, 0, seeds=[1])
    with pytest.raises(RetakeError, match="32x32"):
        model.predict(frames[..., :32, :32], 1, seeds=[1])
    with pytest.raises(RetakeError, match="not finite"):
        model.predict(frames * math.nan, 1, seeds=[1])


@pytest.mark.parametrize("quirks", [[], ["batch_statistics"]])
def test_a_step_trains_the_flow_alone(quirks: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Cinn, "start_from", lambda *_: None)
    monkeypatch.setattr("pipeline.weights.starting", lambda *_, **__: {})
    torch.manual_seed(10)
    model = cinn.build(params_of(control=True, norm="bn", quirks=quirks))
    state = state_of(model)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    batch = {
        "clip": torch.rand(4, 17, 3, 64, 64),
        "endpoint": torch.tensor(LEAST) + torch.rand(4, 3) * torch.tensor(REACH),
    }
    rates = []
    for _ in range(state.steps):
        values = model.training_step(batch, state)
        state.step += 1
        assert values["loss"] == pytest.approx(values["nll_loss"] + values["nlogdet_loss"], rel=1e-4, abs=1e-4)
        rates.append(values["lr"])
    assert rates == [1e-3, 1e-3, 5e-4, 5e-4]
    changed = {key for key, value in model.state_dict().items() if not value.equal(before[key])}
    trained = {f"flow.{name}" for name, _ in model.flow.named_parameters()}
    assert changed == trained | {f"flow.sub_layers.{i}.norm_layer.initialized" for i in range(3)}


def test_published_batch_statistics_are_a_quirk_of_training() -> None:
    frames = torch.rand(4, 3, 64, 64)
    frames[3] *= 0.1
    for quirks, mates_count in (([], False), (["batch_statistics"], True)):
        torch.manual_seed(11)
        model = cinn.build(params_of(norm="bn", quirks=quirks))
        alone, mates = model.condition(frames[:2], None), model.condition(frames, None)[:2]
        assert ((alone - mates).abs().max() > 1e-3) == mates_count
        model.eval()
        alone, mates = model.condition(frames[:2], None), model.condition(frames, None)[:2]
        assert (alone - mates).abs().max() < 1e-5
        assert not model.train().stage1.training and not model.stage1.decoder.training


def test_clips_are_augmented_to_the_size_of_the_networks(model: Cinn, auto_encoder: AutoEncoder) -> None:
    for network, frames in ((model, 17), (auto_encoder, 1)):
        clip = np.full((frames, 40, 50, 3), 100, np.uint8)
        changed = network.augment(clip, np.random.default_rng(0))
        assert changed.shape == (frames, 64, 64, 3) and changed.dtype == np.float32
        assert 0.2 < changed.mean() < 0.6 and abs(changed.mean() - 100 / 255) > 1e-4


# Checkpoints


def files_of(model: Cinn) -> dict[str, Any]:
    """Return the four published files of a model."""
    stage1 = model.stage1
    parts = {"cINN": model.flow, "GEN": stage1.decoder, "ENC": stage1.encoder, "encoder_stage2": model.encoder}
    return {name: {"state_dict": part.state_dict()} for name, part in parts.items()}


def test_published_files_and_own_checkpoints_load(model: Cinn) -> None:
    for state in (files_of(model), model.state_dict()):
        other = cinn.build(params_of())
        other.load_published(state)
        for key, value in model.state_dict().items():
            assert value.equal(other.state_dict()[key]), key


def test_training_starts_from_the_checkpoints_of_both_other_models(
    model: Cinn, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The best weights of stage 1, the last ones of the encoder."""
    ae = {f"encoder.{key}": value for key, value in model.encoder.state_dict().items()}
    zeros = {key: torch.zeros_like(value) for key, value in model.stage1.state_dict().items()}
    monkeypatch.chdir(tmp_path)
    for kind, last, best in (
        ("cinn_stage1", zeros, model.stage1.state_dict()),
        ("cinn_ae", ae | {"decoder.linear": torch.zeros(1)}, None),
    ):
        path = Path(f"data/checkpoints/{kind}/bair.pt")
        path.parent.mkdir(parents=True)
        weights.save(path, {"kind": kind, "weights": last, "best": best})
    other = cinn.build(params_of())
    other.configure()
    for part in ("stage1", "encoder"):
        own, loaded = (m.get_submodule(part).state_dict() for m in (model, other))
        assert all(value.equal(loaded[key]) for key, value in own.items())


def _another(files: dict[str, Any]) -> None:
    head = files["encoder_stage2"]["state_dict"]
    for name in ("weight", "bias"):
        key = f"model.fc.sub_layers.0.{name}"
        head[key] = torch.cat([head[key], head[key]])


def _swap(files: dict[str, Any]) -> None:
    files["GEN"], files["ENC"] = files["ENC"], files["GEN"]


def _controlled(files: dict[str, Any]) -> None:
    files["cINN"] = {"state_dict": started(params_of(control=True)).flow.state_dict()}


def _no_permutation(files: dict[str, Any]) -> None:
    files["cINN"]["state_dict"]["sub_layers.1.shuffle.forward_shuffle_idx"] = torch.zeros(64, dtype=torch.int64)


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_another, "gives embeddings of 128 values, its z_dim here is 64"),
        (_swap, "GEN is not of this network"),
        (_controlled, "condition 94 instead of 64, control True instead of False"),
        (_no_permutation, "block 1 is no permutation"),
        (lambda files: files.pop("GEN"), "four files"),
        (lambda files: files["encoder_stage2"]["state_dict"].pop("model.conv1.weight"), "missing: model.conv1.weight"),
    ],
)
def test_files_that_do_not_belong_together_are_refused(
    model: Cinn, spoil: Callable[[dict[str, Any]], Any], told: str
) -> None:
    files = {name: {"state_dict": dict(tree["state_dict"])} for name, tree in files_of(model).items()}
    spoil(files)
    with pytest.raises(RetakeError, match=told):
        cinn.build(params_of()).load_published(files)


def test_the_flow_alone_is_refused(model: Cinn) -> None:
    with pytest.raises(RetakeError, match="cINN holds the flow alone"):
        model.load_published(model.flow.state_dict())


# The auto-encoder


def ae_params(**train: Any) -> cinn_ae.Params:
    recipe = {"batch": 4, "epochs": 2, "perceptual": 0, "discriminator_from": 1, **train}
    return cinn_ae.Params.model_validate({"kind": "cinn_ae", "network": {"width": 4}, "train": recipe})


@pytest.fixture(scope="module")
def auto_encoder() -> AutoEncoder:
    torch.manual_seed(12)
    return cinn_ae.build(ae_params())


def test_the_discriminator_rests_until_its_epoch(auto_encoder: AutoEncoder) -> None:
    state = state_of(auto_encoder)
    batch = {"clip": torch.rand(4, 1, 3, 64, 64)}

    def changed(before: dict[str, Tensor]) -> set[str]:
        parts = {key.split(".")[0] for key, value in auto_encoder.state_dict().items() if not value.equal(before[key])}
        return parts - {"plateau"}

    state.step = 1
    before = {key: value.clone() for key, value in auto_encoder.state_dict().items()}
    values = auto_encoder.training_step(batch, state)
    assert changed(before) == {"encoder", "decoder"}
    assert values["nll"] == pytest.approx(values["rec"] * 3 * 64 * 64, rel=1e-4)
    assert auto_encoder.plateau.tolist() == pytest.approx([values["rec"], 0])  # the epoch ended
    state.step = 2
    values = auto_encoder.training_step(batch, state)
    assert changed(before) == {"encoder", "decoder", "discriminator"}
    assert 0 < values["adversarial_weight"] <= 1e4
    attention = [key for key in before if key.startswith("decoder.decoder.attention.")]
    assert attention and all(auto_encoder.state_dict()[key].equal(before[key]) for key in attention)


def test_rates_are_halved_when_two_epochs_bring_nothing() -> None:
    first, second = (cinn_ae.build(ae_params()) for _ in range(2))
    optimisers = first.configure()

    def rates() -> set[float]:
        return {group["lr"] for optimiser in optimisers.values() for group in optimiser.param_groups}

    for error in (1.0, 0.5, 0.49995):  # less than 1e-4 better is not better
        first._end_epoch(error, optimisers)
    assert rates() == {2e-4}
    second.load_published(first.state_dict())  # a resumed training
    second._end_epoch(0.6, optimisers)
    assert rates() == {1e-4}
    second._end_epoch(0.4, optimisers)
    assert rates() == {1e-4} and second.plateau.tolist() == pytest.approx([0.4, 0])


def test_reconstruction_adds_lpips_to_every_pixel(auto_encoder: AutoEncoder) -> None:
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    torch.manual_seed(13)
    trunk = {}
    for layer, inputs, outputs in zip(CONVOLUTIONS, widths, widths[1:], strict=False):
        trunk[f"features.{layer}.weight"] = torch.randn(outputs, inputs, 3, 3) * (2 / (9 * inputs)) ** 0.5
        trunk[f"features.{layer}.bias"] = torch.zeros(outputs)
    distance = Lpips(trunk, [torch.rand(1, width, 1, 1) for width in (64, 128, 256, 512, 512)])
    model = cinn_ae.build(ae_params(perceptual=0.5, quirks=[])).eval()
    images = 2 * torch.rand(2, 3, 64, 64) - 1
    with torch.no_grad():
        _, made, plain = model.losses(images, adversarial=False)
        model._lpips = distance
        _, _, values = model.losses(images, adversarial=False)
        added = 0.5 * distance(images, made, dropout=False).mean()
    assert added > 0.01
    assert float(values["rec"] - plain["rec"]) == pytest.approx(float(added), rel=1e-4)


def test_losses_in_closed_form() -> None:
    assert divergence(torch.zeros(2, 5), torch.zeros(2, 5)) == 0
    assert divergence(torch.full((2, 5), 2.0), torch.zeros(2, 5)) == pytest.approx(10)
    assert divergence(torch.zeros(2, 5), torch.ones(2, 5)) == pytest.approx(2.5 * (math.e - 2))
    weight = torch.full((4,), 0.5, requires_grad=True)  # gradients 6w and 2w, of lengths 6 and 2
    assert balance(3 * weight.square().sum(), weight.square().sum(), weight) == pytest.approx(6 / 2.0001)
    assert balance(weight.square().sum(), 0 * weight.sum(), weight) == 1e4


def test_spectral_norm_repeats_and_bounds() -> None:
    torch.manual_seed(14)
    layer = Spectral(torch.nn.Linear(12, 5, bias=False))
    kept = {key: value.clone() for key, value in layer.state_dict().items()}
    first, second = (layer(torch.eye(12)).detach() for _ in range(2))
    assert first.equal(second)
    assert all(value.equal(layer.state_dict()[key]) for key, value in kept.items())
    largest = float(torch.linalg.matrix_norm(first, 2))
    assert 0.999 < largest < 2  # the estimate is never above the true value
    ratio = first / kept["module.weight_bar"].T
    assert torch.allclose(ratio, ratio[0, 0].expand_as(ratio), rtol=1e-4)


def test_embedding_is_the_mean_of_frames_in_unit_range(auto_encoder: AutoEncoder) -> None:
    frames = torch.rand(2, 3, 64, 64)
    mean, logvar = auto_encoder.encoder(2 * frames - 1)
    assert auto_encoder.embed(frames).equal(mean) and mean.shape == logvar.shape == (2, 64)


def test_encoders_of_other_settings_are_refused(auto_encoder: AutoEncoder) -> None:
    published = auto_encoder.encoder.state_dict()
    own = {"encoder.model.conv1.weight": torch.zeros(1)}

    def imported(**network: Any) -> AutoEncoder:
        return cinn_ae.build(cinn_ae.Params.model_validate({"kind": "cinn_ae", "network": network, "train": None}))

    plain = imported()
    plain.load_published(published)
    plain.load_published(auto_encoder.state_dict())
    assert plain.state_dict().keys() == {f"encoder.{key}" for key in published}
    for network, told in (({"z_dim": 128}, "set z_dim 64"), ({"norm": "bn"}, "set norm in")):
        with pytest.raises(RetakeError, match=told):
            imported(**network).load_published(published)
    with pytest.raises(RetakeError, match="not of the conditioning encoder"):
        plain.load_published(own)
    with pytest.raises(RetakeError, match="not of this auto-encoder with its discriminator"):
        auto_encoder.load_published(published)


@pytest.mark.parametrize(
    ("network", "told"),
    [
        ({"z_dim": 40}, "more than 40"),
        ({"size": 128, "z_dim": 100}, "more than 100"),
        ({"size": 96}, "64 or 128"),
        ({"size": 32}, "set norm bn"),
    ],
)
def test_settings_that_cannot_be_are_refused(network: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        cinn_ae.Params.model_validate({"kind": "cinn_ae", "network": network})


def test_the_two_parts_have_one_size() -> None:
    raw = {"kind": "cinn", "network": {"encoder": {"size": 128, "z_dim": 128}}}
    with pytest.raises(ValueError, match="differ"):
        cinn.Params.model_validate(raw)
    with pytest.raises(ValueError, match="is no checkpoint of another entry"):
        cinn.Params.model_validate({"kind": "cinn", "train": {"stage1": "stage1.pth"}})
