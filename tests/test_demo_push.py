"""demo_push: BAIR's layout, motion that cannot be foretold, end points that are seen; what i2v-cINN learns of it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import lightning_fabric as lightning
import numpy as np
import pytest
import torch

from pipeline.datasets import demo_push
from pipeline.models import cinn, cinn_ae, cinn_stage1
from pipeline.sources import tars, tfrecord

STAGE1 = {"size": 32, "channel_factor": 8, "channels": [16, 32, 32, 64, 64]}
ENCODER = {"size": 32, "norm": "bn", "width": 16}
DARK = 0.75  # what the brightest channel of table and blocks exceeds, and that of the gripper never does


def entry() -> Any:
    return demo_push.Params(kind="demo_push")


def test_the_archive_is_bair_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(demo_push.EPISODES, "test", 2)
    demo_push.generate(entry(), "test", tmp_path)
    archive = tmp_path / "demo_push_test.tar"
    (span,) = tars.members(archive).values()
    assert list(tars.members(archive)) == ["softmotion30_44k/test/traj_0_to_15.tfrecords"]
    features = tfrecord.example(tfrecord.payload(tfrecord.records(span)[1]))
    assert len(features) == 60
    first, second = demo_push.clips(entry(), "test", [archive])
    assert (first.name, second.name) == ("traj_0_to_15/1", "traj_0_to_15/2")
    frames, positions = demo_push.render("push test 1")
    assert second.values is not None and np.array_equal(second.values(), positions)
    assert all(np.array_equal(image(), frames[i]) for i, image in second.frames())
    again = tmp_path / "again"
    demo_push.generate(entry(), "test", again)
    digests = {hashlib.sha256((folder / archive.name).read_bytes()).hexdigest() for folder in (tmp_path, again)}
    assert len(digests) == 1


def tracked(frames: np.ndarray) -> np.ndarray:
    """Return the centres (x, y) of the gripper in frames (..., H, W, 3) in [0,1], as shares of their sides, (..., 2).

    The gripper alone is dark in all channels. Darker pixels weigh more, so that blurred grippers are seen too; NaN where
    nothing is dark.
    """
    weight = np.clip(DARK - frames.max(-1), 0, None) ** 2
    total = weight.sum((-2, -1))
    height, width = weight.shape[-2:]
    x = (weight.sum(-2) * np.linspace(0, 1, width)).sum(-1) / total
    y = (weight.sum(-1) * np.linspace(0, 1, height)).sum(-1) / total
    return np.stack([x, y], -1)


def distance(frames: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Return how far the gripper is seen from where positions (N, 3) say, as shares of the sides of frames (N, H, W, 3)."""
    return np.linalg.norm(tracked(frames) - [demo_push.seen(position) for position in positions], axis=-1)


@pytest.mark.parametrize(("side", "blur"), [(64, 0), (64, 4), (32, 0), (32, 2)])
def test_the_gripper_is_tracked_where_the_positions_say(side: int, blur: int) -> None:
    """As rendered, and as small and as blurred as networks paint it; `blur`: standard deviation in pixels."""
    frames, positions = [], []
    for episode in range(8):
        images, true = demo_push.render(f"push test {episode}")
        frames += [cv2.resize(image, (side, side), interpolation=cv2.INTER_LINEAR) / 255 for image in images[::7]]
        positions += [*true[::7]]
    if blur:
        frames = [cv2.GaussianBlur(frame, (0, 0), blur) for frame in frames]
    assert distance(np.stack(frames), np.stack(positions)).max() < 0.05
    assert distance(np.stack(frames), np.roll(positions, 5, 0)).mean() > 0.2


def test_positions_are_within_reach_and_motion_turns_half_way() -> None:
    for episode in range(8):
        _, positions = demo_push.render(f"push train {episode}")
        shares = (positions - demo_push.LEAST) / demo_push.REACH
        assert shares.min() >= -1e-6 and shares.max() <= 1 + 1e-6
        steps = np.linalg.norm(np.diff(shares[:, :2], axis=0), axis=1)
        assert (steps > 0.01).mean() > 0.7, "it moves nearly all the time"
    ends = {tuple(demo_push.render(f"push train {episode}")[1][16]) for episode in range(8)}
    assert len(ends) == 8


