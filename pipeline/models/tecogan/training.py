"""TecoGAN's training: unroll, losses, three optimisers, discriminator balance (paper section 4, appendix).

Losses carry the names of the published log. One step computes all gradients from one forward pass, the discriminator's
too, and shares what the published graph shares: each image goes through the discriminator once, each distinct target
through VGG once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from pipeline.errors import RetakeError
from pipeline.losses.slim_vgg import NAMES as VGG_NAMES
from pipeline.losses.slim_vgg import SlimVgg
from pipeline.losses.updates import averaged
from pipeline.models.base import Network
from pipeline.models.tecogan import SCALE, Params, Train, ops
from pipeline.models.tecogan.network import (
    FED_BACK,
    Discriminator,
    Recurrent,
    ResidualBlock,
    State,
    load_own,
    load_variables,
    renamed,
)
from pipeline.sources import tensorflow
from pipeline.tasks.super_resolution.grid import degrade_crops
from pipeline.tasks.super_resolution.warm_up import kept

EPSILON = 1e-12
CENTRE = 0.75  # share of each side of the warped triplets that the discriminator sees
LAYER_SCALE = 0.02
LAYER_NORMS = (12.0, 14.0, 24.0, 100.0)
DECAY = 0.99  # of the discriminator's balance
JUDGES = {  # {recipe's `discriminator`: {part of the network: channels that it sees}}
    "merged": {"discriminator": 27},
    "spatial": {"discriminator": 6},
    "spatial_temporal": {"discriminator": 6, "temporal_discriminator": 9},
}


class Step(Protocol):
    """What the train stage hands to `training_step`."""

    fabric: Any
    optimisers: dict[str, torch.optim.Optimizer]
    step: int
    steps: int


@dataclass
class Losses:
    """One evaluation of the training graph.

    `values`: unscaled losses under their published names, detached; `output`: (B, T, 3, 4h, 4w) in [-1,1].
    `generator`, `fnet`, `discriminator`: each network's own objective; `advantage`: what the balance averages, detached.
    """

    values: dict[str, Tensor]
    output: Tensor
    generator: Tensor
    fnet: Tensor
    discriminator: Tensor | None
    advantage: Tensor | None


class TecoGAN(Recurrent, Network):
    """Generator and flow network, and in training the discriminator where the recipe has one."""

    balance: Tensor

    def __init__(self, p: Params) -> None:
        super().__init__(p.network.blocks)
        self.p = p
        for part, channels in judges(p.train).items():
            self.add_module(part, Discriminator(channels))
        self.register_buffer("balance", torch.zeros(()))
        self._vgg: SlimVgg | None = None
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
                initialise(module)
        if p.train is not None and p.train.first_output == "zero":
            nn.init.zeros_(self.generator.output_stage.conv.weight)

    def predict(self, frames: Iterable[Tensor]) -> Iterator[Tensor]:
        """Yield each frame upscaled, as `upscale` does, with the settings of `predict` in params.yaml."""
        return (output for output, _ in self.predict_from(None, frames))

    def predict_from(
        self, state: dict[str, Tensor] | None, frames: Iterable[Tensor]
    ) -> Iterator[tuple[Tensor, dict[str, Tensor]]]:
        """Yield each frame upscaled, and a `State` as a dict; go on behind the frame that `state` is of, on any device."""
        device = self.balance.device
        before = None if state is None else State(**{key: value.to(device) for key, value in state.items()})
        states = self.states(frames, before, published_dropping=self.dropping, tile=self.p.predict.tile)
        return ((state.output, state._asdict()) for state in states)

    @property
    def dropping(self) -> bool:
        """Whether five outputs are dropped even when fewer frames were prepended."""
        return "published_dropping" in self.p.predict.quirks

    def skipped(self, frames: int) -> int:
        """Return how many of a clip's first frames have no output: as published, some of one shorter than 6 frames."""
        return kept(frames, published_dropping=self.dropping)[0]

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Copy the variables of a published TensorFlow checkpoint, or weights of our own; see `network.load_variables`."""
        (load_own if any(key.startswith("generator.") for key in state) else load_variables)(self, state)

    def start_from(self, state: dict[str, Tensor]) -> None:
        """Copy the weights of another training, FRVSR's for TecoGAN; the discriminator keeps its new weights.

        `state`: the other's state dict. Blocks that it lacks begin as the identity (second convolution zero) and can
        learn; with the quirk `zero_filled_blocks` all their weights are zero, and only one bias of each can ever learn.
        Raises RetakeError when anything but blocks is missing, or a shape differs.
        """
        own = {k: v for k, v in self.state_dict().items() if k.split(".")[0] in ("fnet", "generator")}
        new = [
            f"generator.resblock_{i}."
            for i in range(1, self.generator.blocks + 1)
            if not any(k.startswith(f"generator.resblock_{i}.") for k in state)
        ]
        missing = sorted(k for k in own if k not in state and not k.startswith(tuple(new)))
        wrong = sorted(k for k in own if k in state and state[k].shape != own[k].shape)
        if missing or wrong:
            raise RetakeError(
                f"the weights to start from are not TecoGAN's or FRVSR's: missing {', '.join(missing[:4]) or 'nothing'}, "
                f"of another shape {', '.join(wrong[:4]) or 'nothing'}. Name another entry in train.start"
            )
        extra = sorted({k.split(".")[1] for k in state if k.startswith("generator.resblock_") and k not in own})
        if extra:
            raise RetakeError(
                f"the weights to start from have more residual blocks ({', '.join(extra[:4])}, …) than network.blocks "
                f"{self.generator.blocks}: raise it, or start from a smaller network"
            )
        self.load_state_dict({k: state[k] for k in own if k in state}, strict=False)
        assert self.p.train is not None
        for path in new:
            block = self.get_submodule(path.removesuffix("."))
            assert isinstance(block, ResidualBlock)
            nn.init.zeros_(block.conv_2.weight)
            if "zero_filled_blocks" in self.p.train.quirks:
                nn.init.zeros_(block.conv_1.weight)

    def configure(self) -> dict[str, torch.optim.Optimizer]:
        """Return the Adam optimisers of generator, flow network and each discriminator.

        Loads the weights of `train.start`, where there is one; raises RetakeError when they cannot be had or do not fit.
        """
        recipe = self._recipe()
        if recipe.start is not None:
            from pipeline import weights

            state = weights.starting(recipe.start)
            self.start_from(state if any(key.startswith("generator.") for key in state) else renamed(state))
        adam = TensorFlowAdam if recipe.adam == "tensorflow" else torch.optim.Adam
        return {
            part: adam(self.get_submodule(part).parameters(), lr=recipe.lr, betas=(0.9, 0.999), eps=1e-8)
            for part in ("generator", "fnet", *judges(recipe))
        }

    def training_step(self, batch: Tensor, state: Step) -> dict[str, float]:
        """Take one step on high-resolution crops (B, n, 3, 4s + 8, 4s + 8) float32 in [0,1]; return the losses.

        All gradients come from weights as they were before the step. While the balance, as it stood before the step, is
        below the recipe's, the discriminator is updated too. Several processes average gradients here, not in DDP,
        whose hooks know one backward pass a step only.
        """
        recipe, fabric = self._recipe(), state.fabric
        if recipe.min_lr is not None:
            rate = learning_rate(state.step / state.steps, recipe.lr, recipe.min_lr)
            for group in (group for optimiser in state.optimisers.values() for group in optimiser.param_groups):
                group["lr"] = rate
        low, target = degrade_crops(batch)
        with fabric.autocast():
            step_losses = losses(
                self, low, 2 * target - 1, recipe, self.vgg(recipe, batch.device) if recipe.vgg else None
            )
        objectives = [(step_losses.fnet, ["generator", "fnet"])]  # the warp loss has no gradient to the generator
        balance = float(self.balance)
        if step_losses.discriminator is not None and balance < recipe.balance:
            objectives.insert(0, (step_losses.discriminator, list(judges(recipe))))
        for number, (objective, parts) in enumerate(objectives, 1):
            weights = [w for part in parts for w in self.get_submodule(part).parameters()]
            gradients = torch.autograd.grad(objective, weights, retain_graph=number < len(objectives))
            for weight, gradient in zip(weights, averaged(fabric, gradients), strict=True):
                weight.grad = gradient
        for _, parts in objectives:
            for part in parts:
                state.optimisers[part].step()
                state.optimisers[part].zero_grad()
        values = {name: float(value) for name, value in step_losses.values.items()}
        if step_losses.advantage is not None:
            (advantage,) = averaged(fabric, [step_losses.advantage])
            self.balance.copy_(moving_average(self.balance, advantage))
            values["t_balance"] = float(self.balance)
            values["discriminator_updated"] = float(len(objectives) > 1)
        return values

    def vgg(self, recipe: Train, device: Any) -> SlimVgg:
        """Return VGG19, read once. Raises RetakeError when its checkpoint cannot be had."""
        if self._vgg is None:
            from pipeline import weights

            assert recipe.vgg_weights is not None
            own = tensorflow.holds(recipe.vgg_weights)
            with weights.or_without("train.vgg: 0"):
                file = Path(recipe.vgg_weights) if own else weights.path(recipe.vgg_weights)
            self._vgg = SlimVgg(tensorflow.read(file, VGG_NAMES)).to(device)
        return self._vgg

    def _recipe(self) -> Train:
        if self.p.train is None:
            raise ValueError("this model has no `train`: nothing says how to train it")
        return self.p.train


def learning_rate(share: float, first: float, last: float) -> float:
    """Return the rate after a share of all steps, from 0 to 1: a cosine from `first` to `last`."""
    return last + (first - last) * (1 + math.cos(math.pi * share)) / 2


def judges(recipe: Train | None) -> dict[str, int]:
    """Return the discriminators of a recipe, by part of the network, and the channels that each sees."""
    return JUDGES[recipe.discriminator] if recipe is not None and recipe.adversarial else {}


def initialise(module: nn.Conv2d | nn.ConvTranspose2d | nn.Linear) -> None:
    """Draw a kernel from the Glorot uniform distribution and set the bias to zero, as published."""
    nn.init.xavier_uniform_(module.weight)
    if module.bias is not None:
        nn.init.zeros_(module.bias)


def unroll(network: Recurrent, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return low-resolution flow (B, T-1, 2, h, w), high-resolution flow, and outputs (B, T, 3, 4h, 4w) in [-1,1].

    `frames`: (B, T, 3, h, w) in [0,1]. Flow i warps frame i to frame i + 1. Gradients pass through the whole recurrence.
    """
    b, t = frames.shape[:2]
    flow = network.fnet.flow(frames[:, :-1].flatten(0, 1), frames[:, 1:].flatten(0, 1))
    enlarged = ops.resize_bilinear(SCALE * flow, SCALE).unflatten(0, (b, t - 1))
    fed_back = frames.new_zeros(b, FED_BACK, *frames.shape[-2:])
    outputs: list[Tensor] = []
    for i in range(t):
        if i:
            fed_back = ops.space_to_depth((ops.warp(outputs[-1], enlarged[:, i - 1]) + 1) / 2)
        outputs.append(network.generator(torch.cat([frames[:, i], fed_back], 1)))
    return flow.unflatten(0, (b, t - 1)), enlarged, torch.stack(outputs, 1)


