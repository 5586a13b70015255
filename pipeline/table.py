"""The table of an experiment: scores of every row in, the paper's table beside its published numbers out.

    python -m pipeline.table --experiment kitti
    python -m pipeline.table --experiment kitti --show      # print what is there, make nothing

Out, in results/: `<experiment>_metrics.csv`, `.md`, `.tex`; `<experiment>_steps.csv`, the values of each single step;
`<experiment>_speed.csv`; `<experiment>.png`. A column `<metric>_t<k>` is the mean over windows, samples and the first k
steps (DMVFN's "t+k" is this cumulative mean), times the metric's scale; `_low` and `_high` are its 95 % percentile
bootstrap interval over windows, `_spread` the standard deviation between samples (routing draws). Metrics of whole
windows (EPE) have one column.

Super-resolution has no steps: a column `<metric>` is the mean of the scenes' means (FolderAvg), `<metric>_frames` that of
all their frames (FrameAvg), both with intervals over scenes; `<metric>_<scene>` is one scene's, with its interval over its
frames. `<experiment>_steps.csv` then has the values of single frames. Rows whose source is `measured` come first, then those of results/published/.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import params, plan, tracking
from pipeline.errors import RetakeError, log, run
from pipeline.params import Experiment, Params
from pipeline.store.atomic import write_text
from pipeline.store.frames import Store

PUBLISHED = Path("results/published")
RESAMPLES, SEED, INTERVAL = 1000, 0, (2.5, 97.5)
MILLIONS = {"1e6": 10**6, "million": 10**6}
PARTS = ("low", "high", "spread")
SPEED = ("ms_per_frame", "frames_per_s", "peak_memory_mib", "device", "threads", "batch")
FITS = {  # how frames came to the size that a dataset's entry says
    "resize": "resized without regard to their aspect ratio (OpenCV, linear)",
    "antialiased": "resized without regard to their aspect ratio (Pillow, bilinear with antialiasing)",
    "pad": "scaled down where they do not fit, then padded by their last column and row; padding is not scored",
}
FACTS = ("n", "samples", "parameters", "gmacs", "checkpoint", "data", "params", "partial", "note", "metrics")


@dataclass
class Cell:
    """One mean; for published values only `text`, as printed."""

    mean: float = math.nan
    low: float = math.nan
    high: float = math.nan
    spread: float = math.nan
    text: str = ""


@dataclass
class Row:
    """One row of the table: cells by column name, facts as the CSV prints them."""

    name: str
    label: str
    source: str
    cells: dict[str, Cell] = field(default_factory=dict)
    steps: dict[tuple[str, int], Cell] = field(default_factory=dict)
    facts: dict[str, str] = field(default_factory=dict)
    meta: dict[str, Any] = field(default_factory=dict)

    @property
    def measured(self) -> bool:
        """Whether the row is ours."""
        return self.source == "measured"


Windows = dict[str, np.ndarray]  # of one metric: window -> (samples, steps or frames) float64


@dataclass
class Column:
    """One column of means: its name in the CSV, its metric's key and description, and what it is the mean of.

    `k`: the first k steps of all windows (0: all that a window has). `pooled`: windows count by their number of values.
    `window`: the values of this one window alone. `group`: heading of the table for people that it stands in; the first is "".
    """

    name: str
    metric: str
    about: dict[str, Any]
    k: int = 0
    pooled: bool = False
    window: str = ""
    group: str = ""

    @property
    def title(self) -> str:
        """The column's name for people."""
        return f"{self.about['label']} t+{self.k}" if self.k else str(self.about["label"])

    def units(self, values: Windows, weights: dict[str, float]) -> tuple[np.ndarray, np.ndarray]:
        """Return what is averaged, (n, samples), and what each counts, (n,): windows, or the values of one window."""
        if self.window:
            one = values[self.window].T
            return one, np.ones(len(one))
        means = np.stack([v[:, : self.k or None].mean(axis=1) for v in values.values()])
        return means, np.array([v.shape[1] if self.pooled else weights[w] for w, v in values.items()], np.float64)

    def short(self, value: float) -> str:
        """Return a value of the column for people."""
        return "" if math.isnan(value) else f"{value:.{self.about['digits']}f}"


