"""Columns and values of single steps, as the tables of several tasks have them."""

from __future__ import annotations

from typing import Any

from pipeline.params import Experiment
from pipeline.tables.cells import PARTS, Column, Row
from pipeline.tables.text import as_csv, digits


def means(e: Experiment, meta: dict[str, Any]) -> list[Column]:
    """Return one column a metric."""
    return [Column(metric, metric, meta["metrics"][metric]) for metric in e.metrics]


def steps_csv(rows: list[Row]) -> str:
    """Return the values of each single step, one a line: not cumulative, unlike the table's t+k."""
    lines = [
        {"model": row.label, "metric": metric, "step": str(step)}
        | {part: digits(getattr(cell, part)) for part in ("mean", *PARTS)}
        | {"n": row.facts["n"], "unit": cell.unit, "units": str(cell.units), "samples": row.facts["samples"]}
        for row in rows
        for (metric, step), cell in row.steps.items()
    ]
    return as_csv(["model", "metric", "step", "mean", *PARTS, "n", "unit", "units", "samples"], lines)
