"""Snakemake: a run with nothing to do, and the graph of 10,000 jobs."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.common import Row

JOBS = 10_000


def run() -> list[Row]:
    sys.path.insert(0, str(Path.cwd()))
    from pipeline import params
    from tests.engines import SMALL_DEMO, Project

    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        rows = len(params.load().experiments["demo"].models)
        count = JOBS // (2 * rows + 1)
        every = [f"e{i}" for i in range(count)]
        project.edit({f"experiments.{name}.like": "demo" for name in every} | {"reproduce": every})
        start = time.perf_counter()
        done = project.run("snakemake", "-n", "--quiet", "all", timeout=300)
        seconds = time.perf_counter() - start
        assert done.returncode == 0, done.stderr
    graph = Row(
        "graph of 10,000 jobs",
        "15 s",
        seconds / 15,
        1,
        f"`snakemake -n`, {count} experiments: {seconds:.1f} s",
        at_most=True,
    )

    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder), SMALL_DEMO)
        seconds = _again(project, "snakemake", "--cores", "2")
        handed = project.run(sys.executable, "-m", "pipeline.handover")
        assert handed.returncode == 0, handed.stderr
        dvc = _again(project, "dvc", "repro")
    return [
        graph,
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
