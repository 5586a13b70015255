"""Score a folder of clips, a video or an array against the truth, without any experiment: prints a table.

    python -m pipeline.evaluate PREDICTIONS TRUTH --metrics psnr,ssim,lpips,fvd
    python -m pipeline.evaluate PREDICTIONS TRUTH --profile dmvfn
    python -m pipeline.evaluate PREDICTIONS TRUTH --metrics psnr,dmvfn.lpips,cinn.fvd
    python -m pipeline.evaluate UPSCALED TRUTH --profile tecogan --protocol scenes

PREDICTIONS and TRUTH, each one of: a folder of clips (sub-folders of PNG or JPEG images, or videos), a folder of the
images of one clip, a video, or an array file (.npy, or .npz with one array): (T, H, W, 3) or (N, T, H, W, 3), RGB, uint8, or
float in [0,1]. Clips are paired by name (those of an array are 000000, 000001, …; a single clip with a single one), images
in the natural order of their names, whose numbers must be the same; counting from 0 and from 1 is one. What a metric is stands under `profiles` in params.yaml: a bare name is that of
the profile asked for, `clean` where none is. A protocol of super-resolution leaves out the ends of scenes and the border that it
does not score. TRUTH may also be statistics that `python -m pipeline.statistics` wrote of it (.moments), for FID, FVD and DTFVD where its
frames may not be passed on. Metrics of frames (and of neighbouring frames) are averaged over a clip, and in
the last row over all frames, without those that have no finite value; FID, FVD and DTFVD are of the whole set, and their features are kept in data/features. What a
cell is stands below the table.
"""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import itertools
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params
from pipeline.errors import RetakeError, near, progress, run
from pipeline.metrics import Undefined, cache, left_out, mean, sets, squared, temporal
from pipeline.sources.clips import Clip, clips, side, unit
from pipeline.sources.images import frame_numbers
from pipeline.store import moments
from pipeline.tables import intervals
from pipeline.tables.text import described, visible
from pipeline.tasks.super_resolution import Protocol
from pipeline.tasks.super_resolution.clips import scored_part

SHOWN = 8
BLOCK = 1 << 24  # values of one clip that metrics take at a time: 24 frames of 640x360
NEEDS = ("frames", "pairs", "features")
Pairs = dict[str, tuple[Clip, Clip]]


