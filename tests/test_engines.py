"""The whole chain, run by the real Snakemake and the real DVC on a small demo."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines import SMALL_DEMO, Project

TABLE = "results/demo_metrics.csv"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose demo table Snakemake has made."""
    project = Project(tmp_path_factory.mktemp("snakemake"), SMALL_DEMO)
    done = project.snakemake(TABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture(scope="module")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project whose demo table DVC has made."""
    project = Project(tmp_path_factory.mktemp("dvc"), SMALL_DEMO)
    done = project.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


@pytest.fixture
def copy(made: Project, tmp_path: Path) -> Project:
    """A copy of the made project, with Snakemake's records, that a test may spoil."""
    return made.copy(tmp_path / "copy")


def table(project: Project) -> bytes:
    return (project.folder / TABLE).read_bytes()


def test_same_bytes_from_both_engines(made: Project, reproduced: Project) -> None:
    assert table(made) == table(reproduced)
    assert (made.folder / "results/demo_steps.csv").read_bytes() == (
        reproduced.folder / "results/demo_steps.csv"
    ).read_bytes()


def test_second_run_does_nothing(made: Project, reproduced: Project) -> None:
    done = made.snakemake()
    assert "Nothing to be done" in done.stdout + done.stderr
    done = reproduced.dvc("repro")
    assert "Running stage" not in done.stdout


@pytest.mark.parametrize(
    ("change", "rules"),
    [
        ({"experiments.demo.metrics": {"psnr": {"kind": "psnr"}}}, {"score", "table"}),
        ({"models.dmvfn_demo.train.max_steps": 2}, {"train", "predict", "score", "table"}),
        ({"models.dis.predict.preset": "fast"}, {"flow", "predict", "score", "table"}),
        ({"experiments.demo.report": [1]}, {"table"}),
        ({"compute.threads": 2}, set()),
        ({"tracking.mlflow": True}, set()),
    ],
)
def test_a_changed_key_runs_what_uses_it(copy: Project, change: dict[str, Any], rules: set[str]) -> None:
    copy.edit(change)
    due = copy.rules()
    assert set(due) == rules
    if "train" in rules:
        assert due.count("train") == 1
        assert due.count("predict") == 1, "other models must not be predicted again"


@pytest.mark.parametrize(
    ("file", "rules"),
    [
        ("pipeline/score.py", {"score", "table"}),
        ("pipeline/models/dmvfn/network.py", {"train", "predict", "score", "table"}),
        ("pipeline/frames.py", {"frames", "flow", "train", "predict", "score", "table"}),
        ("pipeline/table.py", {"table"}),
        ("pipeline/tracking.py", set()),
    ],
)
def test_edited_code_reruns_its_stage_and_what_follows(copy: Project, file: str, rules: set[str]) -> None:
    path = copy.folder / file
    path.write_text(path.read_text() + "\n# edited\n")
    assert set(copy.rules()) == rules


def test_failed_training_is_made_again(copy: Project) -> None:
    """Snakemake alone would call the old table up to date."""
    copy.edit({"models.dmvfn_demo.train.max_steps": 2})
    network = copy.folder / "pipeline/models/dmvfn/network.py"
    whole = network.read_text()
    network.write_text(whole + "\nraise RuntimeError('broken on purpose')\n")
    assert copy.snakemake(TABLE).returncode != 0
    network.write_text(whole)
    os.utime(network, (1, 1))
    old = table(copy)
    done = copy.snakemake(TABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert table(copy) != old
    assert "Nothing to be done" in copy.snakemake(TABLE).stderr


def test_fresh_clone_with_results_is_computed(copy: Project) -> None:
    shutil.rmtree(copy.folder / "data")
    shutil.rmtree(copy.folder / ".snakemake")
    assert set(copy.rules(TABLE)) == {"download", "frames", "flow", "train", "predict", "score", "table"}


def test_overrides_reach_the_stages(copy: Project) -> None:
    extra = copy.folder / "extra.yaml"
    extra.write_text("models:\n  dmvfn_demo:\n    train:\n      max_steps: 1\n")
    done = copy.snakemake(TABLE, "--configfile", "extra.yaml", "--config", 'compute={"threads": 1}')
    assert done.returncode == 0, done.stderr
    assert _steps(copy) == 1
    again = copy.snakemake(TABLE, "--configfile", "extra.yaml", "--config", 'compute={"threads": 1}')
    assert "Nothing to be done" in again.stderr


def _steps(project: Project) -> int:
    import torch

    tree = torch.load(project.folder / "data/checkpoints/dmvfn_demo/demo.pt", weights_only=True)
    return int(tree["step"])


def test_misspelt_override_is_refused(copy: Project) -> None:
    done = copy.snakemake(TABLE, "--config", 'compute={"thread": 1}')
    assert done.returncode != 0
    assert "did you mean 'threads'" in done.stdout + done.stderr


def test_handover_from_snakemake_to_dvc_and_back(copy: Project) -> None:
    import sys

    copy.dvc("status", "-q")
    done = copy.run(sys.executable, "-m", "pipeline.handover")
    assert done.returncode == 0, done.stdout + done.stderr
    assert copy.dvc("status", "-q").returncode == 0
    assert "Nothing to be done" in copy.snakemake().stderr

    # an overridden run is not what params.yaml says: it must not be blessed
    done = copy.snakemake(TABLE, "--config", 'models={"dmvfn_demo":{"train":{"max_steps":1}}}')
    assert done.returncode == 0, done.stderr
    done = copy.run(sys.executable, "-m", "pipeline.handover")
    assert done.returncode == 1
    assert "nothing is handed over" in done.stderr

    done = copy.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _steps(copy) == 3
    done = copy.run(sys.executable, "-m", "pipeline.handover")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing to be done" in copy.snakemake().stderr


def test_dvc_experiments_reach_the_stages(reproduced: Project, tmp_path: Path) -> None:
    project = reproduced.copy(tmp_path / "copy")
    for command in (("git", "add", "-A"), ("git", "commit", "-qm", "base")):
        assert project.run(*command).returncode == 0
    done = project.dvc("exp", "run", "-S", "models.dmvfn_demo.train.max_steps=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _steps(project) == 1
    done = project.dvc("exp", "run", "-S", "models.dmvfn_demo.train.max_step=1")
    assert done.returncode != 0
    done = project.dvc("exp", "run", "--queue", "-S", "experiments.demo.missing_weights=error")
    assert done.returncode == 0, done.stdout + done.stderr
    done = project.dvc("exp", "run", "--run-all")
    assert done.returncode == 0, done.stdout + done.stderr


def test_dvc_asks_again_when_the_plan_changes(reproduced: Project, tmp_path: Path) -> None:
    project = reproduced.copy(tmp_path / "copy")
    path = project.folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    del tree["experiments"]["demo"]["models"]["flow_warp"]
    path.write_text(yaml.safe_dump(tree, sort_keys=False))  # as a user's editor does, without `pipeline.plan`
    done = project.dvc("repro")
    assert done.returncode != 0
    assert "type the same command again" in done.stdout + done.stderr or "pipeline.plan" in done.stdout + done.stderr
    done = project.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flow warp" not in table(project).decode()


def test_report(made: Project) -> None:
    done = made.snakemake("--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo_metrics.csv" in (made.folder / "report.html").read_text()


def test_lineage_names_the_weights(made: Project) -> None:
    import csv

    import torch

    from pipeline import weights

    rows = {r["model"]: r for r in csv.DictReader((made.folder / TABLE).open())}
    tree: Any = torch.load(made.folder / "data/checkpoints/dmvfn_demo/demo.pt", weights_only=True)
    assert weights.digest(tree["weights"])[:12] == rows["DMVFN"]["checkpoint"]
    assert json.loads(tree["params"])["models.dmvfn_demo.train"]["max_steps"] == 3
