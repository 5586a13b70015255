"""A paper's table: its published numbers in its own arrangement, our measured rows below, and for each pair of cells a verdict.

What stands in which table is written in workflow/paper_tables.yaml. Published numbers are printed as they were published.
Measured values are brought to the paper's unit and printed with its digits.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError

from pipeline import recipes
from pipeline.errors import RetakeError, near
from pipeline.params import Strict
from pipeline.tables import verdicts
from pipeline.tables.published import PUBLISHED, lines_of, scale_of
from pipeline.tables.verdicts import Measured, Published, Verdict

FILE = Path("workflow/paper_tables.yaml")
NUMBER = re.compile(r"-?[0-9]+(\.[0-9]+)?")
GRADES = {  # as the column `grade` of results/published says how a number came to be known
    "primary": "p",
    "secondary": "s",
    "figure": "f",
    "rerun": "r",
    "unverified": "u",
}


class Part(Strict):
    """One column group of a paper's table."""

    title: str
    dataset: str
    tables: list[str] | None = None
    only: list[str] | None = None
    experiment: str | None = None
    rows: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, str] = Field(default_factory=dict)
    facts: dict[str, Any] = Field(default_factory=dict)
    methods: dict[str, dict[str, Any]] = Field(default_factory=dict)


class Table(Strict):
    """One paper's table."""

    caption: str
    file: str
    parts: list[Part]

    @property
    def experiments(self) -> list[str]:
        """The experiments whose rows may stand in it."""
        return list(dict.fromkeys(part.experiment for part in self.parts if part.experiment is not None))


