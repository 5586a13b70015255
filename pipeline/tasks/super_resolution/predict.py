"""The upscaled frames of every scene of a test set."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

from pipeline.errors import RetakeError, log, progress
from pipeline.store.frames import Store
from pipeline.tasks.common import predictions
from pipeline.tasks.common.predict import Run
from pipeline.tasks.super_resolution import SCALE, clips
from pipeline.tasks.super_resolution.warm_up import WARM_UP


def predict(run: Run) -> tuple[int, int]:
    """Write every frame of every scene, by clip and number, in 8 bits as the protocol says; return how many.

    No more than a few frames are held, whatever a scene's length. The time of a frame has its share of the warm-up in it.
    """
    import torch

    high, low = Store(run.fields["frames"]), clips.low_store(run.fields)
    scenes = clips.scenes(high, low, run.protocol)
    network, clock = run.load(), run.clock
    meta = clips.facts(high, low, run.protocol) | {"gmacs": _gmacs(network, high, scenes)}

    def given(clip: str) -> Iterator[Any]:
        """Yield (1, 3, h, w) frames; reading them is not the model's time."""
        images = clips.low_resolution(high, low, clip)
        while True:
            with clock.stopped():
                image = next(images, None)
            if image is None:
                return
            yield torch.from_numpy(image).permute(2, 0, 1)[None].to(run.device)

    def upscaled(clip: str) -> Iterator[Any]:
        """Yield (1, 3, 4h, 4w) outputs; None behind the last."""
        with clock:
            outputs = iter(network.predict(given(clip)))
        while True:
            try:
                with clock:
                    output = next(outputs, None)
            except RetakeError as error:
                raise RetakeError(f"{(low or high).path}, {clip}: {error}") from None
            yield output

    scenes = [scenes[place] for place in run.shard.span(len(scenes))]
    made = sum(len(high.clips[clip]) for clip in scenes)
    bar = progress(total=made, unit="frame", desc=f"predict {run.name}")
    with run.writing(high, meta, codec="png") as out, bar:
        for clip in scenes:
            for row, output in zip(high.clips[clip], upscaled(clip), strict=False):
                out.add(clip, int(high.frame[row]), _scored(run, high, clip, row, output))
                bar.update()
    log.info("upscaled %d frames of %d scenes", made, len(scenes))
    return made, 1


def _scored(run: Run, high: Store, clip: str, row: int, output: Any) -> Any:
    """Return an output (1, 3, H, W) as the image of 8 bits that is scored, at the size of the true frame in `row`.

    Raises RetakeError where there is none, where it is not finite, and where it is smaller.
    """
    import torch

    if output is None:
        raise RetakeError(
            f"{run.name} gives fewer frames of {clip} than the {len(high.clips[clip])} it has: does its entry "
            "have the quirk published_dropping? It takes frames of scenes shorter than 6"
        )
    if not bool(torch.isfinite(output).all()):
        raise RetakeError(f"{run.name} gives NaN or infinity for {clip} frame {int(high.frame[row])}")
    image = predictions.cut(clips.eight_bits(output, run.protocol.saved), *high.size[row])
    if image is None:
        raise RetakeError(f"{run.name} gives frames of {clip} that are smaller than those of {high.path}")
    return image


def _gmacs(network: Any, high: Store, scenes: list[str]) -> float:
    """Return 10^9 multiply-adds for one more frame of a running scene, mean over all frames.

    Counted without computing: by the definitions of the layers, whatever ways round them a device takes.
    """
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    counted = copy.deepcopy(network).to("meta")

    def work(frames: int, size: tuple[int, ...]) -> int:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            for _ in counted.predict(iter(torch.empty(frames, 1, 3, *size, device="meta"))):
                pass
        return counter.get_total_flops()

    sizes = [tuple(-(-int(n) // SCALE) for n in high.size[r]) for c in scenes for r in high.clips[c]]
    long = WARM_UP + 1  # from here on all scenes are warmed up by the same number of frames
    each = {size: work(long + 1, size) - work(long, size) for size in dict.fromkeys(sizes)}
    return round(sum(each[size] for size in sizes) / 2 / len(sizes) / 1e9, 4)
