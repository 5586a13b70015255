"""Rows of our own: scores in, means and bootstrap intervals out."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import plan
from pipeline.errors import RetakeError
from pipeline.params import Params
from pipeline.store.frames import Store
from pipeline.tables.cells import Cell, Column, Row, Windows

RESAMPLES, SEED, INTERVAL = 1000, 0, (2.5, 97.5)


def row(p: Params, experiment: str, name: str) -> Row:
    """Return the row of one model or of brought predictions, with its scores in `meta["values"]`.

    `values`: metric -> `Windows`; `weights`: metric -> window -> what it counts; `horizons`: metric -> window -> numbers of
    its steps or frames. Raises RetakeError for scores that are not whole or that were made from other predictions or
    metrics than today's.
    """
    e = p.experiments[experiment]
    path = plan.path("score", experiment=experiment, model=name)
    again = f"make it again with `snakemake {path}`"
    if not path.exists():
        raise RetakeError(f"no scores {path}: make them with `snakemake {path}`")
    table = pq.read_table(path)
    meta = json.loads((table.schema.metadata or {}).get(b"retake", b"null"))
    if meta is None:
        raise RetakeError(f"{path} holds no scores of this project: delete it and {again}")
    if set(meta["metrics"]) != set(e.metrics):
        raise RetakeError(f"{path} has scores of {', '.join(meta['metrics'])}, not of {', '.join(e.metrics)}: {again}")
    store = Store(plan.path("predict", experiment=experiment, model=name))
    if store.identity != meta["identity"]:
        raise RetakeError(f"{path} was made from other predictions than today's {store.path}: {again}")
    made = meta["predictions"]
    meta["values"], meta["weights"], meta["horizons"] = _pivot(table.to_pydict(), meta, path)
    notes = [f"{metric}: {reason}" for metric, reason in sorted(meta["skipped"].items())]
    notes += [f"{metric}: {told['note']}" for metric, told in sorted(meta.get("sets", {}).items())]
    if made.get("brought"):
        notes.insert(0, f"brought as {made['brought']}")
    facts = {
        "n": str(meta["windows"]),
        "samples": str(meta["samples"]),
        "parameters": "" if made["parameters"] is None else str(made["parameters"]),
        "gmacs": "" if made["gmacs"] is None else f"{made['gmacs']:.6g}",
        **{key: made[key][:12] for key in ("checkpoint", "data", "params")},
        "partial": made.get("partial") or "",
        "note": "; ".join(notes),
        "metrics": " ".join(f"{metric}:{about['identity']}" for metric, about in meta["metrics"].items()),
    }
    return Row(name, e.models.get(name, name), "measured", facts=facts, meta=meta)


def same_metrics(rows: list[Row]) -> None:
    """Raise RetakeError when two rows' values of a metric are not of the same kind, settings and versions."""
    first = rows[0]
    for row in rows[1:]:
        for metric, about in row.meta["metrics"].items():
            other = first.meta["metrics"][metric]
            if about["identity"] != other["identity"]:
                raise RetakeError(
                    f"{metric} of {row.name} is {about['settings']}, that of {first.name} {other['settings']}: they do not "
                    "compare. Score all rows again: `snakemake --forcerun score`"
                )


