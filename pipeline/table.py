"""The table of an experiment: scores of every row in, the paper's table beside its published numbers out.

    python -m pipeline.table --experiment kitti
    python -m pipeline.table --experiment kitti --show      # print what is there, make nothing

Out, in results/: `<experiment>_metrics.csv`, `.md`, `.tex`; `<experiment>_steps.csv`, the values of each single step;
`<experiment>_speed.csv`; `<experiment>.png`. A column `<metric>_t<k>` is the mean over windows, samples and the first k
steps (DMVFN's "t+k" is this cumulative mean), times the metric's scale; `_low` and `_high` are its 95 % percentile
bootstrap interval over windows, `_spread` the standard deviation between samples (routing draws). Metrics of whole
windows (EPE) have one column. Rows whose source is `measured` come first, then those of results/published/.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from pipeline import params, plan, tracking
from pipeline.errors import RetakeError, log, run
from pipeline.params import Experiment, Flow, Params
from pipeline.store.atomic import write_text
from pipeline.store.frames import Store

PUBLISHED = Path("results/published")
RESAMPLES, SEED, INTERVAL = 1000, 0, (2.5, 97.5)
MILLIONS = {"1e6": 10**6, "million": 10**6}
PARTS = ("low", "high", "spread")
SPEED = ("ms_per_frame", "frames_per_s", "peak_memory_mib", "device", "threads", "batch")
FACTS = ("n", "samples", "parameters", "gmacs", "checkpoint", "data", "params", "partial", "note")


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


@dataclass
class Column:
    """One column of means: its name in the CSV, its metric's key and description, and k (0: of whole windows)."""

    name: str
    metric: str
    k: int
    about: dict[str, Any]

    @property
    def title(self) -> str:
        """The column's name for people."""
        return f"{self.about['label']} t+{self.k}" if self.k else str(self.about["label"])


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
    rows = [measured(p, experiment, name) for name in (*e.models, *e.predictions)]
    columns = columns_of(e, rows[0].meta)
    for row in rows:
        fill(row, columns)
    rows += published(e, columns)

    outputs = [Path(o.format(**fields)) for o in plan.OUTPUTS["table"]]
    table, markdown, latex, steps, speed, picture = outputs
    write_text(table, metrics_csv(rows, columns))
    write_text(markdown, as_markdown(experiment, e, rows, columns))
    write_text(latex, as_latex(experiment, rows, columns))
    write_text(steps, steps_csv(rows))
    write_text(speed, speed_csv(experiment, e))
    ours = {row.label: row.name for row in rows if row.measured}
    stores = {label: Store(plan.path("predict", experiment=experiment, model=name)) for label, name in ours.items()}
    if isinstance(protocol, Flow):
        view.flow_picture(Store(fields["frames"]), Store(fields["truth"]), stores, picture)
    else:
        view.picture(Store(fields["frames"]), stores, protocol, picture)
    _mirror(p, fields, rows, columns, [table, markdown, picture])
    log.info("wrote %s", ", ".join(map(str, outputs)))


def measured(p: Params, experiment: str, name: str) -> Row:
    """Return the row of one model or of brought predictions, with its scores in `meta["values"]`.

    `values`: metric -> (windows, samples, steps) float64; `weights`: metric -> (windows,), what they count. Raises RetakeError for scores that are not whole or that were
    made from other predictions or metrics than today's.
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
    meta["values"], meta["weights"] = _pivot(table.to_pydict(), meta, path)
    notes = [f"{metric}: {reason}" for metric, reason in sorted(meta["skipped"].items())]
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
    }
    return Row(name, e.models.get(name, name), "measured", facts=facts, meta=meta)


def _pivot(
    columns: dict[str, list[Any]], meta: dict[str, Any], path: Path
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return metric -> (windows, samples, steps) of long-form scores, and metric -> (windows,), their weights.

    Metrics of whole windows have one sample and one step.
    """
    windows = {window: i for i, window in enumerate(dict.fromkeys(columns["window"]))}
    values, weights = {}, {}
    for metric, about in meta["metrics"].items():
        if metric not in meta["skipped"]:
            shape = (meta["samples"], meta["predictions"]["protocol"]["horizon"]) if _stepped(about) else (1, 1)
            values[metric] = np.full((meta["windows"], *shape), np.nan)
            weights[metric] = np.ones(meta["windows"])
    for window, step, sample, metric, value, weight in zip(*columns.values(), strict=True):
        values[metric][windows[window], sample, max(step - 1, 0)] = value
        weights[metric][windows[window]] = weight
    missing = [metric for metric, array in values.items() if np.isnan(array).any()]
    if missing:
        raise RetakeError(f"{path} lacks values of {', '.join(missing)}: make it again with `snakemake {path}`")
    empty = [metric for metric, array in weights.items() if not array.any()]
    if empty:
        raise RetakeError(f"{path}: no clip counts for {', '.join(empty)}: look at `clips` of those metrics")
    return values, weights


