"""Bring predictions made elsewhere: a folder of PNGs in the published layout in, a prediction store out.

    python -m pipeline.bring --experiment kitti --model my_method

The folder is `experiments.<experiment>.predictions.<my_method>`. It has one folder a test window, `000000`, `000001`,
… in the order of the clips and of the starts in each, with `pred_1.png` to `pred_<horizon>.png`: 8-bit colour, as
DMVFN's test script saves them (truncated to 8 bits, which costs a little against scores of floats). The store
(`data/predictions/<experiment>/<my_method>.arrow`) holds them exactly, and is scored like any other.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import numpy as np

from pipeline import params, plan
from pipeline.errors import RetakeError, log, progress, run
from pipeline.params import Params, Prediction
from pipeline.store.frames import Store, Writer
from pipeline.store.images import read_image
from pipeline.tasks import prediction

SHOWN = 10  # problems that a message lists


def main() -> None:
    """Parse the command line and bring the predictions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", required=True, help="entry of `experiments` in params.yaml")
    parser.add_argument("--model", required=True, help="entry of the experiment's `predictions`")
    args = parser.parse_args()
    bring(params.load(), args.experiment, args.model)


def bring(p: Params, experiment: str, name: str) -> Path:
    """Write the prediction store of one folder and return its path.

    Raises RetakeError that lists every folder and file that is missing, unknown, unreadable or of another size.
    """
    fields = plan.fields_of(p, "bring", experiment=experiment, model=name)
    protocol = p.protocols[fields["protocol"]]
    assert isinstance(protocol, Prediction), "params.py lets only predicted frames be brought"
    frames, folder = Store(fields["frames"]), Path(fields["source"])
    windows = prediction.windows(frames, protocol)
    images = [f"pred_{step}.png" for step in range(1, protocol.horizon + 1)]
    expected = (
        f"expected in {folder}: one folder for each of the {len(windows)} test windows, "
        f"000000 to {len(windows) - 1:06d}, each with {images[0]}" + (f" to {images[-1]}" if len(images) > 1 else "")
    )
    if not folder.is_dir():
        raise RetakeError(f"{folder} is not a folder (experiments.{experiment}.predictions.{name}); {expected}")
    problems = _names(folder, len(windows), images)
    if problems:
        raise _refuse(folder, problems, expected)

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
        "protocol": {k: getattr(protocol, k) for k in ("window", "windows", "first", "context", "horizon")},
        "samples": 1,
        "parameters": None,
        "gmacs": None,
        "brought": "8-bit images",
    }
    output = plan.path("bring", **fields)
    with Writer(output, codec="raw", dtype="uint16", meta=meta) as out:
        for number, window in enumerate(progress(windows, unit="window", desc=f"bring {name}")):
            size = tuple(int(x) for x in frames.size[frames.clips[window[0]][window[1]]])
            for step, file in enumerate(images, start=1):
                source = f"{number:06d}/{file}"
                try:
                    image = read_image(folder / source)
                except RetakeError as error:
                    problems.append(str(error))
                    continue
                if image.shape[:2] != size:
                    problems.append(f"{source} is {image.shape[1]}x{image.shape[0]}, not {size[1]}x{size[0]}")
                if not problems:
                    # v / 255 = 257 v / 65535: exact
                    out.add(prediction.key(window), step, image.astype(np.uint16) * 257, source=source)
        if problems:
            raise _refuse(folder, problems, expected)
    log.info("brought %d windows x %d steps: %s", len(windows), protocol.horizon, output)
    return output


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
