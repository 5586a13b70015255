"""Compare two rows, or the same table at two commits: differences with paired intervals, and what else differs.

    python -m pipeline.compare dmvfn flow_warp --experiment kitti
    python -m pipeline.compare HEAD~1 HEAD --experiment kitti          # results/records/kitti.json as DVC or git has it there
    python -m pipeline.compare mine.json theirs.json --experiment kitti   # two results.json or records
    python -m pipeline.compare 4f1c… 9a02…                             # two runs of MLflow, by the identifiers on their pages

Two models of one experiment are compared window by window (`pipeline/tables/pairs.py`), and so are two commits whose scores DVC has in its
cache. Of two files only the records are at hand: their means are set side by side. What differs of params, code and data is said below.
Runs of MLflow may come from any machine that logs to the same server: rows of a table bring their scores and are compared window by
window, other runs by their last values.
"""

from __future__ import annotations

import argparse
import contextlib
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
from pipeline.tables.cells import Column, Layout, Row
from pipeline.tables.text import document, pipes
from pipeline.tracking import flatten

DIGESTS = ("checkpoint", "data", "params", "code")
FACTS = (
    "frames",
    "size",
    "flow",
    "precision",
    "trainings",
    "samples",
    "windows",
    "partial",
)  # of a row, beside its training
Scored = dict[str, list[Path]]  # a row's name -> the score files of its trainings


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
            print(runs(p, *sides, args.metric), end="")
        return
    if args.experiment not in p.experiments:
        raise RetakeError(f"no experiment {args.experiment!r}{near(args.experiment, p.experiments)}")
    rows = p.experiments[args.experiment].rows
    if args.one in rows and args.other in rows:
        print(models(p, args.experiment, args.one, args.other, args.metric), end="")
    else:
        before, after = (_record(name, args.experiment, rows) for name in (args.one, args.other))
        with tempfile.TemporaryDirectory() as folder:
            files = _scores(before, args.one, Path(folder, "one")), _scores(after, args.other, Path(folder, "other"))
            paired = _between(p, args.experiment, *files, args.metric)
        print(records(before, after, (args.one, args.other), args.metric, paired), end="")


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
    return document([*text, "", *_differ("params", trees, (one, other))])


def runs(p: Params, one: tracking.Logged, other: tracking.Logged, metrics: list[str] | None) -> str:
    """Return the differences of two runs of MLflow, one minus other, and the params, data and code in which they differ.

    Rows of a table of one experiment that this project knows are compared on their windows, by the scores that the runs hold.
    """
    experiment = one.tags.get("experiment", "")
    text = [f"# {one.name} against {other.name}", ""]
    if one.scores and other.scores and experiment == other.tags.get("experiment") and experiment in p.experiments:
        read = [_row(p, experiment, run_.tags["model"], run_.name, run_.scores) for run_ in (one, other)]
        rows, columns = [row for row, _ in read], read[0][1]
        _known_metrics(metrics, list(rows[0].meta["metrics"]))
        text += _paired(rows, columns, _layout(p, experiment).over, metrics)
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
    return document(text)


def _layout(p: Params, experiment: str) -> Layout:
    layout: Layout = tasks.part(p.protocols[p.experiments[experiment].protocol].task, "table").LAYOUT
    return layout


def _row(p: Params, experiment: str, name: str, label: str, files: list[Path]) -> tuple[Row, list[Column]]:
    """Return a row that is made of score files alone, one a training, and its columns."""
    layout = _layout(p, experiment)
    facts = {"note": "", "checkpoint": "", "params": ""}
    every = [Row(name, label, "measured", facts=dict(facts), meta={"note": ""} | measured.read(file)) for file in files]
    columns = layout.columns(p.experiments[experiment], every[0].meta)
    for row in every:
        measured.fill(row, columns, layout.over)
    return measured.together(every), columns


def _between(
    p: Params, experiment: str, one: Scored, other: Scored, metrics: list[str] | None
) -> dict[tuple[str, str], pairs.Difference]:
    """Return by (row, column) what a row has more in the second of two commits than in the first.

    What was not measured on the same windows, or not by today's metrics, has no such difference.
    """
    paired: dict[tuple[str, str], pairs.Difference] = {}
    over = _layout(p, experiment).over
    for name in one.keys() & other.keys():
        try:
            (before, columns), (after, _) = (_row(p, experiment, name, name, side[name]) for side in (one, other))
        except (RetakeError, KeyError):
            continue
        for column in columns if before.meta["values"].keys() == after.meta["values"].keys() else []:
            with contextlib.suppress(RetakeError):
                d = pairs.difference(after, before, column, over)
                if d is not None and (not metrics or column.metric in metrics):
                    paired[name, column.name] = d
    corrected = pairs.holm([d.p for d in paired.values()])
    return {key: d._replace(holm=corrected_p) for (key, d), corrected_p in zip(paired.items(), corrected, strict=True)}


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


