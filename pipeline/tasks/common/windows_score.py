"""Scores of predicted windows: every step of each, neighbouring steps, samples of a window, and whole sets."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from pipeline.errors import RetakeError, progress
from pipeline.metrics import Undefined, cache, frechet, mean, sets, temporal
from pipeline.store.frames import Store
from pipeline.store.scores import Row
from pipeline.tasks.common.score import Job, Metrics, true_frame, true_motion, unit
from pipeline.tasks.common.windows import Tested

AT_ONCE = 16  # frames that are read together for features


def score(
    job: Job,
    windows: list[Tested],
    settings: dict[str, Any],
    more: Callable[[Tested], Iterable[Row]] = lambda _: (),
) -> tuple[list[Row], dict[str, Any]]:
    """Return the values of the predictions of a part's windows, then of sets, and what the metadata says of them.

    `settings`: of the protocol, as the prediction store must have them; `more`: further values of a window.
    """
    frames, predicted, metrics = job.frames, job.predicted, job.metrics
    samples = check(predicted, frames, windows, settings)
    rows: list[Row] = []
    motion = _window_motion(frames, windows)
    for number in progress(job.shard.span(len(windows)), unit="window", desc=f"score {predicted.meta['model']}"):
        window = windows[number]
        name = window.name
        target = unit(np.stack([true_frame(frames, row) for row in window.rows]), f"{frames.path}, window {name}")
        for sample, images in _predictions(predicted, window, range(samples), frames):
            where = f"{predicted.path}, window {name}, sample {sample}"
            for metric, values in metrics.values("frames", where, images, target):
                rows += [(name, step + 1, sample, metric, float(v), 1.0) for step, v in enumerate(values)]
            for metric, value in _neighbours(metrics, where, images, target, motion(window)):
                rows.append((name, 0, sample, metric, value, 1.0))
        if metrics.of("samples"):
            drawn = np.stack([images for _, images in _predictions(predicted, window, range(samples), frames)])
            for metric, values in metrics.values("samples", f"{predicted.path}, window {name}", drawn):
                drop = job.p.experiments[job.fields["experiment"]].metrics[metric].drop  # type: ignore[attr-defined]
                kept = len(windows) if drop is None else frechet.kept(len(windows), drop)
                rows.append((name, 0, 0, metric, float(values[0]), float(number < kept)))
        rows += more(window)
    whole, facts = _of_sets(frames, predicted, windows, samples, metrics)
    return rows + whole, {"windows": len(windows), "samples": samples, "flow": [], "sets": facts}


def _neighbours(
    metrics: Metrics, where: str, images: np.ndarray, target: np.ndarray, motion: Callable[[int], temporal.Motion]
) -> Iterator[tuple[str, float]]:
    """Yield (metric, mean over neighbouring frames) of the metrics of pairs in a predicted clip."""
    region = (slice(None), slice(None))
    by_metric: dict[str, list[float]] = {}
    for step in range(len(images) - 1):
        pair = images[step : step + 2], target[step : step + 2]
        for metric, values in metrics.values("pairs", where, *pair, region, motion(step)):
            by_metric.setdefault(metric, []).append(float(values[0]))
    for metric, each in by_metric.items():
        yield metric, float(mean(np.array(each)))
    if len(images) < 2:
        for metric in list(metrics.of("pairs")):
            metrics.skip(metric, "two predicted frames are needed, the protocol has one")


def _of_sets(
    frames: Store, predicted: Store, windows: list[Tested], samples: int, metrics: Metrics
) -> tuple[list[Row], dict[str, Any]]:
    """Return one value a sample of the metrics of sets (window "", step 0), and by metric what its interval is made of.

    The true set is the targets of all windows, each frame as often as it is one. Features are kept; those of a true frame that
    several windows share are made once.
    """
    rows: list[Row] = []
    facts: dict[str, Any] = {}
    spans, steps = [window.rows for window in windows], len(windows[0].rows)
    numbers = {clip: number for number, clip in enumerate(frames.clips)}
    clips = np.array([numbers[window.clip] for window in windows])
    for metric, built in list(metrics.of("features").items()):
        distance: sets.Distance = built  # type: ignore[assignment]
        try:
            true = _true_features(distance, frames, spans)
            distances = [
                distance.distance(
                    _predicted_features(distance, frames, predicted, windows, sample),
                    true,
                    np.repeat(clips, steps) if distance.unit == "frames" else clips,
                )
                for sample in range(samples)
            ]
        except Undefined as reason:
            metrics.skip(metric, str(reason))
            continue
        except RetakeError as error:
            raise RetakeError(f"{metric} of {predicted.path}: {error}") from None
        rows += [("", 0, sample, metric, f.value, 1.0) for sample, f in enumerate(distances)]
        without = np.mean([f.without for f in distances], axis=0).tolist()
        first = distances[0]
        facts[metric] = {"note": first.note, "units": first.units, "sizes": first.sizes, "without": without}
    return rows, facts


def _true_features(distance: sets.Distance, frames: Store, spans: list[range]) -> Any:
    """Return the features of the targets: those of every frame, or of every window's clip."""
    if distance.unit == "clips":
        content = cache.digest(frames.identity.encode(), repr(spans).encode())
        return distance.rows(
            content,
            len(spans),
            lambda: (unit(np.stack([true_frame(frames, r) for r in span]), str(frames.path)) for span in spans),
        )
    targets = np.concatenate([np.array(span) for span in spans])
    needed = np.unique(targets)
    content = cache.digest(frames.identity.encode(), needed.tobytes())

    def images() -> Iterator[np.ndarray]:
        """Yield stacks of frames of one size."""
        changes = np.flatnonzero((np.diff(frames.content[needed], axis=0) != 0).any(axis=1)) + 1
        for same in np.split(needed, changes):
            for first in range(0, len(same), AT_ONCE):
                yield unit(
                    np.stack([true_frame(frames, int(row)) for row in same[first : first + AT_ONCE]]), str(frames.path)
                )

    base = distance.rows(content, len(needed), images)
    return cache.Taken(base, np.searchsorted(needed, targets))


