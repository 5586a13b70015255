"""i2v-cINN as a whole: training of its flow, and videos from single frames.

Frames enter and leave as RGB float32 in [0,1].
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from pipeline.errors import RetakeError
from pipeline.losses.augment import augment, resized
from pipeline.models import base, cinn_stage1, published
from pipeline.models.cinn import Params, Train
from pipeline.models.cinn import flow as flows
from pipeline.models.cinn_ae.network import Encoder, load_encoder
from pipeline.models.cinn_stage1.training import draws

SHORTEST = 15  # frames of a clip whose motion is transferred
MOTION = slice(1, 16)  # its frames that are encoded: 15, where training encodes 16
# BAIR's gripper: the least position (x, y, z) and how far it reaches from there, in the dataset's units
LEAST = (0.42638585, -0.3080245, 0.19146784)
REACH = (0.42850533, 0.54029283, 0.12564658)
FILES = ("cINN", "GEN", "ENC", "encoder_stage2")  # of a published model


class Step(Protocol):
    """What the train stage hands to `training_step`."""

    fabric: Any
    module: nn.Module
    optimisers: dict[str, torch.optim.Optimizer]
    step: int
    steps: int


class Cinn(nn.Module, base.Network):
    """The flow, with the frozen video auto-encoder of stage 1 and the frozen encoder of its condition."""

    context = 1
    stochastic = True
    validated_with = "drawn"

    def __init__(self, p: Params) -> None:
        super().__init__()
        network = p.network
        self.p, self.size, self.controlled = p, network.stage1.size, network.control
        self.motion = None if network.control else "frames"
        self.stage1 = cinn_stage1.build(cinn_stage1.Params(kind="cinn_stage1", network=network.stage1, train=None))
        self.encoder = Encoder(network.encoder)
        condition = network.encoder.z_dim + (flows.COORDINATES * flows.BINS if network.control else 0)
        self.flow = flows.ConditionalFlow(
            cinn_stage1.Z_DIM,
            condition,
            blocks=network.blocks,
            width=network.width,
            depth=network.depth,
            control=network.control,
        )
        for frozen in (self.stage1, self.encoder):
            frozen.requires_grad_(False)
        self.batch_statistics = p.train is not None and "batch_statistics" in p.train.quirks
        for module in self.encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.track_running_stats = not self.batch_statistics  # False: it never changes the stored ones
        self.train()

    def train(self, mode: bool = True) -> Cinn:
        """Switch the flow to training or evaluation; the frozen parts stay in evaluation, but for the quirk."""
        super().train(mode)
        self.stage1.eval()
        self.encoder.train(mode and self.batch_statistics)
        return self

    # Checkpoints

    def start_from(self, stage1_state: Mapping[str, Tensor], ae_state: Mapping[str, Tensor]) -> None:
        """Copy the frozen parts' weights from the state dicts of a trained stage 1 and conditioning auto-encoder.

        Raises RetakeError when one is of another network than `network` says.
        """
        self.stage1.load_published(stage1_state)
        load_encoder(self.encoder, published.part(ae_state, "encoder."), self.p.network.encoder)

    def load_published(self, state: Mapping[str, Any]) -> None:
        """Load the four published files of a model, or a state dict of our own.

        `state`: {"cINN": ..., "GEN": ..., "ENC": ..., "encoder_stage2": ...}, each what the file holds or its bare state dict;
        or {our key: tensor}. Raises RetakeError for a missing file, one in another's place, and files that are not of
        models of these sizes.
        """
        named = [name for name in FILES if name in state]
        if (named and len(named) < len(FILES)) or "sub_layers.0.norm_layer.loc" in state:
            raise RetakeError(
                f"the published model is four files, {', '.join(FILES)}: cINN holds the flow alone. Give all of one folder"
            )
        if named:
            stage1: Mapping[str, Any] = {name: state[name] for name in ("GEN", "ENC")}
            flow, encoder = (state[name].get("state_dict", state[name]) for name in ("cINN", "encoder_stage2"))
        else:
            stage1, flow, encoder = (published.part(state, f"{name}.") for name in ("stage1", "flow", "encoder"))
        self.stage1.load_published(stage1)
        load_encoder(self.encoder, encoder, self.p.network.encoder)
        self.flow.load_published(flow)

    # Training

    def configure(self) -> dict[str, torch.optim.Optimizer]:
        """Return the flow's optimiser; loads the best weights of `train.stage1` and the last ones of `train.encoder`, as published.

        Raises RetakeError when those checkpoints are missing or of other networks than `network` says.
        """
        from pipeline import weights

        recipe = self._recipe()
        self.start_from(weights.starting(recipe.stage1, best=True), weights.starting(recipe.encoder))
        return {"adam": torch.optim.Adam(self.flow.parameters(), lr=recipe.lr, betas=(0.9, 0.99), amsgrad=True)}

    def augment(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a clip (n, h, w, 3) uint8 as the networks take it, changed by chance: see `pipeline.losses.augment`."""
        return augment(clip, rng, self.p.network.stage1.size, self._recipe().augment)

    def prepare(self, clip: np.ndarray) -> np.ndarray:
        """Return a clip (n, h, w, 3) uint8 at the networks' size."""
        return resized(clip, self.p.network.stage1.size)

    def forward(self, code: Tensor, condition: Tensor) -> tuple[Tensor, Tensor]:
        """Return residuals and log-determinants of motion codes, as `ConditionalFlow`."""
        return self.flow(code, condition)

    def training_step(self, batch: dict[str, Tensor], state: Step) -> dict[str, float]:
        """Take one step; return the loss, its parts, that of a fresh Gaussian for comparison, and the rate.

        `batch`: `clip`, (B, 17, 3, S, S) float32 RGB in [0,1], and with control `endpoint`, (B, 3), measured. The code is a
        sample of stage 1's posterior. Raises FloatingPointError, before the step, when the loss is not finite.
        """
        recipe, optimiser = self._recipe(), state.optimisers["adam"]
        epoch = state.step * recipe.epochs // state.steps
        rate = recipe.lr * recipe.lr_gamma ** (epoch // recipe.lr_epochs)
        for group in optimiser.param_groups:
            group["lr"] = rate
        with state.fabric.autocast():
            code, condition = self._encoded(batch)
        residual, logdet = state.module(code, condition)
        losses = flows.likelihood(residual, logdet)
        values = {name: float(loss.detach()) for name, loss in losses.items()}
        if not math.isfinite(values["loss"]):
            raise FloatingPointError(str(values))
        optimiser.zero_grad()
        state.fabric.backward(losses["loss"])
        optimiser.step()
        reference = 0.5 * torch.randn_like(residual).square().sum(1).mean()
        return {**values, "reference_nll_loss": float(reference), "lr": rate}

    def validate(self, batch: Mapping[str, Tensor]) -> dict[str, float]:
        """Return `val_nll`, the loss of a batch as in training."""
        return {"val_nll": float(flows.likelihood(*self.flow(*self._encoded(batch)))["loss"])}

    @torch.no_grad()
    def _encoded(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return the motion codes (B, 64), samples of stage 1's posterior, and the conditions (B, E) of a batch."""
        clip = batch["clip"]
        code, _, _ = self.stage1.encode(clip[:, 1:])
        return code.float(), self.condition(clip[:, 0], batch.get("endpoint"))

    def condition(self, frames: Tensor, endpoints: Tensor | None) -> Tensor:
        """Return the flow's condition (B, E) of start frames (B, 3, S, S) in [0,1] and, with control, end points (B, 3).

        End points are in the dataset's units; from `LEAST` on, `REACH` is 1. Raises RetakeError for those that are missing, out
        of reach, or given to a model without control.
        """
        if self.p.network.control != (endpoints is not None):
            raise RetakeError(
                "this model is controlled by end points: give one for each clip"
                if endpoints is None
                else "this model knows no end points: take one whose network.control is true"
            )
        embedding = self.encoder.embed(frames).float()
        if endpoints is None:
            return embedding
        least, reach = (torch.tensor(values, device=endpoints.device) for values in (LEAST, REACH))
        return torch.cat([embedding, flows.one_hot((endpoints.float() - least) / reach)], 1)

    # Prediction

    @torch.no_grad()
    def predict(
        self,
        frames: Tensor,
        horizon: int,
        *,
        seeds: list[int],
        motion: Tensor | None = None,
        endpoint: Tensor | None = None,
    ) -> Tensor:
        """Return the `horizon` frames after start frames: (B, 1, 3, S, S) -> (B, horizon, 3, S, S), RGB in [0,1].

        `seeds`: one a clip, the only source of its motion. `motion`: clips (B, 15 or more, 3, S, S) in [0,1] whose motion is
        transferred instead; their first 16 frames are read. `endpoint`: (B, 3), where the arm is to end, in the dataset's
        units, for a model with control. Frames beyond the decoder's length start from its last frame, with the same motion code.

        Raises RetakeError for a horizon below 1, a motion clip that is too short, frames of another size, end points that do
        not fit the model, or weights that give NaN.
        """
        if horizon < 1:
            raise RetakeError(f"{horizon} frames were asked for: at least 1 is needed")
        start = frames[:, 0]
        self._check_size(start)
        condition = self.condition(start, endpoint)
        residual = draws(seeds, start) if motion is None else self.residual(motion)
        code = self.flow.inverse(residual, condition)
        if not code.isfinite().all():
            raise RetakeError("the flow gives NaN: its weights, or the frames, hold values that are not finite")
        return self.stage1.animate(start, code, horizon)

    def residual(self, clip: Tensor) -> Tensor:
        """Return what the flow makes of the motion of clips (B, 15 or more, 3, S, S) in [0,1], (B, 64).

        Raises RetakeError for a shorter clip, and for a model with control, whose published code transfers no motion.
        """
        if clip.shape[1] < SHORTEST:
            raise RetakeError(f"motion is read from clips of {SHORTEST} frames or more, {clip.shape[1]} were given")
        if self.p.network.control:
            raise RetakeError("motion transfer works with models without control: set network.control false")
        self._check_size(clip)
        mean, _ = self.stage1.encoder(2 * clip[:, MOTION].transpose(1, 2) - 1)
        return self.flow(mean, self.condition(clip[:, 0], None))[0]

    def _check_size(self, frames: Tensor) -> None:
        try:
            self.p.check(*frames.shape[-2:])
        except ValueError as error:
            raise RetakeError(str(error)) from None

    def _recipe(self) -> Train:
        if self.p.train is None:
            raise ValueError("this model has no `train`: nothing says how to train it")
        return self.p.train
