"""A table as CSV, Markdown and LaTeX."""

from __future__ import annotations

import collections
import csv
import io
import math
from pathlib import Path
from typing import Any

from pipeline import plan
from pipeline.errors import RetakeError
from pipeline.params import Experiment
from pipeline.store import sealed
from pipeline.tables.cells import PARTS, Cell, Column, Layout, Row
from pipeline.tables.pairs import ALPHA, Difference

SPEED = ("ms_per_frame", "frames_per_s", "peak_memory_mib", "device", "threads", "batch")
FACTS = (
    "n", "unit", "units", "samples", "parameters", "gmacs", "frames", "flow", "training", "trainings", "checkpoint", "data", "params", "partial",
    "note", "metrics",
)  # fmt: skip
BOLD = (
    "best measured row, and those not significantly worse (paired test over the same windows, Holm's correction, 5 %)"
)
FITS = {  # how frames came to the size that a dataset's entry says
    "resize": "resized without regard to their aspect ratio (OpenCV, linear)",
    "antialiased": "resized without regard to their aspect ratio (Pillow, bilinear with antialiasing)",
    "pad": "scaled down where they do not fit, then padded by their last column and row; padding is not scored",
}


def metrics_csv(rows: list[Row], columns: list[Column]) -> str:
    """Return the table as CSV: 6 significant digits, so the same bytes for the same scores."""
    names = [name for c in columns for name in c.names]
    head = ["model", "source", *names, *FACTS]
    twice = [name for name, count in collections.Counter(head).items() if count > 1]
    if twice:
        raise RetakeError(f"two columns of the table are called {', '.join(twice)}: give metrics other names")
    lines: list[dict[str, str]] = []
    for row in rows:
        line = {"model": row.label, "source": row.source, **row.facts}
        for name, cell in row.cells.items():
            line[name] = cell.text or digits(cell.mean)
            line |= {f"{name}_{part}": digits(getattr(cell, part)) for part in PARTS}
        lines.append(line)
    return as_csv(head, lines)


def speed_csv(experiment: str, e: Experiment) -> str:
    """Return time and memory of prediction, one model a line, as measured when its predictions were made."""
    lines = []
    for name, label in e.models.items():
        path = Path(plan.OUTPUTS["predict"][1].format(experiment=experiment, model=name))
        speed = sealed.read(path)
        lines.append({"model": label} | {k: digits(v) if isinstance(v, float) else str(v) for k, v in speed.items()})
    return as_csv(["model", *SPEED], lines)


def as_csv(names: list[str], lines: list[dict[str, str]]) -> str:
    """Return lines as CSV; what is no column is left out.

    Text that a spreadsheet would run (it begins with =, +, -, @) gets an apostrophe before it, which spreadsheets do not show.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _harmless(visible(cell)) for name, cell in line.items()} for line in lines)
    return text.getvalue()


def visible(text: str) -> str:
    """Return text on one line whose characters are all seen: line breaks and marks that turn the direction are written out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _harmless(cell: str) -> str:
    try:
        float(cell)
    except ValueError:
        return f"'{cell}" if cell[:1] in ("=", "+", "-", "@") else cell
    return cell


def digits(value: float) -> str:
    """Return a value with the 6 significant digits that CSV files have."""
    return "" if math.isnan(value) else f"{value:.6g}"


def best(rows: list[Row], columns: list[Column], differences: list[Difference]) -> set[tuple[str, str]]:
    """Return the (row name, column name) that are best among the measured rows, or not significantly worse than the best.

    Rows that print the best's value are as good. `differences`: what the rows differ from the best (`pairs.from_best`).
    """
    bold = set()
    for column in columns:
        cells = {row.name: row.cells[column.name].mean for row in rows if row.measured and column.name in row.cells}
        cells = {name: mean for name, mean in cells.items() if not math.isnan(mean)}
        if cells:
            top = (max if column.about["better"] == "higher" else min)(cells.values())
            bold |= {(name, column.name) for name, mean in cells.items() if column.short(mean) == column.short(top)}
    return bold | {(d.one, d.column) for d in differences if d.holm >= ALPHA}