def losses(network: Recurrent, low: Tensor, target: Tensor, recipe: Train, vgg: SlimVgg | None) -> Losses:
    """Return all losses of a batch of clips at the present weights.

    `low`: (B, N, 3, h, w) in [0,1]; `target`: (B, N, 3, 4h, 4w) in [-1,1]. `network` has a discriminator, and `vgg` is
    given, where the recipe weighs their losses.
    """
    n = low.shape[1]
    order = list(range(n)) + (list(range(n - 2, -1, -1)) if recipe.ping_pong else [])
    clip, truth = low[:, order], target[:, order]
    flow, enlarged, output = unroll(network, clip)
    warped = ops.warp(clip[:, :-1].flatten(0, 1), flow.flatten(0, 1))

    values = {
        "l2_content_loss": (output - truth).square().sum(2).mean(),
        "l2_warp_loss": (clip[:, 1:].flatten(0, 1) - warped).square().sum(1).mean(),
    }
    generator = values["l2_content_loss"]
    if recipe.vgg:
        assert vgg is not None
        with torch.no_grad():
            features = [f.unflatten(0, (-1, n))[:, order].flatten(0, 1) for f in vgg.features(target.flatten(0, 1))]
        distances = vgg.distances(vgg.features(output.flatten(0, 1)), features)
        values.update({f"vgg_loss_{block}": value for block, value in enumerate(distances, 2)})
        values["vgg_all"] = torch.stack(distances).sum()
        generator = generator + recipe.vgg * values["vgg_all"]
    if recipe.ping_pong:
        values["PingPang"] = (output[:, : n - 1] - output[:, n:].flip(1)).abs().mean()
        generator = generator + recipe.ping_pong * values["PingPang"]

    discriminator = advantage = None
    if recipe.adversarial:
        seen = _judged(network, clip, truth, output, enlarged.detach(), recipe)
        judged = [
            (network.get_submodule(part)(real), network.get_submodule(part)(fake))
            for part, (real, fake) in zip(judges(recipe), seen, strict=True)
        ]
        log_real, log_fake = (
            torch.stack([(pair[side][0] + EPSILON).log().mean() for pair in judged]) for side in (0, 1)
        )
        values["t_adversarial_loss"] = -log_fake.sum()
        generator = generator + recipe.adversarial * values["t_adversarial_loss"]
        if recipe.layers:
            layers = [
                [(a - b).abs().sum(1).mean() for a, b in zip(real[1], fake[1], strict=True)] for real, fake in judged
            ]
            terms = [torch.stack(each).sum() for each in zip(*layers, strict=True)]
            values.update({f"D_layer_{i}_loss": term for i, term in enumerate(terms)})
            scaled = [LAYER_SCALE / norm * term for norm, term in zip(LAYER_NORMS, terms, strict=True)]
            values["D_layer_loss_sum"] = torch.stack(scaled).sum()
            generator = generator + recipe.layers * values["D_layer_loss_sum"]
        missed = torch.stack([(1 - fake[0] + EPSILON).log().mean() for _, fake in judged])
        discriminator = -(missed + log_real).sum()
        advantage = (log_real - log_fake).mean().detach()
        values["t_discrim_loss"] = discriminator
        for side, name in enumerate(("real", "fake")):
            values[f"t_discrim_{name}_output"] = torch.stack([pair[side][0].mean() for pair in judged]).mean()

    values["All_loss_Gen"] = generator
    fnet = generator + recipe.warp * values["l2_warp_loss"]
    detached = {name: value.detach() for name, value in values.items()}
    return Losses(detached, output, generator, fnet, discriminator, advantage)


