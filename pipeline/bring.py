"""Bring predictions made elsewhere: PNGs in the published layout, videos or one array in, a prediction store out.

    python -m pipeline.bring --experiment kitti --model my_method

The folder or file is `experiments.<experiment>.predictions.<my_method>`.

A folder of PNGs in the published layout: what that is, says the task (`pipeline/tasks/<task>/bring.py`).

Or a folder of videos (`000000.mp4`, …; those of scenes are named as the scene), all of one frame rate; or one array file (.npy,
or .npz with one array) of all windows, (N, T, H, W, 3) in their order, or (T, H, W, 3) where there is one; uint8, or float in
[0,1]. Videos are lossy, and read as `ffmpeg -pix_fmt rgb24` reads them.

The store (`data/predictions/<experiment>/<my_method>.arrow`) holds 8-bit images exactly, floats within 1e-5 (for
super-resolution: as the protocol's `saved` says), and is scored like any other.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params, plan, tasks
from pipeline.atomic import claim
from pipeline.errors import RetakeError, log, progress, run
from pipeline.params import Params
from pipeline.sources import archives
from pipeline.sources.clips import VIDEOS, clips
from pipeline.sources.clips import size as size_of
from pipeline.sources.images import read_image
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common import predictions
from pipeline.tasks.common.bring import Expected

SHOWN = 10  # problems that a message lists


def main() -> None:
    """Parse the command line and bring the predictions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", required=True, help="entry of `experiments` in params.yaml")
    parser.add_argument("--model", required=True, help="entry of the experiment's `predictions`")
    args = parser.parse_args()
    bring(params.load(), args.experiment, args.model)


def bring(p: Params, experiment: str, name: str) -> Path:
    """Write the prediction store of one folder or file and return its path.

    Raises RetakeError that lists every folder, file and clip that is missing, unknown, unreadable or of another size.
    """
    fields = plan.fields_of(p, "bring", experiment=experiment, model=name)
    output = plan.path("bring", **fields)
    claim(output)
    protocol = p.protocols[fields["protocol"]]
    frames, source = Store(fields["frames"]), Path(fields["source"])
    expected: Expected = tasks.part(protocol.task, "bring").expected(fields, protocol, frames, source)
    if not source.exists():
        raise RetakeError(f"no {source} (experiments.{experiment}.predictions.{name}); {expected.sentence}")
    if source.is_file() or any(f.suffix.lower() in VIDEOS for f in archives.below(source)):
        problems: list[str] = []
        images, what = _clips(source, expected, problems)
    else:
        problems = expected.problems
        images, what = _files(source, expected, problems), "8-bit images"
    if problems:
        raise _refuse(source, problems, expected)

    meta = {
        **predictions.meta(p, "bring", fields, frames),
        "checkpoint": "",
        "flow": "",
        "samples": 1,
        "parameters": None,
        "gmacs": None,
        "brought": what,
        **expected.meta,
    }
    with Writer(output, codec=expected.codec, dtype=expected.dtype, meta=meta) as out:
        count = 0
        for clip, frame, file, image in images:
            if not problems:
                out.add(clip, frame, image, source=file)
            count += 1
        if problems:
            raise _refuse(source, problems, expected)
    log.info("brought %d images: %s", count, output)
    return output


Images = Iterator[tuple[str, int, str, np.ndarray]]  # clip, frame, where it came from, image as the store has it


def _files(folder: Path, expected: Expected, problems: list[str]) -> Images:
    """Yield the images of a folder of PNGs, and add to `problems` what is wrong with the others."""
    for clip, frame, file, size in progress(expected.files, unit="image", desc="bring"):
        try:
            image = read_image(folder / file)
        except RetakeError as error:
            problems.append(str(error))
            continue
        fitted = _fitted(image, size, expected)
        if fitted is None:
            problems.append(f"{file} is {image.shape[1]}x{image.shape[0]}, not {size[1]}x{size[0]}")
        else:
            yield clip, frame, file, _stored(fitted, expected)


def _clips(source: Path, expected: Expected, problems: list[str]) -> tuple[Images, str]:
    """Return the images of videos or of an array, and what they are; add to `problems` which are missing or not known."""
    given = clips(source)
    if len(expected.clips) == len(given) == 1:
        given = dict(zip(expected.clips, given.values(), strict=True))
    problems += [f"{name} is missing" for name in expected.clips if name not in given]
    problems += [f"{name or 'a single clip'} is not expected" for name in given if name not in expected.clips]
    first = next(iter(given.values()))
    problems += [
        f"{clip.where} has {float(clip.rate):g} frames a second, {first.where} {float(first.rate):g}"
        for clip in given.values()
        if clip.rate and first.rate and not clip.keeps_time_with(first)
    ]

    def images() -> Images:
        for name, (clip, numbers, size) in progress(expected.clips.items(), unit="clip", desc="bring"):
            try:
                read = given[name].read()
            except RetakeError as error:
                problems.append(str(error))
                continue
            fitted = [_fitted(image, size, expected) for image in read]
            if len(read) != len(numbers) or any(image is None for image in fitted):
                problems.append(f"{name} has {size_of(read)}, not {len(numbers)} frames of {size[1]}x{size[0]}")
                continue
            for number, image in zip(numbers, fitted, strict=True):
                yield clip, number, f"{source.name}: {name}", _stored(image, expected)

    kind = "video" if first.rate else "8-bit array" if first.bits else "float array"
    return images(), kind


def _fitted(image: np.ndarray, size: tuple[int, int], expected: Expected) -> np.ndarray | None:
    """Return an image at its target's size; None where it is another, or smaller than one that may be cut."""
    fitted = predictions.cut(image, *size)
    return fitted if fitted is None or expected.larger or image.shape == fitted.shape else None


def _stored(image: Any, expected: Expected) -> np.ndarray:
    """Return an image, uint8 or float in [0,1], as the store has it; floats become integers as `saved` says."""
    if image.dtype == np.uint8:
        # v / 255 = 257 v / 65535: exact
        return image.astype(np.uint16) * 257 if expected.dtype == "uint16" else image
    most = np.iinfo(expected.dtype).max
    levels = np.clip(image.astype(np.float64), 0, 1) * most
    return (levels if expected.saved == "truncated" else np.rint(levels)).astype(expected.dtype)


def _refuse(source: Path, problems: list[str], expected: Expected) -> RetakeError:
    shown = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    names = list(expected.clips)
    listed = ", ".join(names[:3]) + (f", … {names[-1]}" if len(names) > 3 else "")
    numbers, size = next((numbers, size) for _, numbers, size in expected.clips.values())
    return RetakeError(
        f"{source} does not hold what is expected:{shown}{more}\n{expected.sentence}\n"
        f"or a video each, or one array of all, named or in the order {listed}; the first has {len(numbers)} frames of "
        f"{size[1]}x{size[0]}"
    )


if __name__ == "__main__":
    run(main, "bring")