def tables() -> dict[str, Table]:
    """Return workflow/paper_tables.yaml; raises RetakeError with what is wrong in it."""
    try:
        return TypeAdapter(dict[str, Table]).validate_python(recipes.load(FILE))
    except ValidationError as error:
        told = "\n".join(f"  {'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise RetakeError(f"{FILE} is not valid:\n{told}") from None


def table(name: str) -> Table:
    """Return one entry; raises RetakeError for an unknown name."""
    every = tables()
    if name not in every:
        raise RetakeError(f"no table {name!r} in {FILE}{near(name, every)}")
    return every[name]


@dataclass(frozen=True)
class Column:
    """One column: which part, the published metric, its horizon and unit; `ours`: the name of our column, "" for none.

    The unit is None where nothing is published: measured values then stand as in their own table.
    """

    part: int
    metric: str
    horizon: str
    unit: str | None
    ours: str = ""

    @property
    def title(self) -> str:
        """The column's name for people."""
        return " ".join(filter(None, [self.metric, self.horizon if re.fullmatch(r"t[+=]\d+", self.horizon) else ""]))


@dataclass
class Line:
    """One row: of a publication, or ours. `cells`: texts; `grades`: of published cells; `verdicts`: of measured ones."""

    label: str
    source: str
    measured: bool = False
    cells: dict[Column, str] = field(default_factory=dict)
    grades: dict[Column, str] = field(default_factory=dict)
    values: dict[Column, dict[str, Any]] = field(default_factory=dict)
    verdicts: dict[Column, Verdict] = field(default_factory=dict)
    against: dict[Column, str] = field(default_factory=dict)


@dataclass
class Made:
    """A table with its rows."""

    name: str
    table: Table
    columns: list[Column]
    published: list[Line]
    measured: list[Line]
    notes: list[str]

    @property
    def told(self) -> list[Line]:
        """The published rows that have a number; the others only say that none is established."""
        return [line for line in self.published if any(map(NUMBER.fullmatch, line.cells.values()))]

    @property
    def sources(self) -> list[str]:
        """Where those rows were read, each once."""
        return list(dict.fromkeys(line.source for line in self.told))

    @property
    def verdicts(self) -> list[Verdict]:
        """All verdicts, row by row."""
        return [verdict for line in self.measured for verdict in line.verdicts.values()]


def make(name: str, records: dict[str, dict[str, Any]]) -> Made:
    """Return a table; `records`: those of the experiments that are measured, by name (`tables/record.py`)."""
    entry = table(name)
    lines = lines_of(PUBLISHED / f"{entry.file}.csv")
    columns: list[Column] = []
    published: dict[tuple[str, str], Line] = {}
    for number, part in enumerate(entry.parts):
        record = records.get(part.experiment or "")
        for x in (x for x in lines if _belongs(x, part)):
            column = Column(
                number, x["metric"], x["horizon"], x["unit"], _ours(part, x["metric"], x["horizon"], record)
            )
            if column not in columns:
                columns.append(column)
            source = "; ".join(filter(None, [x["paper"], x["table"], x["source"]]))
            key = (x["method"], source)
            line = published.setdefault(key, Line(x["method"], source))
            line.cells[column], line.grades[column] = x["value"], x["grade"]
        if record is not None and not any(c.part == number for c in columns):
            columns += [
                Column(
                    number,
                    record["metrics"][c["metric"]]["label"],
                    f"t+{c['step']}" if c["step"] else "",
                    None,
                    c["name"],
                )
                for c in record["columns"]
                if not c["group"]
            ]
    measured, notes = _measured(entry, columns, list(published.values()), records)
    return Made(name, entry, columns, list(published.values()), measured, notes)


def _belongs(x: dict[str, str], part: Part) -> bool:
    tables, metrics = part.tables, part.only
    return (
        x["dataset"] == part.dataset
        and (tables is None or x["table"] in tables)
        and (metrics is None or x["metric"] in metrics)
    )


def _ours(part: Part, metric: str, horizon: str, record: dict[str, Any] | None) -> str:
    """Return the name of the measured column that has a published metric at a horizon, "" where there is none."""
    if record is None:
        return ""
    key = part.metrics.get(metric) or re.sub(r"\W", "_", metric.lower())
    step = re.fullmatch(r"t\+([0-9]+)", horizon)
    name = f"{key}_t{step[1]}" if step else key
    return name if any(c["name"] == name for c in record["columns"]) else ""


def _measured(
    entry: Table, columns: list[Column], published: list[Line], records: dict[str, dict[str, Any]]
) -> tuple[list[Line], list[str]]:
    """Return our rows, one for each model in all parts, and what must be said of them."""
    lines: dict[str, Line] = {}
    notes: list[str] = []
    for number, part in enumerate(entry.parts):
        record = records.get(part.experiment or "")
        if record is None:
            continue
        for row in record["rows"]:
            line = lines.setdefault(row["label"], Line(row["label"], f"`{part.experiment}`", measured=True))
            for column in (c for c in columns if c.part == number and c.ours in row["cells"]):
                cell = row["cells"][column.ours]
                if cell["mean"] is None:
                    continue
                about = record["metrics"][_column(record, column.ours)["metric"]]
                factor = 1 if column.unit is None else scale_of(column.unit) / about["scale"]
                value = {
                    k: cell[k] * factor if cell[k] is not None else math.nan for k in ("mean", "low", "high", "spread")
                }
                line.values[column] = value | {"n": row["windows"], "unit": cell["unit"], "units": cell["units"]}
                method = part.rows.get(row["name"])
                theirs = next((p for p in published if p.label == method and column in p.cells), None)
                digits = _digits(column, published, about["digits"])
                line.cells[column] = f"{value['mean']:.{digits}f}"
                if theirs is not None and NUMBER.fullmatch(theirs.cells[column]):
                    line.against[column] = theirs.cells[column]
                    line.verdicts[column] = verdicts.verdict(
                        Published(theirs.cells[column], theirs.grades[column], _facts(part, theirs.label, column)),
                        _as_measured(record, row, cell, column, value, factor),
                        digits,
                    )
            if row["partial"]:
                notes.append(f"{row['label']}: partial data, {row['partial']}.")
            if row["note"]:
                notes.append(f"{row['label']}, {part.title}: {row['note']}.")
    words = {
        f"{line.label}, {c.title}: {v.words}."
        for line in lines.values()
        for c, v in line.verdicts.items()
        if v.kind == "not comparable"
    }
    return list(lines.values()), [*dict.fromkeys(notes), *sorted(words)]


def _facts(part: Part, method: str, column: Column) -> dict[str, Any]:
    """Return what is known of how a published number was measured; of `settings`, which stand by metric, its own."""
    facts = part.facts | part.methods.get(method, {})
    return facts | {"settings": facts.get("settings", {}).get(column.metric, {})}


def _column(record: dict[str, Any], name: str) -> dict[str, Any]:
    return next(c for c in record["columns"] if c["name"] == name)


def _digits(column: Column, published: list[Line], default: int) -> int:
    """Return the decimals of a column: those of its published numbers with most."""
    texts = [line.cells[column] for line in published if column in line.cells and NUMBER.fullmatch(line.cells[column])]
    return max((-int(Decimal(text).as_tuple().exponent) for text in texts), default=default)


def _as_measured(
    record: dict[str, Any],
    row: dict[str, Any],
    cell: dict[str, Any],
    column: Column,
    value: dict[str, float],
    factor: float,
) -> Measured:
    """Return one of our cells as verdicts take it, in the paper's unit."""
    ours = _column(record, column.ours)
    average = record["over"] if ours["average"] == "windows" else ours["average"]
    facts = {"average": average, "size": row["size"], "settings": record["metrics"][ours["metric"]]["settings"]}
    if not row["partial"]:
        facts["windows"] = row["windows"]
    untrained = not row["trainings"] and row["kind"] != "brought"  # nothing but its code made the values
    return Measured(
        value["mean"], value["low"], value["high"], value["spread"],
        draws=row["samples"], trainings=[v * factor for v in cell["trainings"]], imported=row["imported"] or untrained,
        partial=row["partial"], facts=facts,
    )  # fmt: skip