def records(
    one: dict[str, Any],
    other: dict[str, Any],
    names: tuple[str, str],
    metrics: list[str] | None,
    paired: dict[tuple[str, str], pairs.Difference] | None = None,
) -> str:
    """Return two records' means side by side, row by row, and what differs of their settings, params, code and data.

    `found`: paired differences by (row, column), where the scores of both are at hand.
    """
    paired = paired or {}
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
                d = paired.get((row["name"], column["name"]))
                told = (
                    [f"{d.low:+.{decimals}f} – {d.high:+.{decimals}f}", f"{d.holm:.2g}"]
                    if d and d.low == d.low
                    else ["", ""]
                )
                body.append([row["label"], column["title"], *texts, f"{means[1] - means[0]:+.{decimals}f}", *told])
        changed = [key for key in DIGESTS if row["digests"][key] != theirs["digests"][key]]
        if changed:
            differ.append(f"* {row['label']}: other {', '.join(changed)}.")
        facts = [_facts(side) for side in (row, theirs)]
        differ += [
            f"* {row['label']}, {key}: {facts[0].get(key, 'none')} in {names[0]}, {facts[1].get(key, 'none')} in {names[1]}."
            for key in dict.fromkeys([*facts[0], *facts[1]])
            if facts[0].get(key) != facts[1].get(key)
        ]
    differ += [
        f"* {row['label']} is in {names[1]} alone."
        for name, row in others.items()
        if name not in {r["name"] for r in one["rows"]}
    ]
    text = [
        f"# {names[0]} against {names[1]}, {one['experiment']}",
        "",
        *pipes(["row", "column", *names, "difference", "95 % interval", "p (Holm)"], body),
        "",
    ]
    settings = [flatten({k: side[k] for k in ("dataset", "trained_on", "protocol_settings")}) for side in (one, other)]
    return document([*text, *differ, *_differ("settings", settings, names)])


def _facts(row: dict[str, Any]) -> dict[str, str]:
    """Return what a record says of a row in words, with each setting of its training under the setting's name."""
    settings = [item.rpartition(" ") for item in row["training"].split(", ") if item]
    return {key: str(row[key]) for key in FACTS if row[key]} | {f"training {key}": value for key, _, value in settings}


def _differ(what: str, sides: list[dict[str, Any]], names: tuple[str, str]) -> list[str]:
    """Return the keys in which two flat mappings differ, as a table; nothing where they do not."""
    one, other = sides
    keys = [k for k in dict.fromkeys([*one, *other]) if one.get(k, "") != other.get(k, "")]
    body = [[key, *(json.dumps(side[key]) if key in side else "" for side in (one, other))] for key in keys]
    return [f"Differing {what}:", "", *pipes([what, *names], body)] if body else []


READ = "import sys, dvc.api; sys.stdout.write(dvc.api.read(sys.argv[1], rev=sys.argv[2]))"
FETCH = """
import shutil, sys, dvc.api
for source, target in zip(sys.argv[2::2], sys.argv[3::2]):
    with dvc.api.open(source, rev=sys.argv[1], mode="rb") as read, open(target, "wb") as write:
        shutil.copyfileobj(read, write)
"""


def _scores(record: dict[str, Any], commit: str, folder: Path) -> Scored:
    """Return the score files of a record's rows at a commit, fetched from DVC's cache into a folder; {} where they are not there."""
    if Path(commit).is_file():
        return {}
    fetched: Scored = {}
    arguments = []
    folder.mkdir()
    for row in record["rows"]:
        trainings = [row["name"], *(f"{row['name']}_seed{n}" for n in range(2, row["trainings"] + 1))]
        fetched[row["name"]] = [folder / f"{name}.parquet" for name in trainings]
        for name, file in zip(trainings, fetched[row["name"]], strict=True):
            arguments += [str(plan.path("score", experiment=record["experiment"], model=name)), str(file)]
    done = subprocess.run([sys.executable, "-c", FETCH, commit, *arguments], capture_output=True, text=True)
    return {} if done.returncode else fetched


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
    done = subprocess.run([sys.executable, "-c", READ, str(path), name], capture_output=True, text=True)
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
