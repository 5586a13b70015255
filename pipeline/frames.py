"""Frames of one split, once: archives in, one frame store out.

    python -m pipeline.frames --dataset kitti --split test

Reads the archives that the download stage's manifest (`data/raw/<dataset>/<split>.json`) lists, straight from the zips,
and writes `data/frames/<dataset>/<split>.arrow`: RGB uint8 at the dataset's size, resized as published with OpenCV's
INTER_LINEAR where the source's differs. With codec jpeg the bytes of JPEG sources of that size pass through untouched.
Frames that are missing by number, damaged, of another size than their clip or not 8-bit RGB are all reported in one
message, and then nothing is written. Frames run in parallel on all cores; order and bytes do not depend on their
number, and memory does not grow with the dataset.
"""

from __future__ import annotations

import argparse
import collections
import json
import os
import struct
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np

from pipeline import params, plan
from pipeline.errors import RetakeError, log, near, progress, run
from pipeline.params import Dataset, Params
from pipeline.store import archives
from pipeline.store.archives import Clip, Member
from pipeline.store.frames import ENCODE, Writer

SHOWN = 50  # problems that a message lists
LIMIT = 64 << 20  # bytes of one stored frame
PIXELS = 1 << 25  # of one decoded frame: 8K video has fewer
WORKERS = 8  # threads: each may hold a decoded frame

Encoded = tuple[bytes, tuple[int, int]]  # the stored bytes, and the source's (height, width)


def main() -> None:
    """Parse the command line and make the store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="entry of `datasets` in params.yaml")
    parser.add_argument("--split", required=True, help="its split, such as train or test")
    args = parser.parse_args()
    make(params.load(), args.dataset, args.split)


def make(p: Params, dataset: str, split: str) -> Path:
    """Write the frame store of one (dataset, split) and return its path.

    Raises RetakeError when frames or archives are not as they should be; then no store is written.
    """
    if dataset not in p.datasets:
        raise RetakeError(f"unknown dataset {dataset!r}{near(dataset, p.datasets)}")
    d = p.datasets[dataset]
    module = params.registry("datasets")[d.kind]
    if split not in module.SPLITS:
        raise RetakeError(f"dataset {dataset} has no split {split!r}{near(split, module.SPLITS)}")
    manifest = plan.path("download", dataset=dataset, split=split)
    there, missing = read_manifest(manifest, d.kind)
    clips = list(module.clips(d, split, there))
    count = sum(len(clip.frames) for clip in clips)
    if not count:
        raise RetakeError(
            f"{manifest}: no frames of {dataset} {split}, {len(missing)} archives are missing: put some into "
            f"data/raw/{d.kind}, or set datasets.{dataset}.archives to all"
        )
    partial = _partial(module, d, split, len(there), len(missing), count)
    meta = {
        **{"dataset": dataset, "kind": d.kind, "split": split, "height": d.height, "width": d.width},
        **{"colour": "RGB", "resize": "cv2.INTER_LINEAR", "licence": module.LICENCE, "partial": partial},
        "versions": {"opencv": cv2.__version__},
    }
    # One thread inside OpenCV: frames are the unit of work.
    cv2.setNumThreads(1)
    output = plan.path("frames", dataset=dataset, split=split)
    started = time.monotonic()
    problems = [problem for clip in clips for problem in missing_numbers(clip)]
    with Writer(output, codec=d.codec, meta=meta) as out:
        rows = progress(prepare(clips, d, problems), total=count, unit="frame", desc=f"frames {dataset} {split}")
        for clip, number, member, encoded in rows:
            if not problems:
                source = f"{member.archive.name}/{member.name}"
                out.add(clip, number, encoded=encoded, size=(d.height, d.width), source=source)
        if problems:
            more = f"\nand {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise RetakeError(
                f"{len(problems)} of {count} frames of {dataset} {split} cannot be used; nothing was written:\n"
                + "\n".join(problems[:SHOWN])
                + more
            )
    rate = count / (time.monotonic() - started)
    log.info("%d frames in %d clips%s, %.1f a second: %s", count, len(clips), f" ({partial})" if partial else "", rate, output)
    return output


def read_manifest(path: Path, kind: str) -> tuple[list[Path], list[str]]:
    """Return the archives that a manifest lists and the names of those that are missing.

    Raises RetakeError for archives that are gone or have another length than when they were verified.
    """
    if not path.exists():
        raise RetakeError(f"no manifest {path}: make it with `snakemake {path}`")
    manifest = json.loads(path.read_text())
    found, problems = [], []
    for archive in manifest["archives"]:
        at = Path("data/raw") / kind / archive["file"]
        size = at.stat().st_size if at.exists() else None
        if size != archive["bytes"]:
            what = "is gone" if size is None else f"has {size} bytes"
            problems.append(f"{at} {what}, {path} has verified {archive['bytes']}")
        found.append(at)
    if problems:
        problems.append(f"Put the verified archives back, or delete {path} and run again")
        raise RetakeError("\n".join(problems))
    return found, manifest["missing"]


def _partial(module: ModuleType, d: Dataset, split: str, there: int, missing: int, count: int) -> str | None:
    """Return what of the split is there, in words for the table, or None when it is whole."""
    whole = module.expected(d, split)
    if not missing and count == whole:
        return None
    parts = [f"{there} of {there + missing} archives"] if there + missing else []
    return ", ".join([*parts, f"{count} of {whole} frames"])


def missing_numbers(clip: Clip) -> list[str]:
    """Return a line for each gap in the frame numbers of a clip."""
    if not clip.frames:
        return [f"clip {clip.name} has no frames"]
    problems = []
    for (before, member), (after, _) in zip(clip.frames, clip.frames[1:], strict=False):
        if after != before + 1:
            lost = f"frame {before + 1} is" if after == before + 2 else f"frames {before + 1} to {after - 1} are"
            problems.append(f"{member.archive}: clip {clip.name}: {lost} missing")
    return problems


def prepare(
    clips: Iterable[Clip], d: Dataset, problems: list[str]
) -> Iterator[tuple[str, int, Member, bytes]]:
    """Yield (clip, frame number, member, stored bytes) of each good frame, in order; append the others' faults to `problems`.

    A clip's size is that of most of its frames; those of another size are faults, known when the clip ends.
    """

    def job(item: tuple[int, Member]) -> Encoded | str:
        try:
            return encode(item[1], d.height, d.width, d.codec)
        except RetakeError as error:
            return str(error)

    workers = min(len(os.sched_getaffinity(0)), WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        results = in_order(pool, job, (frame for clip in clips for frame in clip.frames), ahead=2 * workers)
        for clip in clips:
            sizes: dict[str, tuple[int, int]] = {}
            for (number, member), result in zip(clip.frames, results, strict=False):
                if isinstance(result, str):
                    problems.append(result)
                    continue
                encoded, sizes[member.name] = result
                yield clip.name, number, member, encoded
            ...


def in_order(pool: ThreadPoolExecutor, function: Callable[[Any], Any], items: Iterable[Any], ahead: int) -> Iterator[Any]:
    """Yield function(item) in the order of items, with at most `ahead` of them under way."""
    waiting: collections.deque[Future[Any]] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
