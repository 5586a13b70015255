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


def tracked(frame: np.ndarray) -> tuple[float, float]:
    """Return the centre (x, y) of the dark gripper as shares of the sides of a frame (H, W, 3) in [0,1]."""
    dark = np.clip(0.5 - frame.max(2), 0, None)
    y, x = np.mgrid[: dark.shape[0], : dark.shape[1]]
    side = dark.shape[0] - 1
    return float((dark * x).sum() / dark.sum() / side), float((dark * y).sum() / dark.sum() / side)


@pytest.mark.parametrize("episode", range(4))
def test_the_gripper_is_where_the_positions_say(episode: int) -> None:
    frames, positions = demo_push.render(f"push test {episode}")
    for frame, position in zip(frames[::7], positions[::7], strict=True):
        assert tracked(frame / 255) == pytest.approx(demo_push.seen(position), abs=0.025)


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


def stage1_of(steps: int) -> tuple[Any, torch.Tensor]:
    torch.manual_seed(0)
    recipe = {"batch": 8, "epochs": 1, "perceptual": 0, "lr": 1e-3, "pretrain": 1}
    model = cinn_stage1.build(
        cinn_stage1.Params.model_validate({"kind": "cinn_stage1", "network": STAGE1, "train": recipe})
    )
    data = torch.cat([clips("train", 96, start)[0] for start in (0, 6)])
    order = np.random.default_rng(0)

    def batch(_: int) -> dict[str, torch.Tensor]:
        return {"clip": data[order.integers(0, len(data), 8)]}

    return trained(model, batch, steps), data


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


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_chain_learns_to_push(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Held-out reconstructions beat repeating the start by 2 dB; residuals of held-out clips pass for N(0, I); an end point moves
    the gripper's end.

    So short a training draws no gripper: where it ends is read from motion codes, by a linear map that is fitted to training
    clips, and averaged over draws, which are noisy.
    """
    stage1, data = stage1_of(200)
    held, ends = clips("test", 16)
    with torch.no_grad():
        gain = psnr(stage1.predict(held[:, :1], 16, seeds=list(range(16)), motion=held), held[:, 1:]) - psnr(
            held[:, :1], held[:, 1:]
        )
    assert gain >= 2, f"reconstructions beat repeating the start by {gain:.2f} dB"

    encoder = cinn_ae.build(
        cinn_ae.Params.model_validate({"kind": "cinn_ae", "network": ENCODER, "train": None})
    ).eval()
    weights = [stage1.state_dict(), encoder.state_dict()]
    monkeypatch.setattr("pipeline.weights.starting", lambda source, best=False: weights[0 if best else 1])
    positions = torch.cat([clips("train", 96, start)[1] for start in (0, 6)])
    order = np.random.default_rng(1)
    models = {}
    for control in (False, True):
        torch.manual_seed(0)
        network = {"blocks": 6, "width": 64, "control": control, "stage1": STAGE1, "encoder": ENCODER}
        recipe = {"batch": 32, "epochs": 1, "lr": 1e-3}
        model = cinn.build(cinn.Params.model_validate({"kind": "cinn", "network": network, "train": recipe}))

        def batch(_: int, control: bool = control) -> dict[str, torch.Tensor]:
            chosen = order.integers(0, len(data), 32)
            return {"clip": data[chosen]} | ({"endpoint": positions[chosen]} if control else {})

        models[control] = trained(model, batch, 400)

    residuals = []
    with torch.no_grad():
        for seed in range(8):
            torch.manual_seed(seed)
            code, condition = models[False]._encoded({"clip": held})
            residuals.append(models[False].flow(code, condition)[0])
    residual = torch.cat(residuals)
    # 128 draws of 16 clips: bounds for each dimension, wide enough for a flow that was trained for minutes
    means, spreads = residual.mean(0).abs(), residual.std(0)
    assert float(means.mean()) < 0.5, f"means of the dimensions: {means.mean():.2f} from 0, at most {means.max():.2f}"
    assert 0.5 < float(spreads.median()) < 2, f"their spreads: {spreads.min():.2f} to {spreads.max():.2f}"

    with torch.no_grad():
        told = np.linalg.lstsq(_lifted(stage1.encode(data[:, 1:])[1]), positions[:, :2].numpy(), rcond=None)[0]
        places = {}
        for control, model in models.items():
            condition = model.condition(held[:, 0], ends if control else None)
            draws = [model.flow.inverse(torch.randn(len(held), residual.shape[1]), condition) for _ in range(64)]
            places[control] = np.mean([_lifted(code) @ told for code in draws], axis=0)
    error = {c: float(np.linalg.norm(place - ends[:, :2].numpy(), axis=1).mean()) for c, place in places.items()}
    assert error[True] < 0.8 * error[False], f"distance from the end point, with and without control: {error}"


def _lifted(codes: torch.Tensor) -> np.ndarray:
    """Return codes (N, n) with a column of ones."""
    return np.hstack([codes.double().numpy(), np.ones((len(codes), 1))])
