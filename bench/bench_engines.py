"""Snakemake: a run with nothing to do, and the graph of 10,000 jobs."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.common import Row

JOBS = 10_000


def run() -> list[Row]:
    sys.path.insert(0, str(Path.cwd()))
    from pipeline import params
    from tests.engines import Project

    with tempfile.TemporaryDirectory() as folder:
        project = Project(Path(folder))
        rows = len(params.load().experiments["demo"].models)
        count = JOBS // (2 * rows + 1)
        every = {f"e{i}": {"like": "demo"} for i in range(count)}
        project.edit({"experiments": every, "reproduce": list(every)})
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

    command = [str(Path(sys.executable).parent / "snakemake"), "--cores", "2"]
    subprocess.run(command, check=True, capture_output=True)
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - start
    return [
        graph,
        Row(
            "run with nothing to do",
            "5 s",
            seconds / 5,
            1,
            f"`snakemake --cores 2` after the demo: {seconds:.1f} s",
            at_most=True,
        ),
    ]
