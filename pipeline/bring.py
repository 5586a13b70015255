"""Bring predictions made elsewhere: PNGs in the published layout, videos or one array in, a prediction store out.

    python -m pipeline.bring --experiment kitti --model my_method

The folder or file is `experiments.<experiment>.predictions.<my_method>`.

prediction: one folder a test window, `000000`, `000001`, … in the order of the clips and of the starts in each, with
`pred_1.png` to `pred_<horizon>.png`, as DMVFN's test script saves them (truncated to 8 bits, which costs a little
against scores of floats).

super_resolution: one folder a scene, named as the scene, with a PNG a frame, as TecoGAN's script leaves them in
`results/`. They are paired by position, sorted by name and then by the digits in it; names that begin with `IB` are
passed over, and images that are larger than the target are cut from the top left, as published.

Or a folder of videos (`000000.mp4`, …; those of scenes are named as the scene), all of one frame rate; or one array file (.npy,
or .npz with one array) of all windows, (N, T, H, W, 3) in their order, or (T, H, W, 3) where there is one; uint8, or float in
[0,1]. Videos are lossy, and read as `ffmpeg -pix_fmt rgb24` reads them.

The store (`data/predictions/<experiment>/<my_method>.arrow`) holds 8-bit images exactly, floats within 1e-5 (for
super-resolution: as the protocol's `saved` says), and is scored like any other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params, plan
from pipeline.errors import RetakeError, log, progress, run
from pipeline.params import Params
from pipeline.sources.clips import VIDEOS, clips
from pipeline.sources.clips import size as size_of
from pipeline.sources.images import read_image
from pipeline.store.frames import Store, Writer
from pipeline.tasks import prediction, super_resolution

SHOWN = 10  # problems that a message lists


def main() -> None:
    """Parse the command line and bring the predictions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", required=True, help="entry of `experiments` in params.yaml")
    parser.add_argument("--model", required=True, help="entry of the experiment's `predictions`")
    args = parser.parse_args()
    bring(params.load(), args.experiment, args.model)


@dataclass
class Wanted:
    """What must be brought: files (clip, frame, file below the folder, size of the target), their store, in words.

    `clips`: the same by the name that a video has: (clip, its frames, size of the target). `problems`: what of the files is
    missing, and what is not known. `larger`: images may be larger than the target.
    """

    files: list[tuple[str, int, str, tuple[int, int]]]
    clips: dict[str, tuple[str, list[int], tuple[int, int]]]
    problems: list[str]
    expected: str
    meta: dict[str, Any]
    codec: str
    dtype: str
    larger: bool = False


def bring(p: Params, experiment: str, name: str) -> Path:
    """Write the prediction store of one folder or file and return its path.

    Raises RetakeError that lists every folder, file and clip that is missing, unknown, unreadable or of another size.
    """
    fields = plan.fields_of(p, "bring", experiment=experiment, model=name)
    protocol = p.protocols[fields["protocol"]]
    frames, source = Store(fields["frames"]), Path(fields["source"])
    wanted = {"prediction": _windows, "super_resolution": _scenes}[protocol.task](fields, protocol, frames, source)
    if not source.exists():
        raise RetakeError(f"no {source} (experiments.{experiment}.predictions.{name}); {wanted.expected}")
    if source.is_file() or any(f.suffix.lower() in VIDEOS for f in source.rglob("*")):
        problems: list[str] = []
        images, what = _clips(source, wanted, getattr(protocol, "saved", "rounded"), problems)
    else:
        problems = wanted.problems
        images, what = _files(source, wanted, problems), "8-bit images"
    if problems:
        raise _refuse(source, problems, wanted)

    uses = plan.uses(p, "bring", fields)
    meta = {
        "kind": "predictions",
        "experiment": experiment,
        "model": name,
        "task": protocol.task,
        "dataset": fields["frames"],
        "frames": fields["frames"],
        "data": frames.identity,
        "licence": frames.meta.get("licence"),
        "partial": frames.meta.get("partial"),
        "fit": frames.meta.get("fit"),
        "checkpoint": "",
        "flow": "",
        "params": hashlib.sha256(json.dumps(uses, sort_keys=True).encode()).hexdigest(),
        "samples": 1,
        "parameters": None,
        "gmacs": None,
        "brought": what,
        **wanted.meta,
    }
    output = plan.path("bring", **fields)
    with Writer(output, codec=wanted.codec, dtype=wanted.dtype, meta=meta) as out:
        count = 0
        for clip, frame, file, image in images:
            if not problems:
                out.add(clip, frame, image, source=file)
            count += 1
        if problems:
            raise _refuse(source, problems, wanted)
    log.info("brought %d images: %s", count, output)
    return output


