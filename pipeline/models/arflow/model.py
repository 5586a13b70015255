"""ARFlow as the stages use it: flow estimation, training step with AR, validation, import of published weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pipeline.errors import RetakeError
from pipeline.losses import unflow
from pipeline.models import published
from pipeline.models.arflow import MULTIPLE, Loss, Params, Train, transform
from pipeline.models.arflow.network import PWCLite
from pipeline.models.base import Network


class ARFlow(PWCLite, Network):
    """PWCLite with its training and its estimation; parameters are named as in published checkpoints.

    `context`: frames of one input. Flow is estimated from the last but one to the last of them.
    """

    def __init__(self, p: Params) -> None:
        network = p.network
        super().__init__(
            network.frames,
            dense=network.estimator == "dense",
            upsample=network.upsample,
            corners=not network.quirks.half_pixel_warp,
        )
        self.p = p
        self.context = network.frames
        if p.train is not None and p.train.kaiming:
            self.start_kaiming()

    # Estimation

    def estimate(self, first: np.ndarray, second: np.ndarray, previous: np.ndarray | None = None) -> np.ndarray:
        """Return the flow first -> second, (H, W, 2) float32 px, of two (H, W, 3) uint8 RGB images.

        The 3-frame network needs the frame before `first` as `previous`; where a clip begins, give `first` itself.
        Raises RetakeError for images of different size or another type.
        """
        if self.views == 3 and previous is None:
            raise RetakeError(
                "the 3-frame ARFlow network needs the frame before the two as well: use a 2-frame entry for pairs"
            )
        frames = [first, second] if self.views == 2 or previous is None else [previous, first, second]
        for frame in frames:
            if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3:
                raise RetakeError(
                    f"ARFlow takes 8-bit RGB images (H, W, 3), not {frame.dtype} {frame.shape}: convert them first"
                )
            if frame.shape != frames[0].shape:
                sizes = " and ".join(f"{f.shape[1]}x{f.shape[0]}" for f in frames)
                raise RetakeError(f"flow needs images of one size, not {sizes}")
        return self.estimate_batch(np.stack(frames)[None])[0]

    def estimate_batch(self, frames: np.ndarray) -> np.ndarray:
        """Return the flow between the last two frames, (B, H, W, 2) float32 px, of (B, n, H, W, 3) uint8 RGB."""
        device = next(self.parameters()).device
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(frames)).to(device).permute(0, 1, 4, 2, 3).float() / 255
            return self.flow(images).permute(0, 2, 3, 1).contiguous().float().cpu().numpy()

    def flow(self, frames: Tensor) -> Tensor:
        """Return the flow between the last two frames at full size, (B, 2, H, W) px.

        `frames`: (B, n, 3, H, W) float32 in [0, 1]. Sides that are not multiples of 64, or not the test size, are
        handled as `predict.fit` says.
        """
        settings = self.p.predict
        height, width = frames.shape[-2:]
        up = (-(-height // MULTIPLE) * MULTIPLE, -(-width // MULTIPLE) * MULTIPLE)
        if settings.fit == "pad":
            flat = F.pad(frames.flatten(0, 1), (0, up[1] - width, 0, up[0] - height), mode="replicate")
            size = up
        else:
            size = (settings.height or up[0], settings.width or up[1])
            flat = transform.resize(frames.flatten(0, 1), *size)
        finest = self(flat.unflatten(0, frames.shape[:2]))["flows_fw"][0].float()
        flow = transform.resize_flow(finest, *size)  # from a quarter, without `upsample`
        if settings.fit == "pad":
            return flow[..., :height, :width]
        return transform.resize_flow(flow, height, width)

    # Training

    def configure(self) -> dict[str, torch.optim.Optimizer]:
        """Return the optimiser; loads the weights of `train.start`, where there is one.

        Raises RetakeError when that checkpoint is missing or of another network.
        """
        recipe = self._recipe()
        if recipe.start is not None:
            from pipeline import weights

            self.load_published(weights.starting(recipe.start))
        layers, biases = (
            [p for name, p in self.named_parameters() if name.endswith(".bias") == bias] for bias in (False, True)
        )
        groups = [{"params": layers, "weight_decay": recipe.weight_decay}, {"params": biases, "weight_decay": 0.0}]
        return {"adam": torch.optim.Adam(groups, lr=recipe.lr, betas=(0.9, 0.999), eps=1e-7)}

    def augment(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return the pair (2, h, w, 3) cropped at random, mirrored and its order reversed with probability 1/2 each."""
        crop = self._recipe().random_crop
        if crop is not None:
            height, width = clip.shape[1:3]
            if crop[0] > height or crop[1] > width:
                raise RetakeError(
                    f"frames of {width}x{height} are smaller than models.*.train.random_crop {crop[1]}x{crop[0]}: "
                    "store them larger, or crop less"
                )
            rows, columns = transform.random_box((height, width), crop, rng)
            clip = clip[:, rows, columns]
        if rng.random() < 0.5:
            clip = clip[:, :, ::-1]
        if rng.random() < 0.5:
            clip = clip[::-1]
        return clip

    def training_step(self, batch: Tensor, state: Any) -> dict[str, float]:
        """Take one optimiser step on pairs (B, 2, 3, h, w) RGB float32 in [0, 1]; return the losses.

        `state`: as train.State. `loss` is what was minimised; `flow` the mean absolute flow, px, and `visible` the mean
        of the masks, both of the finest scale. Raises FloatingPointError, before the step, when the loss is not finite.
        """
        recipe = self._recipe()
        pairs = transform.resize(batch.flatten(0, 1), recipe.height, recipe.width).unflatten(0, batch.shape[:2])
        flows = state.module(pairs, backward=True)
        terms = self._terms(flows, pairs, self.loss_at(state.step))
        loss = terms.total
        values = {
            "photometric": terms.photometric,
            "smooth": terms.smooth,
            "flow": terms.flow,
            "visible": terms.visible[0].mean(),
        }
        if recipe.ar is not None:
            again = self._again(pairs, flows["flows_fw"][0].detach().float(), terms.visible[0][:, :1], state.module)
            loss = loss + recipe.ar.weight * sum(again.values())
            values |= again
        values = {"loss": loss, **values}
        numbers = {name: float(value.detach()) for name, value in values.items()}
        if not np.isfinite(numbers["loss"]):
            raise FloatingPointError(str(numbers))
        optimiser = state.optimisers["adam"]
        optimiser.zero_grad()
        state.fabric.backward(loss)
        optimiser.step()
        return numbers

    def loss_at(self, step: int) -> Loss:
        """Return the loss of this step: the first one, or from `train.switch.step` on the second."""
        recipe = self._recipe()
        return recipe.switch if recipe.switch is not None and step >= recipe.switch.step else recipe.loss

    def _terms(self, flows: dict[str, list[Tensor]], pairs: Tensor, loss: Loss, *, masked: bool = True) -> unflow.Terms:
        recipe = self._recipe()
        both_ways = [torch.cat(both, 1).float() for both in zip(flows["flows_fw"], flows["flows_bw"], strict=True)]
        return unflow.unsupervised(
            both_ways,
            pairs[:, 0],
            pairs[:, 1],
            l1=loss.l1,
            ssim=loss.ssim,
            ternary=loss.ternary,
            occlusion=loss.occlusion if masked else None,
            order=recipe.smooth_order,
            smooth=recipe.smooth_weight,
            corners=self.corners,
        )

    def _again(self, pairs: Tensor, flow: Tensor, visible: Tensor, module: Any) -> dict[str, Tensor]:
        """Return the AR losses: the first pass's flow, transformed, is the target of a pass on transformed pairs."""
        ar = self._recipe().ar
        assert ar is not None
        rng = np.random.default_rng(int(torch.randint(2**62, ())))  # the stage seeds torch at each step
        with torch.no_grad():
            one, two = transform.draw_transforms(len(pairs), ar, rng)
            coloured = transform.photometric(pairs, ar, rng)
            moved = torch.stack(
                [transform.move_image(coloured[:, 0], one), transform.move_image(coloured[:, 1], two)], 1
            )
            moved = (moved + rng.uniform(0, ar.noise) * torch.randn_like(moved)).clamp(0, 1)
            target, mask = transform.move_flow(flow, one, two), transform.move_image(visible, one)
        losses = {"ar": ar_loss(module(moved)["flows_fw"][0].float(), target, mask)}
        if ar.superpixels is not None:
            box = (ar.superpixels.height, ar.superpixels.width)
            rows, columns = transform.random_box(moved.shape[-2:], box, rng)
            crop = moved[..., rows, columns]
            covered = torch.stack([crop[:, 0], transform.cover(crop[:, 1], rng)], 1)
            flow = module(covered)["flows_fw"][0].float()
            losses["superpixels"] = ar_loss(flow, target[..., rows, columns], mask[..., rows, columns])
        return losses

    def _recipe(self) -> Train:
        assert self.p.train is not None, "this entry of params.yaml has no training"
        return self.p.train

    # Validation

    @torch.no_grad()
    def validate(self, batch: Tensor, flow: Tensor | None = None) -> dict[str, float]:
        """Return one number of pairs (B, 2, 3, H, W) RGB float32 in [0, 1], lower is better.

        With ground truth `flow` (B, 2, H, W) px, NaN where there is none: `val_epe`, px, the mean over images. Without:
        `val_loss`, the unsupervised loss with the terms that training ends with, every pixel counted as visible: with
        masks a network would be best whose flows agree nowhere.
        """
        if flow is not None:
            error = (self.flow(batch) - flow).square().sum(1).sqrt()
            if not torch.isfinite(error).flatten(1).any(1).all():
                raise RetakeError("validation: an image has no pixel with ground truth and a finite estimate")
            return {"val_epe": float(error.flatten(1).nanmean(1).mean())}
        recipe = self._recipe()
        pairs = transform.resize(batch.flatten(0, 1), recipe.height, recipe.width).unflatten(0, batch.shape[:2])
        terms = self._terms(self(pairs, backward=True), pairs, recipe.switch or recipe.loss, masked=False)
        return {"val_loss": float(terms.total)}

    # Checkpoints

    def load_published(self, state: Mapping[str, Any]) -> None:
        """Load a published `.pth.tar` (`epoch`, `state_dict`), its bare state dict, or weights of our own.

        Raises RetakeError that lists missing, unknown and misshapen keys, and says which network the file is of.
        """
        if "state_dict" in state:
            state = state["state_dict"]
        if told := published.misfits(self, state):
            raise RetakeError(f"the checkpoint is not of this ARFlow network; keys {told}.{_guess(state, self.p)}")
        self.load_state_dict(dict(state))


def ar_loss(flow: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Return the mean absolute difference of flows (B, 2, H, W) where `mask` (B, 1, H, W) says the target is known."""
    return ((flow - target).abs() * mask).mean() / (mask.mean() + 1e-7)


def _guess(state: Mapping[str, Any], p: Params) -> str:
    """Return which network a state dict is of, as a sentence with what to do; empty when it is not ARFlow's."""
    first = state.get("flow_estimators.conv1.0.weight")
    if first is None:
        return ""
    estimator = "dense" if "flow_estimators.conv_last.0.weight" in state else "reduced"
    frames = 3 if first.shape[1] == 198 else 2
    if (frames, estimator) == (p.network.frames, p.network.estimator):
        return " The file is incomplete or damaged: fetch it again"
    network = f"{frames}-frame {estimator} network"
    return f" It is of the {network}: set network.frames {frames} and network.estimator {estimator}"
