"""A sweep of 100 trainings of two steps: sent to SLURM as the README says, and run here one after the other.

The cluster is that of the tests (tests/slurm.py): two nodes with two GPUs each, which are this one machine. So four trainings run at
once, but on the same cores: what the ratio shows is what the cluster costs, not what many machines bring.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from bench.common import Row, leave_out

TRAININGS = 100
PROFILE = Path("workflow/profiles/slurm/config.yaml")
ON_CLUSTER = ("snakemake", "--workflow-profile", "workflow/profiles/slurm", "--slurm-array-jobs", "all")
HERE = ("snakemake", "--cores", "1")


def run(count: int = TRAININGS) -> list[Row]:
    sys.path.insert(0, str(Path.cwd()))
    from tests import slurm
    from tests.engines import SMALL_DEMO, Project

    if missing := slurm.missing():
        leave_out(missing)
    with tempfile.TemporaryDirectory() as folder:
        first = Project(Path(folder) / "here", SMALL_DEMO)
        _run(first, *HERE, "data/checkpoints/dmvfn_demo/demo.pt")  # the sweep's frames are there before it starts
        second = first.copy(Path(folder) / "cluster")
        sweep = {f"sweep_{n}": {"like": "dmvfn_demo", "train": {"max_steps": 2, "seed": n}} for n in range(count)}
        files = [f"data/checkpoints/{name}/demo.pt" for name in sweep]
        arguments = (*files, "--config", f"models={json.dumps(sweep)}")
        here = _run(first, *HERE, *arguments)
        cluster = slurm.Cluster()
        try:
            sent = _run(second, *ON_CLUSTER, *arguments, env=cluster.env)
            jobs = cluster.jobs()
        finally:
            cluster.stop()
        for file in files:
            assert (first.folder / file).read_bytes() == (second.folder / file).read_bytes(), file
    submissions = len({job.get("ArrayJobId", job["JobId"]) for job in jobs})
    assert len(jobs) == count, jobs
    detail = f"2 steps each, two nodes on one machine, four at once: {sent:.0f} against {here:.0f} s; the same bytes"
    return [
        Row(f"sweep of {count} trainings under SLURM", "one after the other, without", sent / here, 1, detail, True),
        Row(
            f"submissions of a sweep of {count}", "one a training", submissions / count, 1 / yaml.safe_load(PROFILE.read_text())["slurm-array-limit"],
            f"`--slurm-array-jobs all`: {submissions} submission{'s' * (submissions > 1)}, {len(jobs)} jobs", True,
        ),
    ]  # fmt: skip


def _run(project: Any, *command: str, **options: Any) -> float:
    """Return the wall seconds of a command that must succeed."""
    start = time.perf_counter()
    done = project.run(*command, timeout=4 * 3600, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return time.perf_counter() - start
