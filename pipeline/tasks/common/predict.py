"""What prediction is in every task: a network with its weights, the store it fills, and the time it takes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline import compute, plan, weights
from pipeline.params import Params
from pipeline.shards import WHOLE, Shard
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common import predictions


class Clock:
    """Adds up the time inside its `with` blocks, the device synchronised."""

    def __init__(self, device: str) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> None:
        self._wait()
        self._start = time.perf_counter()

    def __exit__(self, *_: Any) -> None:
        self._wait()
        self.seconds += time.perf_counter() - self._start

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Leave out what happens inside; for use inside a `with` block of the clock."""
        self.__exit__()
        yield
        self.__enter__()

    def _wait(self) -> None:
        if self.device == "cuda":
            import torch

            torch.cuda.synchronize()


class Run:
    """One model on the test set of one experiment, or on one part of it: what the `predict` of a task is given.

    `name`: the model's entry in params.yaml; `clock`: runs while the network does; `shard`: what of the test set is predicted.
    """

    def __init__(self, p: Params, fields: plan.Fields, shard: Shard = WHOLE) -> None:
        self.shard = shard
        self.p, self.fields, self.name = p, fields, fields["model"]
        self.model = p.models[self.name]
        self.protocol: Any = p.protocols[fields["protocol"]]  # of the class that the task has
        self.output = plan.output("predict", fields, shard)
        self.network: Any = None

    def load(self) -> Any:
        """Return the network with its weights, on its device, and start the clock for it at 0."""
        import torch

        self.device = compute.device(self.p)
        checkpoint = Path(self.fields["checkpoint"]) if self.model.has_weights else None
        self.network, self._digest = weights.load_model(self.model, checkpoint, self.device)
        self._origin = weights.origin_of(checkpoint) if checkpoint is not None else {}
        compute.lay_out(self.p, self.network)
        if self.device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        self.clock = Clock(self.device)
        return self.network

    @contextlib.contextmanager
    def writing(self, frames: Store, meta: dict[str, Any], **layout: Any) -> Iterator[Writer]:
        """Open the prediction store; inside, arithmetic is as `compute` says, and no gradients are kept.

        `meta`: what the task's store says of itself beside what all do; `layout`: as `Writer`.
        """
        import torch

        about = predictions.meta(self.p, "predict", self.fields, frames) | {
            "checkpoint": self._digest,
            "trained": self._origin,
            "flow": "",
            "samples": 1,
            "parameters": sum(t.numel() for part in self.network.predicting() for t in part.parameters()),
        }
        mixed = self.p.compute.precision == "bf16-mixed"
        with (
            Writer(self.output, meta=about | meta, **layout) as out,
            torch.no_grad(),
            torch.autocast(self.device, torch.bfloat16, enabled=mixed),
        ):
            yield out