@dataclass
class Layout:
    """What differs between the tables of tasks."""

    columns: Callable[[Experiment, dict[str, Any]], list[Column]]  # of the experiment and the metadata of its scores
    tested: Callable[[Experiment, dict[str, Any]], str]  # the sentence on the test set and what cells are
    single: Callable[[list[Row]], str]  # <experiment>_steps.csv
    over: str  # what intervals are over


def main() -> None:
    """Parse the command line; make the table, or show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", required=True, help="entry of `experiments` in params.yaml")
    parser.add_argument("--show", action="store_true", help="print the table that is there and where to look")
    args = parser.parse_args()
    p = params.load()
    if args.show:
        print(show(p, args.experiment))
    else:
        make(p, args.experiment)


def make(p: Params, experiment: str) -> None:
    """Write all files of one experiment's table."""
    from pipeline import view

    fields = plan.fields_of(p, "table", experiment=experiment)
    e, protocol = p.experiments[experiment], p.protocols[fields["protocol"]]
    layout = LAYOUTS[protocol.task]
    rows = [measured(p, experiment, name) for name in (*e.models, *e.predictions)]
    _same_metrics(rows)
    columns = layout.columns(e, rows[0].meta)
    for row in rows:
        fill(row, columns)
    rows += published(e, columns)

    outputs = [Path(o.format(**fields)) for o in plan.OUTPUTS["table"]]
    table, markdown, latex, steps, speed, picture = outputs
    write_text(table, metrics_csv(rows, columns))
    write_text(markdown, as_markdown(experiment, e, rows, columns, layout))
    write_text(latex, as_latex(experiment, rows, columns))
    write_text(steps, layout.single(rows))
    write_text(speed, speed_csv(experiment, e))
    ours = {row.label: row.name for row in rows if row.measured}
    stores = {label: Store(plan.path("predict", experiment=experiment, model=name)) for label, name in ours.items()}
    frames = Store(fields["frames"])
    if protocol.task == "flow":
        view.flow_picture(frames, Store(fields["truth"]), stores, picture)
    elif protocol.task == "super_resolution":
        low = Store(fields["low"]) if fields["low"] != fields["frames"] else None
        view.scene_picture(frames, low, stores, picture)
    else:
        view.picture(frames, stores, protocol, picture)
    _mirror(p, fields, rows, columns, [table, markdown, picture])
    log.info("wrote %s", ", ".join(map(str, outputs)))


def measured(p: Params, experiment: str, name: str) -> Row:
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


def _same_metrics(rows: list[Row]) -> None:
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
    for metric in dict.fromkeys(c.metric for c in columns if c.k and c.metric in values):
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


# The tasks


