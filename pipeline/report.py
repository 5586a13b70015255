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
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pipeline import params, plan, tasks
from pipeline.atomic import claim, write_text
from pipeline.drawing import charts
from pipeline.errors import RetakeError, log, run
from pipeline.params import Params
from pipeline.store import scores
from pipeline.store.frames import Store
from pipeline.tables import papers, verdicts
from pipeline.tables.paper_text import GRADE_WORDS

TEMPLATE = Path("workflow/report/report.html.j2")
BUDGET = 8 * 2**20  # bytes
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
        "bibtex": "\n\n".join(results["bibtex"].values()),
        "commit": results["made_by"]["commit"],
        "stages": _stages(p),
        "grades": GRADE_WORDS,
        "verdict_words": {verdicts.MARKS[k]: w for k, w in verdicts.WORDS.items()},
    }
    pictures = [picture for section in sections for picture in section["pictures"]]
    dropped: list[str] = []
    while True:
        html = rendered(context | {"dropped": dropped})
        if len(html.encode()) <= BUDGET:
            return html
        left = [picture for picture in pictures if picture["data"]]
        if not left:
            raise RetakeError(
                f"the report has {len(html) / 1e6:.1f} MB without any picture: name fewer experiments in `reproduce`"
            )
        largest = max(left, key=lambda picture: sum(map(len, picture["data"].values())))
        dropped.append(largest["name"])
        largest["data"] = {}


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
        "steps": sorted({c["step"] for c in main if c["step"]}),
        "rows": rows,
        "published": published,
        "pairs": [_pair(record, d) for d in record["pairs"] if d["p"] is not None],
        "charts": [*_curves(record), *_cost(record, main), *_trainings(p, record)],
        "pictures": _pictures(p, record),
        "command": f"snakemake --cores all results/{record['experiment']}_metrics.csv",
    }


def _row(record: dict[str, Any], row: dict[str, Any], columns: list[dict[str, Any]]) -> dict[str, Any]:
    cells = []
    bold = _best(record)
    for column in columns:
        cell = row["cells"].get(column["name"])
        about = record["metrics"][column["metric"]]
        told = {"value": None, "text": "", "interval": "", "bold": (row["name"], column["name"]) in bold}
        if cell is not None and cell["mean"] is not None:
            told |= {"value": cell["mean"], "text": f"{cell['mean']:.{about['digits']}f}"}
            if cell["low"] is not None:
                told["interval"] = f"{cell['low']:.{about['digits']}f} – {cell['high']:.{about['digits']}f}"
                told["over"] = f"{cell['units']} {cell['unit']}"
            told["note"] = cell["note"]
        cells.append(told)
    lineage = {
        "archives": [f"{a['file']} {a['sha256'][:12]}" for a in record["archives"]],
        "frames": row["frames"],
        "data": row["digests"]["data"],
        "flow": row["flow"],
        "training": row["training"],
        "checkpoint": row["digests"]["checkpoint"],
        "params": row["digests"]["params"],
        "code": row["digests"]["code"],
        "note": row["note"],
        "partial": row["partial"],
    }
    return {"row": row, "cells": cells, "lineage": lineage}


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
        for row in record["rows"]:
            steps = [s for s in row["steps"] if s["metric"] == metric and s["mean"] is not None]
            if len(steps) > 1:
                low, high = ([s[k] if s[k] is not None else s["mean"] for s in steps] for k in ("low", "high"))
                drawn.append(
                    charts.Curve(row["label"], [s["step"] for s in steps], [s["mean"] for s in steps], low, high)
                )
        if drawn:
            title = f"{record['experiment']}: {about['label']} at each step, {about['better']} is better"
            made.append({"title": title, "svg": charts.curves(drawn, "step", about["label"], title)})
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
        for row in record["rows"]:
            cost = row["speed"].get(name) if name == "ms_per_frame" else row[name]
            mean = row["cells"].get(column["name"], {}).get("mean")
            if cost and mean is not None:
                drawn.append((row["label"], float(cost), mean))
        if len(drawn) > 1:
            title = f"{record['experiment']}: {column['title']} against {what}"
            made.append({"title": title, "svg": charts.points(drawn, what, about["label"], title)})
    return made


