"""Optical flow between the consecutive frames of every clip, once: a frame store in, a flow store out.

    python -m pipeline.flow --estimator dis --dataset kitti --split test
    python -m pipeline.flow --estimator dis --dataset kitti --split test --shard 2/7         # with compute.shards: 7
    python -m pipeline.flow A.png B.png --output flow.flo --picture flow.png
    python -m pipeline.flow A.png B.png --estimator arflow_sky --checkpoint arflow.pth.tar --output flow.flo

The store (`data/flow/<estimator>/<dataset>/<split>.arrow`) has a row for each frame whose successor by number is in the
clip: the flow frame -> frame + 1, (height, width, 2) px, off by at most 0.0111 px (`store/flow.py`). An estimator whose
`predict.export` is another than `pairs` writes what `tasks/flow/exports.py` says. The estimator `truth` takes exact
flow from the dataset's archives; there pixels without flow are NaN. The second form takes two images; `.flo`, `.npy` or
`.png` (KITTI's 16 bits), and a picture in the colours of Baker et al. Pairs run in parallel on all cores; order and
bytes do not depend on their number. A network takes pairs of one size in batches of `compute.batch`, on the device and
the threads of `compute`, while the cores decode the next frames and encode the last fields; its checkpoint is the one
that the experiment's `trained_on` makes, and without an experiment the one of the dataset itself.
"""

from __future__ import annotations

import argparse
import collections
import inspect
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline import compute, params, plan, shards, tasks, weights
from pipeline.atomic import claim
from pipeline.drawing import colours
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError, log, near, progress, run
from pipeline.outputs import unused
from pipeline.params import Model, Params
from pipeline.shards import WHOLE, Shard
from pipeline.sources.images import read_image
from pipeline.store import flow as files
from pipeline.store import sealed
from pipeline.store.frames import Store, Writer, join
from pipeline.tasks.flow.exports import EXPORTS, Pair

WRITE = {".flo": files.write_flo, ".png": files.write_kitti, ".npy": files.write_npy}


# A pair to come: clip, frame, and what gives its flow (H, W, 2) float32.
Job = tuple[str, int, Callable[[], np.ndarray]]
Encoded = tuple[bytes, tuple[int, int]]  # and (height, width)
Loaded = tuple[Pair, list[Future[np.ndarray]]]  # before, first, second


