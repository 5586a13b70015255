"""The report: all tables that `reproduce` names on one page that needs nothing else, results/report.html.

    python -m pipeline.report

In: results/results.json and the pictures, stores and training logs of the same tables. What is not there is left out. The page asks
nobody for anything: charts are SVG, pictures are inside it as JPEG. Where they would make it larger than `BUDGET`, pictures are
dropped, the largest first, and the page names them.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cv2
import numpy as np

from pipeline import params, plan, tasks
from pipeline.atomic import claim, write_text
from pipeline.drawing import charts, colours, sheets
from pipeline.errors import RetakeError, log, run
from pipeline.params import Params
from pipeline.registry import registry
from pipeline.store import scores
from pipeline.store.frames import Store
from pipeline.tables import papers, verdicts
from pipeline.tables.paper_text import GRADE_WORDS, interval_of

TEMPLATE = Path("workflow/report/report.html.j2")
BUDGET = 8_000_000  # bytes
QUALITY = 82  # of JPEG
WIDEST = 1600  # px of a picture
WORST = 3  # windows on which two rows differ most


def main() -> None:
    """Write the page."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    make(params.load())


def make(p: Params) -> None:
    """Write results/report.html."""
    output = plan.path("report")
    claim(output)
    results = json.loads(Path(plan.OUTPUTS["results"][0]).read_text())
    write_text(output, page(p, results))
    log.info("wrote %s, %.1f MB", output, output.stat().st_size / 1e6)


def page(p: Params, results: dict[str, Any]) -> str:
    """Return the page's HTML, at most `BUDGET` bytes."""
    sections = [_section(p, record) for record in results["tables"].values()]
    context = {
        "sections": sections,
        "papers": _papers(results["tables"]),
        "lineages": {name: _lineages(record) for name, record in results["tables"].items()},
        "bibtex": "\n\n".join(results["bibtex"].values()),
        "commit": results["made_by"]["commit"],
        "stages": _stages(p),
        "grades": GRADE_WORDS,
    }
    pictures = [picture for section in sections for picture in section["pictures"]]
    bare = [section | {"pictures": []} for section in sections]
    size = len(rendered(context | {"sections": bare, "dropped": [picture["name"] for picture in pictures]}).encode())
    if size > BUDGET:
        raise RetakeError(
            f"the report has {size / 1e6:.1f} MB without any picture: name fewer experiments in `reproduce`"
        )
    return rendered(context | {"dropped": _drop(pictures, BUDGET - size)})


def _drop(pictures: list[dict[str, Any]], room: int) -> list[str]:
    """Empty the largest pictures until all that are left take at most `room` bytes; return the names of those."""
    dropped = []
    for picture in sorted(pictures, key=_bytes_of):
        room -= _bytes_of(picture)
        if room < 0:
            dropped.append(picture["name"])
            picture["data"] = {}
    return dropped


def _bytes_of(picture: dict[str, Any]) -> int:
    """Return what a picture adds to the page, with the elements around it (a little more than they have)."""
    return sum(map(len, picture["data"].values())) + 1000 + 8 * len(picture["name"])


