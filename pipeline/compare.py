"""Compare two rows, or the same table at two commits: differences with paired intervals, and what else differs.

    python -m pipeline.compare dmvfn flow_warp --experiment kitti
    python -m pipeline.compare HEAD~1 HEAD --experiment kitti          # results/records/kitti.json as DVC or git has it there
    python -m pipeline.compare mine.json theirs.json --experiment kitti   # two results.json or records
    python -m pipeline.compare 4f1c… 9a02…                             # two runs of MLflow, by the identifiers on their pages

Two models of one experiment are compared window by window (`pipeline/tables/pairs.py`). Of two commits or files only the records are at
hand: their means are set side by side, with what differs of params, code and data. Runs of MLflow may come from any machine that logs
to the same server: rows of a table bring their scores and are compared window by window, other runs by their last values.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline import params, plan, tasks, tracking
from pipeline.errors import RetakeError, near, run
from pipeline.params import Params
from pipeline.sources import limits
from pipeline.tables import measured, pairs, record
from pipeline.tables.cells import Column, Row
from pipeline.tables.text import pipes
from pipeline.tracking import flatten

DIGESTS = ("checkpoint", "data", "params", "code")


def main() -> None:
    """Parse the command line and print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("one", help="entry of the experiment's models, a commit, a file, or a run of MLflow")
    parser.add_argument("other", help="likewise")
    parser.add_argument("--experiment", help="entry of `experiments`; not for runs of MLflow")
    parser.add_argument("--metric", action="append", help="only this one; may be given several times")
    args = parser.parse_args()
    p = params.load()
    if args.experiment is None:
        with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as other:
            sides = tracking.fetched(args.one, Path(one)), tracking.fetched(args.other, Path(other))
            print(runs(p, *sides, args.metric))
        return
    if args.experiment not in p.experiments:
        raise RetakeError(f"no experiment {args.experiment!r}{near(args.experiment, p.experiments)}")
    rows = p.experiments[args.experiment].rows
    if args.one in rows and args.other in rows:
        print(models(p, args.experiment, args.one, args.other, args.metric))
    else:
        told = [_record(name, args.experiment, rows) for name in (args.one, args.other)]
        print(records(told[0], told[1], (args.one, args.other), args.metric))


def models(p: Params, experiment: str, one: str, other: str, metrics: list[str] | None) -> str:
    """Return the differences of two rows on the same windows, and the params in which the models differ."""
    e = p.experiments[experiment]
    _known_metrics(metrics, list(e.metrics))
    layout = tasks.part(p.protocols[e.protocol].task, "table").LAYOUT
    rows = []
    for name in (one, other):
        every = [measured.row(p, experiment, training) for training in e.trainings(name)]
        columns = layout.columns(e, every[0].meta)
        for row in every:
            measured.fill(row, columns, layout.over)
        rows.append(measured.together(every))
    trees = [flatten(p.tree["models"][name]) if name in p.models else {} for name in (one, other)]
    text = [
        f"# {rows[0].label} against {rows[1].label}, {experiment}",
        "",
        *_paired(rows, columns, layout.over, metrics),
    ]
    return "\n".join([*text, "", *_differ("params", trees, (one, other))])


def runs(p: Params, one: tracking.Logged, other: tracking.Logged, metrics: list[str] | None) -> str:
    """Return the differences of two runs of MLflow, one minus other, and the params, data and code in which they differ.

    Rows of a table of one experiment that this project knows are compared on their windows, by the scores that the runs hold.
    """
    experiment = one.tags.get("experiment", "")
    text = [f"# {one.name} against {other.name}", ""]
    if one.scores and other.scores and experiment == other.tags.get("experiment") and experiment in p.experiments:
        e = p.experiments[experiment]
        layout = tasks.part(p.protocols[e.protocol].task, "table").LAYOUT
        rows = []
        for run_ in (one, other):
            every = [Row(run_.tags["model"], run_.name, "measured", facts={"note": "", "checkpoint": "", "params": ""},
                         meta={"note": ""} | measured.read(file)) for file in run_.scores]  # fmt: skip
            columns = layout.columns(e, every[0].meta)
            for row in every:
                measured.fill(row, columns, layout.over)
            rows.append(measured.together(every))
        _known_metrics(metrics, list(rows[0].meta["metrics"]))
        text += _paired(rows, columns, layout.over, metrics)
    else:
        shared = [name for name in one.metrics if name in other.metrics]
        _known_metrics(metrics, shared)
        body = [
            [
                name,
                *(f"{run_.metrics[name]:.6g}" for run_ in (one, other)),
                f"{one.metrics[name] - other.metrics[name]:+.6g}",
            ]
            for name in metrics or shared
        ]
        text += pipes(["last value", one.name, other.name, "difference"], body)
    names = (one.name, other.name)
    for what, sides in (("params", [one.params, other.params]), ("data and code", [one.tags, other.tags])):
        told = _differ(what, sides, names)
        text += ["", *told] if told else []
    return "\n".join(text)


