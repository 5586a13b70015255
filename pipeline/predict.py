"""Predict all that an experiment tests with one model: a prediction store out.

    python -m pipeline.predict --experiment kitti --model dmvfn
    python -m pipeline.predict --experiment kitti --model dmvfn --shard 2/7      # with compute.shards: 7
    python -m pipeline.predict A.png B.png --model dmvfn --checkpoint dmvfn_kitti.pkl --output next.png

The store (`data/predictions/<experiment>/<model>.arrow`) holds what the protocol scores. Of prediction and animation it is
16-bit fixed point, error below 1e-5 of the range; clip = window ("<clip>:<start>"), frame = step from 1, sample = draw. Of
flow it is a flow store: (clip, frame) -> flow to the next frame, off by at most 0.0111 px. Of super_resolution it has the
scenes' frames by clip and number, in 8 bits, truncated or rounded as the protocol says. Beside it `<model>.speed.json`. The
last form is the paper's single test: two consecutive images in, the next frame out.
"""

from __future__ import annotations

import argparse
import resource
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from pipeline import params, plan, shards, tasks
from pipeline.atomic import claim
from pipeline.errors import log, run
from pipeline.params import Params
from pipeline.shards import WHOLE, Shard
from pipeline.store import frames, sealed
from pipeline.tasks.common import predictions
from pipeline.tasks.common.predict import Run


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
    shards.add_argument(parser)
    args = parser.parse_args()
    p = params.load()
    if args.images:
        if args.experiment or not args.output:
            parser.error("with images give --model, --output and, for a trained model, --checkpoint")
        single = tasks.part("prediction", "predict")
        single.next_frame(p, args.model, args.images, args.checkpoint, args.output)
    elif args.experiment:
        predict(p, args.experiment, args.model, args.shard)
    else:
        parser.error("give --experiment, or images")


def predict(p: Params, experiment: str, name: str, shard: Shard | None = None) -> None:
    """Write the prediction store and the speed of one (experiment, model), or one part of them."""
    fields = plan.fields_of(p, "predict", experiment=experiment, model=name)
    if shard is None and (parts := plan.parts(p, "predict", fields)):
        join(p, fields, parts)
        return
    job = Run(p, fields, shard or WHOLE)
    claim(job.output)
    made, batch = tasks.part(job.protocol.task, "predict").predict(job)
    write_speed(job, made, batch)
    for note in job.network.notes():
        log.info("%s: %s", name, note)
    log.info("wrote %s", job.output)


def join(p: Params, fields: plan.Fields, parts: list[Path]) -> None:
    """Write the store and the speed of one (experiment, model) from its parts."""
    output = plan.path("predict", **fields)
    claim(output)
    stored = frames.join(parts, output, predictions.meta(p, "predict", fields, frames.Store(fields["frames"])))
    speeds = [sealed.read(part.with_suffix(".speed.json")) for part in parts]
    whole: dict[str, Callable[[Iterable[float]], float]] = {"made": sum, "seconds": sum, "peak_memory_mib": max}
    told = speeds[0] | {key: add(speed[key] for speed in speeds) for key, add in whole.items()}
    sealed.write(output.with_suffix(".speed.json"), _rates(told))
    log.info("joined %d parts, %d images: %s", len(parts), len(stored), output)


def write_speed(job: Run, made: int, batch: int) -> None:
    """Write how long `made` frames or fields took, `batch` windows at a time."""
    import torch

    clock = job.clock
    cuda = clock.device == "cuda"
    peak = torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    speed = {
        "made": made,
        "seconds": clock.seconds,
        "peak_memory_mib": peak / 2**20,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": job.p.compute.threads,
        "batch": batch,
    }
    sealed.write(job.output.with_suffix(".speed.json"), _rates(speed) if job.shard == WHOLE else speed)


def _rates(speed: dict[str, Any]) -> dict[str, Any]:
    """Return what the table of speeds shows, of frames made and seconds."""
    made, seconds = speed["made"], speed["seconds"]
    rest = {key: value for key, value in speed.items() if key not in ("made", "seconds")}
    return {"ms_per_frame": 1000 * seconds / made, "frames_per_s": made / seconds} | rest


if __name__ == "__main__":
    run(main, "predict")
