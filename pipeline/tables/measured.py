"""Rows of our own: scores in, means and their intervals out."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np

from pipeline import plan
from pipeline.errors import RetakeError
from pipeline.metrics import left_out
from pipeline.params import Params
from pipeline.store import scores
from pipeline.store.frames import Store
from pipeline.tables import intervals
from pipeline.tables.cells import Cell, Column, Row, Windows, clips_of
from pipeline.tracking import flatten


def row(p: Params, experiment: str, name: str) -> Row:
    """Return the row of one model or of brought predictions, with its scores in `meta["values"]`, its predictions in `meta["store"]`.

    `values`: metric -> `Windows`; `weights`: metric -> window -> what it counts; `horizons`: metric -> window -> numbers of
    its steps or frames. Raises RetakeError for scores that are not whole or that were made from other predictions,
    metrics or by another protocol than today's.
    """
    e = p.experiments[experiment]
    path = plan.path("score", experiment=experiment, model=name)
    again = f"make it again with `snakemake {path}`"
    meta = read(path)
    if set(meta["metrics"]) != set(e.metrics):
        raise RetakeError(f"{path} has scores of {', '.join(meta['metrics'])}, not of {', '.join(e.metrics)}: {again}")
    store = Store(plan.path("predict", experiment=experiment, model=name))
    if store.identity != meta["identity"]:
        raise RetakeError(f"{path} was made from other predictions than today's {store.path}: {again}")
    made, protocol = meta["predictions"], p.protocols[e.protocol].model_dump(mode="json")
    other = {key: value for key, value in made.get("protocol", {}).items() if protocol.get(key, value) != value}
    if other:
        today = {key: protocol[key] for key in other}
        raise RetakeError(f"{path} is of another protocol ({other}, {e.protocol} has {today}): {again}")
    notes = [f"{metric}: {reason}" for metric, reason in sorted(meta["skipped"].items())]
    for metric, windows in meta["values"].items():
        told = left_out(windows.flat, meta["lacking"].get(metric))
        notes += [f"{metric}: {told}"] if told else []
    notes += [f"{metric}: {told['note']}" for metric, told in sorted(meta.get("sets", {}).items())]
    if made.get("brought"):
        notes.insert(0, f"brought as {made['brought']}")
    facts = {
        "n": str(meta["windows"]),
        "samples": str(meta["samples"]),
        "parameters": "" if made["parameters"] is None else str(made["parameters"]),
        "gmacs": "" if made["gmacs"] is None else f"{made['gmacs']:.6g}",
        **_lineage(p, experiment, name, store),
        **{key: made[key][:12] for key in ("checkpoint", "data", "params")},
        "trainings": "1" if name in p.models and p.models[name].train is not None else "",
        "partial": made.get("partial") or "",
        "note": "; ".join(notes),
        "metrics": " ".join(f"{metric}:{about['identity']}" for metric, about in meta["metrics"].items()),
    }
    meta |= {"note": facts["note"], "store": store}
    return Row(name, (e.models | e.labels).get(name, name), "measured", facts=facts, meta=meta)


def read(path: Path) -> dict[str, Any]:
    """Return what a score file says, with its values as in `row`; raises RetakeError where it is damaged or not whole."""
    columns, meta = scores.read(path)
    meta["values"], meta["weights"], meta["horizons"] = _pivot(columns, meta, path)
    return meta


def _lineage(p: Params, experiment: str, name: str, store: Store) -> dict[str, str]:
    """Return in words what a row rests on beside its digests: the frames' size, the flow that it read, its training.

    Training is told by all its settings: what shortened it or left a loss out is among them.
    """
    e, made = p.experiments[experiment], store.meta
    frames = Store(made["frames"])
    sizes = [f"{width}x{height}" for height, width in np.unique(frames.size, axis=0)]
    most = f"{len(sizes)} sizes from {sizes[0]} to {sizes[-1]}" if len(sizes) > 2 else " and ".join(sizes)
    told = {
        "frames": f"`{e.dataset}` at {most}, where resized by {frames.meta.get('resize')}",
        "size": most,
        "flow": "",
        "training": "",
    }
    model = p.models.get(name)
    if model is None:
        return told
    if model.flow is not None and made.get("flow") != "":  # animation's models may draw their motion instead
        estimator = p.models[model.flow]
        predict = estimator.predict.model_dump(mode="json") if estimator.predict is not None else {}
        settings = ": ".join(
            [estimator.kind, *filter(None, [", ".join(f"{k} {v}" for k, v in flatten(predict).items())])]
        )
        of = f" of `{model.flow_of}`" if model.flow_of is not None else ""
        told["flow"] = f"by `{model.flow}` ({settings}){of}, {str(made.get('flow', ''))[:12]}"
    if model.checkpoint is not None:
        told["training"] = f"imported from {model.checkpoint}"
    elif model.train is not None:
        recipe = flatten(model.train.model_dump(mode="json"))
        told["training"] = f"on `{e.trained_on}`, " + ", ".join(
            f"{k} {'none' if v is None else v}" for k, v in recipe.items()
        )
    return told


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
    columns: dict[str, np.ndarray], meta: dict[str, Any], path: Path
) -> tuple[dict[str, Windows], dict[str, dict[str, float]], dict[str, dict[str, list[int]]]]:
    """Return metric -> window -> values of long-form scores, and likewise weights and horizons."""
    values: dict[str, Windows] = {}
    weights: dict[str, dict[str, float]] = {}
    horizons: dict[str, dict[str, list[int]]] = {}
    for metric in dict.fromkeys(columns["metric"].tolist()):
        of_metric = columns["metric"] == metric
        part = {name: columns[name][of_metric] for name in ("window", "horizon", "sample", "value")}
        windows = part["window"].tolist()
        weights[metric] = dict(zip(windows, columns["weight"][of_metric].tolist(), strict=True))
        values[metric], horizons[metric] = _even(part, len(weights[metric])) or _uneven(part)
    missing = []
    for metric, about in meta["metrics"].items():
        every = values.get(metric, Windows()).flat
        if every.size != about["values"] or (metric not in meta["lacking"] and np.isnan(every).any()):
            missing.append(metric)
    if missing:
        raise RetakeError(f"{path} lacks values of {', '.join(missing)}: make it again with `snakemake {path}`")
    empty = [metric for metric, filled in weights.items() if not any(filled.values())]
    if empty:
        raise RetakeError(f"{path}: no clip counts for {', '.join(empty)}: look at `clips` of those metrics")
    return values, weights, horizons


def _even(part: dict[str, np.ndarray], count: int) -> tuple[Windows, dict[str, list[int]]] | None:
    """Return the values and horizons of a metric's `count` windows, each with the same steps of the same samples in order; None
    where they are not so.
    """
    if len(part["value"]) % count:
        return None
    window, horizon, sample = (part[name].reshape(count, -1) for name in ("window", "horizon", "sample"))
    steps, samples = list(dict.fromkeys(horizon[0].tolist())), list(dict.fromkeys(sample[0].tolist()))
    if len(steps) * len(samples) != horizon.shape[1]:
        return None
    even = (window == window[:, :1]).all() and (horizon == np.tile(steps, len(samples))).all()
    if not even or not (sample == np.repeat(samples, len(steps))).all():
        return None
    names = window[:, 0].tolist()
    values = part["value"].reshape(count, len(samples), len(steps))
    return Windows(zip(names, values, strict=True)), dict.fromkeys(names, steps)


def _uneven(part: dict[str, np.ndarray]) -> tuple[Windows, dict[str, list[int]]]:
    """Return the values, NaN for what is missing, and the horizons of a metric's windows, whatever they have."""
    windows: dict[str, dict[tuple[int, int], float]] = {}
    for window, horizon, sample, value in zip(*(column.tolist() for column in part.values()), strict=True):
        windows.setdefault(window, {})[sample, horizon] = value
    horizons = {w: list(dict.fromkeys(h for _, h in cells)) for w, cells in windows.items()}
    values = {
        w: np.array([[cells.get((s, h), math.nan) for h in horizons[w]] for s in dict.fromkeys(s for s, _ in cells)])
        for w, cells in windows.items()
    }
    return Windows(values), horizons


