"""Rows of published numbers: those of results/published/, in the table's units."""

from __future__ import annotations

import csv
import io
import re
from decimal import Decimal
from pathlib import Path

from pipeline.errors import RetakeError
from pipeline.params import Experiment
from pipeline.sources import limits
from pipeline.tables.cells import Cell, Column, Row

PUBLISHED = Path("results/published")
COLUMNS = ("paper", "table", "dataset", "method", "metric", "horizon", "value", "unit", "source", "grade")
MILLIONS = {"1e6": 10**6, "million": 10**6}


def rows_of(e: Experiment, columns: list[Column]) -> list[Row]:
    """Return the rows of results/published/*.csv for the experiment's `published` dataset, methods in their order.

    A published metric stands under the experiment's metric of that name (MS-SSIM under `ms_ssim`), values as printed;
    where `published` names a dataset for a metric, under that one, whose name begins with it (EPE under `epe_clean`);
    what is no number ("N/A", "not established") leaves its cell empty and is said in the row's note.
    """
    if e.published is None:
        return []
    lines = [line for file in limits.unhidden(PUBLISHED, "*.csv") for line in lines_of(file)]
    datasets = e.published if isinstance(e.published, dict) else {"": e.published}
    entries = []
    for key, dataset in datasets.items():
        listed = [line | {"column": key} for line in lines if line["dataset"] == dataset]
        if not listed:
            known = ", ".join(dict.fromkeys(line["dataset"] for line in lines)) or "no rows"
            raise RetakeError(f"no published row of dataset {dataset!r} in {PUBLISHED}/*.csv (known: {known})")
        entries += listed
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
                text = rescale(x["value"], x["unit"], scales[name])
                cell = Cell(text=text, grade=x["grade"], where=x["source"] or x["table"])
                first_read = row.cells.setdefault(name, cell).text
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


def lines_of(file: Path) -> list[dict[str, str]]:
    """Return the rows of one file of published numbers; raises RetakeError that names the file and the line."""
    try:
        lines = csv.DictReader(io.StringIO(limits.text(file), newline=""), strict=True)
        rows = list(lines)
    except csv.Error as error:
        raise RetakeError(f"{file} is no csv file: {error}") from None
    if tuple(lines.fieldnames or ()) != COLUMNS:
        raise RetakeError(f"{file}:1: the columns must be {','.join(COLUMNS)}")
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise RetakeError(f"{file}, row {number}: not {len(COLUMNS)} values (quote a value with commas)")
    return rows


def rescale(value: str, unit: str, scale: float) -> str:
    """Return a published value in the table's scale; as printed when that is its unit."""
    printed = scale_of(unit)
    return value if printed == scale else f"{Decimal(value) * Decimal(scale) / printed:f}"


def scale_of(unit: str) -> int:
    """Return by what a published value of this unit was multiplied before it was printed."""
    return 100 if unit == "1e-2" else 1