def _trainings(p: Params, record: dict[str, Any]) -> list[dict[str, str]]:
    """Return the loss of each training behind the rows, where its log is there."""
    drawn = []
    for row in record["rows"]:
        file = plan.path("train", model=row["name"], dataset=record["trained_on"]).with_suffix(".metrics.jsonl")
        if row["name"] not in p.models or p.models[row["name"]].train is None or not file.exists():
            continue
        curve = charts.losses(row["label"], file)
        drawn += [curve] if curve is not None else []
    if not drawn:
        return []
    title = f"{record['experiment']}: loss while training"
    return [{"title": title, "svg": charts.curves(drawn, "training step", "loss", title, log=True)}]


def _pictures(p: Params, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the experiment's picture, and truth beside two rows where these differ most; {} as data for what is dropped."""
    name, made = record["experiment"], []
    file = Path(plan.OUTPUTS["table"][5].format(experiment=name))
    if file.exists() and (image := cv2.imread(str(file))) is not None:
        made.append(
            {"name": f"{name}: what its rows look like", "kind": "strip", "data": {"image": _jpeg(image[..., ::-1])}}
        )
    return made + _worst(p, record)


def _worst(p: Params, record: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the windows on which the best and the second row differ most, as truth and both results."""
    chosen = _rivals(record)
    if chosen is None or record["experiment"] not in p.experiments:
        return []
    metric, rivals = chosen
    per_window = [_window_means(record["experiment"], row["name"], metric) for row in rivals]
    shared = [w for w in per_window[0] if w in per_window[1]]
    apart: list[str] = sorted(shared, key=lambda w: -abs(per_window[0][w] - per_window[1][w]))[:WORST]
    fields = plan.fields_of(p, "table", experiment=record["experiment"])
    protocol = p.protocols[record["protocol"]]
    view = tasks.part(protocol.task, "view")
    made: list[dict[str, Any]] = []
    for window in apart:
        data: dict[str, str] = {}
        told = []
        for number, row in enumerate(rivals):
            file = plan.path("predict", experiment=record["experiment"], model=row["name"])
            if not file.exists() or not Path(fields["frames"]).exists():
                return made
            truth, image = view.compared(fields, protocol, Store(file), window)
            data |= {"truth": _jpeg(truth), f"made{number}": _jpeg(image)}
            told.append(f"{row['label']} {per_window[number][window]:.3g}")
        label = record["metrics"][metric]["label"]
        made.append(
            {
                "name": f"{record['experiment']}, {window}: {label} {', '.join(told)}",
                "kind": "slider",
                "labels": [row["label"] for row in rivals],
                "data": data,
            }
        )
    return made


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
    values: dict[str, list[float]] = {}
    for window, _, _, key, value, _ in zip(*columns.values(), strict=True):
        if key == metric:
            values.setdefault(window, []).append(value)
    return {window: float(np.mean(each)) for window, each in values.items() if np.isfinite(each).all()}


def _jpeg(image: np.ndarray) -> str:
    """Return an image (height, width, 3) uint8 RGB as a data URL, at most `WIDEST` wide."""
    if image.shape[1] > WIDEST:
        size = WIDEST, round(image.shape[0] * WIDEST / image.shape[1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    data = cv2.imencode(".jpg", np.ascontiguousarray(image[..., ::-1]), [cv2.IMWRITE_JPEG_QUALITY, QUALITY])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _papers(records: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the papers' tables that the records measure, cell by cell, with verdicts."""
    tables = []
    for name, entry in papers.tables().items():
        if not set(entry.experiments) & set(records):
            continue
        made = papers.make(name, records)
        lines = []
        for line in (*made.published, *made.measured):
            cells = []
            for column in made.columns:
                text = line.cells.get(column, "")
                verdict = line.verdicts.get(column)
                cells.append(
                    {
                        "text": text if line.measured or papers.NUMBER.fullmatch(text) else "",
                        "grade": papers.GRADES.get(line.grades.get(column, ""), ""),
                        "mark": verdict.mark if verdict else "",
                        "words": verdict.words if verdict else "",
                    }
                )
            lines.append({"label": line.label, "source": line.source, "measured": line.measured, "cells": cells})
        heads = [f"{entry.parts[c.part].title}: {c.title}" for c in made.columns]
        tables.append(
            {
                "name": name,
                "caption": entry.caption,
                "heads": heads,
                "lines": lines,
                "count": verdicts.count(made.verdicts),
            }
        )
    return tables


def _stages(p: Params) -> list[tuple[str, int]]:
    """Return the stages behind the page, in order, with their number of jobs."""
    return [(stage, len(instances)) for stage, instances in plan.reproduced(p).items() if instances]


if __name__ == "__main__":
    run(main, "report")
