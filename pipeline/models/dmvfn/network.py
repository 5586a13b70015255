"""DMVFN's layers, routing, training step and recursive prediction (arXiv 2303.09875, sections 3.2 to 3.4).

`predict` and `training_step` take RGB. All below them is as published: BGR float32 in [0,1], (N, channels, H, W); a
pair is (N, 6, H, W), the older frame first; flow is in pixels, channel 0 along x, and says where to sample.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RetakeError
from pipeline.losses import laplacian
from pipeline.losses.vgg import FILE as VGG_FILE
from pipeline.losses.vgg import Vgg
from pipeline.models.base import Network, for_cpu
from pipeline.models.dmvfn import BLOCKS, Params, check

WIDTHS = (160, 160, 160, 80, 80, 80, 44, 44, 44)
SCALES = (4, 4, 4, 2, 2, 2, 1, 1, 1)
BUDGET = BLOCKS / 2  # blocks that the router's probabilities add up to
WARPED, MOTION = slice(6, 12), slice(12, 17)  # of what a block reads, after the pair; motion: mask logit, flow
DISCOUNT = 0.8  # of the losses of earlier blocks, equation 5 of the paper

# First parts of keys that give away another system's checkpoint
STRANGERS = {
    "feature_pyramid_extractor": "ARFlow",
    "opt_path": "DTVNet",
    "sub_layers": "a conditional invertible network",
    "features": "an image classifier (VGG, AlexNet)",
    "generator": "TecoGAN",
    "fnet": "TecoGAN",
}


def conv_prelu(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Return a 3x3 convolution and a PReLU with one slope a channel."""
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, stride, 1), nn.PReLU(outputs))


class Block(nn.Module):
    """One voxel-flow block of the paper (MVFB): a motion path at 1/scale and a spatial path at full resolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv0 = nn.Sequential(conv_prelu(17, width // 2, 2), conv_prelu(width // 2, width, 2))
        self.convblock = nn.Sequential(*(conv_prelu(width, width) for _ in range(3)))
        self.conv_sq = conv_prelu(width, width // 4)
        self.conv1 = nn.Sequential(conv_prelu(17, 8, 2))
        self.convblock1 = nn.Sequential(conv_prelu(8, 8))
        self.lastconv = nn.ConvTranspose2d(width // 4 + 8, 5, 4, 2, 1)

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Return increments of mask logit (1 channel) and flow (4, full-resolution pixels), (N, 5, H, W), for training.

        `x`: pair (6), both frames warped (6), mask logit (1), flow (4), (N, 17, H, W).

        Coarse motion is enlarged and convolved by two products with matrices: on a CPU, torch's gradient of an enlargement
        takes as long as all convolutions of the block.
        """
        slow, detail = self._paths(x, scale)
        kernel, bias = self._last()
        if scale == 1:
            return _pixels_of(_enlarged_first(slow, detail, kernel, bias, 2))
        channels, (height, width) = slow.shape[1], slow.shape[-2:]
        taps = (slow.permute(0, 2, 3, 1) @ self.lastconv.weight[:channels].roll(1, 1).flatten(1)).unflatten(
            3, (5, 4, 4)
        )
        rows, columns = (_enlarging(size, 2 * scale, x.device) for size in (height, width))
        step = rows @ taps.permute(0, 3, 4, 1, 5, 2).reshape(-1, 5, 4 * height, 4 * width) @ columns.T
        return step + _pixels_of(functional.conv2d(detail, kernel[:, channels:], bias, padding=1))

    def add_to(self, motion: Tensor, x: Tensor, scale: int) -> None:
        """Add to `motion`, (N, 5, H, W), what `forward` returns of `x`; without gradients."""
        enlarged = _enlarged_late if scale > 1 else _enlarged_first
        motion += _pixels_of(enlarged(*self._paths(x, scale), *self._last(), 2 * scale))

    def _last(self) -> tuple[Tensor, Tensor]:
        """Return kernel and bias of a 2x2 convolution that does what the transposed one does, mask logit first.

        It has a result for each of the four pixels amid its window, (5 x 4, inputs, 2, 2): twice as fast on a CPU. Its
        taps are 2 and 0 for the upper or left pixel, 3 and 1 for the other.
        """
        assert self.lastconv.bias is not None
        taps = self.lastconv.weight.roll(1, 1).view(-1, 5, 2, 2, 2, 2).flip(2, 4)
        return taps.permute(1, 3, 5, 0, 2, 4).flatten(0, 2), self.lastconv.bias.roll(1).repeat_interleave(4)

    def _paths(self, x: Tensor, scale: int) -> tuple[Tensor, Tensor]:
        """Return what the motion path finds, (N, width / 4, H / 4 / scale, W / 4 / scale), and the other, (N, 8, H / 2, W / 2)."""
        x = for_cpu(x)
        if scale != 1:
            coarse = functional.interpolate(x, scale_factor=1 / scale, mode="bilinear", align_corners=False)
            coarse[:, 13:] /= scale
            first, detail = self.conv0[0](coarse), self.conv1(x)
        else:  # both read the same: one convolution takes as long as the wider of two
            pairs = list(zip(self.conv0[0].parameters(), self.conv1[0].parameters(), strict=True))
            weight, bias, slopes = (torch.cat(pair) for pair in pairs)
            both = functional.prelu(functional.conv2d(x, weight, bias, stride=2, padding=1), slopes)
            first, detail = (for_cpu(part) for part in both.split([len(each) for each in pairs[-1]], 1))
        motion = self.conv0[1](first)
        return self.conv_sq(self.convblock(motion) + motion), self.convblock1(detail)


