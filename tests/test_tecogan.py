"""TecoGAN: operators against their definitions, recurrence, degradation, training step, checkpoints, metrics."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import weakref
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import tf_writer
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from parity_tecogan import params, recipe
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RetakeError
from pipeline.losses.slim_vgg import NAMES as VGG_NAMES
from pipeline.losses.slim_vgg import SlimVgg
from pipeline.metrics import temporal
from pipeline.models.tecogan import build, network, ops, training
from pipeline.store.frames import Store, Writer
from pipeline.tasks.super_resolution import clips, grid, train, warm_up

FRVSR = dict(ping_pong=0, vgg=0, vgg_weights=None, adversarial=0, layers=0)
sizes = st.tuples(st.integers(2, 9), st.integers(2, 9))


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def model(blocks: int = 2, **changes: Any) -> training.TecoGAN:
    return build(params(blocks, recipe(**changes)))


def texture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Return a smooth random picture, (height, width, 3) float32 in [0,1]."""
    noise = np.random.default_rng(seed).random((height, width, 3)).astype(np.float32)
    image = cv2.GaussianBlur(noise, (0, 0), 1.2)
    return (image - image.min()) / (image.max() - image.min())


def pans(batch: int, frames: int, side: int) -> Tensor:
    """Return clips of a moving texture, (batch, frames, 3, side, side)."""
    image = texture(side + 2 * frames + 20 * batch, side + 2 * frames + 20 * batch)
    clips = [[image[20 * b + 2 * i : 20 * b + 2 * i + side, i : i + side] for i in range(frames)] for b in range(batch)]
    return torch.from_numpy(np.array(clips)).permute(0, 1, 4, 2, 3).contiguous()


# Operators, against loops over pixels in float64


def sampled(image: np.ndarray, y: float, x: float) -> np.ndarray:
    """Return (C, H, W) `image` at a place, bilinear, borders repeated."""
    y, x = np.clip(y, 0, image.shape[1] - 1), np.clip(x, 0, image.shape[2] - 1)
    top, left = min(int(y), image.shape[1] - 2), min(int(x), image.shape[2] - 2)
    a, b = y - top, x - left
    corners = image[:, top : top + 2, left : left + 2]
    return (1 - a) * ((1 - b) * corners[:, 0, 0] + b * corners[:, 0, 1]) + a * (
        (1 - b) * corners[:, 1, 0] + b * corners[:, 1, 1]
    )


def cubic(line: np.ndarray, at: float) -> float:
    """Return the cubic interpolation (a = -0.75) of a line, borders repeated."""
    a, base = -0.75, math.floor(at)

    def kernel(d: float) -> float:
        d = abs(d)
        if d <= 1:
            return (a + 2) * d**3 - (a + 3) * d**2 + 1
        return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a

    return sum(kernel(at - i) * line[np.clip(i, 0, len(line) - 1)] for i in range(base - 1, base + 3))


@settings(max_examples=15, deadline=None)
@given(size=sizes, factor=st.sampled_from([2, 4]), seed=st.integers(0, 99))
def test_resizers_are_their_definitions(size: tuple[int, int], factor: int, seed: int) -> None:
    image = np.random.default_rng(seed).random((2, *size))
    height, width = size
    x = torch.from_numpy(image).float()[None]
    places = [(i / factor, j / factor) for i in range(factor * height) for j in range(factor * width)]
    wanted = np.array([sampled(image, y, z) for y, z in places]).T.reshape(2, factor * height, factor * width)
    np.testing.assert_allclose(ops.resize_bilinear(x, factor)[0].numpy(), wanted, atol=1e-6)
    rows = np.array([[[cubic(c[:, j], i / 4) for j in range(width)] for i in range(4 * height)] for c in image])
    wanted = np.array([[[cubic(line, j / 4) for j in range(4 * width)] for line in c] for c in rows])
    np.testing.assert_allclose(ops.resize_bicubic(x)[0].numpy(), wanted, atol=1e-6)