def _steps(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return a column for each metric and step of `report`; one for metrics of whole windows."""
    columns = []
    for metric in e.metrics:
        about = meta["metrics"][metric]
        for k in e.report if about["needs"] == "frames" else [0]:
            columns.append(Column(f"{metric}_t{k}" if k else metric, metric, about, k))
    return columns


def _means(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return one column a metric."""
    return [Column(metric, metric, meta["metrics"][metric]) for metric in e.metrics]


def _scenes(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return FolderAvg of every metric, then FrameAvg of every metric, then all metrics scene by scene."""
    abouts = {metric: meta["metrics"][metric] for metric in e.metrics}
    scenes = dict.fromkeys(w for values in meta["values"].values() for w in values)
    columns = _means(e, meta)
    columns += [Column(f"{m}_frames", m, a, pooled=True, group="All frames (FrameAvg)") for m, a in abouts.items()]
    for scene in scenes:
        tail = re.sub(r"[^A-Za-z0-9]+", "_", scene)
        columns += [Column(f"{m}_{tail}", m, about, window=scene, group=scene) for m, about in abouts.items()]
    return columns


def _about_windows(e: Experiment, meta: dict[str, Any]) -> str:
    protocol = meta["predictions"]["protocol"]
    return (
        f"{meta['windows']} windows of {protocol['window']} frames; the models see {protocol['context']} frames from "
        f"index {protocol['first']} and predict {protocol['horizon']}. t+k is the mean over the first k steps, as published"
    )


def _about_pairs(e: Experiment, meta: dict[str, Any]) -> str:
    return f"{meta['windows']} pairs with ground truth"


def _about_scenes(e: Experiment, meta: dict[str, Any]) -> str:
    made = meta["predictions"]
    protocol = made["protocol"]
    border = "a centred part with sides that are multiples of 32" if protocol["border"] == "cropped" else "whole frames"
    return (
        f"{meta['windows']} scenes, upscaled by 4 from low resolution ({made['input']}) and saved as 8 bits "
        f"({protocol['saved']}). Scored: {border}, without the {protocol['trim']} frames at either end of a scene. Cells are "
        'means of the scenes\' means (FolderAvg), "frames" those of all frames (FrameAvg); which of the two published '
        "numbers are is not established, they stand under the first. Intervals of single scenes are over their frames, "
        "which resemble each other: they are too narrow"
    )


def steps_csv(rows: list[Row]) -> str:
    """Return the values of each single step, one a line: not cumulative, unlike the table's t+k."""
    lines = [
        {"model": row.label, "metric": metric, "step": str(step)}
        | {part: _digits(getattr(cell, part)) for part in ("mean", *PARTS)}
        | {"n": row.facts["n"], "samples": row.facts["samples"]}
        for row in rows
        for (metric, step), cell in row.steps.items()
    ]
    return _csv(["model", "metric", "step", "mean", *PARTS, "n", "samples"], lines)


def frames_csv(rows: list[Row]) -> str:
    """Return the value of each frame of each scene, one a line."""
    lines = [
        {"model": row.label, "metric": metric, "scene": scene, "frame": str(frame), "value": _digits(value * scale)}
        for row in rows
        if row.measured
        for metric, scenes in row.meta["values"].items()
        for scale in [row.meta["metrics"][metric]["scale"]]
        for scene, values in scenes.items()
        for frame, value in zip(row.meta["horizons"][metric][scene], values[0], strict=True)
    ]
    return _csv(["model", "metric", "scene", "frame", "value"], lines)


LAYOUTS = {
    "prediction": Layout(_steps, _about_windows, steps_csv, "windows"),
    "flow": Layout(_means, _about_pairs, steps_csv, "pairs"),
    "super_resolution": Layout(_scenes, _about_scenes, frames_csv, "scenes"),
}


def published(e: Experiment, columns: list[Column]) -> list[Row]:
    """Return the rows of results/published/*.csv for the experiment's `published` dataset, methods in their order.

    A published metric stands under the experiment's metric of that name (MS-SSIM under `ms_ssim`), values as printed;
    where `published` names a dataset for a metric, under that one, whose name begins with it (EPE under `epe_clean`);
    what is no number ("N/A", "not established") leaves its cell empty and is said in the row's note.
    """
    if e.published is None:
        return []
    files = sorted(PUBLISHED.glob("*.csv"))
    lines = [line for file in files for line in csv.DictReader(file.read_text().splitlines())]
    wanted = e.published if isinstance(e.published, dict) else {"": e.published}
    entries = []
    for key, dataset in wanted.items():
        found = [line | {"column": key} for line in lines if line["dataset"] == dataset]
        if not found:
            known = ", ".join(dict.fromkeys(line["dataset"] for line in lines)) or "no rows"
            raise RetakeError(f"no published row of dataset {dataset!r} in {PUBLISHED}/*.csv (known: {known})")
        entries += found
    methods = {(x["paper"], x["method"]) for x in entries}  # a network's size has no dataset
    entries += [x | {"column": ""} for x in lines if x["dataset"] == "-" and (x["paper"], x["method"]) in methods]
    scales = {c.name: c.about["scale"] for c in columns}
    rows: list[Row] = []
    for paper, method in dict.fromkeys((x["paper"], x["method"]) for x in entries):
        row = Row("", method, "")
        sources: list[str] = []
        empty: dict[str, list[str]] = {}
        other: list[str] = []
        for x in (x for x in entries if (x["paper"], x["method"]) == (paper, method)):
            step = re.fullmatch(r"t\+([0-9]+)", x["horizon"])
            name = re.sub(r"\W", "_", x["metric"].lower())
            if x["column"].startswith(name):
                name = x["column"]
            elif x["column"]:
                continue
            name += f"_t{step[1]}" if step else ""
            if name not in scales and name != "parameters":
                continue
            if not re.fullmatch(r"-?[0-9]+(\.[0-9]+)?", x["value"]):
                empty.setdefault(x["value"], []).append(name)
            elif name == "parameters":
                row.facts[name] = str(int(Decimal(x["value"]) * MILLIONS[x["unit"]]))
            else:
                text = _rescale(x["value"], x["unit"], scales[name])
                first_read = row.cells.setdefault(name, Cell(text=text)).text
                if Decimal(first_read) != Decimal(text):
                    other.append(f"{name} is {text} in {x['source']}")
            sources.append(f"{x['table']} as read in {x['source']}" if x["source"] else x["table"])
        row.source = "; ".join([paper, *dict.fromkeys(sources)])
        row.facts["note"] = "; ".join([*(f"{why}: {', '.join(names)}" for why, names in empty.items()), *other])
        first = next((r for r in rows if r.label == method), None)
        if (
            first and set(row.facts) == {"parameters", "note"} and not row.cells
        ):  # counted by the authors of another paper
            notes = [first.facts["note"], f"parameters: {paper}"]
            first.facts |= {"parameters": row.facts["parameters"], "note": "; ".join(n for n in notes if n)}
        elif sources:
            rows.append(row)
    return rows


def _rescale(value: str, unit: str, scale: float) -> str:
    """Return a published value in the table's scale; as printed when that is its unit."""
    printed = 100 if unit == "1e-2" else 1
    return value if printed == scale else f"{Decimal(value) * Decimal(scale) / printed:f}"


def metrics_csv(rows: list[Row], columns: list[Column]) -> str:
    """Return the table as CSV: 6 significant digits, so the same bytes for the same scores."""
    names = [name for c in columns for name in (c.name, *(f"{c.name}_{part}" for part in PARTS))]
    lines: list[dict[str, str]] = []
    for row in rows:
        line = {"model": row.label, "source": row.source, **row.facts}
        for name, cell in row.cells.items():
            line[name] = cell.text or _digits(cell.mean)
            line |= {f"{name}_{part}": _digits(getattr(cell, part)) for part in PARTS}
        lines.append(line)
    return _csv(["model", "source", *names, *FACTS], lines)


def speed_csv(experiment: str, e: Experiment) -> str:
    """Return time and memory of prediction, one model a line, as measured when its predictions were made."""
    lines = []
    for name, label in e.models.items():
        path = Path(plan.OUTPUTS["predict"][1].format(experiment=experiment, model=name))
        try:
            speed = json.loads(path.read_text())
        except (OSError, ValueError):
            raise RetakeError(f"{path} is missing or damaged: make it again with `snakemake {path}`") from None
        lines.append({"model": label} | {k: _digits(v) if isinstance(v, float) else str(v) for k, v in speed.items()})
    return _csv(["model", *SPEED], lines)


def _csv(names: list[str], lines: list[dict[str, str]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()


def _digits(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6g}"


def best(rows: list[Row], columns: list[Column]) -> set[tuple[str, str]]:
    """Return the (row name, column name) that are best among the measured rows, as printed: ties are all best."""
    found = set()
    for column in columns:
        cells = {row.name: row.cells[column.name].mean for row in rows if row.measured and column.name in row.cells}
        if cells:
            top = (max if column.about["better"] == "higher" else min)(cells.values())
            found |= {(name, column.name) for name, mean in cells.items() if column.short(mean) == column.short(top)}
    return found


def as_markdown(experiment: str, e: Experiment, rows: list[Row], columns: list[Column], layout: Layout) -> str:
    """Return the table for reading: means, then intervals, then what everything is."""
    bold, notes = best(rows, columns), _sources(rows)
    arrows = {"higher": "↑", "lower": "↓"}

    def mean(row: Row, column: Column) -> str:
        cell = row.cells.get(column.name, Cell())
        text = cell.text or column.short(cell.mean)
        return f"**{text}**" if (row.name, column.name) in bold and row.measured else text

    def interval(row: Row, column: Column) -> str:
        cell = row.cells.get(column.name, Cell())
        text = f"{column.short(cell.low)} – {column.short(cell.high)}" if column.short(cell.low) else ""
        return text + (f" (±{column.short(cell.spread)})" if column.short(cell.spread) else "")

    def title(column: Column) -> str:
        return f"{column.title} {arrows[column.about['better']]}"

    main, ours = [c for c in columns if not c.group], [row for row in rows if row.measured]
    head = ["model", "source", *map(title, main), "n", "parameters", "GMACs"]
    body = [
        [row.label, row.source if row.measured else f"[{notes.index(row.source) + 1}]"]
        + [mean(row, c) for c in main]
        + [row.facts.get("n", ""), _millions(row.facts.get("parameters", "")), row.facts.get("gmacs", "")]
        for row in rows
    ]
    text = [f"# {experiment}", "", *_pipes(head, body), ""]
    text += [
        f"95 % bootstrap intervals of the means over {layout.over} ({RESAMPLES} resamples)"
        + ("; ± standard deviation between samples" if any(int(r.facts["samples"]) > 1 for r in ours) else "")
        + ":",
        "",
        *_pipes(["model", *(c.title for c in main)], [[r.label, *(interval(r, c) for c in main)] for r in ours]),
        "",
    ]
    for group in dict.fromkeys(c.group for c in columns if c.group):
        some = [c for c in columns if c.group == group]
        body = [
            [r.label, *(f"{mean(r, c)} ({interval(r, c)})" if c.name in r.cells else "" for c in some)] for r in ours
        ]
        text += [f"## {group}", "", *_pipes(["model", *map(title, some)], body), ""]
    text += [
        f"* Test set: `{e.dataset}`, {layout.tested(e, ours[0].meta)}. Bold: best measured row.",
        *_explain(e, ours),
    ]
    if notes:
        text += ["Published rows; their empty cells are printed as N/A or not established, as the CSV's notes say:", ""]
    text += [f"{i}. {source}" for i, source in enumerate(notes, start=1)]
    return "\n".join(text).rstrip() + "\n"


def _explain(e: Experiment, rows: list[Row]) -> list[str]:
    """Return the lines below the tables: metrics, notes, lineage, licence."""
    lines = []
    for metric in e.metrics:
        about = rows[0].meta["metrics"][metric]
        told = ", ".join(f"{k} {_plain(v)}" for k, v in about["settings"].items() if k != "name")
        scale = f", times {about['scale']:g}" if about["scale"] != 1 else ""
        lines.append(f"* {about['label']} (`{metric}`): {about['better']} is better{scale}; {told}.")
    if any(row.facts["gmacs"] for row in rows):
        lines.append(
            "* GMACs: multiply-adds of one predicted frame at the table's size, 10^9, as this code computes it."
        )
    for row in rows:
        if row.facts["note"]:
            lines.append(f"* {row.label}: {row.facts['note']}.")
        lineage = ", ".join(f"{k} `{row.facts[k]}`" for k in ("checkpoint", "data", "params") if row.facts[k])
        lines.append(f"* {row.label}: {lineage}.")
    for partial in dict.fromkeys(row.facts["partial"] for row in rows if row.facts["partial"]):
        lines.append(f"* **Partial data: {partial}.** Not comparable with published numbers.")
    for fit in dict.fromkeys(row.meta["predictions"].get("fit") for row in rows):
        if fit:
            lines.append(f"* Frames: `fit: {fit}`, {FITS[fit]}.")
    for licence in dict.fromkeys(row.meta["predictions"].get("licence") for row in rows):
        if licence:
            lines.append(f"* Data: {licence}")
    return [*lines, ""]


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {v:g}" for k, v in value.items()) + ")"
    return "[" + ", ".join(f"{v:g}" for v in value) + "]" if isinstance(value, list) else str(value)


def _sources(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row.source for row in rows if not row.measured))


def _millions(parameters: str) -> str:
    """Return a count of parameters for people: in millions, small ones as they are."""
    return parameters if len(parameters) < 5 else f"{int(parameters) / 1e6:.2f} M"


def _pipes(head: list[str], body: list[list[str]]) -> list[str]:
    """Return a Markdown table with aligned columns."""
    cells = [[cell.replace("|", "\\|") for cell in line] for line in [head, *body]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def as_latex(experiment: str, rows: list[Row], columns: list[Column]) -> str:
    """Return the table as a LaTeX `tabular` that needs no package; published rows below the second rule."""
    notes = _sources(rows)
    lines = [
        f"% {experiment}: {'t+k is the mean over the first k steps. ' if any(c.k for c in columns) else ''}"
        "Bold: best measured row.",
        *(f"% [{i}] {source}" for i, source in enumerate(notes, start=1)),
    ]
    for group in dict.fromkeys(c.group for c in columns):
        some = [row for row in rows if row.measured or not group]
        lines += [*([f"% {group}"] if group else []), *_tabular(some, [c for c in columns if c.group == group], notes)]
    return "\n".join(lines) + "\n"


def _tabular(rows: list[Row], columns: list[Column], notes: list[str]) -> list[str]:
    """Return the lines of one `tabular`."""
    bold = best(rows, columns)
    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    groups = [(m, [c for c in columns if c.metric == m]) for m in dict.fromkeys(c.metric for c in columns)]
    top = " & ".join(
        rf"\multicolumn{{{len(g)}}}{{c}}{{{_tex(g[0].about['label'])} {arrows[g[0].about['better']]}}}"
        for _, g in groups
    )
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(columns)}r}}",
        r"\hline",
        rf"Model & {top} & Parameters \\",
        " & ".join(["", *(f"$t+{c.k}$" if c.k else "" for c in columns), r"\\"]),
        r"\hline",
    ]
    for i, row in enumerate(rows):
        if i and row.measured != rows[i - 1].measured:
            lines.append(r"\hline")
        cells = []
        for column in columns:
            cell = row.cells.get(column.name, Cell())
            text = _tex(cell.text or column.short(cell.mean))
            cells.append(rf"\textbf{{{text}}}" if row.measured and (row.name, column.name) in bold else text)
        label = _tex(row.label) + ("" if row.measured else f" [{notes.index(row.source) + 1}]")
        lines.append(" & ".join([label, *cells, _tex(_millions(row.facts.get("parameters", "")))]) + r" \\")
    return [*lines, r"\hline", r"\end{tabular}"]