def rendered(context: dict[str, Any]) -> str:
    """Return the template filled in; its one script is allowed by its digest, everything else that could run is not."""
    import jinja2

    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    source = TEMPLATE.read_text(encoding="utf-8")
    script = source.split("<script>")[1].split("</script>")[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.from_string(source).render(context | {"script_digest": f"sha256-{digest}"})


def _section(p: Params, record: dict[str, Any]) -> dict[str, Any]:
    """Return what the page shows of one experiment."""
    main = [c for c in record["columns"] if not c["group"]]
    rows = [_row(record, row, main) for row in record["rows"]]
    published = [
        {"label": row["label"], "source": row["source"], "cells": [row["cells"].get(c["name"], {}) for c in main]}
        for row in record["published"]
    ]
    return {
        "record": record,
        "columns": main,
        "best": _best(record),
        "steps": [f"t+{step}" for step in sorted({c["step"] for c in main if c["step"]})],
        "rows": rows,
        "published": published,
        "pairs": [_pair(record, d) for d in record["pairs"] if d["p"] is not None],
        "charts": [*_curves(record), *_cost(record, main), *_trainings(p, record)],
        "key": _chart(charts.key([row["label"] for row in record["rows"]], record["experiment"])),
        "pictures": _pictures(p, record),
        "command": _command(f"results/{record['experiment']}_metrics.csv"),
    }


def _row(record: dict[str, Any], row: dict[str, Any], columns: list[dict[str, Any]]) -> dict[str, Any]:
    cells = []
    for column in columns:
        cell, digits = row["cells"].get(column["name"]), record["metrics"][column["metric"]]["digits"]
        told: dict[str, Any] = {"value": "", "text": "", "interval": "", "over": "", "note": "", "spread": ""}
        if cell is not None and cell["mean"] is not None:
            told |= {"text": f"{cell['mean']:.{digits}f}", "value": cell["mean"], "note": cell["note"]}
            if cell["low"] is not None:
                told["interval"] = f"{cell['low']:.{digits}f} – {cell['high']:.{digits}f}"
                told["over"] = f"{cell['units']} {cell['unit']}"
            if cell["spread"] is not None:
                told["spread"] = f"{cell['spread']:.2g} between {row['samples']} draws"
        cells.append(told)
    return {"row": row, "cells": cells}


def _command(file: str | Path, *, again: bool = False) -> str:
    """Return the command that makes a file, or that makes it `again` although it is up to date."""
    return f"snakemake --cores all {'--force ' if again else ''}{file}"


def _lineages(record: dict[str, Any]) -> dict[str, Any]:
    """Return what the cells of a table rest on: of all rows, of each metric, and of each row, one step after another.

    A step is its name, lines of text, and the command that makes it again.
    """
    data = {"dataset": record["dataset"], "split": "test"}
    archives = [f"{a['file']}, SHA-256 {a['sha256']}" for a in record["archives"]]
    return {
        "archives": [
            "archives",
            archives or ["none: the frames are made here"],
            _command(plan.path("download", **data)),
        ],
        "metrics": {
            name: f"{about['label']}, {', '.join(f'{k} {v}' for k, v in about['settings'].items())} ({about['identity']})"
            for name, about in record["metrics"].items()
        },
        "rows": {row["name"]: {"label": row["label"], "steps": _steps(record, row)} for row in record["rows"]},
        "table": ["table", [], _command(f"results/{record['experiment']}_metrics.csv")],
    }


def _steps(record: dict[str, Any], row: dict[str, Any]) -> list[list[Any]]:
    """Return the steps from the frames to the scores of one row; what an older record does not know is left out."""
    digests, trained, speed = row["digests"], row.get("trained", {}), row["speed"]
    names = {"experiment": record["experiment"], "model": row["name"]}

    def lines(*told: tuple[str, Any]) -> list[str]:
        return [f"{what} {value}" for what, value in told if value]

    steps: list[list[Any]] = [
        [
            "frames",
            lines(("", row["frames"]), ("digest", digests["data"]), ("partial:", row["partial"])),
            _command(plan.path("frames", dataset=record["dataset"], split="test"), again=True),
        ]
    ]
    if row["flow"]:
        steps.append(["flow", [row["flow"]], ""])
    if digests["checkpoint"]:
        made = [
            ("steps:", trained.get("step")),
            ("commit", trained.get("commit")),
            ("machine:", trained.get("machine")),
        ]
        file = plan.path("train", model=row["name"], dataset=record["trained_on"])
        told = lines(("digest", digests["checkpoint"]), *made, ("", row["training"]))
        steps.append(["checkpoint", told, _command(file, again=True)])
    hardware = ", ".join(lines(("", speed.get("device")), ("threads", speed.get("threads")), ("", row["precision"])))
    predict, _, score = digests["code"].partition(" ")
    told = lines(
        ("digest", digests.get("predictions")), ("params", digests["params"]), ("code", predict), ("on", hardware)
    )
    steps.append(["predictions", told, _command(plan.path("predict", **names), again=True)])
    told = lines(("digest", digests.get("scores")), ("code", score), ("notes:", row["note"]))
    return [*steps, ["scores", told, _command(plan.path("score", **names), again=True)]]


def _best(record: dict[str, Any]) -> set[tuple[str, str]]:
    """Return the (row, column) that are best, or not significantly worse than the best."""
    worse = {(d["one"], d["column"]) for d in record["pairs"] if d["holm"] is None or d["holm"] < 0.05}
    compared = {(d["one"], d["column"]) for d in record["pairs"]}
    best = {(d["other"], d["column"]) for d in record["pairs"]}
    return best | (compared - worse)


def _pair(record: dict[str, Any], d: dict[str, Any]) -> dict[str, Any]:
    labels = {row["name"]: row["label"] for row in record["rows"]}
    column = next(c for c in record["columns"] if c["name"] == d["column"])
    digits = record["metrics"][column["metric"]]["digits"] + 1
    return {
        "column": column["title"] + (f" ({column['group']})" if column["group"] else ""),
        "one": labels[d["one"]],
        "other": labels[d["other"]],
        "mean": f"{d['mean']:+.{digits}f}",
        "interval": f"{d['low']:+.{digits}f} – {d['high']:+.{digits}f}",
        "p": f"{d['holm']:.2g}",
        "over": f"{d['units']} {d['unit']}",
    }


def _curves(record: dict[str, Any]) -> list[dict[str, str]]:
    """Return a chart for each metric that has values at single steps."""
    made = []
    for metric in dict.fromkeys(column["metric"] for column in record["columns"]):
        about, drawn = record["metrics"][metric], []
        for number, row in enumerate(record["rows"]):
            steps = [s for s in row["steps"] if s["metric"] == metric and s["mean"] is not None]
            if len(steps) > 1:
                low, high = ([s[k] if s[k] is not None else s["mean"] for s in steps] for k in ("low", "high"))
                drawn.append(charts.Curve(number, [s["step"] for s in steps], [s["mean"] for s in steps], low, high))
        if drawn:
            title = f"{record['experiment']}: {about['label']} at each step, {about['better']} is better"
            made.append({"title": title, "image": _chart(charts.curves(drawn, "step", about["label"], title))})
    return made


def _cost(record: dict[str, Any], columns: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return charts of the first metric against each cost that at least two rows have."""
    if not columns:
        return []
    column, made = columns[0], []
    about = record["metrics"][column["metric"]]
    for name, what in (
        ("parameters", "parameters"),
        ("gmacs", "GMACs a frame"),
        ("ms_per_frame", "ms a frame, as measured"),
    ):
        drawn = []
        for number, row in enumerate(record["rows"]):
            cost = row["speed"].get(name) if name == "ms_per_frame" else row[name]
            mean = row["cells"].get(column["name"], {}).get("mean")
            if cost and mean is not None:
                drawn.append((number, float(cost), mean))
        if len(drawn) > 1:
            title = f"{record['experiment']}: {column['title']} against {what}"
            made.append({"title": title, "image": _chart(charts.points(drawn, what, about["label"], title))})
    return made


def _trainings(p: Params, record: dict[str, Any]) -> list[dict[str, str]]:
    """Return the loss and the validations of every training behind the rows, where its log is there."""
    drawn: dict[str, list[charts.Curve]] = {}
    said: dict[str, list[str]] = {}
    e = p.experiments.get(record["experiment"])
    for number, row in enumerate(record["rows"]):
        for name in e.trainings(row["name"]) if e is not None else []:
            file = plan.path("train", model=name, dataset=record["trained_on"]).with_suffix(".metrics.jsonl")
            if name not in p.models or p.models[name].train is None or not file.exists():
                continue
            for key, curve in charts.training(file).items():
                what = key if key.startswith("val_") else "loss"
                drawn.setdefault(what, []).append(replace(curve, number=number))
                if key != what:
                    said.setdefault(what, []).append(f"{row['label']}: {key}")
    made = []
    for what, curves in sorted(drawn.items(), key=lambda item: item[0] != "loss"):
        title = f"{record['experiment']}: {what.replace('val_', 'validation, ')} while training"
        title += f" ({', '.join(dict.fromkeys(said[what]))})" if what in said else ""
        svg = charts.curves(curves, "training step", what, title, log=what == "loss")
        made.append({"title": title, "image": _chart(svg)})
    return made


def _chart(svg: str) -> str:
    """Return a chart as a data URL: a page opens twice as fast as with its thousands of elements inside it."""
    return "data:image/svg+xml," + quote(svg, safe=" ='/:;,()!*@$?{}[]-_.~")


def _pictures(p: Params, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the experiment's picture, the motion of every row, and the windows where two rows differ most; `data`: data URLs."""
    name, made = record["experiment"], []
    file = Path(plan.OUTPUTS["table"][5].format(experiment=name))
    labels = ", ".join(row["label"] for row in record["rows"])
    if file.exists() and (image := cv2.imread(str(file))) is not None:
        told = f"{name}: what is given, the truth, and each row with its error: {labels}"
        made.append({"name": told, "kind": "strip", "data": {"image": _jpeg(image[..., ::-1])}})
    chosen = _rivals(record)
    if chosen is None or name not in p.experiments:
        return made
    metric, rivals = chosen
    per_window = [_window_means(name, row["name"], metric) for row in rivals]
    apart = sorted(
        per_window[0].keys() & per_window[1].keys(), key=lambda w: (-abs(per_window[0][w] - per_window[1][w]), w)
    )
    files = [plan.path("predict", experiment=name, model=row["name"]) for row in record["rows"]]
    fields = plan.fields_of(p, "table", experiment=name)
    if not apart or not all(Path(file).exists() for file in (*files, fields["frames"])):
        return made
    protocol = p.protocols[record["protocol"]]
    compared = tasks.part(protocol.task, "view").compared
    shown = {row["name"]: (row["label"], Store(file)) for row, file in zip(record["rows"], files, strict=True)}
    made += _motion(name, apart[0], [(label, *compared(fields, protocol, s, apart[0])) for label, s in shown.values()])
    for window in apart[:WORST]:
        pairs = [compared(fields, protocol, shown[row["name"]][1], window) for row in rivals]
        values = [f"{row['label']} {means[window]:.3g}" for row, means in zip(rivals, per_window, strict=True)]
        told = f"{name}, {window}: {record['metrics'][metric]['label']} {', '.join(values)}"
        made.append(_slider(told, [row["label"] for row in rivals], pairs))
    return made


def _slider(name: str, labels: list[str], pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
    """Return the truth, and of each label its last picture and the map of its error; flow in colours has no such map."""
    data = {"truth": _jpeg(pairs[0][0][-1])}
    for number, (truth, made) in enumerate(pairs):
        data[f"made{number}"] = _jpeg(made[-1])
        if len(made) > 1:
            data[f"error{number}"] = _jpeg(sheets.error_map(sheets.difference(made[-1], truth[-1])))
    return {"name": name, "kind": "slider", "labels": labels, "data": data}


def _motion(name: str, window: str, rows: list[tuple[str, np.ndarray, np.ndarray]]) -> list[dict[str, Any]]:
    """Return a picture of the flow between the last two frames, of the truth and of each row (label, truth, made).

    It is estimated by DIS on the frames themselves. There is none for frames that are too small for DIS, or for single ones.
    """
    kind = registry("models")["dis"]
    estimator = kind.build(kind.Params(kind="dis"))
    truth = rows[0][1]
    try:
        kind.Params(kind="dis").check(*truth.shape[1:3])
    except ValueError:
        return []
    if len(truth) < 2:
        return []
    true = estimator.estimate(*truth)
    scale = colours.scale_of(true)
    cells: list[sheets.Cell] = [("truth", colours.colours(true, scale))]
    for label, _, made in rows:
        flow = estimator.estimate(*made)
        error = float(np.hypot(*np.moveaxis(flow - true, -1, 0)).mean())
        cells.append((f"{label}: off by {error:.2f} px", colours.colours(flow, scale)))
    title = f"{window}: flow between the last two frames, estimated by DIS on the frames of each"
    framed: list[sheets.Cell] = [  # no motion is white, as the sheet is
        (words, image if image is None else np.pad(image, ((1, 1), (1, 1), (0, 0)), constant_values=160))
        for words, image in cells
    ]
    image = sheets.sheet(sheets.wrap(framed), title, sheets.legend(scale))
    told = f"{name}, {window}: motion between the last two frames (DIS), " + ", ".join(words for words, _ in cells)
    return [{"name": told, "kind": "strip", "data": {"image": _jpeg(image)}}]


def _rivals(record: dict[str, Any]) -> tuple[str, list[dict[str, Any]]] | None:
    """Return the first metric that compares pictures, and its two best rows."""
    for column in record["columns"]:
        about = record["metrics"][column["metric"]]
        if about["needs"] in ("features", "samples") or column["group"]:
            continue
        rows = [r for r in record["rows"] if r["cells"].get(column["name"], {}).get("mean") is not None]
        rows.sort(key=lambda r: r["cells"][column["name"]]["mean"], reverse=about["better"] == "higher")
        if len(rows) > 1:
            return column["metric"], rows[:2]
    return None


def _window_means(experiment: str, name: str, metric: str) -> dict[str, float]:
    """Return {window: mean of a metric's values}, of windows whose values are finite; {} where the scores are gone."""
    file = plan.path("score", experiment=experiment, model=name)
    if not file.exists():
        return {}
    columns, _ = scores.read(file)
    chosen = columns["metric"] == metric
    values: dict[str, list[float]] = {}
    for window, value in zip(columns["window"][chosen].tolist(), columns["value"][chosen].tolist(), strict=True):
        values.setdefault(window, []).append(value)
    return {w: sum(each) / len(each) for w, each in values.items() if all(map(math.isfinite, each))}


def _jpeg(image: np.ndarray) -> str:
    """Return an image (height, width, 3) uint8 RGB as a data URL, at most `WIDEST` wide."""
    if image.shape[1] > WIDEST:
        size = WIDEST, round(image.shape[0] * WIDEST / image.shape[1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _papers(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the papers' tables that the records measure, cell by cell, with verdicts; measured rows and column groups first."""
    tables = []
    for name, entry in papers.tables().items():
        if not set(entry.experiments) & set(records):
            continue
        made = papers.make(name, records)
        columns = sorted(made.columns, key=lambda column: entry.parts[column.part].experiment not in records)
        lines = []
        for line in (*made.measured, *made.told):
            cells = []
            for column in columns:
                text = line.cells.get(column, "")
                verdict = line.verdicts.get(column)
                experiment = entry.parts[column.part].experiment or ""
                row = next((r for r in records.get(experiment, {"rows": []})["rows"] if r["label"] == line.label), None)
                cells.append(
                    {
                        "text": text if line.measured or papers.NUMBER.fullmatch(text) else "",
                        "grade": line.grades.get(column, ""),
                        "mark": verdict.mark if verdict else "",
                        "words": f"paper {line.against[column]}: {verdict.words}" if verdict else "",
                        "interval": interval_of(line, column),
                        "lineage": f"{experiment}/{row['name']}" if line.measured and row and text else "",
                        "metric": _metric_of(records.get(experiment), column.ours),
                    }
                )
            source = "" if line.measured else f"[{made.sources.index(line.source) + 1}]"
            lines.append({"label": line.label, "source": source, "measured": line.measured, "cells": cells})
        steps = [c.horizon if re.fullmatch(r"t[+=]\d+", c.horizon) else "" for c in columns]
        heads = [
            {"title": f"{entry.parts[c.part].title}: {c.title}", "step": step}
            for c, step in zip(columns, steps, strict=True)
        ]
        tables.append(
            {
                "name": name,
                "caption": entry.caption,
                "heads": heads,
                "steps": list(dict.fromkeys(filter(None, steps))),
                "lines": lines,
                "sources": made.sources,
                "marks": [
                    (verdicts.MARKS[kind], verdicts.WORDS[kind])
                    for kind in dict.fromkeys(v.kind for v in made.verdicts)
                ],
                "count": verdicts.count(made.verdicts),
                "answers": [
                    {"label": line.label, "words": verdicts.numbers(list(line.verdicts.values()))}
                    for line in made.measured
                    if line.verdicts
                ],
            }
        )
    return tables


def _metric_of(record: dict[str, Any] | None, column: str) -> str:
    """Return the metric of a column of a record, "" where there is none."""
    return next((c["metric"] for c in record["columns"] if c["name"] == column), "") if record is not None else ""


def _stages(p: Params) -> dict[str, Any]:
    """Return the graph of the stages behind the page, and {stage: number of its jobs} in the order in which they run."""
    plans = {stage: jobs for stage, jobs in plan.reproduced(p).items() if jobs}
    made_by = {
        out.format(**f): stage for stage, jobs in plans.items() for f in jobs.values() for out in plan.FILES_OF[stage]
    }
    read = {
        stage: {file for fields in jobs.values() for file in plan.inputs(p, stage, fields)}
        for stage, jobs in plans.items()
    }
    edges = sorted({(made_by[file], stage) for stage, files in read.items() for file in files if file in made_by})
    jobs = {stage: len(instances) for stage, instances in plans.items()}
    words = {stage: f"{stage} ({count})" for stage, count in jobs.items()}
    title = "The graph of the stages: " + ", ".join(f"{a} to {b}" for a, b in edges)
    between = [(a, b) for a, b in edges if a != b]  # a training may start from another
    return {"jobs": jobs, "title": title, "image": _chart(charts.graph(between, words, title)) if jobs else ""}


if __name__ == "__main__":
    run(main, "report")