def main() -> None:
    """Parse the command line and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("predictions", type=Path)
    parser.add_argument("truth", type=Path)
    parser.add_argument("--metrics", help="names, PROFILE.NAME for one of another profile; default: psnr,ssim")
    parser.add_argument("--profile", help="entry of `profiles` in params.yaml; without --metrics: all of its metrics")
    parser.add_argument(
        "--protocol", help="entry of `protocols` in params.yaml, of super-resolution; default: all is scored"
    )
    args = parser.parse_args()
    names = args.metrics or ("" if args.profile else "psnr,ssim")
    profile = args.profile or "clean"
    asked = [name.strip() for name in names.split(",") if name.strip()]
    if names and not asked:
        parser.error("--metrics names none")
    if args.truth.suffix == moments.SUFFIX:
        from pipeline import statistics

        if args.protocol:
            parser.error("--protocol cuts frames: statistics of the truth hold none")
        print(statistics.evaluate(args.predictions, args.truth, asked if args.metrics else [], profile))
        return
    try:
        print(evaluate(args.predictions, args.truth, asked, profile, args.protocol))
    except Incomplete as error:
        print(error.table)
        raise


class Incomplete(RetakeError):
    """Weights of some metrics cannot be had; `table` has the other metrics."""

    def __init__(self, reasons: list[str], table: str) -> None:
        super().__init__("\n".join(reasons))
        self.table = table


def evaluate(
    predictions: Path, truth: Path, metrics: list[str], profile: str = "clean", protocol: str | None = None
) -> str:
    """Return the table as text; few frames are held at a time, but for distances of clips, where it is one clip.

    Raises RetakeError for what cannot be scored, when its clip is reached, and Incomplete at the end.
    """
    cut = _protocol(protocol)
    chosen = choose(metrics, profile, cut.NEEDS if cut else NEEDS)
    pairs, notes_of_pairs = _paired(clips(predictions), clips(truth), predictions, truth)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    modules = params.registry("metrics")
    built, lacking = _built(chosen, device)
    chosen = {name: metric for name, metric in chosen.items() if name in built}
    scores = Scores(
        built,
        {name: modules[metric.kind].NEEDS for name, metric in chosen.items()},
        {n: named(modules[m.kind].settings(m)) for n, m in chosen.items()},
    )
    read: dict[str, Read] = {}
    for clip, pair in progress(pairs.items(), unit="clip", desc="evaluate"):
        read[clip] = Read(*pair, hashed="features" in scores.needs.values())
        scores.add(clip, read[clip], cut)
    for name in [name for name in scores.built if scores.needs[name] == "features"]:
        try:
            distance = _set(scores.built[name], pairs, list(read.values()))
        except Undefined as reason:
            scores.skip(name, reason)
            continue
        scores.whole[name] = distance.value
        scores.notes[name] += f"; {distance.note}; {_interval(distance)}"
    shown: dict[str, Callable[[float], float]] = {
        name: squared.decibel if modules[m.kind].MEAN is not None else float for name, m in chosen.items()
    }
    for name, of_clips in scores.values.items():
        if of_clips:
            text = left_out(np.concatenate(list(of_clips.values())), modules[chosen[name].kind].NO_VALUE)
            scores.notes[name] += f"; {text}" if text else ""
    if cut:
        sides = "a border left out" if cut.border == "cropped" else "no border left out"
        scores.notes["scored"] = f"protocol {protocol}: {cut.trim} frames at both ends of a clip and {sides}"
    table = _table(list(pairs), scores.values, scores.whole, scores.notes | notes_of_pairs, shown)
    if lacking:
        raise Incomplete(lacking, table)
    return table


def named(settings: dict[str, Any]) -> str:
    """Return what a metric is in words: its name and its settings."""
    return f"{settings['name']}, {described(settings)}"


def _built(chosen: dict[str, Any], device: str) -> tuple[dict[str, Any], list[str]]:
    """Return the functions of metrics, and why there is none of others; raises RetakeError where there is none at all."""
    from pipeline import weights

    modules = params.registry("metrics")
    built: dict[str, Any] = {}
    lacking: list[str] = []
    for name, metric in chosen.items():
        try:
            built[name] = modules[metric.kind].build(metric, device)
        except weights.Missing as error:
            lacking.append(f"{name} has no value: {error}")
    if not built:
        raise RetakeError("\n".join(lacking))
    return built, lacking


class Read:
    """Two clips read together, frame by frame; when that is done, `count` frames and the SHA-256 of each clip.

    `hashed`: whether digests are needed.
    """

    def __init__(self, prediction: Clip, truth: Clip, *, hashed: bool) -> None:
        self.clips, self.count = (prediction, truth), 0
        self.digests = (hashlib.sha256(), hashlib.sha256()) if hashed else ()

    def frames(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (prediction, truth), (H, W, 3) each; raises RetakeError for other sizes or numbers of frames."""
        ours, theirs = (clip.frames() for clip in self.clips)
        for images in itertools.zip_longest(ours, theirs):
            one, other = images
            if one is None or other is None:
                counts = [self.count + (image is not None) for image in images]
                counts[one is None] += sum(1 for _ in (theirs if one is None else ours))
                size = side(other if one is None else one)
                raise self._unlike([f"{count} frames of {size}" for count in counts])
            if one.shape != other.shape:
                known = [clip.count or "" for clip in self.clips]
                raise self._unlike([f"{n} frames of {side(i)}".strip() for n, i in zip(known, images, strict=True)])
            for digest, image in zip(self.digests, images, strict=False):
                digest.update(f"{image.shape} {image.dtype}".encode())
                digest.update(np.ascontiguousarray(image).data)
            self.count += 1
            yield one, other

    def _unlike(self, sizes: list[str]) -> RetakeError:
        (one, other), (ours, theirs) = sizes, self.clips
        return RetakeError(
            f"{ours.where} has {one}, {theirs.where} has {other}: both must have as many frames, of one size"
        )


class Scores:
    """What metrics say of clips, gathered clip by clip.

    `values`: metric -> clip -> one value of each frame or pair of frames; `whole`: of distances of the whole set;
    `notes`: what each metric is, or why it has no value. A metric without a value for one clip has none at all.
    """

    def __init__(self, built: dict[str, Any], needs: dict[str, str], notes: dict[str, str]) -> None:
        self.built, self.needs, self.notes = built, needs, notes
        self.values: dict[str, dict[str, np.ndarray]] = {name: {} for name in built}
        self.whole: dict[str, float] = {}

    def skip(self, name: str, reason: Undefined) -> None:
        """Leave a metric out, and say why."""
        self.built.pop(name)
        self.values[name] = {}
        self.notes[name] = f"no values: {reason}"

    def add(self, clip: str, read: Read, cut: Protocol | None) -> None:
        """Read two clips and score them, or the part that `cut` says."""
        parts: dict[str, list[np.ndarray]] = collections.defaultdict(list)
        region: temporal.Region = (slice(None), slice(None))
        where = read.clips[1].where
        before: list[np.ndarray] = []  # the last frame of each clip, (1, H, W, 3)
        for block in _blocks(_trimmed(read.frames(), cut.trim if cut else 0)):
            if cut and not before:
                _, region = scored_part((2 * cut.trim + 1, *block[1].shape[1:3]), cut, where)
            inside = [images[:, *region] for images in block]
            joined = [np.concatenate(two) for two in zip(before, block, strict=True)] if before else block
            for name in [name for name in self.built if self.needs[name] != "features"]:
                try:
                    if self.needs[name] == "frames":
                        parts[name].append(self.built[name](*inside))
                    else:
                        parts[name].append(_neighbours(self.built[name], joined, region))
                except Undefined as reason:
                    self.skip(name, reason)
            before = [images[-1:] for images in block]
        if cut:
            scored_part((read.count, *(before[1].shape[1:3] if before else (0, 0))), cut, where)
        for name in [name for name in self.built if self.needs[name] != "features"]:
            self.values[name][clip] = np.concatenate(parts[name])
            if not len(self.values[name][clip]):
                self.skip(name, Undefined("two neighbouring frames are needed"))


