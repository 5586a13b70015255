"""The record of a table: all that it says and rests on, in full precision, for what reads tables by program.

The stage `table` writes one for each experiment, results/records/<experiment>.json. Paper tables, results/results.json, the
report, the leaderboard and `pipeline.compare` read these and nothing else of the tables. The format is that of
results/results.json (workflow/schemas/results.schema.json, docs/results.md).
"""

from __future__ import annotations

import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import cite, plan
from pipeline.errors import RetakeError
from pipeline.params import Params
from pipeline.store import sealed
from pipeline.tables.cells import Cell, Column, Row
from pipeline.tables.pairs import Difference

FORMAT = 1  # goes up when what an older reader knows changes its meaning


def of(
    p: Params, experiment: str, rows: list[Row], columns: list[Column], differences: list[Difference], over: str
) -> dict[str, Any]:
    """Return the record of a table: plain values, None for NaN and for what there is not."""
    e = p.experiments[experiment]
    measured = [row for row in rows if row.measured]
    first = measured[0].meta
    return {
        "format": FORMAT,
        "experiment": experiment,
        "task": p.protocols[e.protocol].task,
        "dataset": e.dataset,
        "trained_on": e.trained_on,
        "protocol": e.protocol,
        "protocol_settings": first["predictions"]["protocol"],
        "over": over,
        "windows": first["windows"],
        "archives": _archives(e.dataset),
        "licence": first["predictions"].get("licence") or "",
        "references": list(dict.fromkeys([*cite.of_dataset(p, e.dataset), *cite.of_dataset(p, e.trained_on)])),
        "metrics": {metric: {k: about[k] for k in ABOUT} for metric, about in first["metrics"].items()},
        "columns": [_column(column) for column in columns],
        "rows": [_row(p, experiment, row) for row in measured],
        "published": [
            {"label": row.label, "source": row.source, "cells": {name: _text(cell) for name, cell in row.cells.items()}}
            for row in rows
            if not row.measured
        ],
        "pairs": [_plain(d._asdict()) for d in differences],
    }


ABOUT = ("label", "identity", "settings", "better", "scale", "digits", "needs")


def _archives(dataset: str) -> list[dict[str, str]]:
    """Return the archives that the test set was read from, with their digests; none for frames that come from elsewhere."""
    manifest = plan.path("download", dataset=dataset, split="test")
    archives = sealed.read(manifest)["archives"] if manifest.exists() else []
    return [{"file": a["file"], "sha256": a["sha256"]} for a in archives]


def _column(column: Column) -> dict[str, Any]:
    """Return what a column is the mean of. `average`: windows, scenes or frames count alike."""
    return {
        "name": column.name,
        "metric": column.metric,
        "title": column.title,
        "step": column.k or None,
        "group": column.group,
        "scene": column.window,
        "average": "frames" if column.pooled or column.window else "windows",
    }


def _row(p: Params, experiment: str, row: Row) -> dict[str, Any]:
    model = p.models.get(row.name)
    return {
        "name": row.name,
        "label": row.label,
        "kind": model.kind if model is not None else "brought",
        "imported": bool(model is not None and model.checkpoint is not None),
        "references": cite.of_model(p, row.name),
        "trainings": int(row.facts["trainings"] or 0),
        "samples": row.meta["samples"],
        "windows": row.meta["windows"],
        "frames": row.facts["frames"],
        "size": row.facts["size"],
        "flow": row.facts["flow"],
        "training": row.facts["training"],
        "trained": row.meta["predictions"].get("trained") or {},
        "partial": row.facts["partial"],
        "note": row.facts["note"],
        "parameters": int(row.facts["parameters"]) if row.facts["parameters"] else None,
        "gmacs": float(row.facts["gmacs"]) if row.facts["gmacs"] else None,
        "digests": {key: row.facts[key] for key in ("checkpoint", "data", "params")}
        | {
            "code": _code(p, experiment, row),
            "predictions": row.meta["identity"][:12],
            "scores": row.meta["seal"][:12],
        },
        "speed": _speed(experiment, row.name),
        "precision": p.compute.precision,
        "cells": {name: _cell(cell) for name, cell in row.cells.items()},
        "steps": [{"metric": metric, "step": step} | _cell(cell) for (metric, step), cell in row.steps.items()],
    }


def _cell(cell: Cell) -> dict[str, Any]:
    told = asdict(cell)
    for key in ("text", "grade", "where"):  # of published values
        told.pop(key)
    return _plain(told)


def _text(cell: Cell) -> dict[str, str]:
    return {"text": cell.text, "grade": cell.grade, "source": cell.where}


def _plain(values: dict[str, Any]) -> dict[str, Any]:
    """Return values with None for what is not finite: JSON has no NaN."""
    return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


def _code(p: Params, experiment: str, row: Row) -> str:
    """Return the digest of the code that the row's values depend on: what predicted and what scored."""
    stages = ("bring" if row.name in p.experiments[experiment].predictions else "predict", "score")
    return " ".join(plan.code(p, s, plan.fields_of(p, s, experiment=experiment, model=row.name))[:12] for s in stages)


def _speed(experiment: str, name: str) -> dict[str, Any]:
    path = Path(plan.OUTPUTS["predict"][1].format(experiment=experiment, model=name))
    return sealed.read(path) if path.exists() else {}


def means(record: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return {row: {column: mean}}, for DVC's `metrics`: `dvc metrics diff`, `dvc exp show`."""
    return {
        row["name"]: {name: cell["mean"] for name, cell in row["cells"].items() if cell["mean"] is not None}
        for row in record["rows"]
    }


def read(path: Path) -> dict[str, Any]:
    """Return a record; raises RetakeError when it is missing, damaged, or of another format."""
    record: dict[str, Any] = sealed.read(path)
    if record.get("format") != FORMAT:
        raise RetakeError(
            f"{path} has format {record.get('format')}, this version reads {FORMAT}: make its table again"
        )
    return record