def _judged(
    network: Recurrent, clip: Tensor, truth: Tensor, output: Tensor, flow: Tensor, recipe: Train
) -> list[tuple[Tensor, Tensor]]:
    """Return what each discriminator sees of targets and of outputs.

    merged: (B * triplets, 27, 4h, 4w). spatial: each frame and its enlarged input, (B * 3 * triplets, 6, 4h, 4w), and for
    spatial_temporal the warped triplets, (B * triplets, 9, 4h, 4w). Triplets are consecutive and do not overlap. The
    flows to the middle frame come from low resolution, the same for both, and carry no gradient. With ping-pong the
    second half of the clip holds the flow backwards in time.
    """
    t = clip.shape[1]
    starts = torch.arange(0, 3 * (t // 3), 3, device=clip.device)
    forward = flow[:, starts].flatten(0, 1)
    if recipe.ping_pong:
        backward = flow[:, t - 3 - starts].flatten(0, 1)
    else:
        with torch.no_grad():
            estimated = network.fnet.flow(clip[:, starts + 2].flatten(0, 1), clip[:, starts + 1].flatten(0, 1))
            backward = ops.resize_bilinear(SCALE * estimated, SCALE)

    def grouped(x: Tensor) -> Tensor:
        return torch.stack([x[:, starts + i] for i in range(3)], 2).flatten(0, 1)

    height, width = truth.shape[-2:]
    rows, columns = int(CENTRE * height), int(CENTRE * width)
    top, left = (height - rows) // 2, (width - columns) // 2
    centre = torch.zeros(height, width, device=clip.device)
    centre[top : top + rows, left : left + columns] = 1
    enlarged = ops.resize_bilinear(grouped(clip).flatten(0, 1), SCALE)

    def seen(frames: Tensor) -> list[Tensor]:
        triplets = grouped(frames)
        before, middle, after = triplets.unbind(1)  # the middle frame's own flow is zero: it stays
        warped = torch.stack([ops.warp(before, forward), middle, ops.warp(after, backward)], 1) * centre
        moving = ops.pack_triplets(warped)
        if recipe.discriminator == "merged":
            given = ops.pack_triplets(enlarged.unflatten(0, (-1, 3)))
            return [torch.cat([ops.pack_triplets(triplets), moving, given], 1)]
        return [torch.cat([triplets.flatten(0, 1), enlarged], 1), moving][: len(judges(recipe))]

    return list(zip(seen(truth), seen(output), strict=True))


def moving_average(average: Tensor, value: Tensor) -> Tensor:
    """Return the exponential moving average after one more value; it starts at 0 and is not corrected for that."""
    return DECAY * average + (1 - DECAY) * value


class TensorFlowAdam(torch.optim.Adam):
    """Adam with epsilon added where TensorFlow 1 adds it, outside the bias correction of the second moment.

    torch adds it after that correction, so the same step follows from an epsilon of eps / sqrt(1 - beta2^t).
    """

    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Take one step. All parameters of a group have taken the same number of steps."""
        for group in self.param_groups:
            taken = next((float(self.state[w]["step"]) for w in group["params"] if "step" in self.state[w]), 0.0)
            group["published_eps"] = group.get("published_eps", group["eps"])
            group["eps"] = group["published_eps"] / math.sqrt(1 - group["betas"][1] ** (taken + 1))
        return super().step(closure)
