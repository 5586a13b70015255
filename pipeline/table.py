"""The table of an experiment: scores of every row in, the paper's table beside its published numbers out.

    python -m pipeline.table --experiment kitti
    python -m pipeline.table --experiment kitti --show      # print what is there, make nothing

Out, in results/: `<experiment>_metrics.csv`, `.md`, `.tex`; `<experiment>_steps.csv`, the values of each single step;
`<experiment>_speed.csv`; `<experiment>.png`; `records/<experiment>.json`, all of it in full precision, for other programs;
`<experiment>_means.json`, the means alone, for `dvc metrics`. A column is a mean, times the metric's scale: which columns there are, and
what each is the mean of, says the task (`pipeline/tasks/<task>/table.py`). `_low` and `_high` are the ends of its 95 %
interval (`pipeline/tables/intervals.py`), `unit` and `units` say over what and how many, and `note` which cells differ or have
none, and why; `_spread` is the standard deviation between samples (routing draws). Rows whose source is `measured` come
first, then those of results/published/.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from pipeline import params, plan, tasks, tracking
from pipeline.atomic import claim, write_text
from pipeline.drawing.images import write_image
from pipeline.drawing.sheets import with_lines
from pipeline.errors import RetakeError, log, run
from pipeline.params import Params
from pipeline.store import sealed
from pipeline.tables import measured, pairs, published, record, text
from pipeline.tables.cells import Layout, Row


def main() -> None:
    """Parse the command line; make the table, or show it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", required=True, help="entry of `experiments` in params.yaml")
    parser.add_argument("--show", action="store_true", help="print the table that is there and where to look")
    args = parser.parse_args()
    p = params.load()
    if args.show:
        print(show(p, args.experiment))
    else:
        make(p, args.experiment)


def make(p: Params, experiment: str) -> None:
    """Write all files of one experiment's table."""
    fields = plan.fields_of(p, "table", experiment=experiment)
    claim(plan.path("table", **fields))
    e, protocol = p.experiments[experiment], p.protocols[fields["protocol"]]
    layout: Layout = tasks.part(protocol.task, "table").LAYOUT
    trainings = [[measured.row(p, experiment, name) for name in e.trainings(row)] for row in e.rows]
    every = [row for group in trainings for row in group]
    measured.same_metrics(every)
    columns = layout.columns(e, every[0].meta)
    for row in every:
        measured.fill(row, columns, layout.over)
    rows = [measured.together(group) for group in trainings]
    differences = pairs.from_best(rows, columns, layout.over)
    rows += published.rows_of(e, columns)

    outputs = [Path(o.format(**fields)) for o in plan.OUTPUTS["table"]]
    table, markdown, latex, steps, speed, picture, kept, means = outputs
    bold = text.best(rows, columns, differences)
    write_text(table, text.metrics_csv(rows, columns))
    write_text(markdown, text.as_markdown(experiment, e, rows, columns, layout, bold))
    write_text(latex, text.as_latex(experiment, rows, columns, bold))
    write_text(steps, layout.single(rows))
    write_text(speed, text.speed_csv(experiment, e))
    stores = {row.label: row.meta["store"] for row in rows if row.measured}
    shown = tasks.part(protocol.task, "view").picture(fields, protocol, stores)
    write_image(picture, with_lines(shown, text.rests_on(rows)))
    told = record.of(p, experiment, rows, columns, differences, layout.over)
    sealed.write(kept, told)
    write_text(means, json.dumps(record.means(told), indent=1) + "\n")
    _mirror(p, fields, list(zip(rows, trainings, strict=False)), outputs)
    log.info("wrote %s", ", ".join(map(str, outputs)))


def show(p: Params, experiment: str) -> str:
    """Return the Markdown table that is there, and where the other files are."""
    fields = plan.fields_of(p, "table", experiment=experiment)
    outputs = [Path(o.format(**fields)) for o in plan.OUTPUTS["table"]]
    markdown = outputs[1]
    if not markdown.exists():
        raise RetakeError(f"no {markdown}: make it with `snakemake {outputs[0]}`")
    listed = "".join(f"\n  {o}" for o in outputs if o.exists())
    stores = f"data/predictions/{experiment}/*.arrow (python -m pipeline.view STORE)"
    return f"{markdown.read_text()}\nWhere to look:{listed}\n  {stores}"


def _mirror(p: Params, fields: plan.Fields, rows: list[tuple[Row, list[Row]]], files: list[Path]) -> None:
    """Mirror the table to MLflow: one run with its files, below it a run for each measured row, below that one for each of its trainings.

    A row's run holds its score files, from which `pipeline.compare` makes paired differences. A table that is made again takes the
    place of its runs.
    """
    experiment = fields["experiment"]
    uses = plan.uses(p, "table", fields)
    tags = {"stage": "table", "experiment": experiment}
    with tracking.run(
        p.tracking.mlflow, experiment="table", name=experiment, params=uses, tags=tags, replaces=("stage", "experiment")
    ) as whole:
        for file in files:
            whole.artifact(file)
        for row, trainings in rows:
            with _mirrored(p, experiment, row, trainings, whole.active) as mlflow:
                for training in trainings:
                    mlflow.artifact(plan.path("score", experiment=experiment, model=training.name), "scores")
                for training in trainings if len(trainings) > 1 else []:
                    single = replace(training, label=row.label)  # the run's name tells the seed
                    with _mirrored(p, experiment, single, [training], mlflow.active):
                        pass


@contextlib.contextmanager
def _mirrored(p: Params, experiment: str, row: Row, trainings: list[Row], active: bool) -> Iterator[tracking.Run]:
    """Open the run of a row or of one of its trainings, with its means; its name tells experiment, model and seeds."""
    e, model = p.experiments[experiment], p.models.get(row.name)
    own = {f"models.{row.name}": params.subtree(p, f"models.{row.name}")} if model is not None else {}
    if model is not None and model.flow is not None:  # what its flow is estimated by is a setting, too
        own["flow"] = params.subtree(p, f"models.{model.flow}")
    recipes = [p.models[training.name].train for training in trainings if training.name in p.models]
    seeds = [str(recipe.seed) for recipe in recipes if recipe is not None]
    name = ", ".join([experiment, row.label, *([f"seed {' '.join(seeds)}"] if seeds else [])])
    tags = {"stage": "table", "experiment": experiment, "model": row.name}
    tags |= {key: row.facts[key] for key in ("checkpoint", "data", "params")}
    with tracking.run(active, experiment="table", name=name, params=own, tags=tags, nested=True) as mlflow:
        frames = plan.path("frames", dataset=e.dataset, split="test")
        mlflow.dataset(e.dataset, frames, row.facts["data"], "test")
        means = {column: cell.mean for column, cell in row.cells.items()}
        mlflow.metrics(0, {column: mean for column, mean in means.items() if math.isfinite(mean)})
        mlflow.columns(means)
        yield mlflow


if __name__ == "__main__":
    run(main, "table")