def enlarge(x: Tensor, factors: tuple[int, int]) -> Tensor:
    """Return images (N, C, H, W) enlarged along rows and columns by these factors, bilinear."""
    return functional.interpolate(x, scale_factor=factors, mode="bilinear", align_corners=False)


def _enlarged_first(slow: Tensor, detail: Tensor, kernel: Tensor, bias: Tensor, factor: int) -> Tensor:
    """Return the 2x2 convolution of the enlarged motion path beside the other, (N, 20, H / 2 + 1, W / 2 + 1)."""
    return functional.conv2d(torch.cat([enlarge(slow, (factor, factor)), detail], 1), kernel, bias, padding=1)


def _enlarged_late(slow: Tensor, detail: Tensor, kernel: Tensor, bias: Tensor, factor: int) -> Tensor:
    """Return what `_enlarged_first` does: rows are enlarged first, then convolved, and columns of its results last.

    All three are linear. There are 40 results, one a column of the kernel, of up to 40 channels: a wide block's 2x2
    convolution is half its time where it sees every pixel (832x256).
    """
    channels, outputs = slow.shape[1], len(kernel)
    columns = kernel[:, :channels].permute(3, 0, 1, 2).flatten(0, 1).unsqueeze(-1)
    columnwise = functional.conv2d(enlarge(slow, (factor, 1)), columns, padding=(1, 0))
    left, right = enlarge(columnwise, (1, factor)).split(outputs, 1)
    parts = functional.conv2d(detail, kernel[:, channels:], bias, padding=1)
    parts[..., 1:] += left
    parts[..., :-1] += right
    return parts


def _pixels_of(parts: Tensor) -> Tensor:
    """Return the pixels amid windows, (N, 20, H / 2 + 1, W / 2 + 1), as images, (N, 5, H, W)."""
    return functional.pixel_shuffle(parts, 2)[..., 1:-1, 1:-1]


@functools.lru_cache(maxsize=8)
def _enlarging(size: int, factor: int, device: torch.device) -> Tensor:
    """Return what a line of `size` pixels becomes, enlarged by `factor` and then by a transposed convolution.

    (2 x factor x size, 4 x size): the line was multiplied with each of the convolution's four taps before.
    """
    enlarged = functional.interpolate(torch.eye(size)[None], scale_factor=factor, mode="linear", align_corners=False)
    lines = functional.conv_transpose1d(enlarged.transpose(0, 1), torch.eye(4)[None], stride=2, padding=1)
    return lines.permute(2, 1, 0).flatten(1).to(device)


