"""Predict all that an experiment tests with one model: a prediction store out.

    python -m pipeline.predict --experiment kitti --model dmvfn
    python -m pipeline.predict A.png B.png --model dmvfn --checkpoint dmvfn_kitti.pkl --output next.png

The store (`data/predictions/<experiment>/<model>.arrow`) holds what the protocol scores: 16-bit fixed point, error below
1e-5 of the range; clip = window ("<clip>:<start>"), frame = step from 1, sample = draw. For the task flow it is a flow
store: (clip, frame) -> flow to the next frame, off by at most 0.0111 px. For super_resolution it has the scenes' frames by
clip and number, in 8 bits, truncated or rounded as the protocol says. Beside it `<model>.speed.json`. The second form is the paper's single test: two consecutive images in, the next frame out.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import resource
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import compute, params, plan, weights
from pipeline.atomic import write_text
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError, log, near, progress, run
from pipeline.params import Params
from pipeline.sources.images import read_image
from pipeline.store.frames import Store, Writer
from pipeline.tasks import flow as pairs_of_frames
from pipeline.tasks import prediction, super_resolution

COUNTED_WINDOWS = 4  # GMACs are the mean over so many: with sampled routing they differ


def main() -> None:
    """Parse the command line and predict."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "images", nargs="*", type=Path, metavar="IMAGE", help="consecutive images; the next frame is predicted"
    )
    parser.add_argument("--experiment", help="entry of `experiments` in params.yaml")
    parser.add_argument("--model", required=True, help="entry of `models`")
    parser.add_argument(
        "--checkpoint", type=Path, help="with images: a checkpoint of data/checkpoints, or a published file"
    )
    parser.add_argument("--output", type=Path, help="with images: the PNG to write")
    args = parser.parse_args()
    p = params.load()
    if args.images:
        if args.experiment or not args.output:
            parser.error("with images give --model, --output and, for a trained model, --checkpoint")
        next_frame(p, args.model, args.images, args.checkpoint, args.output)
    elif args.experiment:
        predict(p, args.experiment, args.model)
    else:
        parser.error("give --experiment, or images")


def predict(p: Params, experiment: str, name: str) -> None:
    """Write the prediction store and the speed of one (experiment, model)."""
    fields = plan.fields_of(p, "predict", experiment=experiment, model=name)
    protocol = p.protocols[fields["protocol"]]
    {"prediction": _predict, "flow": _estimate, "super_resolution": _upscale}[protocol.task](p, fields, protocol)


def _predict(p: Params, fields: plan.Fields, protocol: Any) -> None:
    """Predict the frames of every window."""
    import torch

    name = fields["model"]
    model = p.models[name]
    store = Store(fields["frames"])
    windows = prediction.windows(store, protocol)
    flow = Store(fields["flow"]) if model.flow is not None else None
    network, digest, device = _load(p, fields)
    samples = protocol.samples if getattr(network, "stochastic", False) else 1
    meta = _meta(p, fields, store, network, digest) | {
        "flow": flow.identity if flow else "",
        "protocol": {k: getattr(protocol, k) for k in ("window", "windows", "first", "context", "horizon")},
        "samples": samples,
        "gmacs": _gmacs(network, store, windows, protocol, flow, device),
    }
    clock = Clock(device)
    output = plan.path("predict", **fields)
    with Writer(output, codec="raw", dtype="uint16", meta=meta) as out, torch.no_grad(), _autocast(p, device):
        for at in progress(range(0, len(windows), p.compute.batch), unit="batch", desc=f"predict {name}"):
            some = windows[at : at + p.compute.batch]
            frames = _inputs(store, some, protocol, device)
            context_flow = _flow(flow, store, some, protocol, device)
            drawn = []
            for sample in range(samples):
                seeds = [(sample << 32) + at + i for i in range(len(some))]
                with clock:
                    predicted = network.predict(frames, protocol.horizon, seeds=seeds, flow=context_flow)
                drawn.append(
                    (predicted.float().clamp(0, 1) * 65535).round().to(torch.int32).cpu().numpy().astype(np.uint16)
                )
            if not all(np.isfinite(x).all() for x in (predicted.float().cpu().numpy(),)):
                raise RetakeError(f"{name} predicts NaN for window {prediction.key(some[0])} or one beside it")
            for i, window in enumerate(some):
                for sample, images in enumerate(drawn):
                    for step in range(protocol.horizon):
                        image = np.ascontiguousarray(images[i, step].transpose(1, 2, 0))
                        out.add(prediction.key(window), step + 1, image, sample=sample)
    made = len(windows) * samples * protocol.horizon
    _write_speed(p, fields, clock, made, p.compute.batch)
    empty = getattr(network, "empty_selections", 0)
    if empty:
        log.info(
            "%s: no block was selected in %d of %d frames; the older input frame stands there, as published",
            name,
            empty,
            made,
        )
    log.info("predicted %d windows x %d steps x %d samples: %s", len(windows), protocol.horizon, samples, output)


