"""A paper's table as CSV, Markdown and LaTeX, and all measured means as LaTeX macros."""

from __future__ import annotations

import math
from typing import Any

from pipeline.tables import verdicts
from pipeline.tables.papers import GRADES, NUMBER, Column, Line, Made
from pipeline.tables.text import as_csv, digits, document, pipes, tex

HEAD = (
    "part", "dataset", "metric", "horizon", "unit", "row", "source", "value", "grade", "low", "high", "n", "interval_over",
    "published", "difference", "verdict", "words",
)  # fmt: skip
GRADE_WORDS = (
    "Grades of published numbers: p primary (the authors' own), s secondary (as another source quotes them), f read off a figure, "
    "r rerun by others, u unverified."
)
EMPTY = "Nothing is published that could be established: the table has measured rows alone."
TEX_MARKS = {
    "agrees": "$=$", "differs": r"$\neq$", "inside": r"$\approx$", "outside": r"$\not\approx$", "one training": "1",
    "partial inside": r"($\approx$)", "partial outside": r"($\not\approx$)", "not comparable": "--",
}  # fmt: skip


def as_long_csv(made: Made) -> str:
    """Return one line a cell, published and measured."""
    lines = []
    for line in (*made.published, *made.measured):
        for column, text in line.cells.items():
            part = made.table.parts[column.part]
            told = {
                "part": part.title, "dataset": part.dataset, "metric": column.metric, "horizon": column.horizon, "unit": column.unit or "",
                "row": line.label, "source": line.source, "value": text, "grade": line.grades.get(column, ""),
            }  # fmt: skip
            if line.measured:
                value = line.values[column]
                told["source"] = f"measured, {part.experiment}"
                told |= {"value": digits(value["mean"]), "low": digits(value["low"]), "high": digits(value["high"])}
                told |= {
                    "n": str(value["n"]),
                    "interval_over": f"{value['units']} {value['unit']}" if value["unit"] else "",
                }
            if column in line.verdicts:
                verdict = line.verdicts[column]
                told |= {"published": line.against[column], "difference": digits(verdict.difference)}
                told |= {"verdict": verdict.kind, "words": verdict.words}
            lines.append(told)
    return as_csv(list(HEAD), lines)


def as_markdown(made: Made) -> str:
    """Return the table for reading."""
    sources = made.sources
    titles = [made.table.parts[column.part].title for column in made.columns]
    head = ["row", *(f"{title}: {column.title}" for title, column in zip(titles, made.columns, strict=True))]
    body = [
        [f"{line.label} [{sources.index(line.source) + 1}]", *(_published(line, c) for c in made.columns)]
        for line in made.told
    ]
    for line in made.measured:
        body.append([f"**{line.label}**, measured", *(line.cells.get(c, "") for c in made.columns)])
        if any(interval_of(line, c) for c in made.columns):
            body.append(["  its 95 % interval", *(interval_of(line, c) for c in made.columns)])
        if line.verdicts:
            body.append(["  ours − paper", *(_difference(line, c) for c in made.columns)])
    text = [f"# {made.name}", "", made.table.caption, ""]
    text += [*pipes(head, body), ""] if body else []
    if not made.told:
        text += [EMPTY, ""]
    text += [verdicts.count(made.verdicts), ""]
    text += [f"* {GRADE_WORDS}"] if made.told else []
    marks = dict.fromkeys(v.kind for v in made.verdicts)
    text += (
        ["* " + ", ".join(f"{verdicts.MARKS[k]} {verdicts.WORDS[k]}" for k in marks) + " (docs/verdicts.md)."]
        if marks
        else []
    )
    text += [f"* {over}" for over in _units(made)]
    text += [f"* {note}" for note in made.notes]
    missing = [e for e in made.table.experiments if not any(e in line.source for line in made.measured)]
    text += (
        [f"* Not measured here: {', '.join(f'`{e}`' for e in missing)} (add them to `reproduce`)."] if missing else []
    )
    text += ["", *(f"{i}. {source}" for i, source in enumerate(sources, start=1))] if sources else []
    return document(text)


def _published(line: Line, column: Column) -> str:
    """Return a published value unaltered, with the letter of its grade; what is no number stays away."""
    text = line.cells.get(column, "")
    if not NUMBER.fullmatch(text):
        return ""
    grade = GRADES.get(line.grades[column], "")
    return f"{text} {grade}".strip()


def interval_of(line: Line, column: Column) -> str:
    """Return the ends of a measured cell's interval as the cell is printed, "" where it has none."""
    value = line.values.get(column)
    if value is None or math.isnan(value["low"]):
        return ""
    decimals = len(line.cells[column].partition(".")[2])
    return f"{value['low']:.{decimals}f} – {value['high']:.{decimals}f}"


def _difference(line: Line, column: Column) -> str:
    verdict = line.verdicts.get(column)
    if verdict is None:
        return ""
    if math.isnan(verdict.difference):
        return verdict.mark
    decimals = len(line.cells[column].partition(".")[2])
    return f"{verdict.difference:+.{decimals}f} {verdict.mark}"


