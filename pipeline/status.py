"""Say of each table whether it is up to date, why not, what is in its way, and what it will cost: nothing is made or fetched.

    python -m pipeline.status                 # what `reproduce` names
    python -m pipeline.status kitti demo      # experiments, or flow stores and checkpoints by path
    python -m pipeline.status kitti --measure # takes some steps of each training first, on noise where its frames are not here

Measuring fetches the weights that a loss needs, as the training does.

What is due is what `snakemake -n` says (its `--summary` is read, without overrides); which key, code or file of the user's
has changed is read from Snakemake's record of the last run. Costs: `pipeline/cost.py`.
"""

from __future__ import annotations

import argparse
import ast
import base64
import collections
import csv
import json
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipeline import cost, fetch, params, plan
from pipeline.errors import RetakeError, log, near, run
from pipeline.params import Params

RECORDS = Path(".snakemake/metadata")
Instance = tuple[str, plan.Fields]  # stage, fields


@dataclass
class Status:
    """One target: jobs that are due, why, what is in their way, and why cells of the table will be or are empty."""

    name: str
    due: list[Instance] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    partial: list[str] = field(default_factory=list)
    made: bool = False

    @property
    def state(self) -> str:
        """`up to date`, `partial` (up to date, but of part of the data or metrics), `stale`, `missing`, or `blocked`."""
        if self.blocked:
            return "blocked"
        if self.due:
            return "stale" if self.made else "missing"
        return "partial" if self.partial else "up to date"


def main() -> None:
    """Parse the command line and print each target's status and cost."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET", help="experiments, flow stores or checkpoints")
    parser.add_argument(
        "--measure", action="store_true", help="take some steps of each training that is due, to tell its hours"
    )
    args = parser.parse_args()
    os.environ.pop(params.VARIABLE, None)
    p = params.load()
    for target in status(p, args.targets or p.reproduce):
        if args.measure:
            _measure(p, target)
        print(told(p, target))


def status(p: Params, targets: list[str]) -> list[Status]:
    """Return the status of each target. Raises RetakeError for a target that nothing in params.yaml leads to."""
    made: dict[str, tuple[Status, list[Instance]]] = {}
    for target in targets:
        name = target.removeprefix("results/").removesuffix("_metrics.csv")
        if not (name in p.experiments or params.FLOW.fullmatch(name) or params.CHECKPOINT.fullmatch(name)):
            raise RetakeError(f"no experiment {name!r}{near(name, p.experiments)}")
        jobs = [(stage, f) for stage, entries in plan.plan(p, [name]).items() for f in entries.values()]
        # Without these Snakemake says nothing but that they are missing
        lacking = dict.fromkeys(file for _, fields in jobs for file in cost.lacking(fields))
        made[name] = Status(name, blocked=[f"there is no {file}" for file in lacking]), jobs
    files = [_file(p, name) for name, (told, _) in made.items() if not told.blocked]
    rows = _summary(files) if files else {}
    for told, jobs in made.values():
        if not told.blocked:
            _fill(p, told, jobs, rows)
    return [told for told, _ in made.values()]


def _file(p: Params, name: str) -> str:
    return str(plan.path("table", experiment=name)) if name in p.experiments else name


def _fill(p: Params, target: Status, jobs: list[Instance], rows: dict[str, dict[str, str]]) -> None:
    target.made = Path(_file(p, target.name)).exists()
    for stage, fields in jobs:
        if stage in plan.PARTS and str(plan.path(stage, **fields)) not in rows:
            continue  # joined, and gone
        row = rows[str(plan.path(stage, **fields))]
        if stage == "frames" and row["plan"] == "no update":
            target.partial += _partial(fields)
        if stage == "score":
            needed = [Path(file).stem for key, file in fields.items() if key.startswith("weights_") and file]
            target.partial += [reason for name in needed if (reason := cost.without(name))]
        if row["plan"] == "no update":
            continue
        target.due.append((stage, fields))
        target.why += _reasons(p, stage, fields, row["status"])
        target.blocked += [reason] if (reason := cost.blocked(p, stage, fields)) else []
    target.partial = list(dict.fromkeys(target.partial))
    target.blocked = list(dict.fromkeys(target.blocked))


def _partial(fields: plan.Fields) -> list[str]:
    made = cost.Store(plan.path("frames", **fields)).meta.get("partial")
    return [f"{fields['dataset']} {fields['split']}: {made}"] if made else []


def _summary(files: list[str]) -> dict[str, dict[str, str]]:
    """Return what Snakemake says of every output between raw data and `files`: its `status` and its `plan`."""
    command = ["snakemake", "--summary", *files]
    environment = {**os.environ, "PATH": str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    if done.returncode:
        raise RetakeError(f"`{' '.join(command)}` failed:\n{(done.stderr or done.stdout).strip()}")
    lines = done.stdout[done.stdout.index("output_file\t") :].splitlines()
    return {row["output_file"]: row for row in csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)}


def _reasons(p: Params, stage: str, fields: plan.Fields, said: str) -> list[str]:
    """Return why a job is due by itself, and not because one before it is; nothing where it has not been made yet."""
    if said in ("ok", "missing"):
        return []
    where = f"{stage} {plan.name_of(stage, fields)}"
    if said != "params changed":
        return [f"{where}: {said}"]
    now = plan.made_of(p, stage, fields)
    before = now | _recorded(plan.path(stage, **fields))
    keys = [*_changed(before["params"], now["params"]), *_changed(before["own"], now["own"])]
    reasons = [f"{where}: {key} changed" for key in keys]
    reasons += [f"{where}: its code changed"] if before["code"] != now["code"] else []
    return reasons or [f"{where}: {said}"]


def _recorded(file: Path) -> dict[str, Any]:
    """Return what the job that made a file was told that it depends on, as Snakemake's record has it; {} where there is none."""
    record = RECORDS / base64.urlsafe_b64encode(str(file).encode()).decode()
    try:
        (told,) = (ast.literal_eval(text) for text in json.loads(record.read_text())["params"])
    except (OSError, ValueError, SyntaxError, KeyError, TypeError):
        return {}
    return told if isinstance(told, dict) else {}


