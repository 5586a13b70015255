"""Statistics of a true set for FID, FVD and DTFVD, to be passed on where its frames may not: a small file.

    python -m pipeline.statistics TRUTH --metrics fid,cinn.fvd --output kitti.moments
    python -m pipeline.evaluate PREDICTIONS kitti.moments
    python -m pipeline.evaluate PREDICTIONS kitti.moments --metrics fid

TRUTH is what `pipeline.evaluate` takes, also the folder `truth` that `python -m pipeline.export EXPERIMENT --truth` writes. The
distances are those of the frames, to rounding of float64; there is no interval, which would need each clip's features.
Predictions of other clips or sizes are refused, and metrics with other settings or weights. docs/metrics.md says how large the files are.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import evaluate as stage
from pipeline import params
from pipeline.errors import RetakeError, log, progress, run
from pipeline.metrics import Undefined, cache, frechet, sets
from pipeline.outputs import unused
from pipeline.sources.clips import Clip, clips, unit
from pipeline.store import moments


def main() -> None:
    """Parse the command line and write the file."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--metrics", required=True, help="names in --profile, PROFILE.NAME for one of another profile")
    parser.add_argument("--profile", default="clean", help="entry of `profiles` in params.yaml")
    parser.add_argument("--output", type=Path, required=True, help=f"NAME{moments.SUFFIX}")
    args = parser.parse_args()
    asked = [name.strip() for name in args.metrics.split(",") if name.strip()]
    if not asked:
        parser.error("--metrics names none")
    write(args.truth, asked, args.profile, args.output)


@dataclass
class Set:
    """Clips that were read once: their sizes, and the SHA-256 of each one's frames."""

    clips: dict[str, Clip]
    sizes: list[moments.Clip]
    digests: list[str]

    def features(self, distance: sets.Distance) -> np.ndarray:
        """Return the features that count, (N, D); kept, as those of `pipeline.evaluate`, with which they are shared."""

        def images() -> Iterator[np.ndarray]:
            for clip in progress(self.clips.values(), unit="clip", desc="features"):
                if distance.unit == "frames":
                    yield from (unit(image[None]) for image in clip.frames())
                else:
                    yield unit(clip.read())

        count = sum(size.frames for size in self.sizes) if distance.unit == "frames" else len(self.sizes)
        rows = distance.rows(cache.digest(*(digest.encode() for digest in self.digests)), count, images)
        return rows[: distance.kept(count)]


def _read(path: Path) -> Set:
    """Return the clips at a path; raises RetakeError as `clips` and `Clip.frames`."""
    known = clips(path)
    sizes, digests = [], []
    for name, clip in progress(known.items(), unit="clip", desc="read"):
        total, count, shape = hashlib.sha256(), 0, (0, 0)
        for image in clip.frames():
            total.update(f"{image.shape} {image.dtype}".encode())
            total.update(np.ascontiguousarray(image).data)
            count, shape = count + 1, image.shape[:2]
        sizes.append(moments.Clip(name=name, frames=count, height=shape[0], width=shape[1]))
        digests.append(total.hexdigest())
    return Set(known, sizes, digests)


def write(truth: Path, metrics: list[str], profile: str, output: Path) -> Path:
    """Write the statistics of a true set and return their path.

    Raises RetakeError for a file that exists, metrics that read frames, and clips that a metric's network does not take.
    """
    if output.suffix != moments.SUFFIX:
        raise RetakeError(f"{output}: give a name that ends in {moments.SUFFIX}, by which it is known")
    unused(output)
    true = _read(truth)  # before networks are fetched
    built, chosen = _built(metrics, profile)
    arrays, told = {}, {}
    for name, distance in built.items():
        try:
            moment = frechet.gaussian(true.features(distance))
        except Undefined as reason:
            raise RetakeError(f"{name} of {truth}: {reason}") from None
        arrays[name] = moment.mean, moment.root
        told[name] = moments.Of(settings=chosen[name], features=distance.identity, samples=moment.samples)
    data = cache.digest(*(digest.encode() for digest in true.digests))
    about = moments.About(truth=truth.resolve().name, data=data, clips=true.sizes, metrics=told)
    moments.write(output, about, arrays)
    log.info("wrote %s: %s of %d clips of %s", output, ", ".join(told), len(true.sizes), about.truth)
    return output


