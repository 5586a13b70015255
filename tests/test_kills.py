"""`kill -9` at random moments in every stage, then the same command: the same bytes, under Snakemake and under DVC.

A kill ends the engine and all its children while the stage's own process is alive. Before it the stage's output is
removed, from DVC's cache too, so that the stage really runs and is not checked out.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
import yaml

from tests.engines import Project

TABLE = "results/demo_metrics.csv"
# Stage: its output (Snakemake's target), the name of the DVC stage
STAGES = {
    "download": ("data/raw/demo/test.json", "download@demo-test"),
    "frames": ("data/frames/demo/train.arrow", "frames@demo-train"),
    "flow": ("data/flow/dis/demo/test.arrow", "flow@dis-demo-test"),
    "train": ("data/checkpoints/dmvfn_demo/demo.pt", "train@dmvfn_demo-demo"),
    "predict": ("data/predictions/demo/dmvfn_demo.arrow", "predict@demo-dmvfn_demo"),
    "score": ("data/scores/demo/dmvfn_demo.parquet", "score@demo-dmvfn_demo"),
    "table": (TABLE, "table@demo"),
}


@pytest.fixture(scope="module", params=["snakemake", "dvc"])
def engine(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def made(engine: str, request: pytest.FixtureRequest) -> Project:
    """A project whose demo table the engine has made."""
    project: Project = request.getfixturevalue("demo" if engine == "snakemake" else "reproduced")
    return project


def command(engine: str, stage: str) -> list[str]:
    output, name = STAGES[stage]
    return ["snakemake", "--cores", "2", output] if engine == "snakemake" else ["dvc", "repro", name]


def forget(project: Project, engine: str, stage: str) -> None:
    """Remove what a stage made, so that the engine must run it."""
    output = project.folder / STAGES[stage][0]
    output.unlink(missing_ok=True)
    if stage == "download":  # the demo's archives are rendered by it
        for archive in output.parent.glob("*.zip"):
            archive.unlink()
    if engine == "dvc":
        shutil.rmtree(project.folder / ".dvc/cache/runs", ignore_errors=True)
        locked = yaml.safe_load((project.folder / "dvc.lock").read_text())["stages"][STAGES[stage][1]]
        for out in locked["outs"]:
            md5 = out["md5"]
            (project.folder / ".dvc/cache/files/md5" / md5[:2] / md5[2:]).unlink(missing_ok=True)


def alive(session: int, stage: str) -> bool:
    """Say whether a process of the session is `python -m pipeline.<stage>`."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            own = int((process / "stat").read_text().rsplit(")", 1)[1].split()[3]) == session
        except OSError:  # it has ended
            continue
        if own and f"pipeline.{stage}".encode() in arguments:
            return True
    return False


def kill(project: Project, engine: str, stage: str, share: float, lasts: float) -> float:
    """Start the engine, kill all of it when `share` of the stage's time is over; return how long the stage had run.

    `lasts`: seconds of an undisturbed stage. With `share` above 1 the stage ends, and its time is returned.
    """
    process = subprocess.Popen(
        command(engine, stage), cwd=project.folder, env=project.environment(), start_new_session=True,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        while not alive(process.pid, stage):
            assert process.poll() is None, f"{engine} ended without running {stage}"
            time.sleep(0.005)
        start = time.monotonic()
        while alive(process.pid, stage) and (share > 1 or time.monotonic() - start < share * lasts):
            time.sleep(0.002)
        ran = time.monotonic() - start
        if share > 1:
            process.wait()
        return ran
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def repeat(project: Project, engine: str, stage: str, whole: bytes, told: str) -> None:
    """Run the same command to its end; the output is the undisturbed one, and nothing half-made lies about."""
    done = project.run(*command(engine, stage))
    assert done.returncode == 0, f"{told}\n{done.stdout}{done.stderr}"
    assert (project.folder / STAGES[stage][0]).read_bytes() == whole, told
    left = [str(f) for part in ("data", "results") for f in (project.folder / part).rglob(".*.tmp*")]
    assert not left, f"{told}: {left}"


@pytest.mark.parametrize("stage", ["frames", "score"])
def test_killed_stage_is_made_again(made: Project, engine: str, stage: str, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "copy")
    whole = (project.folder / STAGES[stage][0]).read_bytes()
    forget(project, engine, stage)
    ran = kill(project, engine, stage, 0.5, 1.0)
    assert ran >= 0.5, f"{stage} had ended by itself after {ran:.2f} s"
    repeat(project, engine, stage, whole, f"{engine}: killed in {stage}")


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("stage", list(STAGES))
def test_killed_ten_times_at_random(made: Project, engine: str, stage: str, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "copy")
    whole, table = ((project.folder / f).read_bytes() for f in (STAGES[stage][0], TABLE))
    forget(project, engine, stage)
    lasts = kill(project, engine, stage, 2.0, 0.0)
    repeat(project, engine, stage, whole, f"{engine}: {stage} undisturbed")
    draw, inside = random.Random(f"{engine}{stage}"), 0
    for _ in range(10):
        forget(project, engine, stage)
        share = draw.random()
        ran = kill(project, engine, stage, share, lasts)
        inside += ran >= share * lasts  # else it ended before its turn: the engine was killed after the stage
        repeat(project, engine, stage, whole, f"{engine}: killed {ran:.2f} s into {stage} of about {lasts:.2f} s")
    assert inside >= 7, f"only {inside} of 10 kills met the stage alive"
    done = project.snakemake(TABLE) if engine == "snakemake" else project.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.folder / TABLE).read_bytes() == table


@pytest.mark.parametrize("engine", ["dvc"], indirect=True)  # Snakemake keeps one record a file
def test_killed_while_dvc_wrote_its_lock(made: Project, engine: str, tmp_path: Path) -> None:
    """DVC writes dvc.lock in place; the README's remedy brings all back from its cache, without running a stage."""
    project = made.copy(tmp_path / "copy")
    lock = project.folder / "dvc.lock"
    text = lock.read_text()
    lock.write_text(text[: text.rindex("md5: ") + 2])  # in the middle of a key: no YAML
    done = project.dvc("repro")
    assert done.returncode != 0
    assert "dvc.lock" in done.stdout + done.stderr
    lock.unlink()
    whole = (project.folder / TABLE).read_bytes()
    done = project.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project.folder / TABLE).read_bytes() == whole
    assert "Running stage 'train" not in done.stdout