def _units(made: Made) -> list[str]:
    """Return the sentences that say over what intervals are, and how many windows were measured."""
    told: dict[str, list[str]] = {}
    for line in made.measured:
        for column, value in line.values.items():
            over = f"interval over {value['units']} {value['unit']}" if value["unit"] else "no interval"
            told.setdefault(f"{value['n']} windows, {over}", []).append(
                f"{line.label}, {made.table.parts[column.part].title}"
            )
    return [f"{what}: {'; '.join(dict.fromkeys(rows))}." for what, rows in told.items()]


def as_latex(made: Made) -> str:
    """Return a `table` with caption and label, one tabular a column group, no wider than the text; packages: its first line."""
    lines = [
        r"% \usepackage{booktabs,graphicx,siunitx}",
        r"\begin{table}",
        r"  \centering\footnotesize",
        rf"  \caption{{{tex(made.table.caption)} {tex(verdicts.count(made.verdicts))}}}",
        rf"  \label{{tab:{made.name}}}",
    ]
    for part in dict.fromkeys(column.part for column in made.columns):
        lines += _tabular(made, part)
    notes = [EMPTY] if not made.told else [GRADE_WORDS]
    marks = dict.fromkeys(v.kind for v in made.verdicts)
    words = "; ".join(f"{TEX_MARKS[kind]} {tex(verdicts.WORDS[kind])}" for kind in marks)
    lines += [r"  \par\raggedright"]
    lines += [rf"  {tex(note)}\par" for note in (*notes, *_units(made), *made.notes)]
    lines += [rf"  {words}.\par"] if words else []
    lines += [rf"  [{i}] {tex(source)}\par" for i, source in enumerate(made.sources, start=1)]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _tabular(made: Made, part: int) -> list[str]:
    """Return the lines of one column group, with the rows and columns that hold a number; smaller type where it is too wide."""
    filled = {
        column for line in (*made.told, *made.measured) for column, text in line.cells.items() if NUMBER.fullmatch(text)
    }
    columns = [column for column in made.columns if column.part == part and column in filled]

    def here(cells: dict[Column, str]) -> bool:
        return any(NUMBER.fullmatch(cells.get(column, "")) for column in columns)

    if not columns:
        return []
    title = rf"\multicolumn{{{len(columns)}}}{{c}}{{{tex(made.table.parts[part].title)}}}"
    body = [rf"& {title} \\", " & ".join(["Row", *(tex(c.title) for c in columns)]) + r" \\", r"\midrule"]
    published = [line for line in made.told if here(line.cells)]
    for line in published:
        cells = [_tex_published(line, c) for c in columns]
        body.append(" & ".join([tex(line.label) + f" [{made.sources.index(line.source) + 1}]", *cells]) + r" \\")
    measured = [line for line in made.measured if here(line.cells)]
    body += [r"\midrule"] if published and measured else []
    for line in measured:
        cells = [_tex_number(line.cells.get(c, "")) for c in columns]
        body.append(" & ".join([tex(line.label) + ", measured", *cells]) + r" \\")
        if any(interval_of(line, c) for c in columns):
            cells = [" -- ".join(map(_tex_number, interval_of(line, c).split(" – "))) for c in columns]
            body.append(" & ".join([r"\quad its 95\,\% interval", *cells]) + r" \\")
        if any(c in line.verdicts for c in columns):
            cells = [_tex_difference(line, c) for c in columns]
            body.append(" & ".join([r"\quad ours $-$ paper", *cells]) + r" \\")
    return [
        r"  \resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"  \begin{{tabular}}{{l{'r' * len(columns)}}}",
        *(f"    {line}" for line in [r"\toprule", *body, r"\bottomrule"]),
        r"  \end{tabular}}\par\medskip",
    ]


def _tex_number(text: str) -> str:
    return rf"\num{{{text}}}" if NUMBER.fullmatch(text) else tex(text)


def _tex_published(line: Line, column: Column) -> str:
    text = line.cells.get(column, "")
    if not NUMBER.fullmatch(text):
        return ""
    grade = GRADES.get(line.grades[column], "")
    return _tex_number(text) + (rf"\textsuperscript{{{grade}}}" if grade else "")


def _tex_difference(line: Line, column: Column) -> str:
    verdict = line.verdicts.get(column)
    if verdict is None:
        return ""
    if math.isnan(verdict.difference):
        return TEX_MARKS[verdict.kind]
    number, _, _ = _difference(line, column).partition(" ")
    return rf"\num[print-implicit-plus]{{{number}}} {TEX_MARKS[verdict.kind]}"


def macros(records: dict[str, dict[str, Any]]) -> str:
    r"""Return LaTeX that defines \retake{experiment.model.metric.t1}, the measured mean as its table prints it."""
    lines = [
        "% Measured means for running text: \\retake{experiment.model.column}, of a step \\retake{experiment.model.metric.t1}.",
        r"\makeatletter",
        r"\providecommand{\retake}[1]{\@ifundefined{retake@#1}{\textbf{??}}{\csname retake@#1\endcsname}}",
    ]
    for name, record in records.items():
        columns = {c["name"]: c for c in record["columns"]}
        for row in record["rows"]:
            for key, cell in row["cells"].items():
                column = columns[key]
                if cell["mean"] is None:
                    continue
                about = record["metrics"][column["metric"]]
                end = f"{column['metric']}.t{column['step']}" if column["step"] else key
                lines.append(rf"\@namedef{{retake@{name}.{row['name']}.{end}}}{{{cell['mean']:.{about['digits']}f}}}")
    return "\n".join([*lines, r"\makeatother"]) + "\n"