def _predicted_features(
    distance: sets.Distance, frames: Store, predicted: Store, windows: list[Tested], sample: int
) -> np.ndarray:
    """Return the features of one sample of all predictions, window by window."""

    def images() -> Iterator[np.ndarray]:
        for window in progress(windows, unit="window", desc="features"):
            for _, stack in _predictions(predicted, window, range(sample, sample + 1), frames):
                yield stack

    content = f"{predicted.identity} sample {sample}"
    count = len(windows) * (1 if distance.unit == "clips" else len(windows[0].rows))
    return distance.rows(content, count, images)


def _window_motion(frames: Store, windows: list[Tested]) -> Callable[[Tested], Callable[[int], temporal.Motion]]:
    """Return the function of a window and a step that gives a function for the true motion from there to the next step."""
    reach: dict[str, range] = {}
    for window in windows:
        before = reach.get(window.clip, window.rows)
        reach[window.clip] = range(min(before.start, window.rows.start), max(before.stop, window.rows.stop))
    kept = {clip: true_motion(frames, clip, rows) for clip, rows in reach.items()}

    def motion(window: Tested) -> Callable[[int], temporal.Motion]:
        return lambda step: functools.partial(kept[window.clip], window.rows[step])

    return motion


def check(predicted: Store, frames: Store, windows: list[Tested], settings: dict[str, Any]) -> int:
    """Return the samples of each window; raise RetakeError unless the store has every window, step and sample once."""
    again = f"make it again with `snakemake {predicted.path}`"
    made = predicted.meta.get("protocol", {})
    other = {k: v for k, v in made.items() if settings[k] != v}
    if other:
        raise RetakeError(f"{predicted.path} was made with another protocol ({other}): {again}")
    if predicted.meta.get("data") != frames.identity:
        raise RetakeError(f"{predicted.path} was not made from today's {frames.path}: {again}")
    expected = {window.name: len(window.rows) for window in windows}
    missing = [name for name in expected if name not in predicted.clips]
    extra = [clip for clip in predicted.clips if clip not in expected]
    for what, wrong_windows in (("lacks", missing), ("has unknown", extra)):
        if wrong_windows:
            first_five = ", ".join(wrong_windows[:5]) + (", …" if len(wrong_windows) > 5 else "")
            raise RetakeError(
                f"{predicted.path} {what} {len(wrong_windows)} of {len(windows)} windows ({first_five}): {again}"
            )
    samples = int(predicted.meta["samples"])
    steps = len(windows[0].rows)
    whole = {(s, k) for s in range(samples) for k in range(1, steps + 1)}
    for clip, rows in predicted.clips.items():
        stored = [(int(predicted.sample[r]), int(predicted.frame[r])) for r in rows]
        if len(stored) != len(whole) or set(stored) != whole:
            wrong = sorted(whole ^ set(stored)) or sorted(x for x in whole if stored.count(x) > 1)
            raise RetakeError(
                f"{predicted.path}, window {clip}: expected {samples} samples of steps 1 to {steps}, "
                f"each once; wrong (sample, step): {', '.join(map(str, wrong[:5]))}; {again}"
            )
    return samples


def _predictions(store: Store, window: Tested, samples: range, frames: Store) -> Iterator[tuple[int, np.ndarray]]:
    """Yield (sample, images (steps, H, W, 3) float32 in [0,1]) of a window, without the true frames' padding."""
    rows = {(int(store.sample[r]), int(store.frame[r])): r for r in store.clips[window.name]}
    size, (height, width) = tuple(frames.size[window.rows[0]]), frames.content[window.rows[0]]
    for sample in samples:
        images = []
        for step in range(1, len(window.rows) + 1):
            image = store.image(rows[sample, step])
            if image.shape != (*size, 3):
                raise RetakeError(
                    f"{store.path}, window {window.name}, step {step}: the image is {image.shape[1]}x{image.shape[0]}, "
                    f"the true frame {size[1]}x{size[0]}: predict at the size of the dataset"
                )
            images.append(image[:height, :width])
        yield sample, unit(np.stack(images), f"{store.path}, window {window.name}, sample {sample}")
