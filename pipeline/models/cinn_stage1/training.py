"""Stage 1 of i2v-cINN as the stages use it: training step, reconstruction, validation, published checkpoints.

Methods take and give frames in [0,1], (B, T, 3, S, S); the networks and the losses see them in [-1,1]. Losses carry the
names of the published log.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import RetakeError, near
from pipeline.losses.augment import augment, resized
from pipeline.losses.patch import PatchDiscriminator, hinge_discriminator, hinge_generator
from pipeline.losses.updates import update
from pipeline.losses.vgg16 import Lpips, load_lpips
from pipeline.models import published
from pipeline.models.base import Network
from pipeline.models.cinn_stage1 import FRAMES, Z_DIM, Params, Train, check
from pipeline.models.cinn_stage1.network import Decoder, Encoder, TemporalDiscriminator

JUDGED = 12  # consecutive frames that the temporal discriminator sees
SHOWN = 20  # frames of a batch that the spatial discriminator sees
BETAS = (0.5, 0.9)
# {part of a published checkpoint's file name: the network that the file holds}
PUBLISHED = {"GEN": "decoder", "ENC": "encoder", "DISC_t": "disc_t", "DISC_s": "disc_s"}
# Keys that give away what a file holds
MARKS = {
    "head_0.": "a decoder (GEN)",
    "conv_mu.": "an encoder (ENC)",
    "fc.weight": "a temporal discriminator (DISC_t)",
    "main.0.": "a patch discriminator (DISC_s)",
    "sub_layers.": "a flow (cINN)",
}


class CinnStage1(nn.Module, Network):
    """Encoder and decoder, and both discriminators where there is a recipe to train by."""

    stochastic = True
    context = 1
    motion = "frames"

    def __init__(self, p: Params) -> None:
        super().__init__()
        self.p, self.size = p, p.network.size
        self.encoder = Encoder(p.network)
        self.decoder = Decoder(p.network)
        if p.train is not None:
            self.disc_t = TemporalDiscriminator(p.network.size, p.train.discriminator_channels)
            self.disc_s = PatchDiscriminator()
        self._lpips: Lpips | None = None

    # Use

    def encode(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return a motion code drawn from the posterior, its mean and its log-variance, (B, 64) each.

        `clip`: the frames after the start frame, (B, 16, 3, S, S) in [0,1]; motion transfer encodes 15. The draw comes
        from torch's generator. Raises RetakeError for other lengths and sizes.
        """
        if clip.shape[1] not in (FRAMES - 1, FRAMES):
            raise RetakeError(
                f"a clip of {clip.shape[1]} frames: the encoder takes {FRAMES} frames, those after the start frame, or 15"
            )
        self._check_size(clip)
        return self._encode(signed(clip))

    def decode(self, start: Tensor, z: Tensor) -> Tensor:
        """Return the 16 frames after the start frame, (B, 16, 3, S, S) in [0,1].

        `start`: (B, 3, S, S) in [0,1]; `z`: motion codes (B, 64). Raises RetakeError for other sizes.
        """
        self._check_size(start)
        return (self.decoder(2 * start - 1, z).transpose(1, 2) + 1) / 2

    def reconstruct(self, clip: Tensor) -> Tensor:
        """Return frames 1 to 16 of a clip (B, 17, 3, S, S) in [0,1], made of frame 0 and a motion code that is drawn.

        Raises RetakeError for other lengths and sizes.
        """
        self._check_length(clip)
        z, _, _ = self.encode(clip[:, 1:])
        return self.decode(clip[:, 0], z)

    @torch.no_grad()
    def predict(self, frames: Tensor, horizon: int, *, seeds: list[int], motion: Tensor | None = None) -> Tensor:
        """Return the frames after start frames, (B, 1, 3, S, S) -> (B, horizon, 3, S, S) in [0,1].

        `motion`: clips (B, 16 or more, 3, S, S) that begin with a start frame of their own; a motion code is drawn from the
        posterior of its frames 1 to 16, or to 15 where there are no more. Left out: from N(0, I), which stage 1 alone
        matches badly. `seeds`: of these draws, one a clip. Raises RetakeError for other lengths and sizes.
        """
        z = draws(seeds, frames)
        if motion is not None:
            _, mu, logvar = self.encode(motion[:, 1 : FRAMES + 1])
            z = sample(mu, logvar, z)
        return self.animate(frames[:, 0], z, horizon)

    def animate(self, start: Tensor, z: Tensor, horizon: int) -> Tensor:
        """Return `horizon` frames after start frames, (B, 3, S, S) -> (B, horizon, 3, S, S) in [0,1]; `z`: (B, 64).

        Beyond 16 frames, the last frame is the next start frame, with the same motion code. Raises RetakeError for other sizes.
        """
        made: list[Tensor] = []
        for _ in range(0, horizon, FRAMES):
            made.append(self.decode(start, z))
            start = made[-1][:, -1]
        return torch.cat(made, 1)[:, :horizon]

    def predicting(self) -> list[nn.Module]:
        """Return encoder and decoder."""
        return [self.encoder, self.decoder]

    @torch.no_grad()
    def validate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Return `val_l1`, the mean absolute error of reconstructed frames in [-1,1], as in training.

        `batch`: `clip` (B, 17, 3, S, S) in [0,1]. Raises RetakeError for other lengths and sizes.
        """
        return {"val_l1": float(2 * (self.reconstruct(batch["clip"]) - batch["clip"][:, 1:]).abs().mean())}

    # Training

    def configure(self) -> dict[str, torch.optim.Optimizer]:
        """Return the Adam optimisers of encoder and decoder and of each discriminator; load LPIPS where it has weight.

        Raises RetakeError when LPIPS's weights cannot be had.
        """
        recipe = self._recipe()
        if recipe.perceptual:
            self._lpips = load_lpips(recipe.vgg_weights)
        parts = {
            "vae": [*self.encoder.parameters(), *self.decoder.parameters()],
            "disc_t": self.disc_t.parameters(),
            "disc_s": self.disc_s.parameters(),
        }
        return {
            name: torch.optim.Adam(weights, lr=recipe.lr, betas=BETAS, weight_decay=recipe.weight_decay)
            for name, weights in parts.items()
        }

    def augment(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a clip (n, h, w, 3) uint8 as float32 in [0,1], at the network's size, changed by chance."""
        return augment(clip, rng, self.p.network.size, self._recipe().augment)

    def prepare(self, clip: np.ndarray) -> np.ndarray:
        """Return a clip (n, h, w, 3) uint8 at the network's size."""
        return resized(clip, self.p.network.size)

    def training_step(self, batch: Mapping[str, Tensor], state: Any) -> dict[str, float]:
        """Update the temporal discriminator, the spatial one, then encoder and decoder; return the losses.

        `batch`: `clip` (B, 17, 3, S, S) in [0,1]; `state`: as train.State. In the epochs of pretraining the discriminators are
        neither updated nor asked. Raises RetakeError for clips of another length or size.
        """
        recipe, fabric = self._recipe(), state.fabric
        self._check_length(batch["clip"])
        self._check_size(batch["clip"])
        epoch = state.step * recipe.epochs // state.steps
        adversarial = epoch >= recipe.pretrain
        self._set_rates(state.optimisers, epoch)
        clip = signed(batch["clip"])
        target = clip[:, :, 1:]
        with fabric.autocast():
            z, mu, logvar = self._encode(target)
            generated = self.decoder(clip[:, :, 0], z)
            values, objective = self._reconstruction(generated, target, mu, logvar)
        if adversarial:
            first = int(torch.randint(FRAMES - JUDGED + 1, ()))
            window = slice(first, first + JUDGED)
            shown = torch.randint(len(clip) * FRAMES, (SHOWN,))
            real, fake = target[:, :, window], generated[:, :, window]
            real_frames, fake_frames = (x.transpose(1, 2).flatten(0, 1)[shown] for x in (target, generated))
            values |= self._update_temporal(real, fake.detach(), state)
            values |= self._update_spatial(real_frames, fake_frames.detach(), state)
            with fabric.autocast():
                judged, adversary = self._adversary(real, fake, fake_frames)
            values, objective = values | judged, objective + adversary
        values["Loss_VAE"] = objective
        update(fabric, state.optimisers["vae"], objective)
        return {name: float(value.detach()) for name, value in values.items()}

    def _set_rates(self, optimisers: dict[str, torch.optim.Optimizer], epoch: int) -> None:
        """Set the learning rates of an epoch; the discriminators' begin to fall in the epoch after their first."""
        recipe = self._recipe()
        for name, optimiser in optimisers.items():
            trained = epoch if name == "vae" else max(epoch - recipe.pretrain, 0)
            for group in optimiser.param_groups:
                group["lr"] = recipe.lr * recipe.lr_gamma**trained

    def _reconstruction(
        self, generated: Tensor, target: Tensor, mu: Tensor, logvar: Tensor
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses that need no discriminator, by name, and their weighted sum."""
        recipe = self._recipe()
        values = {"Loss_L1": (generated - target).abs().mean(), "Loss_KL": kl(mu, logvar)}
        objective = recipe.reconstruction * values["Loss_L1"] + recipe.kl * values["Loss_KL"]
        if recipe.perceptual:
            assert self._lpips is not None
            frames = [x.transpose(1, 2).flatten(0, 1) for x in (generated, target)]
            distance = self._lpips.to(target.device)
            values["LPIPS"] = distance(*frames, dropout="lpips_dropout" in recipe.quirks).mean()
            objective = objective + recipe.perceptual * values["LPIPS"]
        return values, objective

    def _update_temporal(self, real: Tensor, fake: Tensor, state: Any) -> dict[str, Tensor]:
        """Take the temporal discriminator's step on clips (B, 3, 12, S, S); return its losses."""
        real = real.detach().requires_grad_()
        with state.fabric.autocast():
            logits_real, _ = self.disc_t(real)
            logits_fake, _ = self.disc_t(fake)
            hinge = hinge_discriminator(logits_real, logits_fake)
            penalty = gradient_penalty(logits_real, real)
        update(state.fabric, state.optimisers["disc_t"], hinge + self._recipe().penalty * penalty)
        logits = {"Logits_Real_T": logits_real.mean(), "Logits_Fake_T": logits_fake.mean()}
        return {"Loss_Disc_T": hinge, "L_GP": penalty} | logits

    def _update_spatial(self, real: Tensor, fake: Tensor, state: Any) -> dict[str, Tensor]:
        """Take the spatial discriminator's step on frames (20, 3, S, S); return its losses."""
        with state.fabric.autocast():
            logits_fake = self.disc_s(fake)  # first: ActNorm is set by generated frames
            logits_real = self.disc_s(real)
            hinge = hinge_discriminator(logits_real, logits_fake)
        update(state.fabric, state.optimisers["disc_s"], hinge)
        return {"Loss_Disc_S": hinge, "Logits_Real_S": logits_real.mean(), "Logits_Fake_S": logits_fake.mean()}

    def _adversary(self, real: Tensor, fake: Tensor, fake_frames: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Return the losses that both discriminators give the decoder, by name, and their weighted sum."""
        recipe = self._recipe()
        with torch.no_grad():
            _, features_real = self.disc_t(real)
        logits, features_fake = self.disc_t(fake)
        values = {
            "Loss_GEN_S": hinge_generator(self.disc_s(fake_frames)),
            "Loss_GEN_T": hinge_generator(logits),
            "Loss_Fmap_T": feature_distance(features_fake, features_real),
        }
        temporal = recipe.temporal * values["Loss_GEN_T"] + recipe.features * values["Loss_Fmap_T"]
        return values, values["Loss_GEN_S"] + temporal

    def _encode(self, clip: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return drawn motion code, mean and log-variance of (B, 3, T, S, S) in [-1,1]."""
        mu, logvar = self.encoder(clip)
        return sample(mu, logvar, torch.randn_like(mu)), mu, logvar

    def _recipe(self) -> Train:
        if self.p.train is None:
            raise ValueError("this model has no `train`: nothing says how to train it")
        return self.p.train

    # Input and checkpoints

    def _check_length(self, clip: Tensor) -> None:
        if clip.shape[1] != FRAMES + 1:
            raise RetakeError(
                f"a clip of {clip.shape[1]} frames: stage 1 needs {FRAMES + 1}, a start frame and the {FRAMES} after it"
            )

    def _check_size(self, frames: Tensor) -> None:
        try:
            check(self.p.network.size, *frames.shape[-2:])
        except ValueError as error:
            raise RetakeError(str(error)) from None

    def load_published(self, state: Mapping[str, Any]) -> None:
        """Load published files, or a state dict of our own.

        `state`: {"GEN": ..., "ENC": ..., and if wanted "DISC_t": ..., "DISC_s": ...}, each what the file holds (with
        `state_dict` and `epoch`) or its bare state dict; or {our key: tensor}. Discriminators that are not given stay as they
        are, and are left out where there is no recipe to train by. Raises RetakeError for a pair that does not belong
        together, for a file in another's place and for weights of other sizes.
        """
        if "GEN" in state or "ENC" in state:
            state = _joined(state)
        parts = {part: published.part(state, f"{part}.") for part in PUBLISHED.values() if hasattr(self, part)}
        for file, part in PUBLISHED.items():
            if parts.get(part):
                published.check(self.get_submodule(part), parts[part], self._mismatch(file, parts[part]))
            elif part in ("decoder", "encoder"):
                raise RetakeError(
                    f"these weights have no {file}: stage 1 needs the files GEN and ENC of one folder, by name"
                )
        for part, given in parts.items():
            if given:
                self.get_submodule(part).load_state_dict(given)

    def _mismatch(self, file: str, given: Mapping[str, Tensor]) -> str:
        """Return what to say of a file whose tensors do not fit: what it holds where that can be told, and what is needed."""
        held = next((what for mark, what in MARKS.items() if any(key.startswith(mark) for key in given)), None)
        network = self.p.network
        about = f"channel_factor {network.channel_factor}, channels {network.channels}, size {network.size}"
        holds = f"it holds {held}; " if held is not None and f"({file})" not in held else ""
        return f"{file} is not of this network: {holds}network has {about}, GEN and ENC must be of one folder"


def draws(seeds: list[int], like: Tensor) -> Tensor:
    """Return standard normal noise (B, 64), a row for each seed, on the device of `like`."""
    # numpy's generator: torch's on a CPU drops the upper half of a 64-bit seed
    values = [np.random.Generator(np.random.PCG64(seed)).standard_normal(Z_DIM, np.float32) for seed in seeds]
    return torch.from_numpy(np.stack(values)).to(like)


def sample(mu: Tensor, logvar: Tensor, noise: Tensor) -> Tensor:
    """Return motion codes of a posterior, (B, 64), from standard normal noise (B, 64)."""
    return mu + (0.5 * logvar).exp() * noise


def kl(mu: Tensor, logvar: Tensor) -> Tensor:
    """Return the mean divergence of N(mu, exp(logvar)) from N(0, I); (B, 64) each."""
    return -0.5 * (1 + logvar - mu.square() - logvar.exp()).sum(1).mean()


def gradient_penalty(logits: Tensor, clip: Tensor) -> Tensor:
    """Return the squared gradient of the mean logit at `clip` (B, ...), summed over a clip, its mean over the batch."""
    (gradient,) = torch.autograd.grad(logits.mean(), clip, create_graph=True)
    return gradient.square().flatten(1).sum(1).mean()


def feature_distance(fake: list[Tensor], real: list[Tensor]) -> Tensor:
    """Return the mean over layers of the mean absolute difference of features."""
    return torch.stack([(a - b).abs().mean() for a, b in zip(fake, real, strict=True)]).mean()


def signed(clip: Tensor) -> Tensor:
    """Return a clip (B, T, 3, S, S) in [0,1] as the networks take it, (B, 3, T, S, S) in [-1,1]."""
    return 2 * clip.transpose(1, 2) - 1


def _joined(files: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return the tensors of published files under our keys; see `load_published`."""
    missing = [file for file in ("GEN", "ENC") if file not in files]
    if missing:
        raise RetakeError(f"stage 1 needs the files GEN and ENC of one folder: {missing[0]} is missing")
    for file in files:
        if file not in PUBLISHED:
            raise RetakeError(f"stage 1 has no file {file!r}{near(file, PUBLISHED)}")
    epochs = {file: tree["epoch"] for file, tree in files.items() if "epoch" in tree}
    if len(set(epochs.values())) > 1:
        told = ", ".join(f"{file} after {epoch} epochs" for file, epoch in epochs.items())
        raise RetakeError(f"these files were not saved together: {told}. Give files of one folder")
    return {
        f"{PUBLISHED[file]}.{key}": value
        for file, tree in files.items()
        for key, value in tree.get("state_dict", tree).items()
    }
