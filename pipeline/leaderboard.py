"""One table of several results.json files: own ones and other people's.

    python -m pipeline.leaderboard results/results.json theirs.json

Out: results/leaderboard.csv and .md, every model under every protocol that it was measured in. Files of other people are not
trusted: they are held against workflow/schemas/results.schema.json. Rows stand in one table only where dataset, protocol and the
metric's settings are the same; what differs is refused with the reason, not averaged over.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.errors import RetakeError, log, run
from pipeline.sources import limits
from pipeline.store import sealed
from pipeline.tables.text import as_csv, digits, document, pipes

SCHEMA = Path("workflow/schemas/results.schema.json")
OUTPUT = Path("results/leaderboard")
LARGEST = 256 * 2**20  # bytes of a file that is read


@dataclass
class Board:
    """Rows under one dataset and protocol. `metrics`: what each column is; `data`: the digest of the test set."""

    dataset: str
    protocol: str
    settings: dict[str, Any]
    source: str
    metrics: dict[str, dict[str, Any]] = field(default_factory=dict)
    columns: dict[str, dict[str, Any]] = field(default_factory=dict)
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    data: str = ""


def main() -> None:
    """Merge the files and write the leaderboard."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", type=Path, metavar="RESULTS.json")
    boards = merged(parser.parse_args().files)
    for suffix, text in ((".csv", as_csv_text(boards)), (".md", as_markdown(boards))):
        write_text(OUTPUT.with_suffix(suffix), text)
    log.info("wrote %s.csv, %s.md: %d tables", OUTPUT, OUTPUT, len(boards))


def merged(files: list[Path]) -> list[Board]:
    """Return the boards of all files; raises RetakeError for a file that is no results file, and for rows that do not compare."""
    boards: dict[tuple[str, str], Board] = {}
    for file in files:
        for record in read(file)["tables"].values():
            key = record["dataset"], record["protocol"]
            board = boards.setdefault(key, Board(*key, record["protocol_settings"], str(file)))
            _join(board, record, str(file))
    return list(boards.values())


def read(file: Path) -> dict[str, Any]:
    """Return a results file; raises RetakeError with what is wrong with it."""
    import jsonschema

    try:
        if file.stat().st_size > LARGEST:
            raise RetakeError(f"{file} has {file.stat().st_size} bytes, up to {LARGEST} are read")
        tree: dict[str, Any] = json.loads(limits.text(file), parse_constant=_number, parse_float=_number)
        jsonschema.validate(tree, json.loads(SCHEMA.read_text()))
    except OSError as error:
        raise RetakeError(f"{file} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise RetakeError(f"{file} is no results file: {str(error).splitlines()[0]}") from None
    except jsonschema.ValidationError as error:
        where = ".".join(map(str, error.absolute_path)) or "the whole file"
        raise RetakeError(f"{file} is no results file of this format: {where}: {error.message[:200]}") from None
    if tree.pop(sealed.SEAL, None) not in (None, sealed.digest(tree)):
        raise RetakeError(f"{file} is damaged, or was changed by hand: its checksum is another. Get it again")
    return tree


def _number(text: str) -> float:
    """Return a number; raises ValueError for NaN and infinity, which JSON has not and which would win every comparison."""
    if not math.isfinite(number := float(text)):
        raise ValueError(f"{text} is no number")
    return number


def _join(board: Board, record: dict[str, Any], file: str) -> None:
    """Add a table's rows to a board."""
    where = f"{record['dataset']}, protocol {record['protocol']}"
    if record["protocol_settings"] != board.settings:
        differ = [
            k
            for k in {*board.settings, *record["protocol_settings"]}
            if board.settings.get(k) != record["protocol_settings"].get(k)
        ]
        raise RetakeError(
            f"{where}: {file} has another protocol of this name than {board.source}: {', '.join(sorted(differ))} differ"
        )
    for metric, about in record["metrics"].items():
        other = board.metrics.setdefault(metric, about)
        if other["identity"] != about["identity"]:
            raise RetakeError(
                f"{where}: {about['label']} in {file} is {about['settings']}, elsewhere {other['settings']}: they do not compare"
            )
    board.columns |= {c["name"]: c for c in record["columns"] if not c["group"]}
    for row in record["rows"]:
        data = row["digests"]["data"]
        if row["partial"]:
            log.warning("%s: %s of %s is left out: partial data, %s", where, row["label"], file, row["partial"])
            continue
        if board.data and data and board.data != data:
            raise RetakeError(
                f"{where}: {row['label']} in {file} was measured on other data ({data}) than the rows of {board.source} ({board.data})"
            )
        board.data = board.data or data
        other = board.rows.setdefault(row["label"], row | {"file": file})
        if {**other, "file": "", "cells": {}} != {**row, "file": "", "cells": {}}:
            raise RetakeError(
                f"{where}: two rows are called {row['label']!r}, in {other['file']} and {file}: rename one"
            )
        other["cells"] = other["cells"] | row["cells"]


def _cell(board: Board, row: dict[str, Any], name: str) -> str:
    cell = row["cells"].get(name)
    if cell is None or cell["mean"] is None:
        return ""
    decimals = board.metrics[board.columns[name]["metric"]]["digits"]
    interval = "" if cell["low"] is None else f" ({cell['low']:.{decimals}f} – {cell['high']:.{decimals}f})"
    return f"{cell['mean']:.{decimals}f}{interval}"


def _ranked(board: Board) -> list[dict[str, Any]]:
    """Return the rows, the best in the first column first; rows without a value there last."""
    name = next(iter(board.columns), "")
    if not name:
        return list(board.rows.values())
    sign = -1 if board.metrics[board.columns[name]["metric"]]["better"] == "higher" else 1
    means = {label: (row["cells"].get(name) or {}).get("mean") for label, row in board.rows.items()}
    order = sorted(board.rows, key=lambda label: (means[label] is None, sign * (means[label] or 0)))
    return [board.rows[label] for label in order]


def as_csv_text(boards: list[Board]) -> str:
    """Return one line a cell."""
    head = ["dataset", "protocol", "model", "metric", "column", "mean", "low", "high", "n", "interval_over", "file"]
    lines = []
    for board in boards:
        for row in _ranked(board):
            for name, cell in row["cells"].items():
                if name not in board.columns or cell["mean"] is None:
                    continue
                ends = {k: digits(cell[k]) if cell[k] is not None else "" for k in ("mean", "low", "high")}
                lines.append(
                    {
                        "dataset": board.dataset,
                        "protocol": board.protocol,
                        "model": row["label"],
                        "column": name,
                        "file": row["file"],
                    }
                    | {"metric": board.metrics[board.columns[name]["metric"]]["label"], "n": str(row["windows"])}
                    | {"interval_over": f"{cell['units']} {cell['unit']}" if cell["unit"] else ""}
                    | ends
                )
    return as_csv(head, lines)


def as_markdown(boards: list[Board]) -> str:
    """Return the leaderboard for reading."""
    text = ["# Leaderboard", ""]
    for board in boards:
        head = ["model", *(c["title"] for c in board.columns.values()), "parameters", "from"]
        body = [
            [
                row["label"],
                *(_cell(board, row, name) for name in board.columns),
                str(row["parameters"] or ""),
                row["file"],
            ]
            for row in _ranked(board)
        ]
        text += [f"## {board.dataset}, protocol {board.protocol}", "", *pipes(head, body), ""]
    return document(text)


if __name__ == "__main__":
    run(main, "leaderboard")