def fill(row: Row, columns: list[Column], over: str) -> None:
    """Compute the cells of a measured row, and of a row with steps its values at each single step.

    `over`: what the row's windows are called. The row's facts then say what the units of its intervals are.
    """
    values, weights = row.meta["values"], row.meta["weights"]
    clips = "scenes" if over == "scenes" else "clips"
    for column in columns:
        metric = column.metric
        if metric in values and (not column.window or column.window in values[metric]):
            names = ("frames" if column.window else over, clips)
            row.cells[column.name] = _cell(row, metric, *row.averaged(column), names)
    for metric in dict.fromkeys(c.metric for c in columns if (c.k or c.steps) and c.metric in values):
        steps, counts = values[metric].stacked, np.array(list(weights[metric].values()))
        assert steps is not None, "windows of tasks with steps have the same ones"
        for step in range(steps.shape[2]):
            cell = _cell(row, metric, steps[:, :, step], counts, list(values[metric]), (over, clips))
            row.steps[metric, step + 1] = cell
    _tell_units(row)


def together(rows: list[Row]) -> Row:
    """Return one row of filled rows that are trainings of one model: means over them, with intervals over trainings.

    `meta["values"]` has all trainings' values, as if they were further draws; those of single trainings stay in the cells.
    """
    first = rows[0]
    if len(rows) == 1:
        return first
    row = Row(first.name, first.label, "measured", facts=dict(first.facts), meta=dict(first.meta))
    for key in ("cells", "steps"):
        for name in dict.fromkeys(name for r in rows for name in getattr(r, key)):
            having = [cell for r in rows if not math.isnan((cell := getattr(r, key).get(name, Cell())).mean)]
            trainings = [cell.mean for cell in having]
            interval = intervals.of_trainings(trainings)
            told = "" if len(having) == len(rows) else f"{len(having)} of {len(rows)} trainings have a value"
            getattr(row, key)[name] = Cell(
                float(np.mean(trainings)) if having else math.nan, interval.low, interval.high,
                having[0].spread if having else math.nan, unit=interval.unit, units=interval.units,
                note="; ".join(filter(None, [interval.note, told])), trainings=trainings,
            )  # fmt: skip
    for key in ("values", "weights", "horizons", "sets"):  # of a metric that the first has no value of, another's
        row.meta[key] = {metric: told for r in reversed(rows) for metric, told in r.meta.get(key, {}).items()}
    row.meta["values"] = {
        metric: Windows(
            {w: np.concatenate([v[metric][w] for r in rows if metric in (v := r.meta["values"])]) for w in windows}
        )
        for metric, windows in row.meta["values"].items()
    }
    row.meta["sets"] = {
        metric: told
        | {"without": np.mean([s[metric]["without"] for r in rows if metric in (s := r.meta["sets"])], axis=0).tolist()}
        for metric, told in row.meta["sets"].items()
    }
    for key in ("checkpoint", "params"):
        row.facts[key] = " ".join(dict.fromkeys(r.facts[key] for r in rows))
    row.facts |= {"trainings": str(len(rows)), "unit": "trainings", "units": str(len(rows))}
    notes = {r.name: r.meta["note"] for r in rows}
    alike = len(set(notes.values())) == 1
    own = [first.meta["note"]] if alike else [f"{name}: {note}" for name, note in notes.items() if note]
    row.facts["note"] = "; ".join(filter(None, [f"mean of {len(rows)} trainings that differ in their seed", *own]))
    return row


