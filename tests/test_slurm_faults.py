"""What goes wrong on a cluster: a training ends in the bytes of one that nothing disturbed. Run with `pytest -m slurm`."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import slurm
from tests.engines import SMALL_DEMO, Project, readme
from tests.slurm import Cluster, until

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing()),
]
STEPS = 60
CHECKPOINT = "data/checkpoints/dmvfn_demo/demo.pt"
COMMAND = (
    "snakemake", "--workflow-profile", "workflow/profiles/slurm", "--slurm-init-seconds-before-status-checks", "2", CHECKPOINT,
)  # fmt: skip
SETTING: dict[str, Any] = SMALL_DEMO | {
    "models.dmvfn_demo.train.max_steps": STEPS,
    "models.dmvfn_demo.train.validate_every": STEPS,
    "models.dmvfn_demo.train.checkpoint_every": 5,
    "compute.workers": 2,  # signals reach them, too
}
SIGNALS_ALONE = {"models.dmvfn_demo.train.checkpoint_every": 1000}  # what is kept is what SIGTERM saves
# A Python that hides its stage's output for seconds after it has ended, as a slow shared disk does.
LATE = """
import atexit, os, subprocess, sys
def hide():
    path = "%s"
    if os.path.exists(path):
        os.rename(path, path + ".late")
        subprocess.Popen(["sh", "-c", f"sleep 10; mv {path}.late {path}"], start_new_session=True)
if "pipeline.train" in sys.orig_argv:
    atexit.register(hide)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose training has run undisturbed, without a cluster."""
    project = Project(tmp_path_factory.mktemp("undisturbed"), SETTING)
    done = project.snakemake(CHECKPOINT, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def project(made: Project, tmp_path: Path) -> Project:
    """The project before its training."""
    project = made.copy(tmp_path / "p")
    (project.folder / CHECKPOINT).unlink()
    record(project).unlink()
    return project


def record(project: Project) -> Path:
    return (project.folder / CHECKPOINT).with_suffix(".metrics.jsonl")


def steps(project: Project) -> list[int]:
    try:
        return [json.loads(line)["step"] for line in record(project).read_text().splitlines()]
    except (OSError, ValueError):
        return []


def begin(cluster: Cluster, project: Project, **env: str) -> subprocess.Popen[str]:
    """Start Snakemake, and wait until its training has taken some steps."""
    before = len(cluster.jobs())
    said = (project.folder / "said").open("a+")
    process = subprocess.Popen(
        COMMAND, cwd=project.folder, env=project.environment(cluster.env | env), stdout=said, stderr=said, text=True,
        start_new_session=True,
    )  # fmt: skip
    until(lambda: len(steps(project)) > 7 or process.poll() is not None, 600, "the training takes steps")
    assert process.poll() is None, said_by(project)
    assert len(cluster.jobs()) == before + 1
    return process


def said_by(project: Project) -> str:
    return (project.folder / "said").read_text()


def same_as(project: Project, made: Project) -> None:
    assert (project.folder / CHECKPOINT).read_bytes() == (made.folder / CHECKPOINT).read_bytes()
    assert steps(project) == list(range(1, STEPS + 1))


def trained(project: Project) -> str:
    return (project.folder / "logs/train-dmvfn_demo-demo.log").read_text()


def latest(cluster: Cluster) -> dict[str, str]:
    job = cluster.job("train")
    assert job is not None
    return job


def test_preempted_training_is_requeued_and_goes_on(cluster: Cluster, project: Project, made: Project) -> None:
    project.edit(SIGNALS_ALONE)
    snakemake = begin(cluster, project)
    done = cluster.run("sbatch", "-p", "urgent", "-N2", "--exclusive", "-o", "/dev/null", "--wrap", "sleep 3")
    assert done.returncode == 0, done.stderr
    assert snakemake.wait(1800) == 0, said_by(project)
    assert "going on from step" in trained(project)
    assert latest(cluster)["Restarts"] == "1"
    assert steps(project) == list(range(1, STEPS + 1))
    assert weights(project) == weights(made)


def weights(project: Project) -> dict[str, bytes]:
    """Return a checkpoint's weights: its params tell how often it was to be saved."""
    import torch

    tree = torch.load(project.folder / CHECKPOINT, weights_only=True)
    return {name: value.numpy().tobytes() for name, value in tree["weights"].items()}