@settings(max_examples=15, deadline=None)
@given(size=sizes, reach=st.sampled_from([0.0, 0.4, 3.0, 30.0]), seed=st.integers(0, 99))
def test_warps_are_their_definition(size: tuple[int, int], reach: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    image = rng.random((3, *size)).astype(np.float32)
    flow = (reach * rng.standard_normal((2, *size))).astype(np.float32)
    wanted = np.array(
        [
            sampled(image.astype(np.float64), np.float32(i) - flow[0, i, j], np.float32(j) - flow[1, i, j])
            for i in range(size[0])
            for j in range(size[1])
        ]
    ).T.reshape(image.shape)
    tensors = torch.from_numpy(image)[None], torch.from_numpy(flow)[None]
    for warp in (ops.warp, ops.warp_gather):
        np.testing.assert_allclose(warp(*tensors)[0].numpy(), wanted, atol=1e-6)


def test_fast_warp_and_its_gradients_at_full_size() -> None:
    results = []
    for warp in (ops.warp, ops.warp_gather):
        torch.manual_seed(1)
        image = torch.rand(1, 3, 144, 1280, requires_grad=True)
        flow = (10 * torch.randn(1, 2, 144, 1280)).requires_grad_()
        out = warp(image, flow)
        (out * torch.rand_like(out)).sum().backward()
        assert image.grad is not None
        assert flow.grad is not None
        places = ops._sources(flow.detach())
        results.append((out.detach(), image.grad, flow.grad))
    (out, image, flow), (wanted, wanted_image, wanted_flow) = results
    torch.testing.assert_close(out, wanted, atol=1e-6, rtol=0)
    torch.testing.assert_close(image, wanted_image, atol=1e-5, rtol=1e-5)
    jumps = torch.stack([place == place.round() for place in places], 1)  # exactly on a pixel
    assert jumps.float().mean() < 1e-3
    torch.testing.assert_close(flow[~jumps], wanted_flow[~jumps], atol=1e-5, rtol=1e-5)


def test_no_gradient_leaves_the_image() -> None:
    flow = torch.full((1, 2, 4, 4), 50.0, requires_grad=True)
    image = torch.rand(1, 3, 4, 4)
    for warp in (ops.warp, ops.warp_gather):
        (gradient,) = torch.autograd.grad(warp(image, flow).sum(), flow)
        assert not gradient.any()


@pytest.mark.parametrize("size", [(6, 8), (7, 8), (7, 5)])
def test_stride_two_convolution_pads_the_smaller_half_first(size: tuple[int, int]) -> None:
    x, weight = torch.rand(1, 2, *size), torch.rand(3, 2, 4, 4)
    out = ops.conv_stride2(x, weight)
    total = [max((math.ceil(n / 2) - 1) * 2 + 4 - n, 0) for n in size]
    pad = (total[1] // 2, total[1] - total[1] // 2, total[0] // 2, total[0] - total[0] // 2)
    torch.testing.assert_close(out, functional.conv2d(functional.pad(x, pad), weight, stride=2))
    assert out.shape[-2:] == (math.ceil(size[0] / 2), math.ceil(size[1] / 2))


@pytest.mark.parametrize("size", [(6, 7), (1, 4), (9, 2)])
def test_convolutions_by_phases(size: tuple[int, int]) -> None:
    """Equal to the transposed convolution, ReLU and the convolution after it, and so are their gradients."""
    torch.manual_seed(0)
    inputs = [
        a.double().requires_grad_()
        for a in (
            torch.randn(2, 5, *size), torch.randn(5, 8, 3, 3), torch.randn(8), torch.randn(3, 8, 3, 3), torch.randn(3),
        )
    ]  # fmt: skip
    x, up, bias, last, other = inputs
    enlarged = functional.relu(ops.conv_transposed(x, up, bias))
    torch.testing.assert_close(ops.join(ops.conv_transposed_phases(x, up, bias)), enlarged)
    wanted = functional.conv2d(enlarged, last, other, padding=1)
    found = ops.conv_of_phases(ops.conv_transposed_phases(x, up, bias), last, other)
    torch.testing.assert_close(found, wanted.float(), check_dtype=False)
    weight = torch.randn_like(wanted)
    for ours, theirs in zip(*(torch.autograd.grad((y * weight).sum(), inputs) for y in (found, wanted)), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)


def test_phases_in_bfloat16() -> None:
    inputs = [a.requires_grad_() for a in (torch.randn(2, 5, 6, 7), torch.randn(5, 8, 3, 3), torch.randn(8))]
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.join(ops.conv_transposed_phases(*inputs))
    wanted = functional.relu(ops.conv_transposed(*inputs))
    assert found.dtype == torch.bfloat16
    for ours, theirs in zip(*(torch.autograd.grad(y.float().sum(), inputs) for y in (found, wanted)), strict=True):
        assert ours.dtype == torch.float32
        assert float((ours - theirs).norm() / theirs.norm()) < 0.05


def test_symmetric_padding_repeats_the_edge() -> None:
    x = torch.arange(12.0).view(1, 1, 3, 4)
    wanted = np.pad(x[0, 0].numpy(), ((0, 3), (0, 2)), mode="symmetric")
    np.testing.assert_array_equal(ops.pad_symmetric(x, 3, 2)[0, 0].numpy(), wanted)
    assert ops.pad_symmetric(x, 0, 0) is x


# Recurrence


def test_warm_up() -> None:
    assert [warm_up.warm_up(n) for n in (1, 2, 5, 6, 40)] == [
        *([], [1], [4, 3, 2, 1]),
        *([5, 4, 3, 2, 1], [5, 4, 3, 2, 1]),
    ]
    for n in range(1, 12):
        extended = warm_up.warm_up(n) + list(range(n))
        published = extended[5:]
        assert warm_up.kept(n, published_dropping=True) == published
        assert warm_up.kept(n) == list(range(n))
        for rule, wanted in ((True, published), (False, list(range(n)))):
            run = list(warm_up.warmed(iter(range(n)), published_dropping=rule))
            assert [frame for frame, _ in run] == extended
            assert [frame for frame, kept in run if kept] == wanted
    assert list(warm_up.warmed([])) == []


def test_published_file_order() -> None:
    names = ["b_10.png", "b_9.png", "a_9.png", "cover.png", "9/x_2.png"]
    assert clips.file_order(names) == ["cover.png", "9/x_2.png", "a_9.png", "b_9.png", "b_10.png"]


def clip(frames: int, height: int, width: int, seed: int = 0, batch: int = 1) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(batch, 3, height, width, generator=generator) for _ in range(frames)]


@pytest.mark.parametrize("frames", [1, 2, 4, 7])
@pytest.mark.parametrize("size", [(8, 8), (15, 22)])
def test_upscale_any_clip_at_any_size(frames: int, size: tuple[int, int]) -> None:
    net, video = model(**FRVSR), clip(frames, *size)
    out = list(net.upscale(video))
    assert [tuple(x.shape) for x in out] == [(1, 3, 4 * size[0], 4 * size[1])] * frames
    assert all(x.isfinite().all() and not x.requires_grad for x in out)
    assert len(list(net.upscale(video, published_dropping=True))) == max(2 * frames - 6, 0) if frames < 6 else frames


def test_recurrence_by_its_definition() -> None:
    net, video = model(**FRVSR), clip(3, 9, 12)
    out = list(net.upscale(video))
    order = [video[2], video[1], *video]
    previous: Tensor | None = None
    made = []
    with torch.no_grad():
        for i, frame in enumerate(order):
            fed = torch.zeros(1, 48, 9, 12)
            if previous is not None:
                flow = net.fnet(torch.cat([order[i - 1], frame], 1))
                flow = torch.from_numpy(np.pad(flow.numpy(), ((0, 0), (0, 0), (0, 1), (0, 4)), mode="symmetric"))
                fed = ops.space_to_depth(ops.warp_gather(previous, 4 * ops.resize_bilinear(flow, 4)))
            previous = (net.generator(torch.cat([frame, fed], 1)) + 1) / 2
            made.append(previous)
    torch.testing.assert_close(torch.cat(out), torch.cat(made[2:]), atol=1e-5, rtol=0)


def test_videos_side_by_side() -> None:
    net, video = model(**FRVSR), clip(3, 10, 9, batch=2)
    both = torch.stack(list(net.upscale(video)))
    for i in range(2):
        alone = torch.stack(list(net.upscale([frame[i : i + 1] for frame in video])))
        torch.testing.assert_close(both[:, i : i + 1], alone, atol=1e-5, rtol=0)


def test_settings_of_prediction() -> None:
    net, video = model(**FRVSR), clip(4, 20, 9)
    assert len(list(net.predict(video))) == 4
    seen = []
    tiled = net.generator.tiled
    net.generator.tiled = lambda x, tile: seen.append(tile) or tiled(x, tile)  # type: ignore[method-assign]
    net.p.predict.quirks, net.p.predict.tile = ["published_dropping"], 16
    assert len(list(net.predict(video))) == 2
    assert set(seen) == {16}


def test_tiles_have_no_seams() -> None:
    net, video = model(blocks=3, **FRVSR), clip(3, 37, 53)
    assert net.generator.margin == 8
    whole = torch.cat(list(net.upscale(video)))
    for tile in (16, 19, 40):
        torch.testing.assert_close(torch.cat(list(net.upscale(video, tile=tile))), whole, atol=1e-5, rtol=0)


def test_the_margin_is_what_an_output_depends_on() -> None:
    net = model(blocks=2, **FRVSR)
    x = torch.rand(1, 51, 24, 24, requires_grad=True)
    out = net.generator(x)[:, :, 48:52, 48:52]  # the pixels of the low-resolution pixel (12, 12)
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    reached = gradient[0].abs().amax((0, 1)).nonzero().flatten()
    assert 12 - int(reached.min()) <= net.generator.margin
    assert int(reached.max()) - 12 <= net.generator.margin
    assert 12 - int(reached.min()) >= net.generator.margin - 1  # and hardly more than that


def test_memory_does_not_grow_with_the_video() -> None:
    """At no time are more frames alive than the warm-up holds, and frames are asked for one by one."""
    net = model(blocks=1, **FRVSR)
    alive: weakref.WeakSet[Tensor] = weakref.WeakSet()
    most = asked = 0

    def frames() -> Iterator[Tensor]:
        nonlocal asked
        for _ in range(30):
            frame = torch.rand(1, 3, 8, 8)
            alive.add(frame)
            asked += 1
            yield frame

    for i, out in enumerate(net.upscale(frames())):
        alive.add(out)
        most = max(most, len(alive))
        assert asked == max(i + 1, 6)
    assert asked == 30
    assert most <= 6 + 4


def test_bad_frames() -> None:
    net = model(blocks=1, **FRVSR)
    with pytest.raises(RetakeError, match=r"frames of 20x7 pixels: .* sides of at least 8"):
        list(net.upscale(clip(1, 7, 20)))
    with pytest.raises(RetakeError, match="change size from 9x8 to 8x8"):
        list(net.upscale([*clip(2, 8, 8), *clip(1, 8, 9)]))


# Degradation and training clips


def test_low_resolution_is_aligned_to_the_top_left() -> None:
    image = np.zeros((48, 48, 3), np.uint8)
    image[16, 24] = 255
    low = grid.degrade_frame(image)
    assert np.unravel_index(low[..., 0].argmax(), low.shape[:2]) == (4, 6)
    np.testing.assert_allclose(low[:, :6][:, ::-1][:, :5], low[:, 7:12], atol=1e-7)  # symmetric about it
    crop = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    small, target = grid.degrade_crops(crop)
    assert small.shape == (3, 10, 10)
    assert target.shape == (3, 40, 40)
    assert np.unravel_index(int(target[0].argmax()), (40, 40)) == (12, 20)
    assert np.unravel_index(int(small[0].argmax()), (10, 10)) == (3, 5)


def test_degradation_agrees_with_opencv() -> None:
    image = texture(45, 38)
    found, _ = grid.degrade_crops(torch.from_numpy(image[:44, :36]).permute(2, 0, 1))
    kernel = grid.gaussian(9)
    blurred = cv2.sepFilter2D(image, -1, kernel, kernel)[4:40:4, 4:32:4]
    np.testing.assert_allclose(found.permute(1, 2, 0).numpy(), blurred, atol=1e-6)
    assert grid.degrade_frame((255 * image).astype(np.uint8)).shape == (12, 10, 3)
    with pytest.raises(RetakeError, match="training crops of 38x45 pixels"):
        grid.degrade_crops(torch.zeros(3, 45, 38))


@given(
    height=st.integers(40, 90),
    width=st.integers(40, 90),
    frames=st.integers(1, 10),
    moving=st.sampled_from([0.0, 1.0]),
    seed=st.integers(0, 999),
)
@settings(max_examples=60, deadline=None)
def test_drawn_crops_lie_in_the_frame(height: int, width: int, frames: int, moving: float, seed: int) -> None:
    drawn = train.draw(height, width, frames, 40, moving, np.random.default_rng(seed))
    assert drawn.still == bool(moving)
    for path, size in ((drawn.top, height), (drawn.left, width)):
        assert path.shape == (frames,)
        assert path.min() >= 0
        assert path.max() + 40 <= size
        assert np.abs(np.diff(path)).max(initial=0) <= (4 if moving else 0)


def test_steps_of_a_moving_frame_are_distributed_as_published() -> None:
    rng = np.random.default_rng(0)
    paths = [train.draw(2000, 2000, 10, 40, 1.0, rng) for _ in range(1500)]
    steps = np.concatenate([np.diff(p.top) for p in paths] + [np.diff(p.left) for p in paths])
    share = np.bincount(steps + 4, minlength=9) / len(steps)
    np.testing.assert_allclose(share, [1 / 16, *[1 / 8] * 7, 1 / 16], atol=0.01)
    assert abs(np.mean([p.flip for p in paths]) - 0.5) < 0.05


@pytest.fixture
def scenes(tmp_path: Path) -> Store:
    rng = np.random.default_rng(0)
    with Writer(tmp_path / "train.arrow", codec="raw", meta={}) as out:
        for clip, count in (("a", 5), ("b", 4)):
            for i in range(count):
                out.add(clip, i, rng.integers(0, 256, (48, 60, 3), np.uint8))
    return Store(tmp_path / "train.arrow")


@pytest.mark.parametrize("moving", [0.0, 1.0])
def test_training_clips(scenes: Store, moving: float) -> None:
    settings = params(1, recipe(**FRVSR, window=3, crop=40, batch=2, moving_first_frame=moving)).train
    clips = train.TrainingClips(scenes, settings, lambda images, rng: images)  # type: ignore[arg-type]
    assert len(clips) == 3 + 2
    for index, (name, start) in enumerate(clips.windows):
        found = clips[7, index].permute(0, 2, 3, 1).numpy()
        assert found.shape == (3, 40, 40, 3)
        np.testing.assert_array_equal(found, clips[7, index].permute(0, 2, 3, 1).numpy())
        rng = np.random.default_rng([1, 7, index])
        drawn = train.draw(48, 60, 3, 40, moving, rng)
        for i in range(3):
            frame = scenes.read(name, [start if moving else start + i])[0]
            wanted = frame[drawn.top[i] : drawn.top[i] + 40, drawn.left[i] : drawn.left[i] + 40]
            np.testing.assert_array_equal(found[i], wanted[:, ::-1] if drawn.flip else wanted)


# Training


def stage(net: training.TecoGAN, optimisers: dict[str, Any] | None = None) -> Any:
    """Return what the train stage hands to a step, in one process."""
    fabric = SimpleNamespace(world_size=1, autocast=nullcontext)
    return SimpleNamespace(fabric=fabric, optimisers=net.configure() if optimisers is None else optimisers)


def random_vgg() -> SlimVgg:
    widths = [3, 64, 64, 128, 128, *[256] * 4, *[512] * 8]
    state = {}
    for name, inputs, outputs in zip(VGG_NAMES[::2], widths, widths[1:], strict=False):
        state[name] = torch.randn(3, 3, inputs, outputs) * math.sqrt(2 / (9 * inputs))
        state[name.replace("weights", "biases")] = torch.zeros(outputs)
    return SlimVgg(state)


def test_frvsr_learns_beyond_bicubic() -> None:
    net = model(blocks=1, **FRVSR, window=3, crop=56, lr=1e-3, first_output="zero")
    state, batch = stage(net), pans(1, 3, 56)
    losses = [net.training_step(batch, state)["l2_content_loss"] for _ in range(60)]
    low, target = grid.degrade_crops(batch)
    bicubic = ops.resize_bicubic(low.flatten(0, 1)).view_as(target)
    assert losses[0] == pytest.approx(float((2 * (bicubic - target)).square().sum(2).mean()), rel=1e-5)
    gain = 10 * math.log10(losses[0] / losses[-1])
    assert gain > 0.7, f"{gain:.2f} dB above bicubic"


def test_rate_falls_along_a_cosine() -> None:
    net = model(blocks=1, **FRVSR, window=3, crop=40, lr=1e-3, min_lr=1e-4)
    state = stage(net)
    for state.step, rate in ((0, 1e-3), (1, 5.5e-4)):
        state.steps = 2
        net.training_step(pans(1, 3, 40), state)
        assert [o.param_groups[0]["lr"] for o in state.optimisers.values()] == pytest.approx([rate, rate])


def test_validation_upscales_whole_frames(scenes: Store) -> None:
    bicubic = SimpleNamespace(predict=lambda frames: (ops.resize_bicubic(frame) for frame in frames))
    name, value = train.Validation(scenes, None, bicubic, 2, 4).score("cpu")
    errors = []
    for clip, rows in scenes.clips.items():
        for frame in scenes.read(clip, range(len(rows))):
            low = torch.from_numpy(grid.degrade_frame(frame)).permute(2, 0, 1)[None]
            found = ops.resize_bicubic(low)[0].permute(1, 2, 0).clamp(0, 1).numpy()
            errors.append(-10 * math.log10(((found - frame / 255) ** 2).mean()))
    assert (name, value) == ("val_psnr", pytest.approx(np.mean(errors), rel=1e-6))


def test_a_step_takes_all_gradients_from_the_weights_before_it() -> None:
    """With plain gradient descent at rate 1, each network moves by the gradient of its own objective."""
    net = model(vgg=0, vgg_weights=None, window=2, crop=40)
    batch = pans(2, 2, 40)
    low, target = grid.degrade_crops(batch)
    found = training.losses(net, low, 2 * target - 1, net.p.train, None)
    parts = {"generator": found.generator, "fnet": found.fnet, "discriminator": found.discriminator}
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    gradients = {}
    for part, objective in parts.items():
        weights = dict(net.get_submodule(part).named_parameters())
        found_here = torch.autograd.grad(objective, list(weights.values()), retain_graph=True)
        gradients.update({f"{part}.{k}": g for k, g in zip(weights, found_here, strict=True)})
    optimisers = {part: torch.optim.SGD(net.get_submodule(part).parameters(), lr=1.0) for part in parts}
    values = net.training_step(batch, stage(net, optimisers))
    assert values["discriminator_updated"] == 1
    for key, weight in net.named_parameters():
        torch.testing.assert_close(weight.detach(), before[key] - gradients[key], atol=1e-5, rtol=1e-4, msg=key)
        assert weight.grad is None


def test_balance_holds_the_discriminator_back() -> None:
    net = model(vgg=0, vgg_weights=None, window=2, crop=40)
    state, batch = stage(net), pans(1, 2, 40)
    first = net.training_step(batch, state)
    assert first["discriminator_updated"] == 1
    assert first["t_balance"] == pytest.approx(float(net.balance))
    net.balance.fill_(0.4)  # as it stands before the step: not below 0.4
    before = {k: v.detach().clone() for k, v in net.named_parameters()}
    second = net.training_step(batch, state)
    assert second["discriminator_updated"] == 0
    assert second["t_balance"] != pytest.approx(0.4, abs=1e-9)  # updated all the same
    moved = {k.split(".")[0] for k, v in net.named_parameters() if not torch.equal(v, before[k])}
    assert moved == {"generator", "fnet"}
    assert "balance" in net.state_dict()  # a resumed training goes on with it


@pytest.mark.parametrize("ping_pong", [0.5, 0])
def test_each_target_goes_through_vgg_once(monkeypatch: pytest.MonkeyPatch, ping_pong: float) -> None:
    net = model(blocks=1, ping_pong=ping_pong, adversarial=0, layers=0, window=3, crop=40)
    vgg, seen = random_vgg(), []
    features = vgg.features
    monkeypatch.setattr(vgg, "features", lambda x: seen.append(len(x)) or features(x))
    low, target = grid.degrade_crops(pans(2, 3, 40))
    found = training.losses(net, low, 2 * target - 1, net.p.train, vgg)
    frames = 5 if ping_pong else 3
    assert seen == [2 * 3, 2 * frames]
    order = [0, 1, 2, 1, 0][:frames]
    plain = vgg.distances(features(found.output.flatten(0, 1)), features((2 * target - 1)[:, order].flatten(0, 1)))
    assert float(found.values["vgg_all"]) == pytest.approx(sum(x.item() for x in plain), rel=1e-5)


def test_vgg_is_read_from_its_checkpoint(tmp_path: Path) -> None:
    vgg = random_vgg()
    state = {k: (v.permute(2, 3, 1, 0) if v.ndim == 4 else v).numpy() for k, v in vgg.weights.items()}
    state["vgg_19/mean_rgb"] = np.zeros(3, np.float32)
    tf_writer.write_v1(tmp_path / "vgg_19.ckpt", state, checksums=False)
    net = model(vgg_weights=str(tmp_path / "vgg_19.ckpt"))
    read = net.vgg(net.p.train, "cpu")
    assert all(torch.equal(read.weights[k], vgg.weights[k]) for k in VGG_NAMES)
    assert not any("vgg" in key for key in net.state_dict())
    with pytest.raises(RetakeError, match=r"VGG19 checkpoint lacks 1 of 32 variables: vgg_19/conv5/conv5_4/biases"):
        SlimVgg({k: state[k] for k in VGG_NAMES[:-1]})


def test_whole_recipe_takes_a_step() -> None:
    net = model(window=3, crop=40)
    net._vgg = random_vgg()
    values = net.training_step(pans(1, 3, 40), stage(net))
    published = {"l2_content_loss", "l2_warp_loss", "vgg_all", "PingPang", "t_adversarial_loss", "D_layer_loss_sum"}
    assert published <= values.keys()
    weights = {"vgg_all": 0.2, "PingPang": 0.5, "t_adversarial_loss": 0.01, "D_layer_loss_sum": 1, "l2_content_loss": 1}
    assert values["All_loss_Gen"] == pytest.approx(sum(w * values[k] for k, w in weights.items()), rel=1e-5)
    assert all(math.isfinite(v) for v in values.values())


@pytest.mark.parametrize("kind", ["merged", "spatial", "spatial_temporal"])
@pytest.mark.parametrize("ping_pong", [0.5, 0])
def test_what_discriminators_see(kind: str, ping_pong: float) -> None:
    """Frames of the triplets, their input, and triplets warped to the middle one, black outside the centre."""
    net = model(discriminator=kind, vgg=0, vgg_weights=None, ping_pong=ping_pong, window=4, crop=40)
    low, target = grid.degrade_crops(pans(2, 4, 40))
    order = [0, 1, 2, 3, 2, 1, 0] if ping_pong else [0, 1, 2, 3]
    triplets = 2 if ping_pong else 1
    clips, truth = low[:, order], 2 * target[:, order] - 1
    _, flow, output = training.unroll(net, clips)
    assert net.p.train is not None
    seen = training._judged(net, clips, truth, output, flow.detach(), net.p.train)
    parts = training.judges(net.p.train)
    assert [part for part, _ in net.named_children()][2:] == list(parts)
    channels = [27] if kind == "merged" else [6, 9][: len(parts)]
    assert [pair[0].shape[1] for pair in seen] == channels == list(parts.values())
    for side, frames in enumerate((truth, output)):
        grouped = torch.stack([frames[:, 3 * k : 3 * k + 3] for k in range(triplets)], 1).flatten(0, 1)
        inputs = torch.stack([clips[:, 3 * k : 3 * k + 3] for k in range(triplets)], 1).flatten(0, 1)
        first = seen[0][side]
        if kind == "merged":
            torch.testing.assert_close(first[:, :9], ops.pack_triplets(grouped))
        else:
            torch.testing.assert_close(first[:, :3], grouped.flatten(0, 1))
            torch.testing.assert_close(first[:, 3:], ops.resize_bilinear(inputs.flatten(0, 1), 4))
        if kind != "spatial":
            warped = first[:, 9:18] if kind == "merged" else seen[1][side]
            assert not warped[:, :, :4].any()
            torch.testing.assert_close(warped[:, 1::3, 4:28, 4:28], grouped[:, 1, :, 4:28, 4:28])


@pytest.mark.parametrize("kind", ["spatial", "spatial_temporal"])
def test_ablations_take_a_step(kind: str) -> None:
    net = model(discriminator=kind, vgg=0, vgg_weights=None, window=2, crop=40)
    state, before = stage(net), {k: v.detach().clone() for k, v in net.named_parameters()}
    values = net.training_step(pans(1, 2, 40), state)
    assert list(state.optimisers) == ["generator", "fnet", *training.judges(net.p.train)]
    assert all(math.isfinite(v) for v in values.values())
    assert {k.split(".")[0] for k, v in net.named_parameters() if not torch.equal(v, before[k])} == set(
        state.optimisers
    )
    net.load_published(published(build(params(2))))  # a checkpoint for inference has none of them
    total = values["l2_content_loss"] + 0.5 * values["PingPang"] + values["D_layer_loss_sum"]
    assert values["All_loss_Gen"] == pytest.approx(total + 0.01 * values["t_adversarial_loss"], rel=1e-5)


def test_adam_as_tensorflow_has_it() -> None:
    rng = np.random.default_rng(0)
    weight = nn.Parameter(torch.zeros(50, dtype=torch.float64))
    optimiser = training.TensorFlowAdam([weight], lr=1e-3, eps=1e-8)
    plain = nn.Parameter(weight.detach().clone())
    other = torch.optim.Adam([plain], lr=1e-3, eps=1e-8)
    wanted, m, v = np.zeros(50), np.zeros(50), np.zeros(50)
    for t in range(1, 8):
        g = rng.standard_normal(50) * np.logspace(-10, 0, 50)  # where epsilon matters and where not
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        wanted -= 1e-3 * math.sqrt(1 - 0.999**t) / (1 - 0.9**t) * m / (np.sqrt(v) + 1e-8)
        for w, o in ((weight, optimiser), (plain, other)):
            w.grad = torch.from_numpy(g)
            o.step()
        if t == 4:  # a resumed training takes the same steps
            saved = optimiser.state_dict()
            optimiser = training.TensorFlowAdam([weight], lr=1e-3, eps=1e-8)
            optimiser.load_state_dict(saved)
    np.testing.assert_allclose(weight.detach().numpy(), wanted, rtol=1e-9)
    assert np.abs(plain.detach().numpy() / wanted - 1).max() > 0.1


def test_starting_from_a_smaller_network() -> None:
    small = build(params(2, recipe(**FRVSR)))
    video = clip(2, 8, 8)
    wanted = torch.cat(list(small.upscale(video)))
    low, target = grid.degrade_crops(pans(1, 2, 40))
    learns = {}
    for quirks in ([], ["zero_filled_blocks"]):
        net = model(blocks=4, **FRVSR, window=2, crop=40, start="frvsr", quirks=quirks)
        net.start_from(small.state_dict())
        torch.testing.assert_close(torch.cat(list(net.upscale(video))), wanted)  # new blocks begin as the identity
        loss = training.losses(net, low, 2 * target - 1, net.p.train, None).generator
        block = net.generator.get_submodule("resblock_4")
        gradients = torch.autograd.grad(loss, list(block.parameters()))
        learns[bool(quirks)] = {
            k for (k, _), g in zip(block.named_parameters(), gradients, strict=True) if g.abs().max() > 0
        }
    assert learns == {False: {"conv_2.weight", "conv_2.bias"}, True: {"conv_2.bias"}}

    with pytest.raises(RetakeError, match=r"more residual blocks \(resblock_2, …\) than network\.blocks 1"):
        model(blocks=1, **FRVSR, start="frvsr").start_from(small.state_dict())
    cut = {k: v for k, v in small.state_dict().items() if k != "generator.resblock_2.conv_2.weight"}
    with pytest.raises(RetakeError, match=r"missing generator\.resblock_2\.conv_2\.weight"):
        model(**FRVSR, start="frvsr").start_from(cut)
    with pytest.raises(RetakeError, match=r"not TecoGAN's or FRVSR's: missing fnet"):
        model(**FRVSR, start="frvsr").start_from({"block0.weight": torch.zeros(1)})


def test_start_is_read_from_ours_and_from_published_checkpoints(tmp_path: Path) -> None:
    from pipeline import weights

    small = build(params(2, recipe(**FRVSR)))
    weights.save(tmp_path / "ours.pt", {"kind": "tecogan", "weights": small.state_dict()})
    tf_writer.write_v1(tmp_path / "ourFRVSR", published(small), checksums=False)
    for file in ("ours.pt", "ourFRVSR"):
        net = model(blocks=3, **FRVSR, start=str(tmp_path / file))
        assert list(net.configure()) == ["generator", "fnet"]
        for key, value in small.state_dict().items():
            assert torch.equal(net.state_dict()[key], value), key
        with pytest.raises(RetakeError, match=r"more residual blocks \(resblock_2, …\)"):
            model(blocks=1, **FRVSR, start=str(tmp_path / file)).configure()


def test_start_of_the_weights() -> None:
    net = model(window=3)
    for key, weight in net.named_parameters():
        if key.endswith(("bias", "beta")):
            assert not weight.any(), key
        else:
            receptive = weight[0, 0].numel() if weight.ndim == 4 else 1
            limit = math.sqrt(6 / ((weight.shape[0] + weight.shape[1]) * receptive))
            assert 0.9 * limit < weight.abs().max().item() <= limit, key
    assert not model(first_output="zero").generator.output_stage.conv.weight.any()


HALF = """
import sys
from types import SimpleNamespace

import lightning_fabric
import torch

from test_tecogan import FRVSR, model, pans

torch.set_num_threads(1)
fabric = lightning_fabric.Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
torch.manual_seed(0)
net = model(**FRVSR, window=2, crop=40, lr=1e-3)
named = net.configure()
module, *optimisers = fabric.setup(net, *named.values())
state = SimpleNamespace(fabric=fabric, module=module, optimisers=dict(zip(named, optimisers)))
half = pans(2, 2, 40)[fabric.global_rank :][:1]
for _ in range(2):
    net.training_step(half, state)
torch.save(net.state_dict(), f"{sys.argv[1]}/{fabric.global_rank}.pt")
"""


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    (tmp_path / "half.py").write_text(HALF)
    here = Path(__file__).parent
    subprocess.run(
        [sys.executable, *["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "half.py", "."]],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": f"{here}:{here.parent}"},
    )
    torch.manual_seed(0)
    net = model(**FRVSR, window=2, crop=40, lr=1e-3)
    state, batch = stage(net), pans(2, 2, 40)
    for _ in range(2):
        net.training_step(batch, state)
    for rank in range(2):
        other = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for key, value in net.state_dict().items():
            torch.testing.assert_close(value, other[key], atol=1e-5, rtol=1e-4, msg=key)


# Published checkpoints


def published(net: nn.Module) -> dict[str, np.ndarray]:
    """Return a network's weights under their TensorFlow names, in TensorFlow's layout."""
    own = net.state_dict()
    out = {}
    for key, name in network.variables(net).items():
        value = own[key]
        value = value.permute(2, 3, 1, 0) if value.ndim == 4 else value.T if value.ndim == 2 else value
        out[name] = value.numpy().copy()
    return out


def test_published_checkpoints_are_imported(tmp_path: Path) -> None:
    from pipeline.sources import tensorflow

    trained = model(blocks=2, window=3)
    state = published(trained)
    slots = {f"{name}/Adam": value for name, value in state.items() if name.endswith("biases")}
    counters = {"global_step": np.array(5), "generator_train/gen_train_with_D_counter": np.array(3, np.int32)}
    everything = {**state, **slots, **counters}
    tf_writer.write_v1(tmp_path / "TecoGAN", everything, checksums=False)
    net = build(params(2))
    net.load_published({k: torch.from_numpy(v) for k, v in tensorflow.read(tmp_path / "TecoGAN").items()})
    for key, value in net.state_dict().items():
        assert torch.equal(value, trained.state_dict()[key]), key
    video = clip(2, 8, 8)
    assert torch.equal(torch.cat(list(net.upscale(video))), torch.cat(list(trained.upscale(video))))


def test_wrong_checkpoints_are_refused() -> None:
    state = published(build(params(3)))
    with pytest.raises(RetakeError, match=r"has 3 residual blocks, network\.blocks is 2: set network\.blocks to 3"):
        build(params(2)).load_published(state)
    cut = {k: v for k, v in state.items() if "output_stage/conv/Conv/biases" not in k}
    with pytest.raises(
        RetakeError, match="lacks 1 of TecoGAN's 48 variables: generator/generator_unit/output_stage/conv/Conv/biases"
    ):
        build(params(3)).load_published(cut)
    with pytest.raises(RetakeError, match=r"lacks 48 of .* \(it holds: vgg_19\)"):
        build(params(3)).load_published({"vgg_19/conv1/conv1_1/weights": np.zeros((3, 3, 3, 64))})
    name = "generator/generator_unit/input_stage/conv/Conv/weights"
    with pytest.raises(RetakeError, match=rf"another network: {name} is \[3, 3, 3, 64\], \[64, 51, 3, 3\]"):
        build(params(3)).load_published({**state, name: np.zeros((3, 3, 3, 64), np.float32)})


# Params


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"crop": 134}, "crop 134: must be 4 times"),
        ({"crop": 36}, "crop 36 is 7 low-resolution pixels: at least 8"),
        ({"vgg_weights": None}, "vgg_weights: the VGG loss needs"),
        ({"ping_pong": 0, "window": 2}, "the discriminator sees triplets"),
        ({"adversarial": 0}, "layers: without a discriminator"),
        ({"quirks": ["zero_filled_blocks"]}, "means something only with `start`"),
        ({"windows": "random"}, "Input should be 'all'"),
    ],
)
def test_recipes_that_cannot_be(changes: dict[str, Any], message: str) -> None:
    params(1, recipe())
    with pytest.raises(ValidationError, match=message):
        params(1, recipe(**changes))


