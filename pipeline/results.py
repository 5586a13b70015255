"""All results in one file: results/results.json, for programs, other people and `pipeline.leaderboard`.

    python -m pipeline.results

In: the records of the tables that `reproduce` names. Out: results/results.json, whose format is workflow/schemas/results.schema.json
(docs/results.md explains it), and results/paper/macros.tex, the means as LaTeX macros.
"""

from __future__ import annotations

import argparse
import json
import platform
from typing import Any

from pipeline import cite, params, plan
from pipeline.atomic import claim, write_text
from pipeline.errors import log, run
from pipeline.params import Params
from pipeline.store import sealed
from pipeline.tables import paper_text, papers, record
from pipeline.tracking import commit


def main() -> None:
    """Write the files."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()
    make(params.load())


def make(p: Params) -> None:
    """Write results/results.json and the macros."""
    results, macros = plan.OUTPUTS["results"]
    claim(plan.path("results"))
    records = {name: record.read(plan.record(name)) for name in p.reproduce if name in p.experiments}
    tree = collected(records)
    tree[sealed.SEAL] = sealed.digest(tree)
    write_text(results, json.dumps(tree, indent=1, ensure_ascii=False) + "\n")
    write_text(macros, paper_text.macros(records))
    log.info("wrote %s, %s", results, macros)


def collected(records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the content of results.json: the tables' records, the papers' verdicts on them, and what to cite."""
    every = {
        name: papers.make(name, records) for name, t in papers.tables().items() if set(t.experiments) & set(records)
    }
    used = [
        key
        for r in records.values()
        for key in (*r["references"], *(k for row in r["rows"] for k in row["references"]))
    ]
    return {
        "format": record.FORMAT,
        "made_by": {
            "program": "retake",
            "commit": commit(),
            "machine": platform.machine(),
            "system": platform.system(),
        },
        "tables": records,
        "verdicts": [verdict for made in every.values() for verdict in _verdicts(made)],
        "bibtex": {key: cite.entries()[key] for key in dict.fromkeys(used)},
    }


def _verdicts(made: papers.Made) -> list[dict[str, Any]]:
    """Return the verdicts of a paper's table, each with where it belongs."""
    return [
        {
            "paper_table": made.name,
            "experiment": made.table.parts[column.part].experiment,
            "row": line.label,
            "column": column.ours,
            "published": line.against[column],
            "grade": next(
                (p.grades[column] for p in made.published if p.cells.get(column) == line.against[column]), ""
            ),
            "verdict": verdict.kind,
            "difference": None if verdict.difference != verdict.difference else verdict.difference,
            "words": verdict.words,
        }
        for line in made.measured
        for column, verdict in line.verdicts.items()
    ]


if __name__ == "__main__":
    run(main, "results")
