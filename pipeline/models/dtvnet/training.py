"""DTVNet's training, prediction and checkpoints (ECCV 2020, sections 3 and 4).

One step updates the discriminator and then, against the updated one, generator and flow encoder, as published. Nothing is
computed twice, and no gradient that nobody uses: generator and flow encoder run once a step, the generated video has no
history where the discriminator learns, and the discriminator's weights get no gradient where the generator learns.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from pipeline.errors import RetakeError, log
from pipeline.models import base, published
from pipeline.models.dtvnet import Params, Train, check
from pipeline.models.dtvnet.network import (
    ADVERSARIAL,
    EPSILON,
    Discriminator,
    FlowEncoder,
    Generator,
    flow_target,
    gradient_penalty,
    normalised,
    options,
)

UNTRAINED_SEED = 0  # of the flow encoder that an import without one gets


class DTVNet(nn.Module, base.Network):
    """Generator and flow encoder, and the discriminator where there is a training.

    `motion_norm` normalises motion vectors: in training over the batch, while it averages mean and variance for prediction.
    """

    context = 1
    stochastic = True
    motion = "flow"
    draws_start = True

    def __init__(self, p: Params) -> None:
        super().__init__()
        self.p, self.size = p, p.network.size
        self.generator = Generator(p.network)
        self.encoder = self._new_encoder()
        self.motion_norm = nn.BatchNorm1d(p.network.motion, EPSILON, affine=False)
        self.discriminator = None
        if p.train is not None:
            if p.train.adversarial:
                self.discriminator = Discriminator(p.network.channels // 2, p.network.size)
            for part in (self.generator, self.discriminator):
                for module in part.modules() if part is not None else ():
                    initialise(module, p.train.init)

    def _new_encoder(self) -> FlowEncoder:
        network = self.p.network
        return FlowEncoder(network.channels // 2, network.motion, network.size)

    def predicting(self) -> list[nn.Module]:
        """Return the networks that predict: not the discriminator."""
        return [self.generator, self.encoder]

    # Training

    def configure(self) -> dict[str, torch.optim.Optimizer]:
        """Return one Adam optimiser a network."""
        return {
            part: torch.optim.Adam(self.get_submodule(part).parameters(), lr=rate, betas=(0.9, 0.999), eps=1e-7)
            for part, rate in self._rates().items()
        }

    def training_step(self, batch: Mapping[str, Tensor], state: Any) -> dict[str, float]:
        """Update the discriminator, then generator and flow encoder; return the losses, unweighted, and the rate.

        `batch`: `clip` (B, 32, 3, size, size) float32 in [0,1] and `flow` (B, 32, 2, size, size) float32 px, whose entry t leads
        from frame t - 1 to t. `state`: as train.State. Raises RetakeError for other shapes.
        """
        recipe = self._recipe()
        if len(batch["clip"]) < 2:
            raise RetakeError(
                "a process has one clip of a batch, and motion vectors are normalised over its clips: raise train.batch, or "
                "start fewer processes"
            )
        factor = rate_factor(1 + state.step * recipe.epochs // state.steps, recipe.epochs, recipe.full_rate_epochs)
        for part, rate in self._rates().items():
            for group in state.optimisers[part].param_groups:
                group["lr"] = factor * rate
        image, real, flow, target = self.prepared(batch)
        with state.fabric.autocast():
            fake, fake_flow = self.generator(image, self.motion_norm(self.encoder(flow)))
        losses = self._judge(real, fake.detach(), state) if self.discriminator is not None else {}
        losses |= self._generate(real, fake, fake_flow, target, state)
        values = torch.stack(list(losses.values())).tolist()  # one wait for the device
        return dict(zip(losses, values, strict=True)) | {"lr": factor * recipe.lr_generator}

    def prepared(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return image (B, 3, H, W), video (B, 3, 32, H, W), flow (B, 2, 32, H, W) and flow target (B, 64, H/2, W/2).

        `batch`: as in `training_step`, of any even size. The image, the clip's first frame, is in [-1,1], the video in
        `network.range`; flow is in px of H x W, the target in px of its own size.
        """
        clip, flow = batch["clip"], batch["flow"]
        video = clip.transpose(1, 2)
        if self.p.network.range == "symmetric":
            video = 2 * video - 1
        return 2 * clip[:, 0] - 1, video.contiguous(), flow.transpose(1, 2).contiguous(), flow_target(flow)

    def _judge(self, real: Tensor, fake: Tensor, state: Any) -> dict[str, Tensor]:
        """Update the discriminator."""
        recipe, loss = self._recipe(), ADVERSARIAL[self._recipe().gan_mode]
        assert self.discriminator is not None
        with state.fabric.autocast():
            # It normalises each video by itself, so that generated and real ones can go through it together
            scores_fake, scores_real = self.discriminator(torch.cat([fake, real])).chunk(2)
            losses = {"d_fake": loss(scores_fake, False), "d_real": loss(scores_real, True)}
            alpha = torch.rand(len(real), 1, device=real.device, dtype=real.dtype)
            losses["gradient_penalty"] = gradient_penalty(self.discriminator, real, fake, alpha)
        adversarial = losses["d_fake"] + losses["d_real"]
        objective = recipe.adversarial * adversarial + recipe.gradient_penalty * losses["gradient_penalty"]
        self._update(objective, ["discriminator"], state)
        return {name: value.detach() for name, value in losses.items()}

    def _generate(self, real: Tensor, fake: Tensor, fake_flow: Tensor, target: Tensor, state: Any) -> dict[str, Tensor]:
        """Update generator and flow encoder."""
        recipe = self._recipe()
        losses = {"l1_video": functional.l1_loss(fake, real), "l1_flow": functional.l1_loss(fake_flow, target)}
        objective = recipe.l1_video * losses["l1_video"] + recipe.l1_flow * losses["l1_flow"]
        if self.discriminator is not None:
            with state.fabric.autocast():
                losses["g_adversarial"] = ADVERSARIAL[recipe.gan_mode](self.discriminator(fake), True)
            objective = objective + losses["g_adversarial"]
        self._update(objective, ["generator", "encoder"], state)
        return {name: value.detach() for name, value in losses.items()}

    def _update(self, objective: Tensor, parts: list[str], state: Any) -> None:
        """Take one optimiser step for some networks; several processes average gradients here.

        DDP's hooks know one backward pass a step only. Gradients of other networks' weights are not computed.
        """
        weights = [weight for part in parts for weight in self.get_submodule(part).parameters()]
        gradients = torch.autograd.grad(objective, weights)
        if state.fabric.world_size > 1:
            gradients = state.fabric.all_reduce(gradients, reduce_op="mean")
        for weight, gradient in zip(weights, gradients, strict=True):
            weight.grad = gradient
        for part in parts:
            state.optimisers[part].step()
            state.optimisers[part].zero_grad()

    def _rates(self) -> dict[str, float]:
        recipe = self._recipe()
        rates = {"generator": recipe.lr_generator, "encoder": recipe.lr_encoder}
        return rates | ({"discriminator": recipe.lr_discriminator} if self.discriminator is not None else {})

    def _recipe(self) -> Train:
        if self.p.train is None:
            raise ValueError("this model has no `train`: nothing says how to train it")
        return self.p.train

    # Prediction

    @torch.no_grad()
    def predict(self, frames: Tensor, horizon: int, *, seeds: list[int], motion: Tensor | None = None) -> Tensor:
        """Return videos (B, horizon, 3, H, W) in [0,1] that begin with `frames`, (B, 1, 3, H, W) float32 in [0,1].

        The first frame is the given one as the generator draws it. `motion`: flow (B, 32, 2, size, size) px as in
        `training_step`, of which the encoder makes motion vectors; left out: they are drawn by `seeds`, one a clip.
        Beyond 32 frames the last one is the next image, with the same vector: 31 new frames each time, whose errors add up
        and whose motion begins anew. Raises RetakeError for odd sizes, and for flow where the encoder is not trained.
        """
        try:
            check(*frames.shape[-2:])
        except ValueError as error:
            raise RetakeError(str(error)) from None
        training = self.training
        self.eval()
        try:
            return self._continued(frames[:, -1], horizon, self._vectors(seeds, motion).to(frames))
        finally:
            self.train(training)

    def _continued(self, image: Tensor, horizon: int, vectors: Tensor) -> Tensor:
        """Return (B, horizon, 3, H, W) in [0,1] from an image (B, 3, H, W) in [0,1] and normalised vectors."""
        videos: list[Tensor] = []
        while sum(video.shape[1] for video in videos) < horizon:
            video = self.generator(2 * image - 1, vectors)[0].transpose(1, 2)
            if self.p.network.range == "symmetric":
                video = (video + 1) / 2
            video = video.clamp(0, 1)
            videos.append(video[:, 1:] if videos else video)
            image = video[:, -1]
        return torch.cat(videos, 1)[:, :horizon]

    def _vectors(self, seeds: list[int], motion: Tensor | None) -> Tensor:
        """Return the clips' motion vectors, (B, motion), normalised."""
        settings = self.p.predict
        over_batch = "batch_statistics" in settings.quirks
        if motion is None:
            # numpy's generator: torch's on a CPU drops the upper half of a 64-bit seed, where two samples' seeds differ
            draws = [np.random.Generator(np.random.PCG64(seed)) for seed in seeds]
            vectors = torch.from_numpy(
                np.stack([draw.standard_normal(self.p.network.motion) for draw in draws])
            ).float()
            return normalised(vectors) if over_batch else vectors
        if not self.encoder.trained and "untrained_encoder" not in settings.quirks:
            raise RetakeError(
                "the checkpoint has no trained flow encoder, as published ones have none: take a protocol whose motion is "
                "random, or set predict.quirks to [untrained_encoder, batch_statistics] for what the published test does"
            )
        vectors = self.encoder(motion.transpose(1, 2).contiguous(), batch_statistics=over_batch)
        return normalised(vectors) if over_batch else self.motion_norm(vectors)

    # Checkpoints

    def load_published(self, *states: Mapping[str, Tensor]) -> None:
        """Load published state dicts, of `DTV_G.pth`, `DTV_D.pth` or both, or one of our own.

        A generator that comes without a flow encoder gets one with new weights, always the same; without statistics of
        motion vectors these are mean 0 and variance 1, so that an encoder's vectors are used as they are. The log says so.
        Raises RetakeError for weights of another system, and lists missing, unknown and misshapen keys.
        """
        parts = {part: state for given in states for part, state in self._parts(given).items()}
        for part, state in parts.items():
            load(part, self.get_submodule(part), state)
        if "generator" in parts and "encoder" not in parts:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(UNTRAINED_SEED)
                new = self._new_encoder()
            self.encoder.load_state_dict(new.state_dict())
            self.motion_norm.reset_running_stats()
            log.warning(
                "the weights have no flow encoder and no statistics of motion vectors: take a protocol whose motion is random"
            )

    def _parts(self, state: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
        """Return {network: its state dict}: all networks of a checkpoint of ours, the one of a published file."""
        state = {key.removeprefix("module."): value for key, value in state.items()}
        networks = {part: network.state_dict() for part, network in self.named_children()}
        first = {key.partition(".")[0] for key in state}
        if {"generator", "encoder", "motion_norm"} <= first <= {*networks, "discriminator"}:
            return {
                part: {
                    key.removeprefix(f"{part}."): value for key, value in state.items() if key.startswith(f"{part}.")
                }
                for part in first & set(networks)
            }
        part = max(networks, key=lambda part: len(networks[part].keys() & state.keys()))
        if not networks[part].keys() & state.keys():
            raise RetakeError(
                f"these are no weights of DTVNet's {', '.join(networks)}: keys {', '.join(list(state)[:6])}, …. Give "
                "DTV_G.pth; DTV_D.pth is for an entry with `train`, no other has a discriminator"
            )
        return {part: dict(state)}


def load(part: str, network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load a whole state dict; raises RetakeError that lists missing, unknown and misshapen keys."""
    if told := published.misfits(network, state):
        here, given = options(network.state_dict()), options(state)
        differ = [
            f"network.{key} {given[key]}, not {here[key]}" for key in given if here.get(key) not in (None, given[key])
        ]
        hint = f". They are of {', '.join(differ)}: set that in params.yaml" if differ else ""
        raise RetakeError(f"the weights are not of this {part}; keys {told}{hint}")
    network.load_state_dict(state)


def rate_factor(epoch: int, epochs: int, full: int) -> float:
    """Return the factor on the learning rates in `epoch`, from 1: 1 for `full` epochs, then linearly down.

    The published formula of niter and niter_decay has full = niter - 1 and epochs = niter + niter_decay - 1.
    """
    return 1 - max(0, epoch - full) / (epochs - full + 1)


def initialise(module: nn.Module, deviation: float) -> None:
    """Draw a convolution's weights, and a 2-D batch norm's around 1, with this standard deviation; biases are zero."""
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Conv3d):
        nn.init.normal_(module.weight, 0, deviation)
    elif isinstance(module, nn.BatchNorm2d):
        nn.init.normal_(module.weight, 1, deviation)
    else:
        return
    if module.bias is not None:
        nn.init.zeros_(module.bias)