def test_frames_too_small_for_the_network() -> None:
    params(1).check(32, 720)
    with pytest.raises(ValueError, match="frames of 720x28 pixels: a quarter of each side must be at least 8"):
        params(1).check(28, 720)


# Metrics


def test_ssim_is_scikit_images() -> None:
    from skimage.metrics import structural_similarity

    first, second = ((255 * texture(64, 96, seed)).astype(np.uint8) for seed in (0, 1))
    second = (0.7 * first + 0.3 * second).astype(np.uint8)
    x, y = temporal.luma(first), temporal.luma(second)
    wanted = structural_similarity(x, y, data_range=y.max() - y.min())
    assert temporal.ssim_y(first, second) == pytest.approx(wanted, abs=1e-9)
    assert temporal.ssim_y(first, first) == pytest.approx(1)


def test_psnr_of_luma() -> None:
    black, white = np.zeros((8, 8, 3), np.uint8), np.full((8, 8, 3), 255, np.uint8)
    assert temporal.luma(white)[0, 0] == pytest.approx(235, abs=1e-3)
    assert temporal.psnr_y(black, white) == pytest.approx(20 * math.log10(255 / 219), abs=1e-4)
    assert temporal.psnr_y(white, white) == math.inf


@given(height=st.integers(48, 700), width=st.integers(48, 1400))
def test_border_crop(height: int, width: int) -> None:
    top, left, rows, columns = clips.border_crop(height, width)
    for offset, kept, size in ((top, rows, height), (left, columns, width)):
        assert kept % 32 == 0
        assert 16 <= size - kept < 16 + 32
        assert 0 <= (size - kept) - 2 * offset <= 1


def test_frames_smaller_than_the_border() -> None:
    with pytest.raises(RetakeError, match="need sides of at least 48"):
        clips.border_crop(40, 80)
