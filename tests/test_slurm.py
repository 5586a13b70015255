"""The demo through the profile of SLURM, on a real cluster of two nodes in a temporary folder (tests/slurm.py).

Run with `pytest -m slurm`.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests import slurm
from tests.engines import SMALL_DEMO, Project, readme
from tests.slurm import Cluster

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(bool(slurm.missing()), reason=slurm.missing()),
]
TABLE = "results/demo_metrics.csv"
RUN, OVERRIDDEN, LARGER, AS_ARRAYS, _ = map(shlex.split, readme("On a cluster"))
SOON = ("--slurm-init-seconds-before-status-checks", "2")  # a test does not wait 10 s for each job
SETTING: dict[str, Any] = SMALL_DEMO | {
    "experiments.demo.models": {"copy_last": "copy", "dmvfn_demo": "DMVFN"},
    "experiments.demo.metrics": {"psnr": {"kind": "psnr"}},
}
# What each rule asks for: GPUs, memory (MB), minutes, CPUs.
ASKED = {
    "download": (0, 500, 1440, 1),
    "frames": (0, 1000, 720, 2),
    "train": (1, 8000, 2880, 1),
    "predict_wildcards_demo_copy_last": (0, 4000, 720, 1),
    "predict_wildcards_demo_dmvfn_demo": (1, 4000, 720, 1),
    "score": (0, 4000, 720, 1),
    "table": (0, 1000, 120, 1),
}


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The demo, made without a cluster."""
    project = Project(tmp_path_factory.mktemp("local"), SETTING)
    done = project.snakemake(TABLE, timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def made(cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> tuple[Project, str]:
    """The demo, made by the cluster, and what Snakemake said."""
    project = Project(tmp_path_factory.mktemp("slurm"), SETTING)
    done = submit(cluster, project, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    return project, done.stdout + done.stderr


def submit(cluster: Cluster, project: Project, *command: str) -> subprocess.CompletedProcess[str]:
    return project.run(*command, *SOON, env=cluster.env, timeout=1800)


def instead(command: list[str], *targets: str) -> list[str]:
    """Return a command of the README that makes other targets than the table."""
    place = command.index(TABLE)
    return [*command[:place], *targets, *command[place + 1 :]]


def bytes_of(project: Project) -> dict[str, bytes]:
    """Return what a run makes, by path; measured times are left out."""
    files = [f for part in ("data", "results") for f in sorted((project.folder / part).rglob("*")) if f.is_file()]
    names = {str(f.relative_to(project.folder)): f for f in files if ".claims" not in f.parts}
    kept = (".arrow", ".pt", ".parquet", "_metrics.csv", ".md", ".tex", "_steps.csv", "_means.json")
    return {name: f.read_bytes() for name, f in names.items() if name.endswith(kept)}


def test_same_bytes_as_without_a_cluster(made: tuple[Project, str], local: Project) -> None:
    here, cluster_s = bytes_of(local), bytes_of(made[0])
    assert here.keys() == cluster_s.keys()
    assert "data/checkpoints/dmvfn_demo/demo.pt" in here
    assert [name for name in here if here[name] != cluster_s[name]] == []


def test_jobs_ask_for_what_the_rules_say(made: tuple[Project, str], cluster: Cluster) -> None:
    for rule, (gpus, memory, minutes, cpus) in ASKED.items():
        job = cluster.job(rule)
        assert job is not None, rule
        assert job.get("TresPerJob") == (f"gres:gpu:{gpus}" if gpus else None), rule
        assert job["Partition"] == ("gpu" if gpus else "cpu"), rule
        assert job["MinMemoryNode"] in (f"{memory}M", f"{memory / 1000:g}G"), rule
        days, hours = divmod(minutes // 60, 24)
        assert job["TimeLimit"] == f"{f'{days}-' if days else ''}{hours:02}:{minutes % 60:02}:00", rule
        assert job["CPUs/Task"] == str(cpus), rule
        assert job["Restarts"] == "0", rule


def test_logs_are_where_snakemake_says(made: tuple[Project, str]) -> None:
    project, said = made
    logs = set(re.findall(r"^ +log: (\S+)$", said, re.MULTILINE))
    assert "logs/train-dmvfn_demo-demo.log" in logs
    assert "trained dmvfn_demo: 3 steps" in (project.folder / "logs/train-dmvfn_demo-demo.log").read_text()
    assert [log for log in logs if not (project.folder / log).stat().st_size] == []


def test_overrides_reach_the_jobs(made: tuple[Project, str], cluster: Cluster, tmp_path: Path) -> None:
    import torch

    project = made[0].copy(tmp_path / "copy")
    checkpoint = "data/checkpoints/dmvfn_demo/demo.pt"
    done = submit(cluster, project, *OVERRIDDEN, "--until", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    assert torch.load(project.folder / checkpoint, weights_only=True)["step"] == 100
    (project.folder / checkpoint).unlink()
    done = submit(cluster, project, *LARGER, "--until", "train")
    assert done.returncode == 0, done.stdout + done.stderr
    job = cluster.job("train")
    assert job is not None
    assert (job["TimeLimit"], job["MinMemoryNode"]) == ("4-00:00:00", "62.50G")


def test_a_sweep_is_one_submission(made: tuple[Project, str], cluster: Cluster, tmp_path: Path) -> None:
    project = made[0].copy(tmp_path / "copy")
    sweep = {f"sweep_{n}": {"like": "dmvfn_demo", "train": {"max_steps": 2, "seed": n}} for n in range(3)}
    files = [f"data/checkpoints/{name}/demo.pt" for name in sweep]
    before = len(cluster.jobs())
    done = submit(cluster, project, *instead(AS_ARRAYS, *files), "--config", f"models={json.dumps(sweep)}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [job["ArrayTaskId"] for job in sorted(cluster.jobs()[before:], key=lambda j: j["ArrayTaskId"])] == list(
        "123"
    )
    assert len({job["ArrayJobId"] for job in cluster.jobs()[before:]}) == 1
    assert len({(project.folder / file).read_bytes() for file in files}) == 3, "three seeds, three networks"


def test_a_training_of_a_sweep_fails_alone(made: tuple[Project, str], cluster: Cluster, tmp_path: Path) -> None:
    """Of a sweep in two submissions the training with a bad input fails, is seen to, and stops no other."""
    project = made[0].copy(tmp_path / "copy")
    crops = {"good": 64, "bad": 960, "better": 64}
    sweep = {name: {"like": "dmvfn_demo", "train": {"max_steps": 2, "crop": crop}} for name, crop in crops.items()}
    files = {name: f"data/checkpoints/{name}/demo.pt" for name in sweep}
    before = len(cluster.jobs())
    options = ("--keep-going", "--slurm-array-limit", "2", "--config", f"models={json.dumps(sweep)}")
    done = submit(cluster, project, *instead(AS_ARRAYS, *files.values()), *options)
    assert done.returncode != 0
    assert {name: (project.folder / file).exists() for name, file in files.items()} == {
        "good": True, "bad": False, "better": True,
    }, done.stdout + done.stderr  # fmt: skip
    ours = cluster.jobs()[before:]
    assert len({job.get("ArrayJobId", job["JobId"]) for job in ours}) == 2
    assert sorted(job["JobState"] for job in ours) == ["COMPLETED", "COMPLETED", "FAILED"]
    assert "smaller than the crop of 960" in (project.folder / "logs/train-bad-demo.log").read_text()


def test_one_training_on_two_nodes(made: tuple[Project, str], local: Project, cluster: Cluster, tmp_path: Path) -> None:
    """Two processes, one on each node, make what two make on one machine."""
    here, spread = local.copy(tmp_path / "here"), made[0].copy(tmp_path / "spread")
    checkpoint = "data/checkpoints/dmvfn_demo/demo.pt"
    done = here.snakemake(checkpoint, "--config", 'compute={"devices":2}', timeout=1800)
    assert done.returncode == 0, done.stdout + done.stderr
    done = submit(cluster, spread, *instead(RUN, checkpoint), "--config", 'compute={"devices":2,"nodes":2}')
    assert done.returncode == 0, done.stdout + done.stderr
    job = cluster.job("train")
    assert job is not None
    assert (job["NumNodes"], job["TresPerJob"], job["MinMemoryNode"]) == ("2", "gres:gpu:2", "8000M")
    assert (spread.folder / checkpoint).read_bytes() == (here.folder / checkpoint).read_bytes()


def test_two_trainings_of_one_thing_are_refused(made: tuple[Project, str], cluster: Cluster) -> None:
    command = ("python", "-m", "pipeline.train", "--model", "dmvfn_demo", "--dataset", "demo")
    done = made[0].run("srun", "-n2", "-N2", *command, env=cluster.env)
    assert done.returncode == 1
    assert "srun has started 2 trainings that would write one file" in done.stderr


def test_an_error_of_the_input_ends_the_job_once(made: tuple[Project, str], cluster: Cluster, tmp_path: Path) -> None:
    project = made[0].copy(tmp_path / "copy")
    before = len(cluster.jobs())
    setting = 'models={"dmvfn_demo":{"train":{"crop":960}}}'
    done = submit(cluster, project, *instead(RUN, "data/checkpoints/dmvfn_demo/demo.pt"), "--config", setting)
    said = done.stdout + done.stderr
    assert done.returncode != 0
    ours = cluster.jobs()[before:]
    assert [(job["JobState"], job["Restarts"]) for job in ours] == [("FAILED", "0")]
    log = re.search(r"submitted with SLURM jobid \d+ \(log: (\S+)\)", said)
    assert log is not None
    text = Path(log[1]).read_text()
    assert text.count("error: ") >= 1
    assert text.count("smaller than the crop of 960") == 1, "the training ran once"