def _cell(
    row: Row, metric: str, averaged: np.ndarray, counts: np.ndarray, windows: list[str], names: tuple[str, str]
) -> Cell:
    """Return the mean of what is averaged, (n, samples), with its interval; samples are averaged before the interval.

    `counts`: what each counts, (n,); `windows`: of which window each is; `names`: what is averaged, what clips are called.
    """
    whole = np.isfinite(averaged).all(axis=1) & (counts > 0)
    if not whole.any():
        infinite = np.isinf(averaged).any()
        return Cell(
            math.inf if infinite else math.nan, note="a value is infinite" if infinite else "there are no values"
        )
    averaged, counts = averaged[whole], counts[whole]
    clips = windows if names[1] == "scenes" else clips_of(tuple(windows))
    if not whole.all():
        clips = list(itertools.compress(clips, whole))
    about, scale = row.meta["metrics"][metric], row.meta["metrics"][metric]["scale"]
    samples = scale * (averaged * counts[:, None]).mean(axis=0) / counts.mean()
    mean = float(samples.mean())
    if metric in row.meta.get("sets", {}):
        told = row.meta["sets"][metric]
        interval = intervals.of_set(mean, [scale * value for value in told["without"]], told["sizes"], told["units"])
    else:
        overlap = row.meta["predictions"]["protocol"].get("window", 2)  # neighbouring pairs share a frame
        interval = intervals.of_mean(scale * averaged.mean(axis=1), counts, clips, overlap=overlap, names=names)
    low, high = interval.low, interval.high
    if about["mean"] == "decibel":  # of squared errors, whose mean is taken first
        half = 10 / math.log(10) * (high - low) / 2 / mean if mean else math.nan  # to first order
        samples, mean = _decibel(samples), float(_decibel(mean))
        low, high = mean - half, mean + half
    elif about["better"] == "lower" and low < 0:  # no error or distance is negative
        low = 0.0
    spread = float(samples.std(ddof=1)) if len(samples) > 1 and np.isfinite(samples).all() else math.nan
    note = interval.note or ("the mean is infinite" if math.isnan(low) else "")
    return Cell(mean, low, high, spread, unit=interval.unit, units=interval.units, note=note)


def _tell_units(row: Row) -> None:
    """Put the units of a row's intervals among its facts, those of the first cell; into its note what is otherwise."""
    first = next((cell for cell in row.cells.values() if cell.unit), Cell())
    row.facts |= {"unit": first.unit, "units": str(first.units) if first.unit else ""}
    notes: dict[str, list[str]] = {}
    for name, cell in row.cells.items():
        if math.isnan(cell.low):
            notes.setdefault(f"no interval: {cell.note}", []).append(name)
        elif (cell.unit, cell.units) != (first.unit, first.units) or cell.note:
            notes.setdefault(f"interval over {cell.units} {cell.unit}: {cell.note}", []).append(name)
    told = [note if len(names) == len(row.cells) else f"{', '.join(names)}: {note}" for note, names in notes.items()]
    row.facts["note"] = "; ".join([note for note in (row.facts["note"], *told) if note])


def _decibel(errors: Any) -> Any:
    """Return the PSNR of mean squared errors of images in [0,1]."""
    with np.errstate(divide="ignore"):
        return -10 * np.log10(errors)