def clips(split: str, count: int, start: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return clips (N, 17, 3, 32, 32) in [0,1] and the gripper's positions at their ends (N, 3)."""
    made, ends = [], []
    for episode in range(count):
        frames, positions = demo_push.render(f"push {split} {episode}")
        first = (start + 5 * episode) % 13 if split == "train" else 0
        small = [cv2.resize(frame, (32, 32), interpolation=cv2.INTER_LINEAR) for frame in frames[first : first + 17]]
        made.append(np.stack(small))
        ends.append(positions[first + 16])
    return torch.from_numpy(np.stack(made)).permute(0, 1, 4, 2, 3).float() / 255, torch.from_numpy(np.stack(ends))


def trained(model: Any, batches: Any, steps: int) -> Any:
    """Train a model on batches by number of the step; return it in evaluation mode."""
    fabric = lightning.Fabric(accelerator="cpu", devices=1)
    fabric.launch()
    named = model.configure()
    module, *optimisers = fabric.setup(model, *named.values())
    state = SimpleNamespace(
        fabric=fabric, module=module, optimisers=dict(zip(named, optimisers, strict=True)), step=0, steps=steps
    )
    for step in range(steps):
        torch.manual_seed(step)
        model.training_step(batches(step), state)
        state.step += 1
    return model.eval()


def psnr(made: torch.Tensor, truth: torch.Tensor) -> float:
    return float((-10 * (made - truth).square().mean((2, 3, 4)).clamp_min(1e-10).log10()).mean())


def test_stage_1_learns_one_clip() -> None:
    """In a few steps on one batch, reconstructions come nearer to it than a grey clip."""
    torch.manual_seed(0)
    recipe = {"batch": 2, "epochs": 1, "perceptual": 0, "lr": 2e-3, "pretrain": 1}
    model = cinn_stage1.build(
        cinn_stage1.Params.model_validate({"kind": "cinn_stage1", "network": STAGE1, "train": recipe})
    )
    data, _ = clips("train", 2)
    before = float(model.eval().validate({"clip": data})["val_l1"])
    model.train()
    trained(model, lambda _: {"clip": data}, 8)
    assert float(model.validate({"clip": data})["val_l1"]) < 0.8 * before


def test_the_auto_encoder_learns_one_batch() -> None:
    torch.manual_seed(0)
    recipe = {"batch": 8, "epochs": 1, "perceptual": 0, "lr": 1e-3, "discriminator_from": 1}
    model = cinn_ae.build(cinn_ae.Params.model_validate({"kind": "cinn_ae", "network": ENCODER, "train": recipe}))
    data, _ = clips("train", 8)
    state_before = float(model.losses(2 * data[:, 0] - 1, adversarial=False)[2]["rec"])
    trained(model, lambda _: {"clip": data[:, :1]}, 12)
    model.train()
    assert float(model.losses(2 * data[:, 0] - 1, adversarial=False)[2]["rec"]) < 0.8 * state_before


@pytest.fixture(scope="module")
def learned() -> tuple[Any, torch.Tensor, torch.Tensor]:
    """Return stage 1 after 300 steps (150 s of one core), the clips it learned from and the positions at their ends."""
    torch.manual_seed(0)
    recipe = {"batch": 4, "epochs": 10, "perceptual": 0, "lr": 1e-3, "lr_gamma": 0.8, "pretrain": 10}
    model = cinn_stage1.build(
        cinn_stage1.Params.model_validate({"kind": "cinn_stage1", "network": STAGE1, "train": recipe})
    )
    parts = [clips("train", 256, start) for start in (0, 4, 8)]
    data, ends = torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])
    order = np.random.default_rng(0)
    return trained(model, lambda _: {"clip": data[order.integers(0, len(data), 4)]}, 300), data, ends