Images = Iterator[tuple[str, int, str, np.ndarray]]  # clip, frame, where it came from, image as the store has it


def _files(folder: Path, wanted: Wanted, problems: list[str]) -> Images:
    """Yield the images of a folder of PNGs, and add to `problems` what is wrong with the others."""
    for clip, frame, file, size in progress(wanted.files, unit="image", desc="bring"):
        try:
            image = read_image(folder / file)
        except RetakeError as error:
            problems.append(str(error))
            continue
        found = _fitted(image, size, wanted)
        if found is None:
            problems.append(f"{file} is {image.shape[1]}x{image.shape[0]}, not {size[1]}x{size[0]}")
        else:
            yield clip, frame, file, _stored(found, wanted, "rounded")


def _clips(source: Path, wanted: Wanted, saved: str, problems: list[str]) -> tuple[Images, str]:
    """Return the images of videos or of an array, and what they are; add to `problems` which are missing or not known."""
    found = clips(source)
    if len(wanted.clips) == len(found) == 1:
        found = dict(zip(wanted.clips, found.values(), strict=True))
    problems += [f"{name} is missing" for name in wanted.clips if name not in found]
    problems += [f"{name or 'a single clip'} is not expected" for name in found if name not in wanted.clips]
    first = next(iter(found.values()))
    problems += [
        f"{clip.where} has {float(clip.rate):g} frames a second, {first.where} {float(first.rate):g}"
        for clip in found.values()
        if clip.rate and first.rate and clip.rate != first.rate
    ]

    def images() -> Images:
        for name, (clip, numbers, size) in progress(wanted.clips.items(), unit="clip", desc="bring"):
            try:
                read = found[name].read()
            except RetakeError as error:
                problems.append(str(error))
                continue
            fitted = [_fitted(image, size, wanted) for image in read]
            if len(read) != len(numbers) or any(image is None for image in fitted):
                problems.append(f"{name} has {size_of(read)}, not {len(numbers)} frames of {size[1]}x{size[0]}")
                continue
            for number, image in zip(numbers, fitted, strict=True):
                yield clip, number, f"{source.name}: {name}", _stored(image, wanted, saved)

    kind = "video" if first.rate else "8-bit array" if first.bits else "float array"
    return images(), kind


def _fitted(image: np.ndarray, size: tuple[int, int], wanted: Wanted) -> np.ndarray | None:
    """Return an image at its target's size; None where it is another, or smaller than one that may be cut."""
    found = super_resolution.cut(image, *size)
    return found if found is None or wanted.larger or image.shape == found.shape else None


def _stored(image: Any, wanted: Wanted, saved: str) -> np.ndarray:
    """Return an image, uint8 or float in [0,1], as the store has it; floats become 8 bits as `saved` says."""
    if image.dtype == np.uint8:
        # v / 255 = 257 v / 65535: exact
        return image.astype(np.uint16) * 257 if wanted.dtype == "uint16" else image
    most = np.iinfo(wanted.dtype).max
    levels = np.clip(image.astype(np.float64), 0, 1) * most
    return (levels if saved == "truncated" else np.rint(levels)).astype(wanted.dtype)


