"""The conditioning auto-encoder's losses, training step and embedding."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import RetakeError
from pipeline.losses.augment import augment, resized
from pipeline.losses.patch import PatchDiscriminator, hinge_discriminator, hinge_generator
from pipeline.losses.updates import update
from pipeline.losses.vgg16 import Lpips, load_lpips
from pipeline.models import base, published
from pipeline.models.cinn_ae import Params, Train
from pipeline.models.cinn_ae.network import Decoder, Encoder, load_encoder

LARGEST_WEIGHT = 1e4  # of the adversarial loss


class Step(Protocol):
    """What the train stage hands to `training_step`."""

    fabric: Any
    optimisers: dict[str, torch.optim.Optimizer]
    step: int
    steps: int


class AutoEncoder(nn.Module, base.Network):
    """The encoder, and with a recipe the decoder and the discriminator that train it.

    As a model of animation it makes clips that stand still: the start frame as the embedding has kept it.

    `plateau`: the smallest reconstruction error at an epoch's end, and how many epochs since were no better.
    """

    context = 1
    draws_start = True
    plateau: Tensor

    def __init__(self, p: Params) -> None:
        super().__init__()
        self.p, self.size = p, p.network.size
        self.encoder = Encoder(p.network)
        if p.train is not None:
            self.decoder = Decoder(p.network)
            self.discriminator = PatchDiscriminator()
            self.register_buffer("plateau", torch.tensor([torch.inf, 0]))
        self._lpips: Lpips | None = None

    def embed(self, frames: Tensor) -> Tensor:
        """Return the embedding (B, z_dim), the mode, of frames (B, 3, S, S) float32 RGB in [0,1]."""
        return self.encoder.embed(frames)

    @torch.no_grad()
    def predict(self, start: Tensor, horizon: int, *, seeds: list[int]) -> Tensor:
        """Return the decoded start frames again and again, (B, 1, 3, S, S) -> (B, horizon, 3, S, S) in [0,1].

        Raises RetakeError for imported weights, which have no decoder.
        """
        if self.p.train is None:
            raise RetakeError("this conditioning encoder has no decoder: train one to see what it keeps of a frame")
        made = (self.decoder(self.embed(start[:, 0])) + 1) / 2
        return made[:, None].expand(-1, horizon, -1, -1, -1)

    def predicting(self) -> list[nn.Module]:
        """Return encoder and decoder."""
        return [self.encoder, self.decoder]

    @torch.no_grad()
    def validate(self, batch: dict[str, Tensor]) -> dict[str, float]:
        """Return `val_l1`, the mean absolute error of decoded frames in [-1,1], as in training.

        `batch`: `clip` (B, 1, 3, S, S) in [0,1].
        """
        return {"val_l1": float(2 * (self.predict(batch["clip"], 1, seeds=[]) - batch["clip"]).abs().mean())}

    def configure(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimisers of encoder with decoder, and of the discriminator; load LPIPS where the recipe uses it.

        Raises weights.Missing without VGG16's weights.
        """
        recipe = self._recipe()
        if recipe.perceptual:
            self._lpips = load_lpips(recipe.vgg_weights)
        parts = {"generator": (self.encoder, self.decoder), "discriminator": (self.discriminator,)}
        weights = {
            name: [weight for network in networks for weight in network.parameters() if weight.requires_grad]
            for name, networks in parts.items()
        }
        return {name: torch.optim.Adam(trained, lr=recipe.lr) for name, trained in weights.items()}

    def augment(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a clip (n, h, w, 3) uint8 as float32 in [0,1], at the network's size, changed by chance."""
        return augment(clip, rng, self.p.network.size, self._recipe().augment)

    def prepare(self, clip: np.ndarray) -> np.ndarray:
        """Return a clip (n, h, w, 3) uint8 at the network's size."""
        return resized(clip, self.p.network.size)

    def training_step(self, batch: dict[str, Tensor], state: Step) -> dict[str, float]:
        """Take one step of the encoder and decoder, and from `discriminator_from` on one of the discriminator.

        `batch`: `clip`, (B, 1, 3, S, S) float32 RGB in [0,1]. Returns the losses and the learning rate.
        """
        recipe, fabric = self._recipe(), state.fabric
        epoch, following = (step * recipe.epochs // state.steps for step in (state.step, state.step + 1))
        images = 2 * batch["clip"][:, 0] - 1
        with fabric.autocast():
            objective, made, values = self.losses(images, adversarial=epoch >= recipe.discriminator_from)
        update(fabric, state.optimisers["generator"], objective)
        if epoch >= recipe.discriminator_from:
            with fabric.autocast():
                real, fake = self.discriminator(images), self.discriminator(made.detach())
                loss = hinge_discriminator(real, fake)
            update(fabric, state.optimisers["discriminator"], loss)
            judged = {"loss_discriminator": loss, "logits_real": real.mean(), "logits_fake": fake.mean()}
            values |= {name: value.detach() for name, value in judged.items()}
        if following != epoch:
            self._end_epoch(float(fabric.all_reduce(values["rec"], reduce_op="mean")), state.optimisers)
        rate = state.optimisers["generator"].param_groups[0]["lr"]
        return {name: float(value) for name, value in values.items()} | {"lr": rate}

    def losses(self, images: Tensor, *, adversarial: bool) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return the generator's loss, the decoded means and the loss's parts, detached.

        `images`, decoded: (B, 3, S, S) in [-1,1]. `rec`: mean of |x - x'| + LPIPS; `nll`: its sum an image; `kl`: of the
        codes to N(0, I); with `adversarial` the hinge loss too, weighed so that its gradient is as long as that of nll.
        """
        recipe = self._recipe()
        mean, logvar = self.encoder(images)
        made = self.decoder(mean)
        error = (images - made).abs()
        if self._lpips is not None:
            distance = self._lpips.to(images.device)(images, made, dropout="lpips_dropout" in recipe.quirks)
            error = error + recipe.perceptual * distance.view(-1, 1, 1, 1)
        nll = error.sum() / len(images)
        kl = divergence(mean, logvar)
        values = {"rec": error.mean(), "nll": nll, "kl": kl}
        objective = nll + recipe.kl * kl
        if adversarial:
            loss = hinge_generator(self.discriminator(made))
            last = self.decoder.get_parameter("decoder.colorize.module.weight_bar")
            weight = balance(nll, loss, last)
            objective = objective + weight * loss
            values |= {"loss_adversarial": loss, "adversarial_weight": weight}
        return objective, made, {name: value.detach() for name, value in {"loss": objective, **values}.items()}

    def _end_epoch(self, error: float, optimisers: dict[str, torch.optim.Optimizer]) -> None:
        """Halve both learning rates when the error of the epoch's last batch has not fallen for two epochs.

        torch's schedule keeps its state in itself; here it lies in a buffer, so that a resumed training has it.
        """
        before = self.plateau.tolist()
        for optimiser in optimisers.values():
            schedule = torch.optim.lr_scheduler.ReduceLROnPlateau(
                optimiser, factor=0.5, patience=1, threshold=1e-4, threshold_mode="abs", min_lr=1e-8
            )
            schedule.best, schedule.num_bad_epochs = before[0], int(before[1])
            schedule.step(error)
            self.plateau.copy_(torch.tensor([schedule.best, schedule.num_bad_epochs]))

    def load_published(self, state: dict[str, Tensor]) -> None:
        """Copy weights of our own; without a recipe only the encoder's, also of the published `encoder_stage2.pth`.

        Raises RetakeError that says what does not fit.
        """
        if self.p.train is None:
            load_encoder(self.encoder, published.part(state, "encoder.") or state, self.p.network)
        else:
            published.load(self, state, "the checkpoint is not of this auto-encoder with its discriminator")

    def _recipe(self) -> Train:
        if self.p.train is None:
            raise ValueError("this model has no `train`: nothing says how to train it")
        return self.p.train


def divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Return the mean divergence (KL) of diagonal Gaussians (B, n) from N(0, I), summed over the n values."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(1).mean()


def balance(first: Tensor, second: Tensor, weight: Tensor) -> Tensor:
    """Return how much longer the gradient to `weight` of the first loss is than that of the second, at most 1e4."""
    lengths = [torch.autograd.grad(loss, weight, retain_graph=True)[0].norm() for loss in (first, second)]
    return (lengths[0] / (lengths[1] + 1e-4)).clamp(0, LARGEST_WEIGHT)
