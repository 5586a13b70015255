"""Score a folder of clips, a video or an array against the truth, without any experiment: prints a table.

    python -m pipeline.evaluate PREDICTIONS TRUTH --metrics psnr,ssim,lpips,fvd
    python -m pipeline.evaluate PREDICTIONS TRUTH --profile dmvfn
    python -m pipeline.evaluate PREDICTIONS TRUTH --metrics psnr,dmvfn.lpips,cinn.fvd
    python -m pipeline.evaluate UPSCALED TRUTH --profile tecogan --protocol scenes

PREDICTIONS and TRUTH, each one of: a folder of clips (sub-folders of PNG images, or videos), a folder of the PNG images
of one clip, a video, or an array file (.npy, or .npz with one array): (T, H, W, 3) or (N, T, H, W, 3), RGB, uint8, or
float in [0,1]. Clips are paired by name (those of an array are 000000, 000001, …; a single clip with a single one), images
by position in the natural order of their names. What a metric is stands under `profiles` in params.yaml: a bare name is that of
the profile asked for, `clean` where none is. A protocol of super-resolution leaves out the ends of scenes and the border that it
does not score. Metrics of frames (and of neighbouring frames) are averaged over a clip, and in
the last row over all frames; FID, FVD and DTFVD are of the whole set, and their features are kept in data/features. What a
cell is stands below the table.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import params
from pipeline.errors import RetakeError, near, progress, run
from pipeline.metrics import Undefined, cache, sets, squared, temporal
from pipeline.sources.clips import Clip, clips, size, unit
from pipeline.tables import intervals
from pipeline.tasks.super_resolution import Protocol
from pipeline.tasks.super_resolution.clips import scored_part

SHOWN = 8
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
    asked = [name.strip() for name in names.split(",") if name]
    print(evaluate(args.predictions, args.truth, asked, profile, args.protocol))


def evaluate(
    predictions: Path, truth: Path, metrics: list[str], profile: str = "clean", protocol: str | None = None
) -> str:
    """Return the table as text. Raises RetakeError for what cannot be scored, when its clip is reached."""
    cut = _protocol(protocol)
    chosen = choose(metrics, profile, cut.NEEDS if cut else NEEDS)
    pairs = _paired(clips(predictions), clips(truth), predictions, truth)
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    modules = params.registry("metrics")
    built = {name: modules[metric.kind].build(metric, device) for name, metric in chosen.items()}
    needs = {name: modules[metric.kind].NEEDS for name, metric in chosen.items()}
    notes = {
        name: json.dumps(modules[metric.kind].settings(metric), ensure_ascii=False) for name, metric in chosen.items()
    }
    values: dict[str, dict[str, np.ndarray]] = {name: {} for name in chosen}
    contents: tuple[list[str], list[str]] = ([], [])
    lengths: list[int] = []  # of clips, in frames

    def skip(name: str, reason: Undefined) -> None:
        built.pop(name)
        values[name] = {}
        notes[name] = f"no values: {reason}"

    for clip, pair in progress(pairs.items(), unit="clip", desc="evaluate"):
        read = [c.read() for c in pair]
        if read[0].shape != read[1].shape:
            raise RetakeError(
                f"{pair[0].where} has {size(read[0])}, {pair[1].where} has {size(read[1])}: give as many of the same size"
            )
        lengths.append(len(read[0]))
        if "features" in needs.values():
            for content, images in zip(contents, read, strict=True):
                content.append(cache.of_images(images))
        region = (slice(None), slice(None))
        if cut:
            scored, region = scored_part(read[1].shape[:3], cut, pair[1].where)
            read = [images[scored] for images in read]
        both = [unit(images) for images in read]
        inside = [images[:, *region] for images in both]
        for name in [name for name in built if needs[name] != "features"]:
            try:
                if needs[name] == "frames":
                    values[name][clip] = built[name](*inside)
                else:
                    values[name][clip] = _neighbours(built[name], both, region)
            except Undefined as reason:
                skip(name, reason)
    whole: dict[str, float] = {}
    for name in [name for name in built if needs[name] == "features"]:
        try:
            found = _set(built[name], pairs, contents, lengths)
        except Undefined as reason:
            skip(name, reason)
            continue
        whole[name] = found.value
        notes[name] += f"; {found.note}; {_interval(found)}"
    shown: dict[str, Callable[[float], float]] = {
        name: squared.decibel if modules[m.kind].MEAN is not None else float for name, m in chosen.items()
    }
    if cut:
        sides = "a border left out" if cut.border == "cropped" else "no border left out"
        notes["scored"] = f"protocol {protocol}: {cut.trim} frames at both ends of a clip and {sides}"
    return _table(list(pairs), values, whole, notes, shown)


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
    if len(true) < 2:
        raise Undefined("two neighbouring frames are needed")
    eight = temporal.eight_bits(true)
    return np.array(
        [
            function(
                predicted[i : i + 2], true[i : i + 2], region, functools.partial(temporal.motion, *eight[i : i + 2])
            )
            for i in range(len(true) - 1)
        ]
    )


def _interval(found: sets.Found) -> str:
    """Return the interval of a distance in words, or why there is none."""
    low, high, unit, units, note = intervals.of_set(found.value, found.without, found.sizes, found.units)
    if math.isnan(low):
        return f"no interval: {note}"
    return f"95 % interval {max(low, 0):.4f} to {high:.4f} over {units} {unit}" + (f" ({note})" if note else "")


def _set(
    distance: sets.Distance, pairs: Pairs, contents: tuple[list[str], list[str]], lengths: list[int]
) -> sets.Found:
    """Return a distance of the whole sets; features that are kept are not made again."""

    def images(side: int) -> Iterator[np.ndarray]:
        for pair in progress(pairs.values(), unit="clip", desc="features"):
            yield unit(pair[side].read())

    of_clip = np.repeat(np.arange(len(pairs)), lengths) if distance.unit == "frames" else np.arange(len(pairs))
    predicted, true = (
        distance.rows(
            cache.digest(*(c.encode() for c in contents[side])), len(of_clip), functools.partial(images, side)
        )
        for side in (0, 1)
    )
    return distance.distance(predicted, true, of_clip)


def _paired(predicted: dict[str, Clip], true: dict[str, Clip], predictions: Path, truth: Path) -> Pairs:
    if len(predicted) == len(true) == 1:
        pairs = {next(iter(true)): (next(iter(predicted.values())), next(iter(true.values())))}
    else:
        missing, unknown = sorted(set(true) - set(predicted)), sorted(set(predicted) - set(true))
        if missing or unknown:
            lines = [f"{name or '(one clip)'} is missing" for name in missing]
            lines += [f"{name or '(one clip)'} is not expected" for name in unknown]
            more = f"\n  and {len(lines) - SHOWN} more" if len(lines) > SHOWN else ""
            some = "".join(f"\n  {line}" for line in lines[:SHOWN])
            expected = ", ".join(list(true)[:SHOWN]) + (", …" if len(true) > SHOWN else "")
            raise RetakeError(
                f"{predictions} does not hold the clips of {truth}:{some}{more}\nExpected {len(true)}: {expected}"
            )
        pairs = {name: (predicted[name], true[name]) for name in true}
    for ours, theirs in pairs.values():
        if ours.rate and theirs.rate and ours.rate != theirs.rate:
            raise RetakeError(
                f"{ours.where} has {float(ours.rate):g} frames a second, {theirs.where} {float(theirs.rate):g}: "
                "their frames do not show the same times"
            )
    return pairs


def _table(
    names: list[str],
    values: dict[str, dict[str, np.ndarray]],
    whole: dict[str, float],
    notes: dict[str, str],
    shown: dict[str, Callable[[float], float]],
) -> str:
    def cell(metric: str, found: list[np.ndarray]) -> str:
        return f"{shown[metric](float(np.concatenate(found).mean())):.4f}" if found else ""

    rows = [["clip", *values]]
    for clip in names if len(names) > 1 else []:
        rows.append([clip, *(cell(m, [found[clip]] if clip in found else []) for m, found in values.items())])
    last = [f"{whole[m]:.4f}" if m in whole else cell(m, list(found.values())) for m, found in values.items()]
    rows.append([f"all {len(names)}", *last])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    return "\n".join([*(line.rstrip() for line in lines), "", *(f"{m}: {note}" for m, note in notes.items())])


if __name__ == "__main__":
    run(main, "evaluate")