@pytest.fixture(scope="module")
def flows(learned: tuple[Any, torch.Tensor, torch.Tensor]) -> dict[bool, Any]:
    """Return flows without and with control, after 1000 steps on the codes of `learned`.

    Stage 1 and the encoder of starts are frozen, so posteriors and conditions are computed once, and codes drawn from them.
    """
    stage1, data, ends = learned
    encoder = cinn_ae.build(cinn_ae.Params.model_validate({"kind": "cinn_ae", "network": ENCODER, "train": None}))
    weights = {True: stage1.state_dict(), False: encoder.state_dict()}
    models = {}
    for control in (False, True):
        torch.manual_seed(0)
        network = {"blocks": 6, "width": 64, "control": control, "stage1": STAGE1, "encoder": ENCODER}
        recipe = {"batch": 32, "epochs": 10, "lr": 1e-3, "lr_epochs": 1, "lr_gamma": 0.9}
        model = cinn.build(cinn.Params.model_validate({"kind": "cinn", "network": network, "train": recipe}))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("pipeline.weights.starting", lambda source, best=False: weights[best])
            model.configure()
            patch.setattr(type(model), "_encoded", _drawn(model, data, ends if control else None))
            models[control] = trained(model, lambda _: {"clip": data[:1]}, 1000)
    return models


@torch.no_grad()
def _drawn(model: Any, clips: torch.Tensor, ends: torch.Tensor | None) -> Any:
    """Return what takes the place of `_encoded`: 32 of the clips, a code drawn from the posterior of each, its condition."""
    parts = [slice(first, first + 64) for first in range(0, len(clips), 64)]
    means, variances = (
        torch.cat(each) for each in zip(*(model.stage1.encode(clips[part, 1:])[1:] for part in parts), strict=True)
    )
    conditions = torch.cat([model.condition(clips[part, 0], None if ends is None else ends[part]) for part in parts])
    order = np.random.default_rng(1)

    def encoded(*_: Any) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = torch.from_numpy(order.integers(0, len(clips), 32))
        return means[chosen] + torch.exp(variances[chosen] / 2) * torch.randn(32, means.shape[1]), conditions[chosen]

    return encoded


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_reconstructions_of_held_out_clips_show_where_the_gripper_goes(learned: Any) -> None:
    """They beat repeating the start by 2 dB, and their gripper ends where the clips' does; with other clips' motion it does not."""
    held, ends = clips("test", 32)
    seeds = list(range(len(held)))
    made, other = (
        learned[0].predict(held[:, :1], 16, seeds=seeds, motion=motion) for motion in (held, held.roll(1, 0))
    )
    gain = psnr(made, held[:, 1:]) - psnr(held[:, :1], held[:, 1:])
    assert gain >= 2, f"reconstructions beat repeating the start by {gain:.2f} dB"
    error, elsewhere = (float(distance(last(clip), ends.numpy()).mean()) for clip in (made, other))
    assert error < 0.12, f"the gripper ends {error:.3f} of the side from where it should"
    assert elsewhere > 0.2, f"with the motion of other clips {elsewhere:.3f}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_residuals_of_held_out_clips_pass_for_normal(flows: dict[bool, Any]) -> None:
    held, _ = clips("test", 16)
    residuals = []
    with torch.no_grad():
        for seed in range(8):
            torch.manual_seed(seed)
            code, condition = flows[False]._encoded({"clip": held})
            residuals.append(flows[False].flow(code, condition)[0])
    residual = torch.cat(residuals)
    # 128 draws of 16 clips: bounds for each dimension, wide enough for a flow that was trained for minutes
    means, spreads = residual.mean(0).abs(), residual.std(0)
    assert float(means.mean()) < 0.5, f"means of the dimensions: {means.mean():.2f} from 0, at most {means.max():.2f}"
    assert 0.5 < float(spreads.median()) < 2, f"their spreads: {spreads.min():.2f} to {spreads.max():.2f}"


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_an_end_point_moves_the_gripper_there(flows: dict[bool, Any]) -> None:
    """In the decoded last frames of held-out starts, with several seeds, it is nearer to the end point that was asked for."""
    held, ends = clips("test", 32)
    errors: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(4):
        seeds = [100 * seed + i for i in range(len(held))]
        for control, model in flows.items():
            told = {"endpoint": ends} if control else {}
            made = model.predict(held[:, :1], 16, seeds=seeds, **told)
            errors[control].append(float(distance(last(made), ends.numpy()).mean()))
    assert max(errors[True]) < min(errors[False]), f"distance from the end point, by seed: {errors}"
    assert np.mean(errors[True]) < 0.7 * np.mean(errors[False]), f"distance from the end point, by seed: {errors}"


def last(made: torch.Tensor) -> np.ndarray:
    """Return the last frames of clips (N, T, 3, H, W) as (N, H, W, 3)."""
    return made[:, -1].permute(0, 2, 3, 1).numpy()
