"""Frames of one split, once: archives in, one frame store out.

    python -m pipeline.frames --dataset kitti --split test
    python -m pipeline.frames --dataset kitti --split test --shard 2/7       # with compute.shards: 7

Reads the archives that the download stage's manifest (`data/raw/<dataset>/<split>.json`) lists, straight from the zips,
and writes `data/frames/<dataset>/<split>.arrow`: RGB uint8 at the dataset's size, resized as published with OpenCV's
INTER_LINEAR (or as the dataset was published) where the source's differs. With codec jpeg the bytes of JPEG sources of that size pass through untouched.
Frames that are missing by number, damaged, of another size than their clip or not 8-bit RGB are all reported in one
message, and then nothing is written. A video that is cut off gives the frames before the cut, and a message. Frames run
in parallel on all cores; order and bytes do not depend on their number, and memory does not grow with the dataset.
"""

from __future__ import annotations

import argparse
import collections
import functools
import itertools
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import cv2
import numpy as np
import PIL
from PIL import Image

from pipeline import params, plan, shards
from pipeline.atomic import claim
from pipeline.errors import RetakeError, log, near, progress, run
from pipeline.params import Dataset, Params
from pipeline.shards import WHOLE, Shard
from pipeline.sources import archives
from pipeline.sources.archives import Clip, CutOff, Damaged, Member, Stream
from pipeline.sources.images import JPEG, check_whole, image_size
from pipeline.sources.verified import unpacked
from pipeline.store import sealed
from pipeline.store.frames import ENCODE, Writer, join

SHOWN = 50  # problems that a message lists
UNPADDED = "unpadded: rows and columns from the top left that are the source's, the others are padding"
LIMIT = 64 << 20  # bytes of one stored frame
WORKERS = 8  # threads: each may hold a decoded frame

Size = tuple[int, int]  # height, width
T = TypeVar("T")
R = TypeVar("R")