def _paired(rows: list[Row], columns: list[Column], over: str, metrics: list[str] | None) -> list[str]:
    """Return the table of paired differences of two filled rows, the first minus the second."""
    made = [
        pairs.difference(rows[0], rows[1], column, over)
        for column in columns
        if not metrics or column.metric in metrics
    ]
    differences = [d for d in made if d is not None]
    corrected = pairs.holm([d.p for d in differences])
    titles = {column.name: (column, column.title) for column in columns}
    body = []
    for d, p_value in zip(differences, corrected, strict=True):
        column, title = titles[d.column]
        decimals = column.about["digits"] + 1
        ends = "" if d.low != d.low else f"{d.low:+.{decimals}f} – {d.high:+.{decimals}f}"
        means = [f"{row.cells[d.column].mean:.{decimals}f}" for row in rows]
        told = [f"{d.mean:+.{decimals}f}", ends, "" if p_value != p_value else f"{p_value:.2g}"]
        body.append([f"{title} {column.group}".strip(), *means, *told, f"{d.units} {d.unit}" if ends else d.note])
    return pipes(["column", rows[0].label, rows[1].label, "difference", "95 % interval", "p (Holm)", "over"], body)


def records(one: dict[str, Any], other: dict[str, Any], names: tuple[str, str], metrics: list[str] | None) -> str:
    """Return two records' means side by side, row by row, and what differs of their settings, params, code and data."""
    _known_metrics(metrics, list(one["metrics"]))
    for metric, about in one["metrics"].items():
        theirs = other["metrics"].get(metric)
        if theirs is not None and theirs["identity"] != about["identity"] and (not metrics or metric in metrics):
            raise RetakeError(
                f"{about['label']} is {about['settings']} in {names[0]} and {theirs['settings']} in {names[1]}: they do not compare"
            )
    columns = [c for c in one["columns"] if not c["group"] and (not metrics or c["metric"] in metrics)]
    others = {row["name"]: row for row in other["rows"]}
    body, differ = [], []
    for row in one["rows"]:
        theirs = others.get(row["name"])
        if theirs is None:
            differ.append(f"* {row['label']} is in {names[0]} alone.")
            continue
        for column in columns:
            means = [side["cells"].get(column["name"], {}).get("mean") for side in (row, theirs)]
            decimals = one["metrics"][column["metric"]]["digits"] + 1
            if means[0] is not None and means[1] is not None:
                texts = [f"{mean:.{decimals}f}" for mean in means]
                body.append([row["label"], column["title"], *texts, f"{means[1] - means[0]:+.{decimals}f}"])
        changed = [key for key in DIGESTS if row["digests"][key] != theirs["digests"][key]]
        if changed:
            differ.append(f"* {row['label']}: other {', '.join(changed)}.")
    differ += [
        f"* {row['label']} is in {names[1]} alone."
        for name, row in others.items()
        if name not in {r["name"] for r in one["rows"]}
    ]
    text = [
        f"# {names[0]} against {names[1]}, {one['experiment']}",
        "",
        *pipes(["row", "column", *names, "difference"], body),
        "",
    ]
    settings = [flatten({k: side[k] for k in ("dataset", "trained_on", "protocol_settings")}) for side in (one, other)]
    return "\n".join([*text, *differ, *_differ("settings", settings, names)])


def _differ(what: str, sides: list[dict[str, Any]], names: tuple[str, str]) -> list[str]:
    """Return the keys in which two flat mappings differ, as a table; nothing where they do not."""
    one, other = sides
    keys = [k for k in dict.fromkeys([*one, *other]) if one.get(k, "") != other.get(k, "")]
    body = [[key, *(json.dumps(side[key]) if key in side else "" for side in (one, other))] for key in keys]
    return [f"Differing {what}:", "", *pipes([what, *names], body)] if body else []


def _known_metrics(metrics: list[str] | None, known: list[str]) -> None:
    for metric in metrics or []:
        if metric not in known:
            raise RetakeError(f"no metric {metric!r} in this experiment{near(metric, known)}")


def _record(name: str, experiment: str, rows: list[str]) -> dict[str, Any]:
    """Return the record of an experiment in a file, or at a commit; raises RetakeError where there is none."""
    path = plan.record(experiment)
    if Path(name).is_file():
        try:
            tree = json.loads(limits.text(Path(name)))
        except (ValueError, RecursionError) as error:
            raise RetakeError(f"{name} holds no tables, it is not JSON: {str(error).splitlines()[0]}") from None
        tables = tree.get("tables", {tree.get("experiment"): tree}) if isinstance(tree, dict) else {}
        if experiment not in tables:
            raise RetakeError(f"{name} has no table of {experiment}: it has {', '.join(map(str, tables)) or 'none'}")
        return dict(tables[experiment])
    script = "import sys, dvc.api; sys.stdout.write(dvc.api.read(sys.argv[1], rev=sys.argv[2]))"
    done = subprocess.run([sys.executable, "-c", script, str(path), name], capture_output=True, text=True)
    if done.returncode:
        known = (
            subprocess.run(["git", "rev-parse", "--verify", "-q", f"{name}^{{commit}}"], capture_output=True).returncode
            == 0
        )
        why = (
            f"DVC has no {path} at {name}: commit dvc.lock after `dvc repro`"
            if known
            else f"no model, file or commit {name!r}{near(name, rows)}"
        )
        raise RetakeError(why)
    tree = json.loads(done.stdout)
    if tree.get("format") != record.FORMAT:
        raise RetakeError(f"{path} at {name} has another format than this version reads")
    return dict(tree)


if __name__ == "__main__":
    run(main, "compare")