def _estimate(p: Params, fields: plan.Fields, protocol: Any) -> None:
    """Estimate the flow of every pair that has ground truth, one after the other: sizes may differ."""
    import cv2
    import torch

    name = fields["model"]
    store, truth = Store(fields["frames"]), Store(fields["truth"])
    found = pairs_of_frames.pairs(truth)
    network, digest, device = _load(p, fields)
    cv2.setNumThreads(1)  # an estimator that splits an image by threads would give other flow on another machine
    three = getattr(network, "context", 2) == 3
    meta = _meta(p, fields, store, network, digest) | {
        "flow": "",
        "protocol": {"truth": truth.identity},
        "samples": 1,
        "gmacs": None,
        "unit": "px",
    }
    clock = Clock(device)
    output = plan.path("predict", **fields)
    with (
        Writer(output, codec="flow64", dtype="float32", channels=2, meta=meta) as out,
        torch.no_grad(),
        _autocast(p, device),
    ):
        for clip, frame in progress(found, unit="pair", desc=f"predict {name}"):
            before, first, second = pairs_of_frames.images(store, (clip, frame))
            with clock:
                field = network.estimate(first, second, *([before] if three else []))
            if not np.isfinite(field).all():
                raise RetakeError(f"{name} estimates NaN for {clip} frame {frame}")
            out.add(clip, frame, field)
    _write_speed(p, fields, clock, len(found), 1)
    log.info("estimated the flow of %d pairs: %s", len(found), output)


def _upscale(p: Params, fields: plan.Fields, protocol: Any) -> None:
    """Upscale every scene, frame by frame: no more than a few frames are held, whatever its length.

    The time of a frame has its share of the warm-up in it.
    """
    import torch

    name = fields["model"]
    high = Store(fields["frames"])
    low = Store(fields["low"]) if fields["low"] is not None else None
    scenes = super_resolution.scenes(high, low, protocol)
    network, digest, device = _load(p, fields)
    meta = _meta(p, fields, high, network, digest) | super_resolution.facts(high, low, protocol)
    meta |= {"flow": "", "gmacs": _gmacs_of_scenes(network, high, scenes)}
    clock = Clock(device)

    def given(clip: str) -> Iterator[Any]:
        """Yield (1, 3, h, w) frames; reading them is not the model's time."""
        images = super_resolution.low_resolution(high, low, clip)
        while True:
            with clock.stopped():
                image = next(images, None)
            if image is None:
                return
            yield torch.from_numpy(image).permute(2, 0, 1)[None].to(device)

    output = plan.path("predict", **fields)
    made = sum(len(high.clips[clip]) for clip in scenes)
    with (
        Writer(output, codec="png", meta=meta) as out,
        torch.no_grad(),
        _autocast(p, device),
        progress(total=made, unit="frame", desc=f"predict {name}") as bar,
    ):
        for clip in scenes:
            with clock:
                upscaled = iter(network.predict(given(clip)))
            for row in high.clips[clip]:
                frame = int(high.frame[row])
                try:
                    with clock:
                        image = next(upscaled, None)
                except RetakeError as error:
                    raise RetakeError(f"{(low or high).path}, {clip}: {error}") from None
                if image is None:
                    raise RetakeError(
                        f"{name} gives fewer frames of {clip} than the {len(high.clips[clip])} it has: does its entry "
                        "have the quirk published_dropping? It takes frames of scenes shorter than 6"
                    )
                if not bool(torch.isfinite(image).all()):
                    raise RetakeError(f"{name} gives NaN for {clip} frame {frame}")
                fitting = super_resolution.cut(super_resolution.eight_bits(image, protocol.saved), *high.size[row])
                if fitting is None:
                    raise RetakeError(f"{name} gives frames of {clip} that are smaller than those of {high.path}")
                out.add(clip, frame, fitting)
                bar.update()
    _write_speed(p, fields, clock, made, 1)
    log.info("upscaled %d frames of %d scenes: %s", made, len(scenes), output)


def _load(p: Params, fields: plan.Fields) -> tuple[Any, str, str]:
    """Return the model with its weights, their digest, and the device."""
    import torch

    model, device = p.models[fields["model"]], compute.device(p)
    network, digest = weights.load_model(model, Path(fields["checkpoint"]) if model.has_weights else None, device)
    if p.compute.channels_last and isinstance(network, torch.nn.Module):
        network = network.to(memory_format=torch.channels_last)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    return network, digest, device