def main() -> None:
    """Parse the command line and make the store."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dataset", required=True, help="entry of `datasets` in params.yaml")
    parser.add_argument("--split", required=True, help="its split, such as train or test")
    shards.add_argument(parser)
    args = parser.parse_args()
    make(params.load(), args.dataset, args.split, args.shard)


def make(p: Params, dataset: str, split: str, shard: Shard | None = None) -> Path:
    """Write the frame store of one (dataset, split), or a part of it with some of the clips, and return its path.

    Raises RetakeError when frames or archives are not as they should be; then no store is written.
    """
    if dataset not in p.datasets:
        raise RetakeError(f"unknown dataset {dataset!r}{near(dataset, p.datasets)}")
    d = p.datasets[dataset]
    module = params.registry("datasets")[d.kind]
    if split not in module.SPLITS:
        raise RetakeError(f"dataset {dataset} has no split {split!r}{near(split, module.SPLITS)}")
    fields: plan.Fields = {"dataset": dataset, "split": split}
    output = plan.output("frames", fields, shard or WHOLE)
    claim(output)
    manifest = plan.path("download", dataset=dataset, split=split)
    there, missing = read_manifest(manifest, d.kind)
    clips: list[Clip | Stream] = list(module.clips(d, split, there))
    if not clips:
        raise RetakeError(
            f"{manifest}: no frames of {dataset} {split}, {len(missing)} archives are missing: put some into "
            f"data/raw/{d.kind}, or set datasets.{dataset}.archives to all"
        )
    partial = _partial(module, d, split, there, len(missing), clips)
    meta = {
        **{"dataset": dataset, "kind": d.kind, "split": split, "height": d.height, "width": d.width},
        **{"colour": "RGB", "resize": _resize(module, d), "licence": module.LICENCE, "partial": partial},
        **({"fit": _fit(d)} if hasattr(d, "fit") else {}),
        **({"values": module.VALUES} if module.VALUES is not None else {}),
        **({"values": UNPADDED} if _fit(d) == "pad" else {}),
        "versions": {"opencv": cv2.__version__},
    }
    if shard is None and (parts := plan.parts(p, "frames", fields)):
        count = len(join(parts, output, meta))
        log.info("%d frames in %d clips, joined from %d parts: %s", count, len(clips), len(parts), output)
        return output
    clips = [clips[place] for place in (shard or WHOLE).span(len(clips))]
    # One thread inside OpenCV: frames are the unit of work.
    cv2.setNumThreads(1)
    started = time.monotonic()
    known = all(isinstance(clip, Clip) for clip in clips)
    total = sum(len(clip.frames) for clip in clips if isinstance(clip, Clip)) if known else None
    problems = [gap for clip in clips if isinstance(clip, Clip) for gap in gaps(clip)]
    with Writer(output, codec=d.codec, meta=meta) as out:
        with progress(total=total, unit="frame", desc=f"frames {dataset} {split}") as bar:
            count = write(out, clips, d, problems, bar.update)
        if problems:
            more = f"\nand {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
            raise RetakeError(
                f"{dataset} {split}: faults in {count} frames ({len(problems)}), no store is written. Put whole archives "
                "into place (move a bad one away to have it downloaded again), then run again:\n"
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
    manifest = sealed.read(path)
    archives, problems = [], []
    for archive in manifest["archives"]:
        file = Path("data/raw") / kind / archive["file"]
        size = (unpacked(file).bytes if file.is_dir() else file.stat().st_size) if file.exists() else None
        if size != archive["bytes"]:
            what = "is gone" if size is None else f"has {size} bytes"
            problems.append(f"{file} {what}, {path} has verified {archive['bytes']}")
        archives.append(file)
    if problems:
        problems.append(f"Put the verified archives back, or delete {path} and run again")
        raise RetakeError("\n".join(problems))
    return archives, manifest["missing"]


def _partial(
    module: Any, d: Dataset, split: str, there: list[Path], missing: int, clips: list[Clip | Stream]
) -> str | None:
    """Return what of the split is there, in words for the table, or None when it is whole.

    Raises RetakeError when there is more than was published.
    """
    counts = {"clips": len(clips), **module.counts(d, split, there)}
    if all(isinstance(clip, Clip) for clip in clips):
        counts["frames"] = sum(len(clip.frames) for clip in clips if isinstance(clip, Clip))
    whole = {what: number for what, number in module.expected(d, split).items() if what in counts}
    for what, number in whole.items():
        if counts[what] > number:
            raise RetakeError(
                f"{d.kind} {split} has {number} {what}, the archives in data/raw/{d.kind} hold {counts[what]}: they "
                "are not the publisher's; move them away to have those downloaded"
            )
    if not missing and all(counts[what] == number for what, number in whole.items()):
        return None
    parts = [f"{len(there)} of {len(there) + missing} archives"] if there or missing else []
    return ", ".join(parts + [f"{counts[what]} of {number} {what}" for what, number in whole.items()])


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


# A frame to come: its clip, its number, where it is from, what errors call it, what was measured with it, and what gives
# its stored bytes and the size of its source.
Job = tuple[str, int, Member, str, np.ndarray | None, Callable[[], tuple[bytes, Size]]]


def write(
    out: Writer, clips: Iterable[Clip | Stream], d: Dataset, problems: list[str], done: Callable[[], object]
) -> int:
    """Add the frames of `clips` to a store and return their number; append a line to `problems` for each bad one.

    After the first problem frames are checked, but no longer added. A clip's size is the one that most of its frames
    have. `done` is called after each frame.
    """

    def finish(job: Job) -> tuple[Job, tuple[bytes, Size] | str]:
        try:
            return job, job[-1]()
        except RetakeError as error:
            return job, str(error)

    workers = min(len(os.sched_getaffinity(0)), WORKERS)
    count = 0
    with ThreadPoolExecutor(workers) as pool:
        results = in_order(pool, finish, _jobs(clips, d, problems), 2 * workers)
        for name, clip in itertools.groupby(results, key=lambda result: result[0][0]):
            sizes: list[tuple[str, Size]] = []
            for (_, number, member, where, values, _), result in clip:
                done()
                count += 1
                if isinstance(result, str):
                    problems.append(result)
                    continue
                encoded, size = result
                sizes.append((where, size))
                if _fit(d) == "pad":
                    values = np.array(_unpadded(size, d), np.float32)
                if not problems:
                    source = f"{member.archive.name}/{member.name}"
                    out.add(name, number, encoded=encoded, size=stored_size(size, d), source=source, values=values)
            usual = collections.Counter(size for _, size in sizes).most_common(1)
            for where, size in sizes:
                if size != usual[0][0]:
                    (height, width), (h, w) = size, usual[0][0]
                    problems.append(f"{where} is {width}x{height}, its clip is {w}x{h}")
    return count


def _jobs(clips: Iterable[Clip | Stream], d: Dataset, problems: list[str]) -> Iterator[Job]:
    """Yield every frame of every clip; a stream is decoded here, one frame after the other."""
    for clip in clips:
        if isinstance(clip, Clip):
            for number, member in clip.frames:
                where = f"{member.archive}: {member.name}"
                yield clip.name, number, member, where, None, functools.partial(encode, member, d)
            continue
        given = False
        try:
            values = iter(clip.values()) if clip.values else itertools.repeat(None)
            for (number, image), measured in zip(clip.frames(), values, strict=False):
                given = True
                where = f"{clip.source.archive}: {clip.source.name}, frame {number}"
                yield clip.name, number, clip.source, where, measured, functools.partial(_encode_image, image, d)
            if not given:
                problems.append(f"{clip.source.archive}: {clip.source.name}: clip {clip.name} has no frames")
        except CutOff as error:
            if given and not isinstance(error, Damaged):
                log.warning("%s", error)
            else:
                problems.append(str(error))
        except RetakeError as error:
            problems.append(str(error))


def encode(member: Member, d: Dataset) -> tuple[bytes, Size]:
    """Return a frame as it is stored, and its source's (height, width).

    Raises RetakeError for a member that is missing, damaged, or no 8-bit RGB image.
    """
    data = archives.read(member, LIMIT)
    where = f"{member.archive}: {member.name}"
    try:
        size = image_size(data)
        check_whole(data)
    except ValueError as error:
        raise RetakeError(f"{where} {error}") from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise RetakeError(f"{where} cannot be decoded: it is damaged or cut off")
    if image.shape != (*size, 3):
        raise RetakeError(f"{where} has a transparent colour, RGB of 8 bits is needed")
    if d.codec == "jpeg" and data.startswith(JPEG) and stored_size(size, d) == size:
        return data, size
    return ENCODE[d.codec](cv2.cvtColor(resized(image, d), cv2.COLOR_BGR2RGB)), size


def _encode_image(image: Callable[[], np.ndarray], d: Dataset) -> tuple[bytes, Size]:
    picture = image()
    height, width = picture.shape[:2]
    return ENCODE[d.codec](resized(picture, d)), (height, width)


def stored_size(size: Size, d: Dataset) -> Size:
    """Return the (height, width) that a frame of (height, width) `size` is stored at."""
    height, width = size
    if d.height is not None and d.width is not None:
        return d.height, d.width
    if d.height is not None and d.height != height:
        return d.height, _even(width * d.height / height)
    if d.width is not None and d.width != width:
        return _even(height * d.width / width), d.width
    return size


def _even(side: float) -> int:
    return max(2 * int(side / 2 + 0.5), 2)


def resized(image: np.ndarray, d: Dataset) -> np.ndarray:
    """Return an image at the stored size; padded ones keep their pixels where they fit, and repeat their last ones."""
    size = image.shape[0], image.shape[1]
    height, width = stored_size(size, d)
    if size == (height, width):
        return image
    if _fit(d) == "resize":
        return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)
    if _fit(d) == "antialiased":
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR))
    inner = _unpadded(size, d)
    if inner != size:
        image = cv2.resize(image, inner[::-1], interpolation=cv2.INTER_LINEAR)
    return cv2.copyMakeBorder(image, 0, height - inner[0], 0, width - inner[1], cv2.BORDER_REPLICATE)


def _unpadded(size: Size, d: Dataset) -> Size:
    """Return the (height, width) that a padded frame has without its padding."""
    height, width = stored_size(size, d)
    scale = min(height / size[0], width / size[1], 1)
    return round(size[0] * scale), round(size[1] * scale)


def _resize(module: Any, d: Dataset) -> str:
    """Return what resized the frames, in words for the table."""
    if _fit(d) == "antialiased":
        return f"Pillow {PIL.__version__} BILINEAR"
    return module.RESIZE or "cv2.INTER_LINEAR"  # some modules resize before


def _fit(d: Dataset) -> str:
    return getattr(d, "fit", "resize")  # a key of those datasets whose frames no published size fits


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
