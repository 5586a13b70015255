"""What the scores of all tasks share: the functions of an experiment's metrics, rows of values, true frames and their motion."""

from __future__ import annotations

import collections
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from pipeline import plan
from pipeline.errors import RetakeError, log
from pipeline.metrics import Undefined, temporal
from pipeline.params import Params
from pipeline.shards import WHOLE, Shard
from pipeline.sources import clips
from pipeline.store.frames import Store

Function = Callable[..., Any]
SHOWN = 3  # places without a value that are named


@dataclass
class Metrics:
    """An experiment's metrics: functions by what they NEED and by key, and why the others have no values."""

    functions: dict[str, dict[str, Function]] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    no_value: dict[str, str] = field(default_factory=dict)  # why a value may be NaN
    # of each metric: values that there are not, by where, "" if that is not told, and why
    lacking: dict[str, collections.Counter[tuple[str, str]]] = field(default_factory=dict)

    def of(self, needs: str) -> dict[str, Function]:
        """Return the functions of the metrics that need this."""
        return self.functions.get(needs, {})

    def skip(self, key: str, reason: str) -> None:
        """Go on without a metric."""
        for functions in self.functions.values():
            functions.pop(key, None)
        self.skipped[key] = reason
        log.warning("%s: no values: %s", key, reason)

    def lack(self, key: str, reason: str, count: int = 1, where: str = "") -> None:
        """Count values of a metric that there are not."""
        self.lacking.setdefault(key, collections.Counter())[where, reason] += count

    def reasons(self, key: str) -> str:
        """Return why values of a metric are not there, in words; of places a few are named."""
        lacking = self.lacking[key]
        named = [(where, reason) for where, reason in lacking if where][:SHOWN]
        told = [f"{where}: {reason}" if (where, reason) in named else reason for where, reason in lacking]
        return "; ".join(dict.fromkeys(told))

    def values(self, needs: str, where: str, *arguments: Any) -> Iterator[tuple[str, np.ndarray]]:
        """Yield (metric, values) of the metrics that need this; NaN is a value that there is not, counted in `lacking`."""
        for key, function in list(self.of(needs).items()):
            try:
                values = np.atleast_1d(function(*arguments))
            except Undefined as reason:
                count = len(arguments[0]) if needs == "frames" else 1
                self.lack(key, str(reason), count)
                yield key, np.full(count, np.nan)
                continue
            except RetakeError as error:
                raise RetakeError(f"{where}: {error}") from None
            if np.isnan(values).any():
                if key in self.no_value:
                    self.lack(key, self.no_value[key], int(np.isnan(values).sum()))
                    yield key, values
                    continue
                raise RetakeError(f"{key} of {where}: NaN at step {int(np.flatnonzero(np.isnan(values))[0]) + 1}")
            yield key, values


@dataclass
class Job:
    """What a task's `score` is given: one row of a table, its stores, and which part of its windows."""

    p: Params
    fields: plan.Fields
    frames: Store
    predicted: Store
    metrics: Metrics
    shard: Shard = WHOLE

    @property
    def protocol(self) -> Any:
        """The protocol of the row's experiment."""
        return self.p.protocols[self.p.experiments[self.fields["experiment"]].protocol]


def unit(images: np.ndarray, where: str) -> np.ndarray:
    """Return images as read-only float32 in [0,1]: integers by their range; floats are checked to be in it."""
    if images.dtype.kind != "u":
        for step, image in enumerate(images, start=1):
            if not (image.min() >= -clips.SLACK and image.max() <= 1 + clips.SLACK):  # NaN fails both
                raise RetakeError(
                    f"{where}, step {step}: values from {image.min()} to {image.max()}, [0,1] is needed: "
                    "look at the model that predicted this"
                )
    return clips.unit(images)


def true_frame(frames: Store, row: int) -> np.ndarray:
    """Return a true frame without its padding."""
    height, width = frames.content[row]
    return frames.image(row)[:height, :width]


def true_motion(frames: Store, clip: str, rows: range) -> Callable[[int], np.ndarray]:
    """Return the function of a row that gives the true motion from it to the next; estimated once for `rows`, and kept."""

    @functools.cache
    def kept() -> np.ndarray:
        content = f"{frames.identity} {clip} {rows.start} to {rows.stop}"
        return temporal.kept_motion(content, len(rows), lambda: (true_frame(frames, row) for row in rows))

    return lambda row: kept()[row - rows.start]


def reads_flow(p: Params, name: str) -> bool:
    """Return whether a row of a table is a model that reads precomputed flow."""
    return name in p.models and p.models[name].flow is not None