@functools.lru_cache(maxsize=8)
def _pixels(height: int, width: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return where `grid_sample` finds each pixel, (2, H, W), and half the sides, (2, 1, 1), x first."""
    x = torch.linspace(-1, 1, width, dtype=dtype, device=device)
    y = torch.linspace(-1, 1, height, dtype=dtype, device=device)[:, None]
    unit = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=dtype, device=device)
    return torch.stack(torch.broadcast_tensors(x, y)), unit[:, None, None]


def warp(images: Tensor, flow: Tensor) -> Tensor:
    """Return (N, C, H, W) images sampled at (x + flow[0], y + flow[1]), bilinear, borders repeated.

    `flow`: (N, 2, H, W) px.
    """
    start, unit = _pixels(*flow.shape[-2:], flow.dtype, flow.device)
    grid = torch.addcdiv(start, flow, unit).permute(0, 2, 3, 1)
    return functional.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=True)


def warp_pair(pair: Tensor, flow: Tensor) -> Tensor:
    """Return both frames of (N, 6, H, W) pairs warped by their halves of the flow (N, 4, H, W)."""
    size = pair.shape[-2:]
    return warp(pair.reshape(-1, 3, *size), flow.reshape(-1, 2, *size)).reshape(-1, 6, *size)


class Warped(torch.autograd.Function):
    """`warp_pair` where its result is known already: nothing is sampled again, and the flow's gradient is the same."""

    @staticmethod
    def forward(ctx: Any, pair: Tensor, flow: Tensor, warped: Tensor) -> Tensor:
        """Return `warped`, which is `warp_pair(pair, flow)`."""
        ctx.save_for_backward(pair, flow)
        return warped.view_as(warped)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[None, Tensor, None]:
        """Return the gradient of the flow alone."""
        pair, flow = ctx.saved_tensors
        size = pair.shape[-2:]
        start, unit = _pixels(*size, flow.dtype, flow.device)
        grid = torch.addcdiv(start, flow.reshape(-1, 2, *size), unit).permute(0, 2, 3, 1).to(gradient.dtype)
        images, gradient = pair.reshape(-1, 3, *size).to(gradient.dtype), gradient.reshape(-1, 3, *size)
        bilinear, border, corners, needed = 0, 1, True, [False, True]  # as in `warp`; the grid's gradient alone
        _, of_grid = torch.ops.aten.grid_sampler_2d_backward(gradient, images, grid, bilinear, border, corners, needed)
        return None, (of_grid.permute(0, 3, 1, 2) / unit).reshape(flow.shape).to(flow.dtype), None


def blend(warped: Tensor, mask: Tensor) -> Tensor:
    """Return the frame that two warped frames (N, 6, H, W) and a mask logit (N, 1, H, W) make, clamped to [0,1]."""
    share = torch.sigmoid(mask.to(warped.dtype))
    first, second = warped.chunk(2, 1)
    return torch.lerp(second, first, share).clamp(0, 1)


def learning_rate(step: int, steps: int, *, peak: float, floor: float, warmup: int) -> float:
    """Return the rate of batch `step` of `steps`: linear from `floor` to `peak` over `warmup`, then a cosine back."""
    if step < warmup:
        share = step / warmup
    else:
        share = 0.5 + 0.5 * math.cos(math.pi * (step - warmup) / max(steps - warmup, 1))
    return (peak - floor) * share + floor


class DMVFN(nn.Module, Network):
    """The network, its training and its prediction; parameters are named as in published checkpoints.

    `empty_selections` counts the frames, of `frames_made`, for which the router chose no block.
    """

    def __init__(self, p: Params) -> None:
        super().__init__()
        self.p = p
        for i, width in enumerate(WIDTHS):
            self.add_module(f"block{i}", Block(width))
        if p.network.routing:
            self.routing = nn.Sequential(nn.Conv2d(6, 32, 3, 1, 1), nn.ReLU(inplace=True), nn.Conv2d(32, 32, 3, 1, 1))
            self.l1 = nn.Linear(32, BLOCKS)
        self.stochastic = p.predict.routing == "sampled"
        self.empty_selections = self.frames_made = 0
        self._vgg: Vgg | None = None

    def blocks(self) -> list[tuple[Block, int]]:
        """Return the nine blocks with their scales."""
        return [(getattr(self, f"block{i}"), scale) for i, scale in enumerate(SCALES)]

    # Routing

    def probabilities(self, pair: Tensor) -> Tensor:
        """Return the probability of each block, (N, 9) float32; they add up to at most 4.5 (section 3.3)."""
        logits = self.l1(self._pooled(pair)).float()
        p = torch.sigmoid(logits)
        return (BUDGET * p / (p.sum(1, keepdim=True) + 1e-6)).clamp(0, 1)

    def _pooled(self, pair: Tensor) -> Tensor:
        """Return the mean over all pixels of the router's convolutions, (N, 32).

        Nothing non-linear stands between the second convolution and the mean, so the mean needs only the sums of its
        input over the nine windows that the taps see, not the convolution itself: a sixth of the router's work.
        """
        second = self.routing[2]
        assert isinstance(second, nn.Conv2d)
        x = self.routing[:2](for_cpu(pair)).float()
        x = x.permute(0, 2, 3, 1)  # sums along leading dimensions are fast
        first, inner, last = x.split([1, x.shape[1] - 2, 1], 1)
        inner = inner.sum(1, keepdim=True)
        rows = torch.cat([first + inner, first + inner + last, inner + last], 1)
        whole = rows.sum(2)
        sums = torch.stack([whole - rows[:, :, -1], whole, whole - rows[:, :, 0]], 2)
        weight = second.weight.permute(0, 2, 3, 1)
        return functional.linear(sums.flatten(1) / x[0, ..., 0].numel(), weight.flatten(1), second.bias)

    # Training

    def forward(self, x: Tensor, gates: Tensor | None = None) -> list[Tensor]:
        """Return the nine blocks' predictions, each (N, 3, H, W), as in training.

        `x`: a pair, (N, 6, H, W); further channels (the target) are carried but not read. `gates`: (N, 9) of 0 and 1;
        None: drawn from the router, or all ones where there is none. A block that is gated off does not move the
        state that the next block sees, but its own prediction shows what it would do. Gradients pass the gates straight
        through to the router's probabilities.
        """
        pair = x[:, :6].contiguous()
        if self.p.network.routing:
            p = self.probabilities(pair)
            hard = (torch.rand_like(p) < p).float() if gates is None else gates
            gates = hard + (p - p.detach())
        beside, warped, motion = for_cpu(pair), pair, _at_rest(pair)
        predictions = []
        for i, (block, scale) in enumerate(self.blocks()):
            step = block(torch.cat([beside, for_cpu(warped), for_cpu(motion)], 1), scale)
            motion_now = motion + step
            motion = motion_now if gates is None else motion + step * gates[:, i, None, None, None]
            mask, flow = (motion_now if i < BLOCKS - 1 else motion).split([1, 4], 1)
            warped_now = warp_pair(pair, flow)
            predictions.append(blend(warped_now, mask))
            if gates is None:
                warped = warped_now
            else:  # gates are 0 or 1: a sample's state is what it was, or what was just made
                values = torch.where(gates[:, i, None, None, None] > 0.5, warped_now, warped)
                warped = Warped.apply(pair, motion[:, 1:], values.detach())
        return predictions

    def configure(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimiser, and load VGG where the recipe uses it. Raises RetakeError without its weights."""
        recipe = self._recipe()
        if recipe.vgg_weight:
            from pipeline import weights

            with weights.or_without("train.vgg_weight: 0"):
                self._vgg = Vgg(weights.load(VGG_FILE))
        adamw = torch.optim.AdamW(self.parameters(), lr=recipe.min_lr, weight_decay=recipe.weight_decay, fused=True)
        return {"adamw": adamw}

    def augment(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the clip (n, h, w, 3) turned, its channels and axes reversed by chance, all frames alike.

        A quarter turn clockwise with probability 1/2, a half turn 1/4, a quarter turn back 1/8; the reversals 1/2 each.
        """
        if self._recipe().augment == "none":
            return clip
        for turns in (-1, 2, 1):
            if rng.random() < 0.5:
                clip = np.rot90(clip, turns, axes=(1, 2))
                break
        for axis in (3, 1, 2):  # channels, rows, columns
            if rng.random() < 0.5:
                clip = np.flip(clip, axis)
        return clip

    def training_step(self, batch: Tensor, state: Any) -> dict[str, float]:
        """Take one optimiser step for each three consecutive frames; return their mean losses, and the rate.

        `batch`: (B, n, 3, h, w) RGB float32 in [0,1]. `state`: as train.State. Raises FloatingPointError, before the
        step, when a triplet's loss is not finite.
        """
        recipe = self._recipe()
        optimiser = state.optimisers["adamw"]
        rate = learning_rate(state.step, state.steps, peak=recipe.lr, floor=recipe.min_lr, warmup=recipe.warmup_steps)
        for group in optimiser.param_groups:
            group["lr"] = rate
        clip = batch.flip(2)
        triplets = clip.shape[1] - 2
        totals: dict[str, float] = {}
        for j in range(triplets):
            predictions = state.module(clip[:, j : j + 3].flatten(1, 2))
            losses = self.losses(predictions, clip[:, j + 2], state.fabric)
            values = {name: float(loss.detach()) for name, loss in losses.items()}
            if not math.isfinite(values["loss"]):
                raise FloatingPointError(f"triplet {j + 1} of {triplets}: {values}")
            optimiser.zero_grad()
            state.fabric.backward(losses["loss"])
            optimiser.step()
            for name, value in values.items():
                totals[name] = totals.get(name, 0.0) + value / triplets
        return {**totals, "lr": rate}

    def losses(self, predictions: list[Tensor], target: Tensor, fabric: Any) -> dict[str, Tensor]:
        """Return the training loss and its parts (equation 5; the VGG term is in the published code alone).

        `loss` = sum over blocks i of 0.8^(8-i) Laplacian_i, + vgg_weight x VGG of the last prediction.
        """
        recipe = self._recipe()
        laplacians = laplacian.losses(torch.stack(predictions), target)
        terms = {"laplacian": laplacians @ laplacians.new_tensor([DISCOUNT**i for i in reversed(range(BLOCKS))])}
        terms["loss"] = terms["laplacian"]
        if recipe.vgg_weight:
            assert self._vgg is not None
            last = predictions[-1]
            if recipe.vgg_channels == "rgb":
                last, target = last.flip(1), target.flip(1)
            with fabric.autocast():
                terms["vgg"] = self._vgg.to(target.device).terms(last, target).sum()
            terms["loss"] = terms["laplacian"] + recipe.vgg_weight * terms["vgg"]
        return terms

    def _recipe(self) -> Any:
        assert self.p.train is not None, "this entry of params.yaml has no training"
        return self.p.train

    # Prediction

    @torch.no_grad()
    def predict(self, frames: Tensor, horizon: int, *, seeds: list[int], flow: Tensor | None = None) -> Tensor:
        """Return the `horizon` frames after `frames`: (B, 2 or more, 3, H, W) -> (B, horizon, 3, H, W), RGB in [0,1].

        `seeds`: one a sample, the only source of its routing. `flow` is not used. Raises RetakeError for a bad size,
        too few frames, or weights that give NaN.
        """
        try:
            check(*frames.shape[-2:])
        except ValueError as error:
            raise RetakeError(str(error)) from None
        if frames.shape[1] < self.context:
            raise RetakeError(f"DMVFN predicts from {self.context} frames, {frames.shape[1]} were given")
        # numpy's generator: torch's on a CPU drops the upper half of a 64-bit seed, where two samples' seeds differ
        draws = np.stack([np.random.Generator(np.random.PCG64(seed)).random((horizon, BLOCKS)) for seed in seeds])
        bgr = frames[:, -2:].flip(2)
        return self.rollout(bgr, horizon, lambda pair, step: self.choose(pair, draws[:, step])).flip(2)

    def rollout(self, frames: Tensor, horizon: int, choose: Callable[[Tensor, int], np.ndarray]) -> Tensor:
        """Return (N, horizon, 3, H, W): each prediction is the next step's newer frame.

        `frames`: (N, 2, 3, H, W). `choose(pair, step)`: which blocks run, (N, 9).
        """
        older, newer = frames[:, 0], frames[:, 1]
        predicted = []
        for step in range(horizon):
            pair = torch.cat([older, newer], 1)
            older, newer = newer, self.next_frame(pair, choose(pair, step))
            predicted.append(newer)
        return torch.stack(predicted, 1)

    def choose(self, pair: Tensor, draws: np.ndarray) -> np.ndarray:
        """Return which blocks run for each sample, (N, 9) bool; `draws`: (N, 9), uniform in [0,1)."""
        routing = self.p.predict.routing
        if routing == "all":
            return np.ones((len(pair), BLOCKS), bool)
        if isinstance(routing, list):
            return np.tile(np.array(routing, bool), (len(pair), 1))
        p = self.probabilities(pair).detach().cpu().numpy()
        if not np.isfinite(p).all():
            raise RetakeError("DMVFN's router gives NaN: its weights, or the frames, hold values that are not finite")
        return draws < p

    @torch.no_grad()
    def next_frame(self, pair: Tensor, gates: np.ndarray) -> Tensor:
        """Return the frame after each pair, (N, 3, H, W). `gates`: (N, 9); a block runs on the samples that chose it.

        A sample that chose no block gets its older frame, as published; `empty_selections` counts them.
        """
        gates = np.asarray(gates, bool)
        # What the blocks read stays one tensor, in the layout that they work in: results are written into it
        state = for_cpu(torch.cat([pair, pair, _at_rest(pair)], 1))
        motion = for_cpu(torch.zeros_like(state[:, MOTION]))
        for i, (block, scale) in enumerate(self.blocks()):
            rows = np.flatnonzero(gates[:, i])
            if not len(rows):
                continue
            every = len(rows) == len(pair)
            taking: Any = slice(None) if every else torch.from_numpy(rows).to(pair.device)
            x, moved = state[taking], motion[taking]
            block.add_to(moved, x, scale)
            x[:, MOTION] = moved
            x[:, WARPED] = warp_pair(pair[taking], moved[:, 1:].contiguous())
            if not every:
                state[taking], motion[taking] = x, moved
        frame = blend(state[:, WARPED], motion[:, :1])
        self.frames_made += len(frame)
        empty = ~gates.any(1)
        if empty.any():
            self.empty_selections += int(empty.sum())
            none = torch.from_numpy(empty).to(pair.device)
            frame[none] = pair[none, :3]
        return frame

    def notes(self) -> list[str]:
        """Return for how many frames no block was selected since the last call, if for any."""
        empty, made = self.empty_selections, self.frames_made
        self.empty_selections = self.frames_made = 0
        told = f"no block was selected in {empty} of {made} frames; the older input frame stands there, as published"
        return [told] if empty else []

    # Checkpoints

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Load a checkpoint's weights; keys may start with `module.`, as DistributedDataParallel writes them.

        Raises RetakeError that lists missing, unknown and misshapen keys.
        """
        state = {key.removeprefix("module."): value for key, value in state.items()}
        own = self.state_dict()
        missing = [key for key in own if key not in state]
        unknown = [key for key in state if key not in own]
        shapes = [
            f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
            for key in own
            if key in state and state[key].shape != own[key].shape
        ]
        if missing or unknown or shapes:
            parts = [
                f"{len(keys)} {what}: {', '.join(keys[:6])}{', …' if len(keys) > 6 else ''}"
                for what, keys in (("missing", missing), ("unknown", unknown), ("of another shape", shapes))
                if keys
            ]
            raise RetakeError(
                f"the checkpoint is not of this DMVFN; keys {'; '.join(parts)}.{_guess(missing, unknown)}"
            )
        self.load_state_dict(state)


def _at_rest(pair: Tensor) -> Tensor:
    """Return mask logit and flow before the first block, (N, 5, H, W)."""
    return pair.new_zeros(len(pair), 5, *pair.shape[2:])


def _guess(missing: list[str], unknown: list[str]) -> str:
    """Return whose checkpoint it looks like, as a sentence with what to do; empty when nothing is known."""
    router = ("routing.", "l1.")
    if unknown and not missing and all(key.startswith(router) for key in unknown):
        return " It has a router: set network.routing true (predict.routing all runs all blocks all the same)"
    if missing and not unknown and all(key.startswith(router) for key in missing):
        return " It has no router: set network.routing false"
    strangers = [STRANGERS[first] for first in (re.split(r"[./]", key)[0] for key in unknown) if first in STRANGERS]
    return f" It looks like a checkpoint of {strangers[0]}" if strangers else ""