def evaluate(predictions: Path, file: Path, metrics: list[str], profile: str = "clean") -> str:
    """Return the table of predictions against a true set's statistics; `metrics`: all that the file has where none is named.

    Raises RetakeError for metrics with other settings than the file's, and for predictions of other clips.
    """
    about, arrays = moments.read(file)
    lacking = [name for name in metrics if name not in about.metrics]
    if lacking:
        raise RetakeError(f"{file} holds statistics for {', '.join(about.metrics)}, not for {', '.join(lacking)}")
    clips = _read(predictions)
    _check_clips(clips, predictions, about, file)
    built, chosen = _built(metrics or list(about.metrics), profile)
    for name, distance in built.items():
        theirs = about.metrics[name]
        for what, ours, kept in (
            ("settings", chosen[name], theirs.settings),
            ("features", distance.identity, theirs.features),
        ):
            if ours != kept:
                raise RetakeError(
                    f"{name}: {file} has other {what}, {kept}, than are asked for, {ours}: they do not compare"
                )
    whole, notes = {}, {}
    for name, distance in built.items():
        rows, theirs = clips.features(distance), about.metrics[name]
        if len(rows) != theirs.samples:
            raise RetakeError(f"{name}: {file} is of {theirs.samples} samples, {predictions} of {len(rows)}")
        mean, root = arrays[name]
        whole[name] = frechet.distance_to(
            rows, frechet.Gaussian(mean.copy(), root.copy(), theirs.samples), distance.route
        )
        few = sets.Found(whole[name], len(rows), rows.shape[1], "", [], []).note
        notes[name] = f"{stage.named(chosen[name])}; {few}; no interval: the true clips' own features are not there"
    notes["truth"] = f"statistics {file} of {about.truth}, data {about.data[:16]}"
    shown: dict[str, Any] = dict.fromkeys(built, float)
    return stage._table([size.name for size in about.clips], {name: {} for name in built}, whole, notes, shown)


def _built(names: list[str], profile: str) -> tuple[dict[str, sets.Distance], dict[str, dict[str, Any]]]:
    """Return distances by name, and their settings; raises RetakeError for metrics of frames and for weights that are missing."""
    modules = params.registry("metrics")
    chosen = stage.choose(names, profile)
    frames = [name for name, metric in chosen.items() if modules[metric.kind].NEEDS != "features"]
    if frames:
        raise RetakeError(
            f"{', '.join(frames)}: compared frame by frame with the truth; statistics serve FID, FVD and DTFVD alone"
        )
    built, lacking = stage._built(chosen, _device())
    if lacking:
        raise RetakeError("\n".join(lacking))
    return built, {name: modules[metric.kind].settings(metric) for name, metric in chosen.items()}


@functools.cache
def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _check_clips(clips: Set, predictions: Path, about: moments.About, file: Path) -> None:
    """Raise RetakeError unless predictions are of the clips that statistics are of; a single clip is that of a single one."""
    ours, theirs = clips.sizes, about.clips
    if len(ours) == len(theirs) == 1:
        ours = [ours[0].model_copy(update={"name": theirs[0].name})]
    wrong = next((pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]), None)
    if wrong is None and len(ours) == len(theirs):
        return
    one, other = ([f"{c.name or '(one clip)'}: {c.frames} frames of {c.width}x{c.height}" for c in wrong] if wrong
                  else [f"{len(ours)} clips", f"{len(theirs)} clips"])  # fmt: skip
    raise RetakeError(
        f"{predictions} has other clips than {file}, which is of {about.truth} ({len(theirs)} clips, data {about.data[:16]}): "
        f"{one}, there {other}"
    )


if __name__ == "__main__":
    run(main, "statistics")
