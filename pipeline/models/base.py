"""What the stages ask of every model: each derives from `Network`, torch modules and estimators without weights alike.

What a model must have is its task's to say (frames are RGB float32 in [0,1] unless something else is said):

prediction        predict(frames (B, T, 3, H, W), horizon, *, seeds, flow) -> (B, horizon, 3, H, W);
                  `seeds`: one a sample, `flow`: (B, 2, H, W) px between the last two frames, or None
flow              estimate(first, second) -> (H, W, 2) float32 px, of two images (H, W, 3) uint8; with `context` 3 also
                  `previous`, the frame before them. With weights: estimate_batch(frames (B, n, H, W, 3) uint8)
                  -> (B, H, W, 2). Trained: validate(batch (B, 2, 3, H, W), flow or None) -> {name: value}
animation         predict(start (B, 1, 3, H, W), horizon, *, seeds) -> (B, horizon, 3, H, W), from the frame after the start on, or
                  with `draws_start` from the start as the network draws it; `seeds`: one a clip, of motion that it draws.
                  With `motion` "flow" or "frames" also `motion`: (B, n, 2, h, w) px, entry t from frame t - 1 to t, or (B, n, 3,
                  H, W), the clip whose motion it shall have; left out: it draws one. With `controlled` also `endpoint`:
                  (B, values), what the dataset measured at the end
super_resolution  predict(iterator of (1, 3, h, w)) -> iterator of (1, 3, 4h, 4w), around [0,1]
trained, any task configure() -> {name: optimiser}; training_step(batch (B, n, 3, h, w), state) -> {name: loss}
                  animation: the batch is a dict, `clip` (B, n, 3, h, w), and as far as the network reads them `flow` (B, n, 2,
                  h, w) px and `endpoint` (B, values); if wanted validate(batch) -> {name: loss}
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Literal

import numpy as np

from pipeline.errors import RetakeError


class Network:
    """What a model may leave out, with what holds then: `class Mine(nn.Module, Network)`.

    `stochastic`: predictions of one input differ by their seeds. `context`: frames of one input.
    Of animation, see above: `motion`, `draws_start`, `controlled`. `validated_with`: the motion of clips that are
    made in training's validation, the true clip's own or drawn. `size`: side of the square frames that it takes, px.
    """

    stochastic = False
    context = 2
    motion: Literal["flow", "frames"] | None = None
    draws_start = False
    controlled = False
    validated_with: Literal["own", "drawn"] = "own"
    size: int | None = None

    def predicting(self) -> list[Any]:
        """Return the modules that predict, whose parameters a table counts: a discriminator beside them is none."""
        return [self]

    def notes(self) -> list[str]:
        """Return what a reader must know of what was predicted since the last call, one sentence each."""
        return []

    def skipped(self, frames: int) -> int:
        """Return how many frames of a clip have no output, where its first output comes after so many were given."""
        return 0

    def predict_from(self, state: Any, frames: Iterable[Any]) -> Iterator[tuple[Any, Any]]:
        """Yield the output of each frame of a clip, and what the next frame needs: a `state` to go on from later.

        `state` None begins a clip, and a model without memory has no other.
        """
        return ((output, None) for output in self.predict(frames))  # type: ignore[attr-defined]

    def augment(self, clip: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Return a training clip (n, h, w, 3) uint8 as the network shall see it."""
        return clip

    def prepare(self, clip: np.ndarray) -> np.ndarray:
        """Return a validation clip (n, h, w, 3) uint8 as the network takes it: as `augment`, without chance."""
        return clip

    def load_published(self, state: Any) -> None:
        """Load published weights, or our own, from tensors by name. Raises RetakeError where there are none to load."""
        raise RetakeError(f"{type(self).__name__} has no weights: leave its checkpoint out")

    # What torch modules have, and estimators without weights do not need

    def parameters(self) -> Any:
        """Return no weights."""
        return iter(())

    def to(self, *_: Any, **__: Any) -> Any:
        """Return itself: there is nothing to move."""
        return self

    def eval(self) -> Any:
        """Return itself: training changes nothing."""
        return self


def for_cpu(x: Any) -> Any:
    """Return images (N, C, H, W), on a CPU in the layout of memory in which convolutions are fastest: pixel by pixel."""
    import torch

    return x.contiguous(memory_format=torch.channels_last) if x.device.type == "cpu" else x