def _meta(p: Params, fields: plan.Fields, store: Store, network: Any, digest: str) -> dict[str, Any]:
    """Return what every prediction store says of itself."""
    uses = plan.uses(p, "predict", fields)
    parts = getattr(network, "upscaling", [network])  # a discriminator that was trained along is no part of the row
    return {
        "kind": "predictions",
        "experiment": fields["experiment"],
        "model": fields["model"],
        "task": p.protocols[fields["protocol"]].task,
        "dataset": fields["frames"],
        "frames": fields["frames"],
        "data": store.identity,
        "licence": store.meta.get("licence"),
        "partial": store.meta.get("partial"),
        "fit": store.meta.get("fit"),
        "checkpoint": digest,
        "params": hashlib.sha256(json.dumps(uses, sort_keys=True).encode()).hexdigest(),
        "parameters": sum(t.numel() for part in parts if hasattr(part, "parameters") for t in part.parameters()),
    }


def _write_speed(p: Params, fields: plan.Fields, clock: Clock, made: int, batch: int) -> None:
    """Write how long `made` frames or fields took."""
    import torch

    cuda = clock.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    speed = {
        "ms_per_frame": 1000 * clock.seconds / made,
        "frames_per_s": made / clock.seconds,
        "peak_memory_mib": peak / 2**20,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": p.compute.threads,
        "batch": batch,
    }
    write_text(plan.OUTPUTS["predict"][1].format(**fields), json.dumps(speed, indent=2) + "\n")


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


def _autocast(p: Params, device: str) -> Any:
    import torch

    return torch.autocast(device, torch.bfloat16, enabled=p.compute.precision == "bf16-mixed")


def _inputs(store: Store, windows: list[prediction.Window], protocol: Any, device: str) -> Any:
    """Return context frames, (B, context, 3, H, W) float32 in [0,1]."""
    import torch

    images = np.stack([prediction.inputs(store, window, protocol) for window in windows])
    return torch.from_numpy(images).permute(0, 1, 4, 2, 3).to(device).float() / 255


def _flow(flow: Store | None, store: Store, windows: list[prediction.Window], protocol: Any, device: str) -> Any:
    """Return the precomputed flow between the last two context frames, (B, 2, H, W) px; None without a flow store."""
    import torch

    if flow is None:
        return None
    found = [prediction.context_flow(flow, store, window, protocol) for window in windows]
    return torch.from_numpy(np.stack(found)).permute(0, 3, 1, 2).float().to(device)


def _gmacs(
    network: Any, store: Store, windows: list[prediction.Window], protocol: Any, flow: Store | None, device: str
) -> float:
    """Return 10^9 multiply-adds of convolutions and matrix products for one frame, mean over a few windows."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    some = windows[:: max(len(windows) // COUNTED_WINDOWS, 1)][:COUNTED_WINDOWS]
    total = 0
    with torch.no_grad():
        for i, window in enumerate(some):
            with FlopCounterMode(display=False) as counter:
                network.predict(
                    _inputs(store, [window], protocol, device),
                    1,
                    seeds=[i],
                    flow=_flow(flow, store, [window], protocol, device),
                )
            total += counter.get_total_flops()
    if hasattr(network, "empty_selections"):
        network.empty_selections = 0
    return round(total / 2 / len(some) / 1e9, 4)


def _gmacs_of_scenes(network: Any, high: Store, scenes: list[str]) -> float:
    """Return 10^9 multiply-adds for one more frame of a running scene, mean over all frames.

    Counted without computing: by the definitions of the layers, whatever ways round them a device takes.
    """
    import copy

    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counted = copy.deepcopy(network).to("meta")

    def work(frames: int, size: tuple[int, ...]) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for _ in counted.predict(iter(torch.empty(frames, 1, 3, *size, device="meta"))):
                pass
        return counter.get_total_flops()

    sizes = [tuple(-(-int(n) // super_resolution.SCALE) for n in high.size[r]) for c in scenes for r in high.clips[c]]
    long = super_resolution.WARM_UP + 1  # from here on all scenes are warmed up by the same number of frames
    each = {size: work(long + 1, size) - work(long, size) for size in dict.fromkeys(sizes)}
    return round(sum(each[size] for size in sizes) / 2 / len(sizes) / 1e9, 4)


def next_frame(p: Params, name: str, images: list[Path], checkpoint: Path | None, output: Path) -> None:
    """Predict the frame after `images` and write it as PNG, rounded to 8 bits.

    Frames are padded by edge repetition to a size that the network takes, and the result is cropped back.
    """
    import torch

    if name not in p.models:
        raise RetakeError(f"unknown model {name!r}{near(name, p.models)}")
    model = p.models[name]
    if checkpoint is None and model.has_weights:
        raise RetakeError(f"{name} needs --checkpoint: a file of data/checkpoints/{name}/, or a published one")
    if model.flow is not None:
        raise RetakeError(f"{name} needs precomputed flow: use it in an experiment")
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
    image = (predicted.clamp(0, 1) * 255).round().byte().permute(1, 2, 0).cpu().numpy()[:height, :width]
    write_image(output, image)
    log.info("wrote %s", output)


if __name__ == "__main__":
    run(main, "predict")
