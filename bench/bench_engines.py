"""Runs with nothing to do, and the graphs of many jobs beside each engine's own bare graph: same edges, no functions, no params."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import Row, interleave

JOBS, STAGES, ROUNDS = 10_000, 200, 2
BARE = """
wildcard_constraints:
    experiment="[a-z][a-z0-9_]*",
    model="[a-z][a-z0-9_]*",
rule all:
    input: [f"results/e{{i}}_metrics.csv" for i in range({count})]
rule frames:
    output: "frames.arrow"
    shell: "frames"
rule weights:
    output: "weights.json"
    shell: "weights"
rule predict:
    input: "frames.arrow"
    output: "{{experiment}}/{{model}}.arrow", "{{experiment}}/{{model}}.speed.json"
    shell: "predict {{wildcards.experiment}} {{wildcards.model}}"
rule score:
    input: "{{experiment}}/{{model}}.arrow", "frames.arrow", "weights.json"
    output: "{{experiment}}/{{model}}.parquet"
    shell: "score {{wildcards.experiment}} {{wildcards.model}}"
rule table:
    input:
        ["{{experiment}}/" + m + s for m in {models} for s in (".parquet", ".arrow", ".speed.json")], "frames.arrow"
    output:
        ["results/{{experiment}}" + t for t in ("_metrics.csv", "_metrics.md", "_metrics.tex", "_steps.csv", "_speed.csv",
        ".png", ".json", "_means.json")]
    shell: "table {{wildcards.experiment}}"
"""
# In a project: makes every missing output, and writes a dvc.yaml with the same commands, inputs and outputs without templates
# and resolved params
BARE_DVC = """
import os, sys, yaml
from pathlib import Path
from dvc.repo import Repo
stages = Repo(".").index.stages
rest = {}
for stage in stages:
    for out in map(Path, (o.fs_path for o in stage.outs)):
        out.parent.mkdir(parents=True, exist_ok=True)
        if not out.exists():
            out.write_text(str(out))
    deps = {os.path.relpath(d.fs_path) for d in stage.deps} - set(map(str, Path("workflow/resolved").rglob("*.json")))
    rest[stage.name.replace("@", "-")] = {"cmd": stage.cmd, "deps": sorted(deps), "outs": [os.path.relpath(o.fs_path) for o in stage.outs]}
print(len(stages))
Path(sys.argv[1]).write_text(yaml.safe_dump({"stages": rest}))
"""


def run() -> list[Row]:
    sys.path.insert(0, str(Path.cwd()))
    from tests.engines import SMALL_DEMO, Project

    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), SMALL_DEMO)
        seconds = _again(project, "snakemake", "--cores", "2")
        handed = project.run(sys.executable, "-m", "pipeline.handover")
        assert handed.returncode == 0, handed.stderr
        dvc = _again(project, "dvc", "repro")
    return [
        _snakemake_graph(),
        *_dvc_graph(),
        Row("dvc repro with nothing to do", "10 s", dvc / 10, 1, f"after the demo: {dvc:.1f} s", at_most=True),
        Row(
            "run with nothing to do",
            "5 s",
            seconds / 5,
            1,
            f"`snakemake --cores 2` after the demo: {seconds:.1f} s",
            at_most=True,
        ),
    ]


def _again(project: Any, *command: str) -> float:
    """Return the seconds of a command's second run in a row."""
    for _ in range(2):
        start = time.perf_counter()
        done = project.run(*command)
        assert done.returncode == 0, done.stderr
    return time.perf_counter() - start


def _many(folder: Path, jobs: int) -> tuple[Any, int, list[str]]:
    """Return a project with about so many jobs, the number of its experiments, and the rows of each."""
    from pipeline import params
    from tests.engines import Project

    project = Project(folder)
    models = list(params.load().experiments["demo"].models)
    count = jobs // (2 * len(models) + 1)
    every = [f"e{i}" for i in range(count)]
    project.edit({f"experiments.{name}.like": "demo" for name in every} | {"reproduce": every})
    return project, count, models


def _checked(project: Any, *command: str) -> Any:
    done = project.run(*command, timeout=600)
    assert done.returncode == 0, done.stderr
    return done


def _snakemake_graph() -> Row:
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        project, count, models = _many(Path(first), JOBS)
        (Path(second) / "Snakefile").write_text(BARE.format(count=count, models=models))
        command = ("snakemake", "-n", "--quiet", "all")
        bare, ours = interleave(
            1, lambda: _checked(project, *command, "--directory", second, "--snakefile", f"{second}/Snakefile"),
            lambda: _checked(project, *command),
        )  # fmt: skip
    detail = f"`snakemake -n`, {count} experiments: {ours:.1f} against {bare:.1f} s"
    return Row("graph of 10,000 jobs", "Snakemake's bare graph, same edges", ours / bare, 1.3, detail, at_most=True)


def _dvc_graph() -> list[Row]:
    """Return rows of commands that only look, with all stages made."""
    from tests.engines import Project

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        project, _, _ = _many(Path(first), STAGES)
        _checked(project, sys.executable, "-m", "pipeline.plan")
        stages = _checked(project, sys.executable, "-c", BARE_DVC, f"{second}/dvc.yaml").stdout.strip()
        other = Project.at(Path(second))
        shutil.copytree(project.folder, other.folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("dvc.yaml"))
        for each in (project, other):
            _checked(each, "dvc", "commit", "-f")
        rows = []
        for command in (("dvc", "status"), ("dvc", "repro", "--dry")):
            bare, ours = interleave(ROUNDS, lambda c=command: other.run(*c), lambda c=command: project.run(*c))
            detail = f"{stages} stages, all made, {ours:.1f} against {bare:.1f} s"
            rows.append(Row(" ".join(command), "DVC's bare stages, same edges", ours / bare, 1.5, detail, at_most=True))
    return rows
