"""What a killed Snakemake has left: its locks are cleared, and its SLURM jobs ended before the same jobs are sent again.

`kill -9` of Snakemake ends no job of a cluster. Without this the same command would send a second job beside the first one,
onto one output; and when a job fails, Snakemake removes what the other has made.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
import subprocess
import time
from pathlib import Path
from typing import IO, Any

from pipeline.errors import RetakeError, log

ALIVE = Path(".snakemake/alive")
LOGS = Path(".snakemake/slurm_logs")  # who has sent jobs from this folder has it
PATIENCE = 300.0  # seconds that cancelled jobs have for saving their state
_alive: IO[str] | None = None  # keeps the lock


def stop(scheduler: Any, *_: Any) -> None:
    """Have Snakemake end when the jobs that run have ended: what its JobScheduler does at SIGTERM.

    Its own handler takes a lock that the thread which it interrupts may hold: at the second signal (`timeout` sends two), while a job
    that the first one ended was put away, Snakemake waited for itself for good. The jobs' end wakes the scheduler.
    """
    scheduler._user_kill = "graceful"


def take_over() -> list[str]:
    """Clear the locks that a killed Snakemake has left in this folder; return its SLURM jobs. Nothing where another one is alive.

    Snakemake's locks outlive `kill -9`, the kernel's do not: who gets the folder for itself alone clears Snakemake's, and
    shares it from then on, as long as this process lives.
    """
    global _alive
    ALIVE.parent.mkdir(exist_ok=True)
    _alive = ALIVE.open("w")
    jobs: list[str] = []
    with contextlib.suppress(OSError):
        fcntl.flock(_alive, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(ALIVE.with_name("locks"), ignore_errors=True)
        jobs = left()
    with contextlib.suppress(OSError):
        fcntl.flock(_alive, fcntl.LOCK_SH)
    return jobs


def left() -> list[str]:
    """Return the ids of this user's SLURM jobs that a Snakemake of this folder has sent, waiting or running.

    Only who has the folder for itself alone may take them for orphans.
    """
    if not LOGS.is_dir() or shutil.which("squeue") is None:
        return []
    states = "--states=PENDING,CONFIGURING,RUNNING,SUSPENDED,STOPPED,COMPLETING"
    done = subprocess.run(["squeue", "--me", "--noheader", states, "--format=%A|%k|%Z"], capture_output=True, text=True)
    lines = (line.split("|") for line in done.stdout.splitlines())
    return sorted({line[0] for line in lines if line[1].startswith(("rule_", "group_")) and line[2] == str(Path.cwd())})


def end(jobs: list[str]) -> None:
    """Cancel jobs and wait until they have ended; trainings save their state. Raises RetakeError when they do not end."""
    if not jobs:
        return
    log.warning("a Snakemake that was killed has left SLURM jobs: %s are cancelled", ", ".join(jobs))
    subprocess.run(["scancel", *jobs])
    started = time.monotonic()
    while still := set(jobs) & set(left()):
        if time.monotonic() - started > PATIENCE:
            raise RetakeError(
                f"SLURM jobs of a Snakemake that was killed do not end: {', '.join(sorted(still))} (scancel)"
            )
        time.sleep(1)
