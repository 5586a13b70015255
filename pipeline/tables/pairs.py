"""Differences between two rows of a table on the same windows: how large, how sure, and which rows are as good as the best.

Two rows of one table were measured on the same windows, and windows that are hard for one model are mostly hard for the
other. So the interval of their difference is that of the windows' differences, not what their own intervals suggest: two
rows whose intervals overlap may still differ beyond doubt. The units are those of `intervals.py`.

Where rows are means over trainings, a second source of chance is added: their error is √(error² over windows + error² over
trainings), its degrees of freedom are Satterthwaite's (1946, An approximate distribution of estimates of variance components).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.special import stdtr

from pipeline.errors import RetakeError
from pipeline.tables import intervals
from pipeline.tables.cells import Cell, Column, Row, clips_of
from pipeline.tables.intervals import Interval

_EMPTY = Cell()
ALPHA = 1 - intervals.LEVEL  # a row is worse than the best where chance alone makes such a difference less often


class Difference(NamedTuple):
    """Row `one` minus row `other` in a column: the difference of their means, its 95 % interval, and the test against 0.

    `p`: how often chance alone makes a difference at least as large, NaN where there is no interval; `holm`: the same after
    Holm's correction for all comparisons of the table. `note`: what must be said of the interval, or why there is none.
    """

    column: str
    one: str
    other: str
    mean: float
    low: float
    high: float
    p: float
    unit: str
    units: int
    note: str = ""
    holm: float = math.nan


def difference(one: Row, other: Row, column: Column, over: str) -> Difference | None:
    """Return what the first row has more than the second in a column; None where one of them has no value there.

    `over`: what the rows' windows are called. Raises RetakeError when the rows' metrics or windows are not the same.
    """
    metric = column.metric
    cells = one.cells.get(column.name, _EMPTY), other.cells.get(column.name, _EMPTY)
    if not all(math.isfinite(cell.mean) for cell in cells):
        return None
    abouts = one.meta["metrics"][metric], other.meta["metrics"][metric]
    if abouts[0]["identity"] != abouts[1]["identity"]:
        raise RetakeError(
            f"{metric} of {one.label} is {abouts[0]['settings']}, that of {other.label} {abouts[1]['settings']}: they do not compare"
        )
    mean = cells[0].mean - cells[1].mean
    if metric in one.meta.get("sets", {}):
        interval = _of_sets(one, other, metric, mean)
    else:
        mean, interval = _of_means(one, other, column, over, mean)
    trainings = [len(cell.trainings) for cell in cells]
    if max(trainings) > 1:
        interval = _with_trainings(interval, mean, cells[0].trainings, cells[1].trainings)
    p = 2 * float(stdtr(interval.freedom, -abs(mean) / interval.error)) if interval.error > 0 else math.nan
    if interval.error == 0:
        p = 1.0 if mean == 0 else 0.0
    return Difference(
        column.name,
        one.name,
        other.name,
        mean,
        interval.low,
        interval.high,
        p,
        interval.unit,
        interval.units,
        interval.note,
    )


def _of_means(one: Row, other: Row, column: Column, over: str, mean: float) -> tuple[float, Interval]:
    """Return the difference of two means over the same windows, and its interval.

    `mean`: the difference of the cells. Where one row has no value for a window that the other has one for, the cells are means
    of other windows than these: then it is that over the windows of both.
    """
    metric, clips_named = column.metric, "scenes" if over == "scenes" else "clips"
    about, sides = one.meta["metrics"][metric], []
    for row in (one, other):
        averaged, counts, windows = row.averaged(column)
        sides.append((averaged.mean(axis=1), counts, windows))
    (a, counts, windows), (b, _, others) = sides
    if windows != others:
        raise RetakeError(
            f"{one.label} and {other.label} were not measured on the same {over}: {len(set(windows) ^ set(others))} of them differ"
        )
    whole = np.isfinite(a) & np.isfinite(b) & (counts > 0)
    if not whole.any():
        return math.nan, Interval(math.nan, math.nan, over, 0, f"no {over} has a value of both")
    alike = (np.isfinite(a) == np.isfinite(b))[counts > 0].all()
    a, b, counts = a[whole], b[whole], counts[whole]
    weights = counts / counts.sum()
    if not alike and about["mean"] == "decibel":
        mean = -10 * math.log10((a @ weights) / (b @ weights))
    elif not alike:
        mean = about["scale"] * float((a - b) @ weights)
    if about["mean"] == "decibel":  # of squared errors: to first order, as the cells' own intervals
        differences = -10 / math.log(10) * (a / (a @ weights) - b / (b @ weights)) + mean
    else:
        differences = about["scale"] * (a - b)
    clips = windows if over == "scenes" else clips_of(tuple(windows))
    if not whole.all():
        clips = list(itertools.compress(clips, whole))
    overlap = one.meta["predictions"]["protocol"].get("window", 2)
    names = ("frames" if column.window else over, clips_named)
    interval = intervals.of_mean(differences, counts, clips, overlap=overlap, names=names)
    told = "" if alike else f"of the {whole.sum()} of {len(whole)} {names[0]} that have values of both"
    return mean, interval._replace(note="; ".join(filter(None, [interval.note, told])))


def _of_sets(one: Row, other: Row, metric: str, mean: float) -> Interval:
    """Return the interval of the difference of two sets' values, by the jackknife over the units of both."""
    told = one.meta["sets"][metric], other.meta["sets"][metric]
    if told[0]["sizes"] != told[1]["sizes"] or len(told[0]["without"]) != len(told[1]["without"]):
        return Interval(math.nan, math.nan, told[0]["units"], 0, "the two sets are not of the same units")
    scale = one.meta["metrics"][metric]["scale"]
    without = [scale * (a - b) for a, b in zip(told[0]["without"], told[1]["without"], strict=True)]
    return intervals.of_set(mean, without, told[0]["sizes"], told[0]["units"])


