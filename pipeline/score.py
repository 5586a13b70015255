"""Score the predictions of one row of a table: a prediction store and the true frames in, one value a row out.

    python -m pipeline.score --experiment demo --model dmvfn_demo

`data/scores/<experiment>/<model>.parquet` has the columns

    window   prediction: "<clip>:<start>"; flow: "<clip>:<frame>"; super_resolution: the clip
             "" for a value of the whole set
    horizon  prediction: step from 1; super_resolution: number of the frame; 0 for a value of the whole window or set
    sample, metric, value (float64)
    weight   what the window counts in the mean: 1, or for pooled metrics its number of pixels; 0: it is left out

Its schema's metadata, key `retake`, is JSON: each metric's label, direction, scale, digits and settings, what it `needs`,
its identity (a digest of kind and settings) and the number of its values; of metrics of sets the interval and the samples; the
metrics without values and why; the prediction store's identity and metadata.
Averages are made in the table. Windows, and the frames of scenes, are read one by one, so memory stays flat.
"""

from __future__ import annotations

import argparse
import collections
import functools
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline import compute, params, plan
from pipeline.errors import RetakeError, log, progress, run
from pipeline.metrics import Undefined, cache, frechet, sets, temporal
from pipeline.params import Params, Prediction, SuperResolution
from pipeline.store.atomic import atomic
from pipeline.store.frames import Store
from pipeline.tasks import flow as pairs_of_frames
from pipeline.tasks import prediction, super_resolution
from pipeline.tasks.prediction import Window

SLACK = 1e-3  # what a float prediction may lie outside [0,1]
AT_ONCE = 16  # frames that are read together for features
Function = Callable[..., Any]
Row = tuple[str, int, int, str, float, float]  # window, step, sample, metric, value, weight