def _stepped(about: dict[str, Any]) -> bool:
    """Whether a metric has a value for each predicted step."""
    return bool(about["needs"] == "frames")


def columns_of(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return the columns of means, in the order of the experiment's metrics and of its `report`."""
    columns = []
    for metric in e.metrics:
        about = meta["metrics"][metric]
        for k in e.report if _stepped(about) else [0]:
            columns.append(Column(f"{metric}_t{k}" if k else metric, metric, k, about))
    return columns


def fill(row: Row, columns: list[Column]) -> None:
    """Compute the cells of a measured row, and its values at each single step."""
    values = row.meta["values"]
    wanted: list[tuple[Any, str, np.ndarray]] = []  # where to put it, its metric, (windows, samples) scaled
    for column in columns:
        if column.metric in values:
            steps = values[column.metric][:, :, : column.k or None]
            wanted.append((column.name, column.metric, steps.mean(axis=2) * column.about["scale"]))
    for metric, scale in {c.metric: c.about["scale"] for c in columns if c.k and c.metric in values}.items():
        for step in range(values[metric].shape[2]):
            wanted.append(((metric, step + 1), metric, values[metric][:, :, step] * scale))
    if not wanted:
        return
    weights = np.stack([row.meta["weights"][metric] for _, metric, _ in wanted], axis=1)
    lows, highs = bootstrap(np.stack([v.mean(axis=1) for _, _, v in wanted], axis=1), weights)
    for (where, _, v), weight, low, high in zip(wanted, weights.T, lows, highs, strict=True):
        samples = (v * weight[:, None]).mean(axis=0) / weight.mean()
        spread = samples.std(ddof=1) if len(samples) > 1 and np.isfinite(samples).all() else math.nan
        cell = Cell(float((v * weight[:, None]).mean() / weight.mean()), float(low), float(high), float(spread))
        if isinstance(where, tuple):
            row.steps[where] = cell
        else:
            row.cells[where] = cell


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
    scales = {c.name: c.about["scale"] for c in columns}
    rows: list[Row] = []
    for paper, method in dict.fromkeys((x["paper"], x["method"]) for x in entries):
        row = Row("", method, "")
        sources: list[str] = []
        empty: dict[str, list[str]] = {}
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
                row.cells[name] = Cell(text=_rescale(x["value"], x["unit"], scales[name]))
            sources.append(f"{x['table']} as read in {x['source']}" if x["source"] else x["table"])
        row.source = "; ".join([paper, *dict.fromkeys(sources)])
        row.facts["note"] = "; ".join(f"{why}: {', '.join(names)}" for why, names in empty.items())
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
            found |= {(name, column.name) for name, mean in cells.items() if _short(mean) == _short(top)}
    return found


def _short(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2f}"


def as_markdown(experiment: str, e: Experiment, rows: list[Row], columns: list[Column]) -> str:
    """Return the table for reading: means, then intervals, then what everything is."""
    bold, notes = best(rows, columns), _sources(rows)
    arrows = {"higher": "↑", "lower": "↓"}

    def mean(row: Row, column: Column) -> str:
        cell = row.cells.get(column.name, Cell())
        text = cell.text or _short(cell.mean)
        return f"**{text}**" if (row.name, column.name) in bold and row.measured else text

    def interval(row: Row, column: Column) -> str:
        cell = row.cells.get(column.name, Cell())
        text = f"{_short(cell.low)} – {_short(cell.high)}" if _short(cell.low) else ""
        return text + (f" (±{_short(cell.spread)})" if _short(cell.spread) else "")

    head = ["model", "source", *(f"{c.title} {arrows[c.about['better']]}" for c in columns), "n", "parameters", "GMACs"]
    body = [
        [row.label, row.source if row.measured else f"[{notes.index(row.source) + 1}]"]
        + [mean(row, c) for c in columns]
        + [row.facts.get("n", ""), _millions(row.facts.get("parameters", "")), row.facts.get("gmacs", "")]
        for row in rows
    ]
    ours = [row for row in rows if row.measured]
    text = [f"# {experiment}", "", *_pipes(head, body), ""]
    text += [
        f"95 % bootstrap intervals of the means over windows ({RESAMPLES} resamples)"
        + ("; ± standard deviation between samples" if any(int(r.facts["samples"]) > 1 for r in ours) else "")
        + ":",
        "",
        *_pipes(["model", *(c.title for c in columns)], [[r.label, *(interval(r, c) for c in columns)] for r in ours]),
        "",
        *_explain(e, ours, columns),
    ]
    if notes:
        text += ["Published rows; their empty cells are printed as N/A or not established, as the CSV's notes say:", ""]
    text += [f"{i}. {source}" for i, source in enumerate(notes, start=1)]
    return "\n".join(text).rstrip() + "\n"


def _explain(e: Experiment, rows: list[Row], columns: list[Column]) -> list[str]:
    """Return the lines below the tables: protocol, metrics, notes, lineage, licence."""
    made, n = rows[0].meta["predictions"], rows[0].facts["n"]
    protocol = made["protocol"]
    if made.get("task") == "flow":
        about = f"* Test set: `{e.dataset}`, {n} pairs with ground truth. Bold: best measured row."
    else:
        about = (
            f"* Test set: `{e.dataset}`, {n} windows of {protocol['window']} frames; the models see "
            f"{protocol['context']} frames from index {protocol['first']} and predict {protocol['horizon']}. "
            "t+k is the mean over the first k steps, as published. Bold: best measured row."
        )
    lines = [about]
    for metric in e.metrics:
        about = rows[0].meta["metrics"][metric]
        told = ", ".join(f"{k} {_plain(v)}" for k, v in about["settings"].items() if k != "name")
        scale = f", times {about['scale']:g}" if about["scale"] != 1 else ""
        lines.append(f"* {about['label']} (`{metric}`): {about['better']} is better{scale}; {told}.")
    if any(row.facts["gmacs"] for row in rows):
        lines.append("* GMACs: multiply-adds of one predicted frame at the table's size, 10^9.")
    for row in rows:
        if row.facts["note"]:
            lines.append(f"* {row.label}: {row.facts['note']}.")
        lineage = ", ".join(f"{k} `{row.facts[k]}`" for k in ("checkpoint", "data", "params") if row.facts[k])
        lines.append(f"* {row.label}: {lineage}.")
    for partial in dict.fromkeys(row.facts["partial"] for row in rows if row.facts["partial"]):
        lines.append(f"* **Partial data: {partial}.** Not comparable with published numbers.")
    for licence in dict.fromkeys(row.meta["predictions"].get("licence") for row in rows):
        if licence:
            lines.append(f"* Data: {licence}")
    return [*lines, ""]


def _plain(value: Any) -> str:
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
    bold, notes = best(rows, columns), _sources(rows)
    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    groups = [(m, [c for c in columns if c.metric == m]) for m in dict.fromkeys(c.metric for c in columns)]
    top = " & ".join(
        rf"\multicolumn{{{len(g)}}}{{c}}{{{_tex(g[0].about['label'])} {arrows[g[0].about['better']]}}}"
        for _, g in groups
    )
    lines = [
        f"% {experiment}: {'t+k is the mean over the first k steps. ' if any(c.k for c in columns) else ''}"
        "Bold: best measured row.",
        *(f"% [{i}] {source}" for i, source in enumerate(notes, start=1)),
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
            text = _tex(cell.text or _short(cell.mean))
            cells.append(rf"\textbf{{{text}}}" if row.measured and (row.name, column.name) in bold else text)
        label = _tex(row.label) + ("" if row.measured else f" [{notes.index(row.source) + 1}]")
        lines.append(" & ".join([label, *cells, _tex(_millions(row.facts.get("parameters", "")))]) + r" \\")
    return "\n".join([*lines, r"\hline", r"\end{tabular}"]) + "\n"


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
