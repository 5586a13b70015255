"""Export an experiment's test set as PNGs, so that a method outside runs on exactly these windows.

    python -m pipeline.export kitti --output kitti_test
    python -m pipeline.export kitti --output kitti_test --truth

Out: `inputs/`, what the models are given, 8 bits: of windows `000000/input_1.png` …, of scenes `<scene>/0001.png` …. With --truth
also `truth/`, the true images under the names in which predictions are brought back (`predictions:` of the experiment, README):
what the outside method writes goes into a folder of that layout.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import params, plan, tasks
from pipeline.drawing.images import write_image
from pipeline.errors import RetakeError, log, near, progress, run
from pipeline.outputs import unused_folder
from pipeline.params import Params
from pipeline.store.frames import Store


def main() -> None:
    """Parse the command line and export."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("experiment", help="entry of `experiments`")
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new folder to write to")
    parser.add_argument("--truth", action="store_true", help="write the true images too")
    args = parser.parse_args()
    export(params.load(), args.experiment, args.output, truth=args.truth)


def export(p: Params, experiment: str, output: Path, *, truth: bool) -> None:
    """Write the images. Raises RetakeError for an unknown experiment, one whose predictions cannot be brought, a used folder."""
    if experiment not in p.experiments:
        raise RetakeError(f"no experiment {experiment!r}{near(experiment, p.experiments)}")
    protocol = p.protocols[p.experiments[experiment].protocol]
    if not protocol.BRINGS:
        raise RetakeError(f"{experiment} is of the task {protocol.task}, whose predictions cannot be brought back")
    unused_folder(output)
    fields = plan.fields_of(p, "table", experiment=experiment)
    count = 0
    for true, file, image in progress(
        tasks.part(protocol.task, "bring").exported(fields, protocol, Store(fields["frames"])),
        unit="image",
        desc="export",
    ):
        if truth or not true:
            write_image(output / ("truth" if true else "inputs") / file, image)
            count += 1
    log.info("wrote %d images: %s", count, output)


if __name__ == "__main__":
    run(main, "export")
