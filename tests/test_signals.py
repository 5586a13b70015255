"""SIGINT and SIGTERM, to a stage alone and to its group: it ends at once, nothing half-made stays, no child lives on.

SIGKILL leaves what was, and the same command makes all again. Trainings keep their state too (tests/test_faults.py); engines that are
killed have a file of their own (tests/test_kills.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.engines import SMALL_DEMO, Project

STAGES = {
    "download": ["--dataset", "demo", "--split", "test"],
    "frames": ["--dataset", "demo", "--split", "test"],
    "flow": ["--estimator", "dis", "--dataset", "demo", "--split", "test"],
    "predict": ["--experiment", "demo", "--model", "flow_warp"],
    "bring": ["--experiment", "demo", "--model", "brought"],
    "score": ["--experiment", "demo", "--model", "flow_warp"],
    "table": ["--experiment", "demo"],
}
# A stage that is slow where it renames its first output: the signal comes when all is done but that.
SLOW = """
import os, runpy, sys, threading, time
from pathlib import Path
def slowly(file):
    claim = ".claims" in os.readlink(f"/proc/self/fd/{file}")
    if threading.current_thread() is threading.main_thread() and not claim:
        Path("reached").touch()
        time.sleep(60)
os.fsync = slowly
sys.argv = sys.argv[1:]
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small demo of two rows, made, with predictions of one of them brought as PNGs."""
    setting: dict[str, Any] = SMALL_DEMO | {
        "experiments.demo.models": {"copy_last": "copy", "flow_warp": "flow warp"},
        "experiments.demo.metrics": {"psnr": {"kind": "psnr"}},
        "compute.workers": 2,
    }
    made = Project(tmp_path_factory.mktemp("signals"), setting)
    done = made.snakemake("results/demo_metrics.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    done = made.run(sys.executable, "-m", "pipeline.export", "demo", "--output", "given", "--truth")
    assert done.returncode == 0, done.stderr
    made.edit({"experiments.demo.predictions": {"brought": "given/truth"}})
    done = made.snakemake("results/demo_metrics.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def whole(folder: Path) -> dict[str, bytes]:
    """Return what lies in data and results, but for locks, claims, logs and unfinished files."""
    files = [file for part in ("data", "results") for file in (folder / part).rglob("*") if file.is_file()]
    return {
        str(f): f.read_bytes()
        for f in files
        if ".claims" not in f.parts and not f.name.endswith(".lock") and ".tmp" not in f.name
    }


def halted(project: Project, stage: str) -> subprocess.Popen[str]:
    """Start a stage and return it where it is about to rename its first output."""
    reached = project.folder / "reached"
    reached.unlink(missing_ok=True)
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW, f"pipeline.{stage}", *STAGES[stage]], cwd=project.folder, start_new_session=True,
        env=project.environment({"PYTHONPATH": str(project.folder)}), stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not reached.exists():
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.05)
    return process


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["main", "group"])
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_ends_at_a_signal_and_leaves_what_was(
    project: Project, stage: str, number: int, code: int, whom: str
) -> None:
    before = whole(project.folder)
    process = halted(project, stage)
    os.killpg(process.pid, number) if whom == "group" else os.kill(process.pid, number)
    error = process.communicate(timeout=60)[1]
    assert process.returncode == code, error
    assert "Traceback" not in error
    assert whole(project.folder) == before
    with pytest.raises(ProcessLookupError):  # the session has no process any more
        os.killpg(process.pid, 0)
    assert not list(project.folder.rglob("*.tmp*"))


@pytest.mark.slow
@pytest.mark.parametrize("whom", ["main", "group"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_stage_leaves_what_was_and_is_made_again(project: Project, stage: str, whom: str) -> None:
    before = whole(project.folder)
    process = halted(project, stage)
    os.killpg(process.pid, signal.SIGKILL) if whom == "group" else process.kill()
    process.communicate(timeout=60)  # the children have closed the pipe too
    assert whole(project.folder) == before
    again = project.run(
        sys.executable, "-m", f"pipeline.{stage}", *STAGES[stage], env={"PYTHONPATH": str(project.folder)}
    )
    assert again.returncode == 0, again.stderr
    assert not list(project.folder.rglob("*.tmp*"))
    measured = {
        name
        for name in before
        if "speed" in name or "results/" in name or name.endswith(("_means.json", ".content.json", ".verified.json"))
    }
    after = whole(project.folder)
    assert {k: v for k, v in after.items() if k not in measured} == {
        k: v for k, v in before.items() if k not in measured
    }