def _tex(text: str) -> str:
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    return "".join(special.get(c, c) for c in text)


def show(p: Params, experiment: str) -> str:
    """Return the Markdown table that is there, and where the other files are."""
    fields = plan.fields_of(p, "table", experiment=experiment)
    outputs = [Path(o.format(**fields)) for o in plan.OUTPUTS["table"]]
    markdown = outputs[1]
    if not markdown.exists():
        raise RetakeError(f"no {markdown}: make it with `snakemake {outputs[0]}`")
    there = "".join(f"\n  {o}" for o in outputs if o.exists())
    stores = f"data/predictions/{experiment}/*.arrow (python -m pipeline.view STORE)"
    return f"{markdown.read_text()}\nWhere to look:{there}\n  {stores}"


def _mirror(p: Params, fields: dict[str, str], rows: list[Row], columns: list[Column], files: list[Path]) -> None:
    """Mirror the table to MLflow: one run a measured row, in the experiment `table`."""
    for row in rows:
        if not row.measured:
            continue
        model = f"models.{row.name}"
        uses = plan.uses(p, "table", fields) | ({model: params.subtree(p, model)} if row.name in p.models else {})
        tags = {"stage": "table", "experiment": fields["experiment"], "model": row.name}
        tags |= {k: row.facts[k] for k in ("checkpoint", "data", "params")}
        name = f"{fields['experiment']}-{row.name}"
        with tracking.run(p.tracking.mlflow, experiment="table", name=name, params=uses, tags=tags) as mlflow:
            cells = {c.name: row.cells[c.name].mean for c in columns if c.name in row.cells}
            mlflow.metrics(0, {name: mean for name, mean in cells.items() if math.isfinite(mean)})
            for file in files:
                mlflow.artifact(file)
        if not mlflow.active:
            return  # off, or away: said once


if __name__ == "__main__":
    run(main, "table")
