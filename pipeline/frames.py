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
from typing import TypeVar

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

PNG, JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"

Size = tuple[int, int]  # height, width
T = TypeVar("T")
R = TypeVar("R")


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
    with Writer(output, codec=d.codec, meta=meta) as out:
        bar = progress(total=count, unit="frame", desc=f"frames {dataset} {split}")
        problems = [gap for clip in clips for gap in gaps(clip)]
        write(out, clips, d, problems, bar.update)
        bar.close()
        if problems:
            more = f"\nand {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise RetakeError(
                f"{dataset} {split}: faults in {count} frames ({len(problems)}), no store is written. Put whole archives "
                "into place (delete a bad one to have it downloaded again), then run again:\n"
                + "\n".join(problems[:SHOWN])
                + more
            )
    rate = count / (time.monotonic() - started)
    what = f" ({partial})" if partial else ""
    log.info("%d frames in %d clips%s, %.1f a second: %s", count, len(clips), what, rate, output)
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


def gaps(clip: Clip) -> list[str]:
    """Return a line for each gap in the frame numbers of a clip."""
    if not clip.frames:
        return [f"clip {clip.name} has no frames"]
    problems = []
    for (before, member), (after, _) in zip(clip.frames, clip.frames[1:], strict=False):
        if after != before + 1:
            lost = f"frame {before + 1} is" if after == before + 2 else f"frames {before + 1} to {after - 1} are"
            problems.append(f"{member.archive}: clip {clip.name}: {lost} missing")
    return problems


def write(out: Writer, clips: list[Clip], d: Dataset, problems: list[str], done: Callable[[], object]) -> None:
    """Add the frames of `clips` to a store; append a line to `problems` for each that cannot be used.

    After the first problem frames are checked, but no longer added. A clip's size is the one that most of its frames
    have. `done` is called after each frame.
    """

    def prepare(member: Member) -> tuple[bytes, Size] | str:
        try:
            return encode(member, d)
        except RetakeError as error:
            return str(error)

    workers = min(len(os.sched_getaffinity(0)), WORKERS)
    with ThreadPoolExecutor(workers) as pool:
        results = in_order(pool, prepare, (member for clip in clips for _, member in clip.frames), 2 * workers)
        for clip in clips:
            sizes: list[tuple[Member, Size]] = []
            for (number, member), result in zip(clip.frames, results, strict=False):
                done()
                if isinstance(result, str):
                    problems.append(result)
                    continue
                encoded, size = result
                sizes.append((member, size))
                if not problems:
                    source = f"{member.archive.name}/{member.name}"
                    out.add(clip.name, number, encoded=encoded, size=(d.height, d.width), source=source)
            usual = collections.Counter(size for _, size in sizes).most_common(1)
            for member, size in sizes:
                if size != usual[0][0]:
                    (height, width), (h, w) = size, usual[0][0]
                    problems.append(f"{member.archive}: {member.name} is {width}x{height}, its clip is {w}x{h}")


def encode(member: Member, d: Dataset) -> tuple[bytes, Size]:
    """Return a frame as it is stored, and its source's (height, width).

    Raises RetakeError for a member that is missing, damaged, or no 8-bit RGB image.
    """
    data = archives.read(member, LIMIT)
    where = f"{member.archive}: {member.name}"
    try:
        size = image_size(data)
    except ValueError as error:
        raise RetakeError(f"{where} {error}") from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise RetakeError(f"{where} cannot be decoded: it is damaged or cut off")
    if image.shape != (*size, 3):
        raise RetakeError(f"{where} has a transparent colour, RGB of 8 bits is needed")
    if size != (d.height, d.width):
        image = cv2.resize(image, (d.width, d.height), interpolation=cv2.INTER_LINEAR)
    elif d.codec == "jpeg" and data.startswith(JPEG):
        return data, size
    return ENCODE[d.codec](cv2.cvtColor(image, cv2.COLOR_BGR2RGB)), size


def image_size(data: bytes) -> Size:
    """Return (height, width) of an encoded image from its header, before anything is decoded.

    OpenCV would widen palettes and turn CMYK into RGB without a word. Raises ValueError for what is no 8-bit RGB PNG or
    JPEG, and for sizes beyond 8K.
    """
    if data.startswith(PNG) and len(data) > 26:
        width, height, bits, colour = struct.unpack_from(">IIBB", data, 16)
        kind = {0: "grey", 2: "RGB", 3: "palette", 4: "grey with alpha", 6: "RGB with alpha"}.get(colour, "unknown")
    elif data.startswith(JPEG):
        bits, height, width, channels = _jpeg_header(data)
        kind = {1: "grey", 3: "RGB", 4: "CMYK"}.get(channels, "unknown")
    else:
        raise ValueError(f"is no PNG or JPEG image, it begins with {data[:8]!r}")
    if bits != 8 or kind != "RGB":
        raise ValueError(f"is {kind} of {bits} bits, RGB of 8 bits is needed")
    if height * width > PIXELS:
        raise ValueError(f"claims to be {width}x{height}, frames beyond {PIXELS} pixels are refused")
    return height, width


def _jpeg_header(data: bytes) -> tuple[int, int, int, int]:
    """Return bits, height, width, channels from the first start-of-frame segment."""
    at = 2
    while at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], struct.unpack_from(">H", data, at + 2)[0]
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            bits, height, width, channels = struct.unpack_from(">BHHB", data, at + 4)
            return bits, height, width, channels
        at += 1 if marker == 0xFF else 2 + length
    raise ValueError("is a JPEG image without a frame header: it is damaged or cut off")


def in_order(pool: ThreadPoolExecutor, function: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """Yield function(item) in the order of items; at most `ahead` of them are under way."""
    waiting: collections.deque[Future[R]] = collections.deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


if __name__ == "__main__":
    run(main, "frames")
