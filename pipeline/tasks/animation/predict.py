"""Generated clips: every sample of every test window."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.errors import RetakeError
from pipeline.store.frames import Store
from pipeline.tasks.animation import clips
from pipeline.tasks.animation.clips import Window
from pipeline.tasks.common import windows_predict
from pipeline.tasks.common.predict import Run

if TYPE_CHECKING:
    from torch import Tensor


def predict(run: Run) -> tuple[int, int]:
    """Write the generated frames of every window; return how many were made, and how many windows at a time."""
    protocol, store = run.protocol, Store(run.fields["frames"])
    windows = clips.windows(store, protocol)
    sources = clips.sources(windows, protocol.motion)
    flow = None
    if run.fields["flow"] is not None:
        flow = clips.open_flow(run.fields["flow"], store)
    network = run.load()
    given = protocol.motion != "random" and network.motion is not None

    def read(places: range) -> windows_predict.Draw:
        together = windows[places.start : places.stop]
        start = _images(run, store, [(w.clip, range(w.start, w.start + 1)) for w in together])
        inputs: dict[str, Any] = {}
        if given:
            inputs["motion"] = _motion(run, store, flow, start, sources[places.start : places.stop])
        if network.controlled:
            inputs["endpoint"] = _endpoints(run, store, together)
        return lambda seeds, steps: beginning(
            network, start, steps, protocol.start, lambda n: network.predict(start, n, seeds=seeds, **inputs)
        )

    return windows_predict.predict(
        run,
        store,
        [window.name for window in windows],
        read,
        {"flow": flow.identity if flow else "", "protocol": clips.settings(protocol)},
        steps=protocol.horizon,
        samples=protocol.samples if network.stochastic and not given else 1,
        counted=protocol.horizon,
    )


def beginning(network: Any, start: Tensor, steps: int, begin: str, generate: Any) -> Tensor:
    """Return clips of `steps` frames, (B, steps, 3, H, W), that begin as a protocol's `start` says.

    `start`: (B, 1, 3, H, W); `generate(n)`: n frames of the network, from the start on where it draws that anew, else from
    the frame after.
    """
    import torch

    if begin == "left_out":
        return generate(steps + 1)[:, 1:] if network.draws_start else generate(steps)
    if begin == "drawn" and network.draws_start:
        return generate(steps)
    following = steps - 1 + int(network.draws_start)
    if steps == 1:
        return start
    return torch.cat([start, generate(following)[:, int(network.draws_start) :]], 1)


def _images(run: Run, store: Store, spans: list[tuple[str, range]]) -> Tensor:
    """Return frames of clips, (B, n, 3, H, W) float32 in [0,1]."""
    import torch

    images = np.stack([store.read(clip, positions) for clip, positions in spans])
    return torch.from_numpy(images).permute(0, 1, 4, 2, 3).to(run.device).float() / 255


def _motion(run: Run, store: Store, flow: Store | None, start: Tensor, sources: list[Window]) -> Tensor:
    """Return the motion that the network is given: flow (B, n, 2, h, w) px, or clips (B, n, 3, H, W) in [0,1]."""
    import torch

    n, kind = run.protocol.window, run.network.motion
    if run.protocol.motion == "zero":
        still = start.expand(-1, n, -1, -1, -1)
        return still if kind == "frames" else torch.zeros_like(still[:, :, :2])
    spans = [(w.clip, range(w.start, w.start + n)) for w in sources]
    if kind == "frames":
        return _images(run, store, spans)
    if flow is None:
        raise RetakeError(f"{run.name} reads flow, and its entry names no estimator")
    fields = np.stack([clips.flow(flow, store, clip, positions) for clip, positions in spans])
    return torch.from_numpy(fields).permute(0, 1, 4, 2, 3).to(run.device)


def _endpoints(run: Run, store: Store, windows: list[Window]) -> Tensor:
    """Return what was measured with the last frame of each window, (B, n) float32."""
    import torch

    last = run.protocol.window - 1
    return torch.from_numpy(np.stack([store.values(w.clip)[w.start + last] for w in windows])).to(run.device)