def main() -> None:
    """Parse the command line; make a store, or the flow of two images."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("images", nargs="*", type=Path, metavar="IMAGE", help="two images, instead of a dataset")
    parser.add_argument("--estimator", default="dis", help="entry of `models` in params.yaml (default: dis)")
    parser.add_argument("--dataset", help="entry of `datasets`")
    parser.add_argument("--split", help="its split")
    parser.add_argument(
        "--checkpoint", type=Path, help="with images: a checkpoint of data/checkpoints, or a published file"
    )
    parser.add_argument("--output", type=Path, help="with images: flow.flo, flow.npy, or flow.png (KITTI, 16 bits)")
    parser.add_argument("--picture", type=Path, help="with images: a picture of the flow")
    shards.add_argument(parser)
    args = parser.parse_args()
    p = params.load()
    if args.images:
        if args.dataset or args.split or not (args.output or args.picture):
            parser.error("with images give --output, --picture or both, and neither --dataset nor --split")
        model = tasks.model(p, args.estimator, "flow")
        checkpoint = weights.chosen(args.estimator, model, args.checkpoint)
        make_pair(model, args.images, args.output, args.picture, checkpoint=checkpoint, device=_device(p, model))
    elif args.checkpoint:
        parser.error("--checkpoint is for two images: in an experiment the plan names it")
    elif args.dataset and args.split:
        make(p, args.estimator, args.dataset, args.split, args.shard)
    else:
        parser.error("give --dataset and --split, or two images")


def make(p: Params, name: str, dataset: str, split: str, shard: Shard | None = None) -> Path:
    """Write the flow store of one (estimator, dataset, split), or a part of it with some of the pairs, and return its path."""
    model = tasks.model(p, name, "flow")
    if dataset not in p.datasets:
        raise RetakeError(f"unknown dataset {dataset!r}{near(dataset, p.datasets)}")
    splits = params.registry("datasets")[p.datasets[dataset].kind].SPLITS
    if split not in splits:
        raise RetakeError(f"dataset {dataset} has no split {split!r}{near(split, splits)}")
    fields: plan.Fields = {"estimator": name, "dataset": dataset, "split": split}
    output = plan.output("flow", fields, shard or WHOLE)
    claim(output)
    frames = Store(plan.path("frames", dataset=dataset, split=split))
    export = EXPORTS[model.export]
    chosen = export.pairs(frames)
    if not chosen:
        raise RetakeError(f"{frames.path}: no two consecutive frames in any of {len(frames.clips)} clips, so no flow")
    named = {(pair.clip, int(frames.frame[pair.name])): pair for pair in chosen}
    if shard is None and (parts := plan.parts(p, "flow", fields)):
        count = len(join(parts, output, {"data": frames.identity, "settings": model.model_dump(mode="json")}))
        log.info("flow of %d pairs, joined from %d parts: %s", count, len(parts), output)
        return output
    batch = compute.batch(p, _device(p, model), frames)
    batches = _batches(frames, chosen, batch)
    chosen = [pair for place in (shard or WHOLE).span(len(batches)) for pair in batches[place]]
    estimator, digest = None, ""
    if model.kind not in plan.TRUTH:
        checkpoint = None
        if model.has_weights:
            checkpoint = Path(plan.fields_of(p, "flow", **fields)["checkpoint"])
        estimator, digest = _build(model, checkpoint, _device(p, model))
    meta = {
        "estimator": name,
        "checkpoint": digest,
        "settings": model.model_dump(mode="json"),
        "unit": "px",
        "error": round(files.ERROR, 6),
        "export": model.export,
        "frames": str(frames.path),
        "data": frames.identity,
        **{key: frames.meta.get(key) for key in ("dataset", "split", "height", "width", "licence", "partial")},
        **({"height": export.side, "width": export.side} if export.side else {}),
        "versions": {"opencv": cv2.__version__},
    }
    # One thread inside OpenCV: pairs are the unit of work, and an estimator that splits an image by the number of
    # threads would give other flow on another machine.
    cv2.setNumThreads(1)
    workers = len(os.sched_getaffinity(0))
    started, done = time.monotonic(), 0
    with (
        Writer(output, codec="flow64", dtype="float32", channels=2, meta=meta) as out,
        ThreadPoolExecutor(workers) as pool,
    ):
        if estimator is None:
            jobs = _exact(p, model.kind, dataset, split, frames, named)
        else:
            loaded = _loaded(model, frames, chosen, pool, 2 * max(workers, batch))
            jobs = _estimated(model, estimator, frames, loaded, batch)
        bar = progress(_encoded(jobs, pool, 2 * workers), total=len(chosen), unit="pair", desc=f"flow {name}")
        for clip, frame, (encoded, size) in bar:
            out.add(clip, frame, source=frames.source(named[clip, frame].name), encoded=encoded, size=size)
            done += 1
        if not done and estimator is None:
            raise RetakeError(f"{p.datasets[dataset].kind} has no exact flow of any pair in {frames.path}")
    rate = done / (time.monotonic() - started)
    log.info("flow of %d pairs in %d clips, %.1f a second: %s", done, len(frames.clips), rate, output)
    return output


def make_pair(
    model: Model,
    images: list[Path],
    output: Path | None,
    picture: Path | None,
    *,
    checkpoint: Path | None = None,
    device: str = "cpu",
) -> None:
    """Estimate the flow between two image files; write it to `output`, its colours to `picture`.

    `checkpoint`: ours or a published file, for estimators that have weights; `device`: where those run.
    """
    if len(images) != 2:
        raise RetakeError(f"flow is estimated between two images, {len(images)} given: {' '.join(map(str, images))}")
    if model.kind in plan.TRUTH:
        raise RetakeError("truth is read from a dataset's archives: name an estimator for two images")
    if output is not None and output.suffix not in WRITE:
        raise RetakeError(
            f"{output}: flow is written as {', '.join(WRITE)} (.png: KITTI, 16 bits), by the name's suffix"
        )
    if model.has_weights and checkpoint is None:
        raise RetakeError(f"{model.kind} needs --checkpoint: a file of data/checkpoints, or a published one")
    if checkpoint is not None and not model.has_weights:
        raise RetakeError(f"{model.kind} has no weights: leave --checkpoint out, or name the estimator that it is of")
    unused(output)
    unused(picture)
    if output is not None and picture is not None and output.resolve() == picture.resolve():
        raise RetakeError(f"{output} cannot hold both the flow and its picture: give another name")
    first, second = (read_image(path) for path in images)
    if first.shape != second.shape:
        sizes = [f"{image.shape[1]}x{image.shape[0]}" for image in (first, second)]
        raise RetakeError(f"{images[0]} is {sizes[0]}, {images[1]} is {sizes[1]}: flow needs two images of one size")
    _check(model, first.shape[:2], str(images[0]))
    cv2.setNumThreads(1)
    estimator = _build(model, checkpoint, device)[0]
    three = [first] if estimator.context == 3 else []
    flow = _finite(model, estimator.estimate(first, second, *three))
    if output is not None:
        WRITE[output.suffix](output, flow)
        log.info("wrote %s", output)
    if picture is not None:
        scale = colours.scale_of(flow)
        write_image(picture, colours.colours(flow, scale))
        log.info("wrote %s: full colour at %.1f px", picture, scale)


def _batches(frames: Store, pairs: list[Pair], most: int) -> list[list[Pair]]:
    """Return pairs as a network takes them together: neighbours of one size, at most so many."""
    runs = [list(alike) for _, alike in itertools.groupby(pairs, key=lambda pair: tuple(frames.size[pair.first]))]
    return [run[first : first + most] for run in runs for first in range(0, len(run), most)]


def _check(model: Model, size: tuple[int, ...], where: str) -> None:
    try:
        model.check(int(size[0]), int(size[1]))
    except ValueError as error:
        raise RetakeError(f"{where}: {error}") from None


def _device(p: Params, model: Model) -> str:
    """Return where an estimator runs: networks as `compute` says, the others on the CPU."""
    return compute.device(p) if model.has_weights else "cpu"


def _build(model: Model, checkpoint: Path | None, device: str) -> tuple[Any, str]:
    """Return the estimator and the digest of its weights, "" where it has none."""
    if not model.has_weights:
        return params.registry("models")[model.kind].build(model), ""
    from pipeline import weights

    return weights.load_model(model, checkpoint, device)


def _finite(model: Model, flow: np.ndarray) -> np.ndarray:
    """Return the flow; raises RetakeError where it is not finite."""
    bad = ~np.isfinite(flow).all(axis=-1)
    if bad.any():
        raise RetakeError(f"{model.kind} gives flow that is not finite at {bad.sum()} pixels: look at the two images")
    return flow


def _loaded(
    model: Model, frames: Store, pairs: Iterable[Pair], pool: ThreadPoolExecutor, ahead: int
) -> Iterator[Loaded]:
    """Yield pairs with their frames, which the pool decodes, each once, `ahead` pairs before they are asked for."""
    decoded: dict[int, Future[np.ndarray]] = {}
    waiting: collections.deque[Loaded] = collections.deque()
    for pair in pairs:
        where = f"{frames.path}, {pair.clip} frame {frames.frame[pair.first]}"
        _check(model, frames.size[pair.first], where)
        if (frames.size[pair.first] != frames.size[pair.second]).any():
            raise RetakeError(f"{where}: the next frame has another size")
        rows = pair[2:]
        # Submitted before the jobs that wait for them: a pool that serves in order cannot lock up.
        decoded = {row: decoded.get(row) or pool.submit(frames.image, row) for row in dict.fromkeys(rows)}
        waiting.append((pair, [decoded[row] for row in rows]))
        if len(waiting) > ahead:
            yield waiting.popleft()
    yield from waiting


def _estimated(model: Model, estimator: Any, frames: Store, loaded: Iterator[Loaded], most: int) -> Iterator[Job]:
    """Yield the pairs of a store, estimated in the pool.

    A network estimates here, `most` pairs of one size at a time: it has threads, or a GPU, of its own. Then the pool
    decodes what comes next and encodes what came before.
    """
    views, side = estimator.context, EXPORTS[model.export].side

    def finished(flow: np.ndarray) -> np.ndarray:
        flow = _finite(model, flow)
        return files.resize(flow, side, side) if side else flow

    def job(images: list[Future[np.ndarray]]) -> Callable[[], np.ndarray]:
        return lambda: finished(estimator.estimate(*(image.result() for image in images[-2:])))

    def known(flow: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: finished(flow)

    if not model.has_weights:
        for pair, images in loaded:
            yield pair.clip, int(frames.frame[pair.name]), job(images)
        return
    for _, alike in itertools.groupby(loaded, key=lambda pair_and_images: tuple(frames.size[pair_and_images[0].first])):
        while some := list(itertools.islice(alike, most)):
            stacked = np.stack([np.stack([image.result() for image in images[-views:]]) for _, images in some])
            for (pair, _), flow in zip(some, estimator.estimate_batch(stacked), strict=True):
                yield pair.clip, int(frames.frame[pair.name]), known(flow)


def _exact(
    p: Params, estimator: str, dataset: str, split: str, frames: Store, named: dict[tuple[str, int], Pair]
) -> Iterator[Job]:
    """Yield the exact flow that the dataset's archives hold, NaN where it is not valid."""
    kind = p.datasets[dataset].kind
    module = params.registry("datasets")[kind]
    if module.truth is None:
        raise RetakeError(
            f"dataset {dataset} ({kind}) has no exact flow: estimate it, or drop the metrics that need it"
        )
    more = {}
    if estimator == "truth_noc":
        if "which" not in inspect.signature(module.truth).parameters:
            raise RetakeError(
                f"dataset {dataset} ({kind}) does not tell occluded pixels: drop the metrics that need it"
            )
        more = {"which": "noc"}
    path = plan.path("download", dataset=dataset, split=split)
    archives = [Path("data/raw") / kind / archive["file"] for archive in sealed.read(path)["archives"]]
    size = {pair: tuple(frames.size[rows.first]) for pair, rows in named.items()}

    def job(flow: np.ndarray, valid: np.ndarray) -> Callable[[], np.ndarray]:
        return lambda: np.where(valid[..., None], flow, np.float32(np.nan))

    for clip, frame, flow, valid in module.truth(p.datasets[dataset], split, archives, **more):
        stored = size.get((clip, frame))
        if stored != flow.shape[:2]:
            raise RetakeError(
                f"{kind} has exact flow of {clip} frame {frame}, size {flow.shape[:2]}, but {frames.path} has "
                f"{f'it with size {stored}' if stored else 'no such pair'}: make that store again"
            )
        yield clip, frame, job(flow, valid)


def _encoded(jobs: Iterator[Job], pool: ThreadPoolExecutor, ahead: int) -> Iterator[tuple[str, int, Encoded]]:
    """Run jobs in the pool and yield (clip, frame, encoded flow) in their order; at most `ahead` of them wait."""
    waiting: collections.deque[tuple[str, int, Future[Encoded]]] = collections.deque()
    for clip, frame, job in jobs:
        waiting.append((clip, frame, pool.submit(_encode, clip, frame, job)))
        if len(waiting) > ahead:
            clip, frame, done = waiting.popleft()
            yield clip, frame, done.result()
    for clip, frame, done in waiting:
        yield clip, frame, done.result()


def _encode(clip: str, frame: int, job: Callable[[], np.ndarray]) -> Encoded:
    try:
        flow = job()
        return files.encode(flow), (flow.shape[0], flow.shape[1])
    except (RetakeError, cv2.error) as error:
        raise RetakeError(f"{clip} frame {frame}: {error}") from error


if __name__ == "__main__":
    run(main, "flow")