def as_markdown(
    experiment: str, e: Experiment, rows: list[Row], columns: list[Column], layout: Layout, bold: set[tuple[str, str]]
) -> str:
    """Return the table for reading: means, then intervals, then what everything is."""
    notes = _sources(rows)
    arrows = {"higher": "↑", "lower": "↓"}

    def mean(row: Row, column: Column) -> str:
        cell = row.cells.get(column.name, Cell())
        text = cell.text or column.short(cell.mean)
        return f"**{text}**" if (row.name, column.name) in bold and row.measured else text

    def interval(row: Row, column: Column) -> str:
        cell = row.cells.get(column.name, Cell())
        text = f"{column.short(cell.low)} – {column.short(cell.high)}" if column.short(cell.low) else ""
        return f"{text} (±{column.short(cell.spread)})".strip() if column.short(cell.spread) else text

    def both(row: Row, column: Column) -> str:
        return mean(row, column) + (f" ({interval(row, column)})" if interval(row, column) else "")

    def title(column: Column) -> str:
        return f"{column.title} {arrows[column.about['better']]}"

    main, ours = [c for c in columns if not c.group], [row for row in rows if row.measured]
    head = ["model", "source", *map(title, main), "n", "parameters", "GMACs"]
    body = [
        [row.label, row.source if row.measured else f"[{notes.index(row.source) + 1}]"]
        + [mean(row, c) for c in main]
        + [row.facts.get("n", ""), _millions(row.facts.get("parameters", "")), row.facts.get("gmacs", "")]
        for row in rows
    ]
    text = [f"# {experiment}", "", *pipes(head, body), ""]
    several = any(int(row.facts["samples"]) > 1 for row in ours)
    text += [_interval_words(ours) + (" ± standard deviation between samples." if several else ""), ""]
    body = [[row.label, *(interval(row, c) for c in main)] for row in ours]
    if any("".join(line[1:]) for line in body):
        text += [*pipes(["model", *(c.title for c in main)], body), ""]
    for group in dict.fromkeys(c.group for c in columns if c.group):
        grouped = [c for c in columns if c.group == group]
        body = [[r.label, *(both(r, c) for c in grouped)] for r in ours]
        text += [f"## {group}", "", *pipes(["model", *map(title, grouped)], body), ""]
    text += [
        f"* Test set: `{e.dataset}`, {layout.tested(e, ours[0].meta)}. Bold: {BOLD}.",
        *_explain(e, ours),
    ]
    if notes:
        text += ["Published rows; their empty cells are printed as N/A or not established, as the CSV's notes say:", ""]
    text += [f"{i}. {source}" for i, source in enumerate(notes, start=1)]
    return document(text)


def _interval_words(ours: list[Row]) -> str:
    """Return the sentences that say what question the rows' intervals answer, and what their units are."""
    units = " or ".join(dict.fromkeys(f"{row.facts['units']} {row.facts['unit']}" for row in ours if row.facts["unit"]))
    if all(math.isnan(cell.low) for row in ours for cell in row.cells.values()):
        return f"No cell has a 95 % interval{f' over {units}' if units else ''}: the rows' notes say why."
    return (
        "95 % intervals: how far would a mean move on other material of the same kind? Student's t over "
        f"{units}, unless a row's note says otherwise (docs/metrics.md, Intervals)."
    )


def _explain(e: Experiment, rows: list[Row]) -> list[str]:
    """Return the lines below the tables: metrics, notes, lineage, licence."""
    lines = []
    for metric in e.metrics:
        about = rows[0].meta["metrics"][metric]
        told = described(about["settings"])
        scale = f", times {about['scale']:g}" if about["scale"] != 1 else ""
        lines.append(f"* {about['label']} (`{metric}`): {about['better']} is better{scale}; {told}.")
    if any(row.facts["gmacs"] for row in rows):
        lines.append(
            "* GMACs: multiply-adds of one predicted frame at the table's size, 10^9, as this code computes it."
        )
    for row in rows:
        if row.facts["note"]:
            lines.append(f"* {row.label}: {row.facts['note']}.")
        lines.append(f"* {row.label}: {'; '.join(_rests_on(row, '`'))}.")
    for partial in dict.fromkeys(row.facts["partial"] for row in rows if row.facts["partial"]):
        lines.append(f"* **Partial data: {partial}.** Not comparable with published numbers.")
    for frames in dict.fromkeys(row.facts["frames"] for row in rows):
        lines.append(f"* Frames: {frames}.")
    for fit in dict.fromkeys(row.meta["predictions"].get("fit") for row in rows):
        if fit:
            lines.append(f"* Frames: `fit: {fit}`, {FITS[fit]}.")
    for licence in dict.fromkeys(row.meta["predictions"].get("licence") for row in rows):
        if licence:
            lines.append(f"* Data: {licence}")
    return [*lines, ""]


def _rests_on(row: Row, mark: str) -> list[str]:
    """Return what a row rests on, part by part; digests between `mark`s."""
    told = [f"{key}: {row.facts[key]}" for key in ("training", "flow") if row.facts[key]]
    return [
        *told,
        ", ".join(f"{k} {mark}{row.facts[k]}{mark}" for k in ("checkpoint", "data", "params") if row.facts[k]),
    ]