def _changed(before: Any, now: Any, key: str = "") -> list[str]:
    """Return the dotted keys of two trees that differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        return [name for k in keys for name in _changed(before.get(k), now.get(k), f"{key}.{k}" if key else str(k))]
    return [] if before == now else [key]


def told(p: Params, target: Status) -> str:
    """Return the lines that say a target's status and what it will cost."""
    lines = [f"{target.name}: {target.state}", *(f"  blocked: {reason}" for reason in target.blocked)]
    lines += [f"  because {reason}" for reason in target.why]
    lines += [f"  partial: {reason}" for reason in target.partial if reason not in target.blocked]
    if target.due:
        counts = collections.Counter(stage for stage, _ in target.due)
        lines.append(f"  due: {', '.join(f'{count} {stage}' for stage, count in counts.items())}")
        lines.append("  " + costs(p, target.due))
    return "\n".join(lines)


def costs(p: Params, due: list[Instance]) -> str:
    """Return what jobs will download and write, and how long they take, in words; "unknown" where nothing tells."""
    sources = [row for stage, f in due if stage in ("download", "pretrained") for row in cost.absent(p, stage, f)]
    stores = [cost.store(p, stage, fields) for stage, fields in due]
    times = [cost.seconds(p, stage, fields) for stage, fields in due]
    download = _sum([row.bytes for row in dict.fromkeys(sources)])
    stored = _sum(stores)
    known = [spent for spent in times if spent is not None]
    hours = f"{sum(known) / 3600:.2g} h" if known else "time unknown"
    if known and len(known) < len(times):
        hours += f" and unknown for {len(times) - len(known)} jobs"
    return f"to download {download}, to store at most {stored}, {hours}"


def _measure(p: Params, target: Status) -> None:
    """Measure the trainings that are due and of which nothing says how long they take; say which could not be measured."""
    for stage, fields in target.due:
        if stage == "train" and p.models[fields["model"]].train is not None and cost.seconds(p, stage, fields) is None:
            try:
                cost.measure(p, fields)
            except RetakeError as error:
                log.warning("%s on %s cannot be measured: %s", fields["model"], fields["dataset"], error)


def _sum(sizes: list[int | None]) -> str:
    known = sum(size for size in sizes if size is not None)
    unknown = sum(size is None for size in sizes)
    if unknown and not known:
        return "an unknown number of bytes"
    return fetch.human(known) + (f" and {unknown} files of unknown size" if unknown else "")


if __name__ == "__main__":
    run(main, "status")