@dataclass
class Metrics:
    """An experiment's metrics: functions by what they NEED and by key, and why the others have no values."""

    functions: dict[str, dict[str, Function]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def of(self, needs: str) -> dict[str, Function]:
        """Return the functions of the metrics that need this."""
        return self.functions.get(needs, {})

    def skip(self, key: str, reason: str) -> None:
        """Go on without a metric."""
        for functions in self.functions.values():
            functions.pop(key, None)
        self.skipped[key] = reason
        log.warning("%s: no values: %s", key, reason)

    def values(self, needs: str, where: str, *arguments: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (metric, values) of the metrics that need this; one that is undefined here is skipped for good."""
        for key, function in list(self.of(needs).items()):
            try:
                values = np.atleast_1d(function(*arguments))
            except Undefined as reason:
                self.skip(key, str(reason))
                continue
            except RetakeError as error:
                raise RetakeError(f"{where}: {error}") from None
            if np.isnan(values).any():
                raise RetakeError(f"{key} of {where}: NaN at step {int(np.flatnonzero(np.isnan(values))[0]) + 1}")
            yield key, values


def main() -> None:
    """Parse the command line and score."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", required=True, help="entry of `experiments` in params.yaml")
    parser.add_argument("--model", required=True, help="entry of the experiment's `models` or `predictions`")
    args = parser.parse_args()
    score(params.load(), args.experiment, args.model)


def score(p: Params, experiment: str, name: str) -> Path:
    """Write the scores of one row and return their path."""
    fields = plan.fields_of(p, "score", experiment=experiment, model=name)
    frames, predicted = Store(fields["frames"]), Store(plan.path("predict", **fields))
    cv2.setNumThreads(p.compute.threads)
    metrics = _build(p, experiment, name)
    task = {"prediction": _score_windows, "flow": _score_fields, "super_resolution": _score_scenes}
    protocol = p.protocols[p.experiments[experiment].protocol]
    found, facts = task[protocol.task](p, fields, protocol, frames, predicted, metrics)
    rows = [row for row in found if row[3] not in metrics.skipped]
    counts = collections.Counter(row[3] for row in rows)
    meta = {
        "experiment": experiment,
        "model": name,
        "metrics": {key: about | {"values": counts[key]} for key, about in _describe(p, experiment).items()},
        "skipped": metrics.skipped,
        "identity": predicted.identity,
        "predictions": predicted.meta,
        **facts,
    }
    output = plan.path("score", **fields)
    _write(output, rows, meta)
    log.info("scored %d windows x %d samples, %d values: %s", facts["windows"], facts["samples"], len(rows), output)
    return output


def _score_windows(
    p: Params, fields: plan.Fields, protocol: Any, frames: Store, predicted: Store, metrics: Metrics
) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of predicted frames, and what the metadata says of them."""
    name = fields["model"]
    windows = prediction.windows(frames, protocol)
    samples = check(predicted, frames, windows, protocol)
    flow = Store(fields["flow"]) if metrics.of("flow") and _reads_flow(p, name) else None
    truth = Store(fields["truth"]) if flow else None
    rows: list[Row] = []
    motion = _window_motion(frames, windows, protocol)
    for number, window in enumerate(progress(windows, unit="window", desc=f"score {name}")):
        key = prediction.key(window)
        span = prediction.target_rows(frames, window, protocol)
        height, width = frames.content[span[0]]
        true = prediction.targets(frames, window, protocol)[:, :height, :width]
        target = _unit(true, f"{frames.path}, window {key}")
        for sample, images in _predictions(predicted, key, range(samples), frames, span):
            where = f"{predicted.path}, window {key}, sample {sample}"
            for metric, values in metrics.values("frames", where, images, target):
                rows += [(key, step + 1, sample, metric, float(v), 1.0) for step, v in enumerate(values)]
            for metric, value in _neighbours(metrics, where, images, target, motion(window)):
                rows.append((key, 0, sample, metric, value, 1.0))
        if metrics.of("samples"):
            some = np.stack([images for _, images in _predictions(predicted, key, range(samples), frames, span)])
            for metric, values in metrics.values("samples", f"{predicted.path}, window {key}", some):
                drop = p.experiments[fields["experiment"]].metrics[metric].drop  # type: ignore[attr-defined]
                kept = len(windows) if drop is None else frechet.kept(len(windows), drop)
                rows.append((key, 0, 0, metric, float(values[0]), float(number < kept)))
        if flow is not None and truth is not None:
            pair = [_flow(s, frames, window, protocol)[None, :height, :width] for s in (flow, truth)]
            for metric, values in metrics.values("flow", f"{truth.path}, window {key}", *pair):
                rows.append((key, 0, 0, metric, float(values[0]), 1.0))
    stores = [s.identity for s in (flow, truth) if s is not None]
    whole, facts = _score_sets(protocol, frames, predicted, windows, samples, metrics)
    return rows + whole, {"windows": len(windows), "samples": samples, "flow": stores, "sets": facts}


def _neighbours(
    metrics: Metrics, where: str, images: np.ndarray, target: np.ndarray, motion: Callable[[int], temporal.Motion]
) -> Iterator[tuple[str, float]]:
    """Yield (metric, mean over neighbouring frames) of the metrics of pairs in a predicted clip."""
    region = (slice(None), slice(None))
    found: dict[str, list[float]] = {}
    for step in range(len(images) - 1):
        pair = images[step : step + 2], target[step : step + 2]
        for metric, values in metrics.values("pairs", where, *pair, region, motion(step)):
            found.setdefault(metric, []).append(float(values[0]))
    for metric, each in found.items():
        yield metric, float(np.mean(each))
    if len(images) < 2:
        for metric in list(metrics.of("pairs")):
            metrics.skip(metric, "two predicted frames are needed, the protocol has one")


def _score_sets(
    protocol: Prediction, frames: Store, predicted: Store, windows: list[Window], samples: int, metrics: Metrics
) -> tuple[list[Row], dict[str, Any]]:
    """Return one value a sample of the metrics of sets (window "", step 0), and their intervals and notes by metric.

    The true set is the targets of all windows, each frame as often as it is one. Features are kept; those of a true frame that
    several windows share are made once.
    """
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    spans = [prediction.target_rows(frames, window, protocol) for window in windows]
    for metric, built in list(metrics.of("features").items()):
        distance: sets.Distance = built  # type: ignore[assignment]
        try:
            true = _true_features(distance, frames, spans)
            found = [
                distance.distance(
                    _predicted_features(distance, frames, predicted, windows, spans, sample),
                    true,
                    (protocol.horizon, protocol.horizon) if distance.unit == "frames" else (1, 1),
                )
                for sample in range(samples)
            ]
        except Undefined as reason:
            metrics.skip(metric, str(reason))
            continue
        except RetakeError as error:
            raise RetakeError(f"{metric} of {predicted.path}: {error}") from None
        rows += [("", 0, sample, metric, f.value, 1.0) for sample, f in enumerate(found)]
        intervals = [f.interval for f in found if f.interval]
        facts[metric] = {"interval": np.mean(intervals, axis=0).tolist() if intervals else None, "note": found[0].note}
    return rows, facts


def _true_features(distance: sets.Distance, frames: Store, spans: list[range]) -> Any:
    """Return the features of the targets: those of every frame, or of every window's clip."""
    if distance.unit == "clips":
        content = cache.digest(frames.identity.encode(), repr(spans).encode())
        return distance.rows(
            content,
            len(spans),
            lambda: (_unit(np.stack([_true(frames, r) for r in span]), str(frames.path)) for span in spans),
        )
    wanted = np.concatenate([np.array(span) for span in spans])
    needed = np.unique(wanted)
    content = cache.digest(frames.identity.encode(), needed.tobytes())

    def images() -> Iterator[np.ndarray]:
        """Yield stacks of frames of one size."""
        changes = np.flatnonzero((np.diff(frames.content[needed], axis=0) != 0).any(axis=1)) + 1
        for same in np.split(needed, changes):
            for at in range(0, len(same), AT_ONCE):
                yield _unit(np.stack([_true(frames, int(row)) for row in same[at : at + AT_ONCE]]), str(frames.path))

    base = distance.rows(content, len(needed), images)
    return cache.Taken(base, np.searchsorted(needed, wanted))


def _predicted_features(
    distance: sets.Distance, frames: Store, predicted: Store, windows: list[Window], spans: list[range], sample: int
) -> np.ndarray:
    """Return the features of one sample of all predictions, window by window."""

    def images() -> Iterator[np.ndarray]:
        for window, span in zip(progress(windows, unit="window", desc="features"), spans, strict=True):
            for _, found in _predictions(predicted, prediction.key(window), range(sample, sample + 1), frames, span):
                yield found

    content = f"{predicted.identity} sample {sample}"
    return distance.rows(content, len(spans) if distance.unit == "clips" else sum(map(len, spans)), images)


def _window_motion(
    frames: Store, windows: list[Window], protocol: Prediction
) -> Callable[[Window], Callable[[int], temporal.Motion]]:
    """Return the function of a window and a step that gives a function for the true motion from there to the next step."""
    reach: dict[str, range] = {}
    for window in windows:
        span = prediction.target_rows(frames, window, protocol)
        before = reach.get(window[0], span)
        reach[window[0]] = range(min(before.start, span.start), max(before.stop, span.stop))
    kept = {clip: _true_motion(frames, clip, rows) for clip, rows in reach.items()}

    def motion(window: Window) -> Callable[[int], temporal.Motion]:
        first = prediction.target_rows(frames, window, protocol).start
        return lambda step: functools.partial(kept[window[0]], first + step)

    return motion


def _true_motion(frames: Store, clip: str, rows: range) -> Callable[[int], np.ndarray]:
    """Return the function of a row that gives the true motion from it to the next; estimated once for `rows`, and kept."""

    @functools.cache
    def kept() -> np.ndarray:
        content = f"{frames.identity} {clip} {rows.start} to {rows.stop}"
        return temporal.kept_motion(content, len(rows), lambda: (_true(frames, row) for row in rows))

    return lambda row: kept()[row - rows.start]


def _score_scenes(
    p: Params, fields: plan.Fields, protocol: Any, frames: Store, predicted: Store, metrics: Metrics
) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of upscaled frames, and what the metadata says of them; a window is a scene."""
    low = Store(fields["low"]) if fields["low"] != fields["frames"] else None
    clips = super_resolution.scenes(frames, low, protocol)
    check_scenes(predicted, frames, low, clips, protocol)
    rows: list[Row] = []
    for clip in progress(clips, unit="scene", desc=f"score {fields['model']}"):
        true = frames.clips[clip]
        scored, region = super_resolution.scored_part(
            (len(true), *frames.size[true[0]]), protocol, f"{frames.path}, {clip}"
        )
        motion = _true_motion(frames, clip, true[scored])
        before: list[np.ndarray] = []
        for pair in zip(predicted.clips[clip][scored], true[scored], strict=True):
            frame = int(frames.frame[pair[1]])
            where = f"{predicted.path}, {clip} frame {frame}"
            images = [_unit(s.image(r)[None], where) for s, r in zip((predicted, frames), pair, strict=True)]
            found = list(metrics.values("frames", where, *(image[:, *region] for image in images)))
            if before and metrics.of("pairs"):
                both = [np.concatenate(x) for x in zip(before, images, strict=True)]
                found += metrics.values("pairs", where, *both, region, functools.partial(motion, pair[1] - 1))
            rows += [(clip, frame, 0, metric, float(values[0]), 1.0) for metric, values in found]
            before = images
    return rows, {"windows": len(clips), "samples": 1, "flow": []}


def _score_fields(
    p: Params, fields: plan.Fields, protocol: Any, frames: Store, predicted: Store, metrics: Metrics
) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of estimated flow, and what the metadata says of them; a window is a pair.

    Raises RetakeError unless the store has the flow of every pair with ground truth, of today's frames.
    """
    truth = Store(fields["truth"])
    noc = Store(fields["flow"]) if fields["flow"] != fields["frames"] else None
    again = f"make it again with `snakemake {predicted.path}`"
    if predicted.meta.get("data") != frames.identity:
        raise RetakeError(f"{predicted.path} was not made from today's {frames.path}: {again}")
    pairs = pairs_of_frames.pairs(truth)
    extra = set(pairs_of_frames.pairs(predicted)) - set(pairs)
    if extra or len(predicted) != len(pairs):
        raise RetakeError(
            f"{predicted.path} has {len(predicted)} fields, {truth.path} has {len(pairs)}"
            + (f"; unknown: {', '.join(map(pairs_of_frames.key, sorted(extra)[:5]))}" if extra else "")
            + f": {again}"
        )
    rows: list[Row] = []
    for pair in progress(pairs, unit="pair", desc=f"score {fields['model']}"):
        key = pairs_of_frames.key(pair)
        flow, exact = (s.image(pairs_of_frames.row(s, pair)) for s in (predicted, truth))
        seen = noc.image(pairs_of_frames.row(noc, pair)) if noc is not None else None
        if flow.shape != exact.shape:
            sizes = [f"{x.shape[1]}x{x.shape[0]}" for x in (flow, exact)]
            raise RetakeError(f"{predicted.path}, {key}: the flow is {sizes[0]}, the truth {sizes[1]}: {again}")
        if not np.isfinite(flow).all():
            raise RetakeError(f"{predicted.path}, {key}: flow is NaN: look at the model that estimated this")
        for metric, function in metrics.of("fields").items():
            try:
                value, weight = function(pair[0], flow, exact, seen)
            except Undefined as reason:
                raise RetakeError(f"{truth.path}, {key}: {reason}") from None
            rows.append((key, 0, 0, metric, value, weight))
    stores = [s.identity for s in (truth, noc) if s is not None]
    return rows, {"windows": len(pairs), "samples": 1, "flow": stores}


def check(predicted: Store, frames: Store, windows: list[Window], protocol: Prediction) -> int:
    """Return the samples of each window; raise RetakeError unless the store has every window, step and sample once."""
    again = f"make it again with `snakemake {predicted.path}`"
    made = predicted.meta.get("protocol", {})
    other = {k: v for k, v in made.items() if getattr(protocol, k) != v}
    if other:
        raise RetakeError(f"{predicted.path} was made with another protocol ({other}): {again}")
    if predicted.meta.get("data") != frames.identity:
        raise RetakeError(f"{predicted.path} was not made from today's {frames.path}: {again}")
    expected = {prediction.key(w) for w in windows}
    missing = [prediction.key(w) for w in windows if prediction.key(w) not in predicted.clips]
    extra = [clip for clip in predicted.clips if clip not in expected]
    for what, found in (("lacks", missing), ("has unknown", extra)):
        if found:
            some = ", ".join(found[:5]) + (", …" if len(found) > 5 else "")
            raise RetakeError(f"{predicted.path} {what} {len(found)} of {len(windows)} windows ({some}): {again}")
    samples = int(predicted.meta["samples"])
    whole = {(s, k) for s in range(samples) for k in range(1, protocol.horizon + 1)}
    for clip, rows in predicted.clips.items():
        found_rows = [(int(predicted.sample[r]), int(predicted.frame[r])) for r in rows]
        if len(found_rows) != len(whole) or set(found_rows) != whole:
            wrong = sorted(whole ^ set(found_rows)) or sorted(x for x in whole if found_rows.count(x) > 1)
            raise RetakeError(
                f"{predicted.path}, window {clip}: expected {samples} samples of steps 1 to {protocol.horizon}, "
                f"each once; wrong (sample, step): {', '.join(map(str, wrong[:5]))}; {again}"
            )
    return samples


def check_scenes(
    predicted: Store, frames: Store, low: Store | None, clips: list[str], protocol: SuperResolution
) -> None:
    """Raise RetakeError unless the store has every frame of every scene once, at the size of the target."""
    again = f"make it again with `snakemake {predicted.path}`"
    if predicted.meta.get("protocol", {}).get("saved") != protocol.saved:
        raise RetakeError(f"{predicted.path} was not saved as protocol {protocol.saved!r} says: {again}")
    if (predicted.meta.get("data"), predicted.meta.get("low")) != (frames.identity, low.identity if low else ""):
        stores = " and ".join(str(s.path) for s in (frames, low) if s is not None)
        raise RetakeError(f"{predicted.path} was not made from today's {stores}: {again}")
    if set(predicted.clips) != set(clips):
        raise RetakeError(
            f"{predicted.path} has the scenes {', '.join(predicted.clips)}, not {', '.join(clips)}: {again}"
        )
    for clip in clips:
        made, true = predicted.clips[clip], frames.clips[clip]
        if list(predicted.frame[made]) != list(frames.frame[true]):
            raise RetakeError(
                f"{predicted.path}, {clip}: {len(made)} frames for {len(true)}, or other numbers: {again}"
            )
        if (predicted.size[made] != frames.size[true]).any():
            (h, w), (height, width) = predicted.size[made[0]], frames.size[true[0]]
            raise RetakeError(f"{predicted.path}, {clip}: frames are {w}x{h}, the true ones {width}x{height}: {again}")


def _reads_flow(p: Params, name: str) -> bool:
    return name in p.models and p.models[name].flow is not None


def _build(p: Params, experiment: str, name: str) -> Metrics:
    """Return the functions of the experiment's metrics.

    Missing weights stop the experiment, or with `missing_weights: skip` the metric is left out.
    """
    from pipeline import weights

    e, registry = p.experiments[experiment], params.registry("metrics")
    metrics = Metrics()
    images = any(registry[m.kind].NEEDS not in ("flow", "fields") for m in e.metrics.values())
    device = compute.device(p) if images else "cpu"
    for key, metric in e.metrics.items():
        module = registry[metric.kind]
        if module.NEEDS == "flow" and not _reads_flow(p, name):
            metrics.skip(key, "the row's model reads no precomputed flow")
            continue
        try:
            for file in module.needs_weights(metric) if hasattr(module, "needs_weights") else []:
                weights.path(file, patient=e.missing_weights == "error")
        except weights.Missing as error:
            if e.missing_weights == "error":
                raise RetakeError(
                    f"metric {key}: {error}\nOr set experiments.{experiment}.missing_weights to skip: cells stay empty"
                ) from None
            log.warning("%s", error)  # its words differ with the network's mood: the scores hold only the fact
            metrics.skip(key, f"no weights {file}")
            continue
        metrics.functions.setdefault(module.NEEDS, {})[key] = module.build(metric, device)
    return metrics


def _describe(p: Params, experiment: str) -> dict[str, Any]:
    """Return what the table must know of each metric, so that it needs no metric's code."""
    registry = params.registry("metrics")
    return {
        key: {
            "label": _label(registry[metric.kind], metric),
            "better": registry[metric.kind].BETTER,
            "scale": registry[metric.kind].SCALE,
            "digits": getattr(registry[metric.kind], "DIGITS", 2),
            "needs": registry[metric.kind].NEEDS,
            "mean": getattr(registry[metric.kind], "MEAN", None),
            "settings": (told := registry[metric.kind].settings(metric)),
            "identity": hashlib.sha256(json.dumps([metric.kind, told], sort_keys=True).encode()).hexdigest()[:8],
        }
        for key, metric in p.experiments[experiment].metrics.items()
    }


def _label(module: Any, metric: Any) -> str:
    """Return the name of a metric's column: its own for these settings where it has one."""
    return str(module.label(metric)) if hasattr(module, "label") else str(module.LABEL)


def _true(frames: Store, row: int) -> np.ndarray:
    """Return a true frame without its padding."""
    height, width = frames.content[row]
    return frames.image(row)[:height, :width]


def _predictions(
    store: Store, key: str, samples: range, frames: Store, span: range
) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (sample, images (horizon, H, W, 3) float32 in [0,1]) for the true frames in the rows `span`, without padding."""
    at = {(int(store.sample[r]), int(store.frame[r])): r for r in store.clips[key]}
    size, (height, width) = tuple(frames.size[span[0]]), frames.content[span[0]]
    for sample in samples:
        images = []
        for step in range(1, len(span) + 1):
            image = store.image(at[sample, step])
            if image.shape != (*size, 3):
                raise RetakeError(
                    f"{store.path}, window {key}, step {step}: the image is {image.shape[1]}x{image.shape[0]}, "
                    f"the true frame {size[1]}x{size[0]}: predict at the size of the dataset"
                )
            images.append(image[:height, :width])
        yield sample, _unit(np.stack(images), f"{store.path}, window {key}, sample {sample}")


def _unit(images: np.ndarray, where: str) -> np.ndarray:
    """Return images as read-only float32 in [0,1]: integers by their range; floats are checked to be in it."""
    if images.dtype.kind == "u":
        unit = images.astype(np.float32) / np.float32(np.iinfo(images.dtype).max)
    else:
        unit = images.astype(np.float32)
        for step, image in enumerate(unit, start=1):
            if not (image.min() >= -SLACK and image.max() <= 1 + SLACK):  # NaN fails both
                raise RetakeError(
                    f"{where}, step {step}: values from {image.min()} to {image.max()}, [0,1] is needed: "
                    "look at the model that predicted this"
                )
    unit.flags.writeable = False  # metrics may remember what they know of these very arrays
    return unit


def _flow(store: Store, frames: Store, window: Window, protocol: Prediction) -> np.ndarray:
    """Return the flow between the last two context frames of a window, (H, W, 2) px."""
    clip, start = window
    frame = int(frames.frame[frames.clips[clip][start + protocol.first + protocol.context - 2]])
    rows = store.clips.get(clip, range(0))
    row = next((r for r in rows if store.frame[r] == frame), None)
    if row is None:
        raise RetakeError(
            f"{store.path} has no flow of {clip} frame {frame}: make it again with `snakemake {store.path}`"
        )
    return store.image(row)


def _write(output: Path, rows: list[Row], meta: dict[str, Any]) -> None:
    schema = pa.schema(
        [
            ("window", pa.string()),
            ("horizon", pa.int32()),
            ("sample", pa.int32()),
            ("metric", pa.string()),
            ("value", pa.float64()),
            ("weight", pa.float64()),
        ],
        metadata={"retake": json.dumps(meta, sort_keys=True)},
    )
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(schema)
    table = pa.table([pa.array(v, f.type) for v, f in zip(columns, schema, strict=True)], schema=schema)
    with atomic(output) as temporary:
        pq.write_table(table, temporary, compression="zstd")


if __name__ == "__main__":
    run(main, "score")
