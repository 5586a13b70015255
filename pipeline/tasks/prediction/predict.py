"""Predicted frames: those of every window of a test set, or the one after two images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline import compute, tasks, weights
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError, log
from pipeline.outputs import unused
from pipeline.params import Params
from pipeline.sources.images import read_image
from pipeline.store.frames import Store
from pipeline.tasks.common import windows_predict
from pipeline.tasks.common.predict import Run
from pipeline.tasks.prediction import clips
from pipeline.tasks.prediction.clips import Window


def predict(run: Run) -> tuple[int, int]:
    """Write the predicted frames of every window; return how many were made, and how many windows at a time."""
    protocol, store = run.protocol, Store(run.fields["frames"])
    windows = clips.windows(store, protocol)
    flow = Store(run.fields["flow"]) if run.model.flow is not None else None
    network = run.load()

    def read(places: range) -> windows_predict.Draw:
        together = windows[places.start : places.stop]
        frames, context_flow = _inputs(run, store, together), _flow(run, flow, store, together)
        return lambda seeds, steps: network.predict(frames, steps, seeds=seeds, flow=context_flow)

    return windows_predict.predict(
        run,
        store,
        [clips.key(window) for window in windows],
        read,
        {"flow": flow.identity if flow else "", "protocol": clips.settings(protocol)},
        steps=protocol.horizon,
        samples=protocol.samples if network.stochastic else 1,
        counted=1,
    )


def _inputs(run: Run, store: Store, windows: list[Window]) -> Any:
    """Return context frames, (B, context, 3, H, W) float32 in [0,1]."""
    import torch

    images = np.stack([clips.inputs(store, window, run.protocol) for window in windows])
    return torch.from_numpy(images).permute(0, 1, 4, 2, 3).to(run.device).float() / 255


def _flow(run: Run, flow: Store | None, store: Store, windows: list[Window]) -> Any:
    """Return the precomputed flow between the last two context frames, (B, 2, H, W) px; None without a flow store."""
    import torch

    if flow is None:
        return None
    fields = [clips.context_flow(flow, store, window, run.protocol) for window in windows]
    return torch.from_numpy(np.stack(fields)).permute(0, 3, 1, 2).float().to(run.device)


def next_frame(p: Params, name: str, images: list[Path], checkpoint: Path | None, output: Path) -> None:
    """Predict the frame after `images` and write it as PNG, rounded to 8 bits.

    Frames are padded by edge repetition to a size that the network takes, and the result is cropped back.
    """
    import torch

    model = tasks.model(p, name, "prediction")
    if model.flow is not None:
        raise RetakeError(f"{name} needs precomputed flow: use it in an experiment")
    checkpoint = weights.chosen(name, model, checkpoint)
    unused(output)
    read = [read_image(path) for path in images]
    sizes = {path.name: image.shape[:2] for path, image in zip(images, read, strict=True)}
    if len(set(sizes.values())) > 1:
        raise RetakeError(f"images of different sizes: {', '.join(f'{n} {w}x{h}' for n, (h, w) in sizes.items())}")
    device = compute.device(p)
    network, _ = weights.load_model(model, checkpoint, device)
    if len(read) != network.context:
        raise RetakeError(f"{name} predicts from {network.context} frames, {len(read)} were given")
    height, width = read[0].shape[:2]
    pad = ((0, 0), (0, -height % 16), (0, -width % 16), (0, 0))
    frames = np.pad(np.stack(read), pad, mode="edge")
    tensor = torch.from_numpy(frames.copy()).permute(0, 3, 1, 2)[None].to(device).float() / 255
    with torch.no_grad():
        predicted = network.predict(tensor, 1, seeds=[0], flow=None)[0, 0]
    if not torch.isfinite(predicted).all():
        raise RetakeError(f"{name} predicts NaN or infinity for the frame after {images[-1]}")
    image = (predicted.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()[:height, :width]
    write_image(output, image)
    log.info("wrote %s", output)
