"""A paper's table: published numbers in its own arrangement, measured rows below, and whether they reproduce.

    python -m pipeline.paper dmvfn_table1

Out, in results/paper/: `<table>.csv` (one line a cell), `.md`, `.tex` (booktabs, graphicx and siunitx, with caption and label). The tables
stand in workflow/paper_tables.yaml. Measured are the experiments that `reproduce` names; without one the table has published
rows alone. docs/verdicts.md says what a verdict means.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from pipeline import params, plan
from pipeline.atomic import claim, write_text
from pipeline.errors import log, run
from pipeline.params import Params
from pipeline.tables import paper_text, papers, record


def main() -> None:
    """Parse the command line and write one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("paper", metavar="TABLE", help="entry of workflow/paper_tables.yaml")
    args = parser.parse_args()
    make(params.load(), args.paper)


def make(p: Params, name: str) -> None:
    """Write the files of one table."""
    fields = plan.fields_of(p, "paper", paper=name)
    claim(plan.path("paper", **fields))
    records = {e: record.read(plan.record(e)) for e in papers.table(name).experiments if e in p.reproduce}
    made = papers.make(name, records)
    outputs = [Path(o.format(**fields)) for o in plan.OUTPUTS["paper"]]
    for path, text in zip(outputs, (paper_text.as_long_csv, paper_text.as_markdown, paper_text.as_latex), strict=True):
        write_text(path, text(made))
    log.info("wrote %s", ", ".join(map(str, outputs)))


if __name__ == "__main__":
    run(main, "paper")