def _with_trainings(interval: Interval, mean: float, one: Sequence[float], other: Sequence[float]) -> Interval:
    """Return the interval of a difference of means over trainings, with what other seeds would have made of it."""
    parts = [(interval.error**2, interval.freedom)] if math.isfinite(interval.error) else []
    parts += [
        (float(np.var(values, ddof=1)) / len(values), len(values) - 1.0) for values in (one, other) if len(values) > 1
    ]
    variance = sum(part for part, _ in parts)
    denominator = sum(part**2 / freedom for part, freedom in parts)
    if not parts or math.isnan(interval.error):
        return interval
    freedom = variance**2 / denominator if denominator > 0 else interval.freedom
    error = math.sqrt(variance)
    half = intervals.quantile(freedom) * error
    unit = f"{interval.unit} and {max(len(one), len(other))} trainings"
    return interval._replace(low=mean - half, high=mean + half, unit=unit, error=error, freedom=freedom)


def holm(p: Sequence[float]) -> list[float]:
    """Return p values after Holm's correction (1979, A simple sequentially rejective multiple test procedure); NaN stays.

    Rejecting those up to 5 % then rejects a true hypothesis anywhere among them in at most 5 % of tables.
    """
    order = sorted((i for i, value in enumerate(p) if not math.isnan(value)), key=lambda i: p[i])
    adjusted, largest = [math.nan] * len(p), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def from_best(rows: Sequence[Row], columns: Sequence[Column], over: str) -> list[Difference]:
    """Return, column by column, how every measured row differs from the column's best; p values are corrected over them all."""
    differences = []
    for column in columns:
        measured = [r for r in rows if r.measured and math.isfinite(r.cells.get(column.name, _EMPTY).mean)]
        if not measured:
            continue
        choose = max if column.about["better"] == "higher" else min
        best = choose(measured, key=lambda row: row.cells[column.name].mean)
        made = [difference(row, best, column, over) for row in measured if row is not best]
        differences += [d for d in made if d is not None]
    return [d._replace(holm=p) for d, p in zip(differences, holm([d.p for d in differences]), strict=True)]