def _pivot(
    columns: dict[str, list[Any]], meta: dict[str, Any], path: Path
) -> tuple[dict[str, Windows], dict[str, dict[str, float]], dict[str, dict[str, list[int]]]]:
    """Return metric -> window -> values of long-form scores, and likewise weights and horizons."""
    cells: dict[str, dict[str, dict[tuple[int, int], float]]] = {}
    weights: dict[str, dict[str, float]] = {}
    for window, horizon, sample, metric, value, weight in zip(*columns.values(), strict=True):
        cells.setdefault(metric, {}).setdefault(window, {})[sample, horizon] = value
        weights.setdefault(metric, {})[window] = weight
    values: dict[str, Windows] = {}
    horizons: dict[str, dict[str, list[int]]] = {}
    for metric, windows in cells.items():
        horizons[metric] = {w: list(dict.fromkeys(h for _, h in found)) for w, found in windows.items()}
        values[metric] = {
            w: np.array(
                [
                    [found.get((s, h), math.nan) for h in horizons[metric][w]]
                    for s in dict.fromkeys(s for s, _ in found)
                ],
                np.float64,
            )
            for w, found in windows.items()
        }
    missing = []
    for metric, about in meta["metrics"].items():
        found = values.get(metric, {}).values()
        if sum(v.size for v in found) != about["values"] or any(np.isnan(v).any() for v in found):
            missing.append(metric)
    if missing:
        raise RetakeError(f"{path} lacks values of {', '.join(missing)}: make it again with `snakemake {path}`")
    empty = [metric for metric, found in weights.items() if not any(found.values())]
    if empty:
        raise RetakeError(f"{path}: no clip counts for {', '.join(empty)}: look at `clips` of those metrics")
    return values, weights, horizons


def fill(row: Row, columns: list[Column]) -> None:
    """Compute the cells of a measured row, and of a row with steps its values at each single step."""
    values, weights, abouts = row.meta["values"], row.meta["weights"], row.meta["metrics"]
    wanted: dict[Any, tuple[str, np.ndarray, np.ndarray]] = {}  # where to put it -> metric, units, what they count
    for column in columns:
        metric = column.metric
        if metric in values and (not column.window or column.window in values[metric]):
            wanted[column.name] = (metric, *column.units(values[metric], weights[metric]))
    for metric in dict.fromkeys(c.metric for c in columns if (c.k or c.steps) and c.metric in values):
        steps = np.stack(list(values[metric].values()))
        for step in range(steps.shape[2]):
            wanted[metric, step + 1] = (metric, steps[:, :, step], np.array(list(weights[metric].values())))
    for n in dict.fromkeys(len(units) for _, units, _ in wanted.values()):  # those of as many units share draws
        some = {where: cell for where, cell in wanted.items() if len(cell[1]) == n}
        scales = [abouts[metric]["scale"] for metric, _, _ in some.values()]
        stacked = np.stack(
            [s * units.mean(axis=1) for s, (_, units, _) in zip(scales, some.values(), strict=True)], axis=1
        )
        lows, highs = bootstrap(stacked, np.stack([weight for *_, weight in some.values()], axis=1))
        for (where, (metric, units, weight)), scale, *ends in zip(some.items(), scales, lows, highs, strict=True):
            samples = scale * (units * weight[:, None]).mean(axis=0) / weight.mean()
            mean = samples.mean()
            if abouts[metric]["mean"] == "decibel":  # of squared errors, whose mean is taken first
                samples, mean, *ends = (_decibel(x) for x in (samples, mean, *ends[::-1]))
            elif metric in row.meta.get(
                "sets", {}
            ):  # drawn over the set's samples: there is one value to draw from here
                ends = [scale * x for x in row.meta["sets"][metric]["interval"] or (math.nan, math.nan)]
            spread = samples.std(ddof=1) if len(samples) > 1 and np.isfinite(samples).all() else math.nan
            cell = Cell(float(mean), float(ends[0]), float(ends[1]), float(spread))
            if isinstance(where, tuple):
                row.steps[where] = cell
            else:
                row.cells[where] = cell


def _decibel(errors: Any) -> Any:
    """Return the PSNR of mean squared errors of images in [0,1]."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)


def bootstrap(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the 95 % percentile bootstrap intervals of the weighted means of columns (n, columns), over the rows.

    The same draws for the same n: rows of a table are compared on the same windows. Limits are means that were drawn,
    not interpolated, so infinite values do no harm; draws in which nothing counts are left out.
    """
    rng = np.random.default_rng(SEED)
    n = len(values)
    total, counted = values * weights, weights
    draws = [rng.integers(0, n, n) for _ in range(RESAMPLES)]
    with np.errstate(invalid="ignore"):
        means = np.stack([total[draw].mean(axis=0) / counted[draw].mean(axis=0) for draw in draws])
    low, high = np.nanpercentile(means, INTERVAL, axis=0, method="inverted_cdf")
    return low, high