def rests_on(rows: list[Row]) -> list[str]:
    """Return the lines below the table's picture: what each measured row rests on, its frames, and whether data are partial."""
    ours = [row for row in rows if row.measured]
    lines = [f"{row.label}: {'; '.join(_rests_on(row, ''))}" for row in ours]
    lines += [f"Frames: {frames}" for frames in dict.fromkeys(row.facts["frames"] for row in ours)]
    partial = dict.fromkeys(row.facts["partial"] for row in ours if row.facts["partial"])
    return lines + [f"Partial data: {what}. Not comparable with published numbers" for what in partial]


def described(settings: dict[str, Any]) -> str:
    """Return a metric's settings, but for its name, as words: `range 1.0, unit dB`."""
    return ", ".join(f"{k} {_plain(v)}" for k, v in settings.items() if k != "name")


def _plain(value: Any) -> str:
    if isinstance(value, dict):
        return "(" + ", ".join(f"{k} {v:g}" for k, v in value.items()) + ")"
    return "[" + ", ".join(f"{v:g}" for v in value) + "]" if isinstance(value, list) else str(value)


def _sources(rows: list[Row]) -> list[str]:
    return list(dict.fromkeys(row.source for row in rows if not row.measured))


def _millions(parameters: str) -> str:
    """Return a count of parameters for people: in millions, small ones as they are."""
    return parameters if len(parameters) < 5 else f"{int(parameters) / 1e6:.2f} M"


def pipes(head: list[str], body: list[list[str]]) -> list[str]:
    """Return a Markdown table with aligned columns."""
    cells = [[visible(cell).replace("|", "\\|").replace("<", "&lt;") for cell in line] for line in [head, *body]]
    widths = [max(len(line[i]) for line in cells) for i in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return [lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]]


def document(lines: list[str]) -> str:
    """Return lines as a Markdown file in which no name begins an HTML tag or a line of its own."""
    return "\n".join(visible(line).replace("<", "&lt;") for line in lines).rstrip() + "\n"


def as_latex(experiment: str, rows: list[Row], columns: list[Column], bold: set[tuple[str, str]]) -> str:
    """Return the table as a LaTeX `tabular` that needs no package; published rows below the second rule."""
    notes, ours = _sources(rows), [row for row in rows if row.measured]
    lines = [
        f"% {experiment}: {'t+k is the mean over the first k steps. ' if any(c.k for c in columns) else ''}"
        f"Bold: {BOLD}.",
        f"% Not printed here, but in the CSV: {_interval_words(ours)}",
        *(f"% [{i}] {visible(source)}" for i, source in enumerate(notes, start=1)),
        *(f"% Frames: {visible(frames)}" for frames in dict.fromkeys(row.facts["frames"] for row in ours)),
        *(f"% {row.label}: {visible('; '.join(_rests_on(row, '')))}" for row in ours),
        *(f"% {row.label}: {visible(row.facts['note'])}" for row in ours if row.facts["note"]),
    ]
    partial = list(dict.fromkeys(row.facts["partial"] for row in ours if row.facts["partial"]))
    for group in dict.fromkeys(c.group for c in columns):
        shown = [row for row in rows if row.measured or not group]
        lines += [f"% {visible(group)}"] if group else []
        lines += _tabular(shown, [c for c in columns if c.group == group], notes, partial, bold)
    return "\n".join(lines) + "\n"


def _tabular(
    rows: list[Row], columns: list[Column], notes: list[str], partial: list[str], bold: set[tuple[str, str]]
) -> list[str]:
    """Return the lines of one `tabular`; below it stands of what data it is, where that is not the whole set."""
    arrows = {"higher": r"$\uparrow$", "lower": r"$\downarrow$"}
    groups = [(m, [c for c in columns if c.metric == m]) for m in dict.fromkeys(c.metric for c in columns)]
    top = " & ".join(
        rf"\multicolumn{{{len(g)}}}{{c}}{{{tex(g[0].about['label'])} {arrows[g[0].about['better']]}}}"
        for _, g in groups
    )
    lines = [
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
            text = tex(cell.text or column.short(cell.mean))
            cells.append(rf"\textbf{{{text}}}" if row.measured and (row.name, column.name) in bold else text)
        label = tex(row.label) + ("" if row.measured else f" [{notes.index(row.source) + 1}]")
        lines.append(" & ".join([label, *cells, tex(_millions(row.facts.get("parameters", "")))]) + r" \\")
    words = (tex(f"Partial data: {told}. Not comparable with published numbers.") for told in partial)
    return [*lines, r"\hline", r"\end{tabular}", *(rf"\par {{\footnotesize {text}}}" for text in words)]


def tex(text: str) -> str:
    """Return text that LaTeX prints as it is."""
    special = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
    special |= {c: "\\" + c for c in "&%$#_{}"}
    return "".join(special.get(c, c) for c in visible(text))
