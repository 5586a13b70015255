"""Jobs that a killed Snakemake left on a cluster: which they are, and that they are waited for. SLURM's commands are scripts here."""

from __future__ import annotations

import inspect
import os
import signal
import threading
from pathlib import Path

import pytest
from conftest import ROOT

from pipeline import orphans
from pipeline.errors import RetakeError

SQUEUE = """#!/bin/sh
[ -e cancelled ] && [ ! -e deaf ] && exit 0
echo "11|rule_train_wildcards_a_b|$PWD"
echo "12|rule_train_wildcards_a_b|/elsewhere"
echo "13|my own job|$PWD"
echo "14|group_x|$PWD"
"""
SCANCEL = '#!/bin/sh\necho "$@" > cancelled\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name, script in (("squeue", SQUEUE), ("scancel", SCANCEL)):
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_signal_that_comes_while_a_job_is_put_away_hangs_nothing() -> None:
    """Snakemake's own handler would wait for the lock that the main thread, which it interrupts, holds."""
    from snakemake.scheduling.job_scheduler import JobScheduler

    source = inspect.getsource(JobScheduler)
    assert "signal.signal(signal.SIGTERM, self.exit_gracefully)" in source
    assert 'if user_kill == "graceful":' in source
    assert "JobScheduler.exit_gracefully = orphans.stop" in (ROOT / "Snakefile").read_text()
    scheduler = JobScheduler.__new__(JobScheduler)
    scheduler._lock, scheduler._user_kill = threading.Lock(), None
    with scheduler._lock:
        orphans.stop(scheduler, signal.SIGTERM, None)
    assert scheduler._user_kill == "graceful"


def test_only_jobs_of_this_folder_are_orphans(folder: Path) -> None:
    assert orphans.left() == [], "no job was ever sent from here"
    (folder / ".snakemake/slurm_logs").mkdir(parents=True)
    assert orphans.left() == ["11", "14"]


def test_orphans_are_cancelled_and_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orphans.end([])
    assert not (folder / "cancelled").exists()
    (folder / ".snakemake/slurm_logs").mkdir(parents=True)
    orphans.end(["11", "14"])
    assert (folder / "cancelled").read_text() == "11 14\n"
    (folder / "deaf").touch()
    monkeypatch.setattr(orphans, "PATIENCE", 0.0)
    with pytest.raises(RetakeError, match=r"do not end: 11 \(scancel\)"):
        orphans.end(["11"])