def _windows(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Wanted:
    """Return what a folder of predicted windows must hold."""
    windows = prediction.windows(frames, protocol)
    images = [f"pred_{step}.png" for step in range(1, protocol.horizon + 1)]
    expected = (
        f"expected in {folder}: one folder for each of the {len(windows)} test windows, "
        f"000000 to {len(windows) - 1:06d}, each with {images[0]}" + (f" to {images[-1]}" if len(images) > 1 else "")
    )
    files = [
        (prediction.key(window), step, f"{number:06d}/{image}", _size(frames, frames.clips[window[0]][window[1]]))
        for number, window in enumerate(windows)
        for step, image in enumerate(images, start=1)
    ]
    named = {
        f"{number:06d}": (
            prediction.key(w),
            list(range(1, protocol.horizon + 1)),
            _size(frames, frames.clips[w[0]][w[1]]),
        )
        for number, w in enumerate(windows)
    }
    problems = _names(folder, len(windows), images) if folder.is_dir() else []
    meta = {"protocol": {k: getattr(protocol, k) for k in ("window", "windows", "first", "context", "horizon")}}
    return Wanted(files, named, problems, expected, meta, "raw", "uint16")


def _scenes(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Wanted:
    """Return what a folder of upscaled scenes must hold."""
    low = Store(fields["low"]) if fields["low"] is not None else None
    counts = {clip: len(frames.clips[clip]) for clip in super_resolution.scenes(frames, low, protocol)}
    expected = f"expected in {folder}: " + ", ".join(
        f"{clip}/ with {count} PNGs of at least {'x'.join(map(str, _size(frames, frames.clips[clip][0])[::-1]))}"
        for clip, count in counts.items()
    )
    files: list[tuple[str, int, str, tuple[int, int]]] = []
    problems = []
    for clip, count in counts.items():
        images = [f.name for f in (folder / clip).glob("*.png") if not f.name.startswith((".", "IB"))]
        if len(images) != count:
            wrong = f"has {len(images)} PNGs, not {count}" if (folder / clip).is_dir() else "is missing"
            problems.append(f"{clip} {wrong}")
        files += [
            (clip, int(frames.frame[row]), f"{clip}/{image}", _size(frames, row))
            for row, image in zip(frames.clips[clip], super_resolution.file_order(images), strict=False)
        ]
    tops = {clip.split("/")[0] for clip in counts} | {"metric_log"}  # the published script's own
    there = sorted(f.name for f in folder.iterdir() if f.name[0] != ".") if folder.is_dir() else []
    problems += [f"{name} is no scene of the test set" for name in there if name not in tops]
    named = {
        clip: (clip, [int(frames.frame[row]) for row in frames.clips[clip]], _size(frames, frames.clips[clip][0]))
        for clip in counts
    }
    return Wanted(
        files, named, problems, expected, super_resolution.facts(frames, low, protocol), "png", "uint8", larger=True
    )


def _size(frames: Store, row: int) -> tuple[int, int]:
    height, width = frames.size[row]
    return int(height), int(width)


def _names(folder: Path, windows: int, images: list[str]) -> list[str]:
    """Return what is missing in the folder and what is not known; hidden files are passed over."""

    def compare(where: Path, expected: list[str], what: str) -> list[str]:
        found = {entry.name for entry in where.iterdir() if not entry.name.startswith(".")}
        shown = "" if where == folder else f"{where.name}/"
        return [f"{shown}{name} is missing" for name in expected if name not in found] + [
            f"{shown}{name} is no {what}" for name in sorted(found - set(expected))
        ]

    problems = compare(folder, [f"{number:06d}" for number in range(windows)], "test window")
    for number in range(windows):
        where = folder / f"{number:06d}"
        if where.is_dir():
            problems += compare(where, images, "step of the protocol")
        elif where.exists():
            problems.append(f"{where.name} is a file, not a folder")
    return problems


def _refuse(source: Path, problems: list[str], wanted: Wanted) -> RetakeError:
    some = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    names = list(wanted.clips)
    listed = ", ".join(names[:3]) + (f", … {names[-1]}" if len(names) > 3 else "")
    numbers, size = next((numbers, size) for _, numbers, size in wanted.clips.values())
    return RetakeError(
        f"{source} does not hold what is expected:{some}{more}\n{wanted.expected}\n"
        f"or a video each, or one array of all, named or in the order {listed}; the first has {len(numbers)} frames of "
        f"{size[1]}x{size[0]}"
    )


if __name__ == "__main__":
    run(main, "bring")