def _trimmed(frames: Iterator[tuple[np.ndarray, np.ndarray]], trim: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield frames but for the first and the last `trim`."""
    waiting: collections.deque[tuple[np.ndarray, np.ndarray]] = collections.deque()
    for images in itertools.islice(frames, trim, None):
        waiting.append(images)
        if len(waiting) > trim:
            yield waiting.popleft()


def _blocks(frames: Iterator[tuple[np.ndarray, np.ndarray]]) -> Iterator[list[np.ndarray]]:
    """Yield a few frames at a time of both clips, [(n, H, W, 3), (n, H, W, 3)] read-only float32 in [0,1]."""
    for first in frames:
        more = itertools.islice(frames, max(BLOCK // first[0].size, 1) - 1)
        yield [unit(np.stack(images)) for images in zip(*[first, *more], strict=True)]


def _protocol(name: str | None) -> Protocol | None:
    """Return the protocol asked for. Raises RetakeError for an unknown one, and for one of another task."""
    protocols = params.load().protocols
    fits = [key for key, protocol in protocols.items() if isinstance(protocol, Protocol)]
    if name is not None and name not in fits:
        raise RetakeError(f"no protocol {name!r} of super-resolution: params.yaml has {', '.join(fits) or 'none'}")
    return protocols[name] if name is not None else None  # type: ignore[return-value]


def choose(names: list[str], profile: str, fit: tuple[str, ...] = NEEDS) -> dict[str, Any]:
    """Return the metrics by the name that was asked for; all of the profile where no name is given. `fit`: what they may need.

    Raises RetakeError for an unknown name, with the nearest one, and for a metric that does not compare frames.
    """
    profiles = params.load().profiles
    if profile not in profiles:
        raise RetakeError(f"no profile {profile!r}{near(profile, profiles)}")
    known = {f"{key}.{name}": metric for key, entries in profiles.items() for name, metric in entries.items()}
    modules = params.registry("metrics")
    chosen: dict[str, Any] = {}
    for name in names or profiles[profile]:
        metric = profiles[profile].get(name, known.get(name))
        if metric is None:
            others = [dotted for dotted in known if dotted.endswith(f".{name}")]
            raise RetakeError(
                f"no metric {name!r} in profile {profile}"
                + (f": name it {' or '.join(others)}" if others else near(name, [*profiles[profile], *known]))
            )
        needs = modules[metric.kind].NEEDS
        if needs in fit:
            chosen[name] = metric
        elif names and needs in NEEDS:
            raise RetakeError(f"{name} compares whole sets of clips: leave --protocol out")
        elif names:
            why = {"samples": "several samples of a start", "fields": "flow fields", "flow": "flow fields"}[needs]
            raise RetakeError(f"{name} compares {why}, not two sets of clips: it is a metric of experiments")
    if not chosen:
        raise RetakeError(f"profile {profile} has no metric of frames: its metrics are those of experiments")
    return chosen


def _neighbours(function: Callable[..., float], both: list[np.ndarray], region: temporal.Region) -> np.ndarray:
    """Return a metric's value for each pair of neighbouring frames of (prediction, truth), (T - 1,)."""
    predicted, true = both
    eight = temporal.eight_bits(true)
    return np.array(
        [
            function(
                predicted[i : i + 2], true[i : i + 2], region, functools.partial(temporal.motion, *eight[i : i + 2])
            )
            for i in range(len(true) - 1)
        ]
    )


def _interval(distance: sets.Found) -> str:
    """Return the interval of a distance in words, or why there is none."""
    interval = intervals.of_set(distance.value, distance.without, distance.sizes, distance.units)
    if math.isnan(interval.low):
        return f"no interval: {interval.note}"
    told = f"95 % interval {max(interval.low, 0):.4f} to {interval.high:.4f} over {interval.units} {interval.unit}"
    return told + (f" ({interval.note})" if interval.note else "")


def _set(distance: sets.Distance, pairs: Pairs, read: list[Read]) -> sets.Found:
    """Return a distance of the whole sets; features that are kept are not made again."""

    def images(side: int) -> Iterator[np.ndarray]:
        for pair in progress(pairs.values(), unit="clip", desc="features"):
            if distance.unit == "frames":
                yield from (unit(image[None]) for image in pair[side].frames())
            else:
                yield unit(pair[side].read())

    lengths = [clips.count for clips in read]
    of_clip = np.repeat(np.arange(len(pairs)), lengths) if distance.unit == "frames" else np.arange(len(pairs))
    predicted, true = (
        distance.rows(
            cache.digest(*(clips.digests[side].hexdigest().encode() for clips in read)),
            len(of_clip),
            functools.partial(images, side),
        )
        for side in (0, 1)
    )
    return distance.distance(predicted, true, of_clip)


def _paired(
    predicted: dict[str, Clip], true: dict[str, Clip], predictions: Path, truth: Path
) -> tuple[Pairs, dict[str, str]]:
    """Return the clips in pairs, and what must be said below the table of how their frames are paired."""
    named = predictions.is_dir() and truth.is_dir() and "" not in {*predicted, *true}  # a single clip need not be
    if len(predicted) == len(true) == 1 and not named:
        pairs = {next(iter(true)): (next(iter(predicted.values())), next(iter(true.values())))}
    else:
        missing, unknown = sorted(set(true) - set(predicted)), sorted(set(predicted) - set(true))
        if missing or unknown:
            lines = [f"{name or '(one clip)'} is missing" for name in missing]
            lines += [f"{name or '(one clip)'} is not expected" for name in unknown]
            more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
            first = "".join(f"\n  {line}" for line in lines[:SHOWN])
            expected = ", ".join(list(true)[:SHOWN]) + (", …" if len(true) > SHOWN else "")
            raise RetakeError(
                f"{predictions} does not hold the clips of {truth}:{first}{more}\nExpected {len(true)}: {expected}"
            )
        pairs = {name: (predicted[name], true[name]) for name in true}
    notes: dict[str, int] = collections.Counter()
    for ours, theirs in pairs.values():
        if not ours.keeps_time_with(theirs):
            assert ours.rate and theirs.rate
            raise RetakeError(
                f"{ours.where} has {float(ours.rate):g} frames a second, {theirs.where} {float(theirs.rate):g}: "
                "their frames do not show the same times"
            )
        if reason := _by_position(ours, theirs):
            notes[reason] += 1
    told = "; ".join(f"{reason} ({count} of {len(pairs)} clips)" for reason, count in notes.items())
    return pairs, {"frames paired": f"by position: {told}"} if told else {}


def _by_position(ours: Clip, theirs: Clip) -> str:
    """Return why the images of two clips are paired by position alone, "" where their names say the same numbers or there are none.

    Raises RetakeError for clips of as many frames whose names say that they are others.
    """
    if len(ours.names) != len(theirs.names) or ours.names == theirs.names:
        return ""
    one, other = frame_numbers(ours.names), frame_numbers(theirs.names)
    if not one or not other:
        return f"names such as {ours.names[0]} and {theirs.names[0]} do not say which frames they are"
    if one == other:
        return ""
    consecutive = all(numbers == list(range(numbers[0], numbers[0] + len(numbers))) for numbers in (one, other))
    if consecutive and {one[0], other[0]} == {0, 1}:
        return "one side counts from 0, the other from 1"
    index = next(i for i, (a, b) in enumerate(zip(one, other, strict=True)) if a != b)
    raise RetakeError(
        f"{ours.where} has {ours.names[index]} where {theirs.where} has {theirs.names[index]}: their names say other frames. "
        "Give the frames of both the same numbers"
    )


def _table(
    names: list[str],
    values: dict[str, dict[str, np.ndarray]],
    whole: dict[str, float],
    notes: dict[str, str],
    shown: dict[str, Callable[[float], float]],
) -> str:
    def cell(metric: str, parts: list[np.ndarray]) -> str:
        return f"{shown[metric](float(mean(np.concatenate(parts)))):.4f}" if parts else ""

    rows = [["clip", *values]]
    for clip in names if len(names) > 1 else []:
        rows.append(
            [visible(clip), *(cell(m, [of_clip[clip]] if clip in of_clip else []) for m, of_clip in values.items())]
        )
    last = [f"{whole[m]:.4f}" if m in whole else cell(m, list(of_clip.values())) for m, of_clip in values.items()]
    rows.append([f"all {len(names)}", *last])  # clips: scripts read this line
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *(f"{m}: {note}" for m, note in notes.items())])


if __name__ == "__main__":
    run(main, "evaluate")