def test_cancelled_training_goes_on_by_the_same_command(cluster: Cluster, project: Project, made: Project) -> None:
    project.edit(SIGNALS_ALONE)
    snakemake = begin(cluster, project)
    cluster.run("scancel", latest(cluster)["JobId"])
    assert snakemake.wait(1800) != 0
    assert "CANCELLED" in said_by(project)
    assert not (project.folder / CHECKPOINT).exists()
    done = project.run(*COMMAND, env=cluster.env, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "going on from step" in trained(project)
    assert weights(project) == weights(made)
    assert steps(project) == list(range(1, STEPS + 1))


def test_controller_killed_leaves_nothing_beside_the_next_run(
    cluster: Cluster, project: Project, made: Project
) -> None:
    snakemake = begin(cluster, project)
    os.killpg(snakemake.pid, signal.SIGKILL)
    snakemake.wait()
    orphan = latest(cluster)
    assert orphan["JobState"] == "RUNNING"
    cluster.run("scancel", "--signal", "STOP", orphan["JobId"])  # or it might end before the next run begins
    done = project.run(*COMMAND, env=cluster.env, timeout=1800)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert f"left SLURM jobs: {orphan['JobId']} are cancelled" in said
    ended = next(job for job in cluster.jobs() if job["JobId"] == orphan["JobId"])
    assert ended["JobState"] == "CANCELLED"
    assert latest(cluster)["JobId"] != orphan["JobId"]
    assert ended["EndTime"] <= latest(cluster)["StartTime"]
    assert "going on from step" in trained(project)
    same_as(project, made)


def test_dead_node(cluster: Cluster, project: Project, made: Project) -> None:
    snakemake = begin(cluster, project)
    node = latest(cluster)["NodeList"]
    cluster.kill_node(node)
    until(lambda: "down" in "".join(cluster.states()), 120, "the controller misses the node")
    try:
        assert snakemake.wait(1800) == 0, said_by(project)
    finally:
        cluster.start_node(node)
    until(lambda: cluster.states() == {"idle"}, 120, "the node is back")
    assert latest(cluster)["NodeList"] != node
    assert latest(cluster)["Restarts"] == "1"
    assert "going on from step" in trained(project)
    same_as(project, made)


def test_job_script_of_ones_own_is_requeued(cluster: Cluster, project: Project, made: Project) -> None:
    """The README's line: SIGTERM saves the state, and exit code 75 starts the job again."""
    project.edit(SIGNALS_ALONE)
    command, *script = shlex.split(readme("On a cluster")[-1])
    done = project.run(command, "--parsable", "--output", "said", *script, env=cluster.env)
    number = done.stdout.strip()
    until(lambda: len(steps(project)) > 7, 600, "the training takes steps")
    cluster.run("scancel", "--signal", "TERM", number)

    def job() -> dict[str, str]:
        return next(job for job in cluster.jobs() if job["JobId"] == number)

    until(lambda: job()["Restarts"] == "1", 300, "the job is started again")
    until(lambda: job()["JobState"] == "COMPLETED", 900, "the job ends")
    assert "going on from step" in trained(project)
    assert weights(project) == weights(made)


def test_slow_shared_disk(cluster: Cluster, project: Project, made: Project, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(LATE % CHECKPOINT)
    done = project.run(*COMMAND, env=cluster.env | {"PYTHONPATH": str(tmp_path)}, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    same_as(project, made)


def test_full_scratch_of_a_node(cluster: Cluster, project: Project, made: Project, tmp_path: Path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", scratch]).returncode:
        pytest.skip("a full disk needs the right to mount one")
    cluster.scratch.write_text(str(scratch))
    try:
        with pytest.raises(OSError, match="No space left"):
            (scratch / "full").write_bytes(bytes(1 << 20))
        done = project.run(*COMMAND, env=cluster.env, timeout=1800)
    finally:
        cluster.scratch.unlink()
        subprocess.run(["umount", scratch], check=True)
    assert done.returncode == 0, done.stdout + done.stderr
    same_as(project, made)
