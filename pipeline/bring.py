"""Bring predictions made elsewhere: a folder of PNGs in the published layout in, a prediction store out.

    python -m pipeline.bring --experiment kitti --model my_method

The folder is `experiments.<experiment>.predictions.<my_method>`.

prediction: one folder a test window, `000000`, `000001`, … in the order of the clips and of the starts in each, with
`pred_1.png` to `pred_<horizon>.png`, as DMVFN's test script saves them (truncated to 8 bits, which costs a little
against scores of floats).

super_resolution: one folder a scene, named as the scene, with a PNG a frame, as TecoGAN's script leaves them in
`results/`. They are paired by position, sorted by name and then by the digits in it; names that begin with `IB` are
passed over, and images that are larger than the target are cut from the top left, as published.

Images are 8-bit colour. The store (`data/predictions/<experiment>/<my_method>.arrow`) holds them exactly, and is scored
like any other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params, plan
from pipeline.errors import RetakeError, log, progress, run
from pipeline.params import Params
from pipeline.store.frames import Store, Writer
from pipeline.store.images import read_image
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
    """What a folder must hold: files (clip, frame, file below the folder, size of the target), their store, in words.

    `problems`: what of it is missing, and what is not known. `larger`: images may be larger than the target.
    """

    files: list[tuple[str, int, str, tuple[int, int]]]
    problems: list[str]
    expected: str
    meta: dict[str, Any]
    codec: str
    dtype: str
    larger: bool = False


def bring(p: Params, experiment: str, name: str) -> Path:
    """Write the prediction store of one folder and return its path.

    Raises RetakeError that lists every folder and file that is missing, unknown, unreadable or of another size.
    """
    fields = plan.fields_of(p, "bring", experiment=experiment, model=name)
    protocol = p.protocols[fields["protocol"]]
    frames, folder = Store(fields["frames"]), Path(fields["source"])
    wanted = {"prediction": _windows, "super_resolution": _scenes}[protocol.task](fields, protocol, frames, folder)
    if not folder.is_dir():
        raise RetakeError(f"{folder} is not a folder (experiments.{experiment}.predictions.{name}); {wanted.expected}")
    problems = wanted.problems
    if problems:
        raise _refuse(folder, problems, wanted.expected)

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
        "checkpoint": "",
        "flow": "",
        "params": hashlib.sha256(json.dumps(uses, sort_keys=True).encode()).hexdigest(),
        "samples": 1,
        "parameters": None,
        "gmacs": None,
        "brought": "8-bit images",
        **wanted.meta,
    }
    output = plan.path("bring", **fields)
    with Writer(output, codec=wanted.codec, dtype=wanted.dtype, meta=meta) as out:
        for clip, frame, source, size in progress(wanted.files, unit="image", desc=f"bring {name}"):
            try:
                image = read_image(folder / source)
            except RetakeError as error:
                problems.append(str(error))
                continue
            found = super_resolution.cut(image, *size)
            if found is None or (image.shape != found.shape and not wanted.larger):
                problems.append(f"{source} is {image.shape[1]}x{image.shape[0]}, not {size[1]}x{size[0]}")
            elif not problems:
                # v / 255 = 257 v / 65535: exact
                exact = found.astype(np.uint16) * 257 if wanted.dtype == "uint16" else found
                out.add(clip, frame, exact, source=source)
        if problems:
            raise _refuse(folder, problems, wanted.expected)
    log.info("brought %d images: %s", len(wanted.files), output)
    return output


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
    problems = _names(folder, len(windows), images) if folder.is_dir() else []
    meta = {"protocol": {k: getattr(protocol, k) for k in ("window", "windows", "first", "context", "horizon")}}
    return Wanted(files, problems, expected, meta, "raw", "uint16")


def _scenes(fields: plan.Fields, protocol: Any, frames: Store, folder: Path) -> Wanted:
    """Return what a folder of upscaled scenes must hold."""
    low = Store(fields["low"]) if fields["low"] != fields["frames"] else None
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
    return Wanted(files, problems, expected, super_resolution.facts(frames, low, protocol), "png", "uint8", larger=True)


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


def _refuse(folder: Path, problems: list[str], expected: str) -> RetakeError:
    some = "".join(f"\n  {problem}" for problem in problems[:SHOWN])
    more = f"\n  and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
    return RetakeError(f"{folder} is not in the published layout:{some}{more}\n{expected}")


if __name__ == "__main__":
    run(main, "bring")
