"""The whole chain, run by the real Snakemake and the real DVC on a small demo."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.engines import Project

TABLE = "results/demo_metrics.csv"


@pytest.fixture
def copy(demo: Project, tmp_path: Path) -> Project:
    """A copy of the finished demo, with Snakemake's records, that a test may spoil."""
    return demo.copy(tmp_path / "copy")


def table(project: Project) -> bytes:
    return (project.folder / TABLE).read_bytes()


def test_same_bytes_from_both_engines(demo: Project, reproduced: Project) -> None:
    assert table(demo) == table(reproduced)
    assert (demo.folder / "results/demo_steps.csv").read_bytes() == (
        reproduced.folder / "results/demo_steps.csv"
    ).read_bytes()


def test_second_run_does_nothing(demo: Project, reproduced: Project) -> None:
    done = demo.snakemake()
    assert "Nothing to be done" in done.stdout + done.stderr
    done = reproduced.dvc("repro")
    assert re.findall("Running stage '(.*)'", done.stdout) == ["plan"], "the stage that looks what has changed"


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


def test_empty_folders_of_the_users_stay(copy: Project) -> None:
    """Snakemake alone removes every empty folder in which a file of the graph could lie."""
    raw = copy.folder / "data/raw/davis2017"
    raw.mkdir()
    setting = 'datasets={"davis2017":{"archives":"present"}}'
    done = copy.snakemake("data/raw/davis2017/test.json", "--config", setting)
    assert done.returncode != 0
    assert raw.is_dir()


def test_fresh_clone_with_results_is_computed(copy: Project) -> None:
    shutil.rmtree(copy.folder / "data")
    shutil.rmtree(copy.folder / ".snakemake")
    assert set(copy.rules(TABLE)) == {"download", "pretrained", "frames", "flow", "train", "predict", "score", "table"}


def test_overrides_reach_the_stages(copy: Project) -> None:
    extra = copy.folder / "extra.yaml"
    extra.write_text("models:\n  dmvfn_demo:\n    train:\n      max_steps: 1\n")
    done = copy.snakemake(TABLE, "--configfile", "extra.yaml", "--config", 'compute={"threads": 1}')
    assert done.returncode == 0, done.stderr
    assert _steps(copy) == 1
    again = copy.snakemake(TABLE, "--configfile", "extra.yaml", "--config", 'compute={"threads": 1}')
    assert "Nothing to be done" in again.stderr


def _checkpoint(project: Project) -> dict[str, Any]:
    import torch

    return torch.load(project.folder / "data/checkpoints/dmvfn_demo/demo.pt", weights_only=True)


def _steps(project: Project) -> int:
    return int(_checkpoint(project)["step"])


def test_misspelt_override_is_refused(copy: Project) -> None:
    done = copy.snakemake(TABLE, "--config", 'compute={"thread": 1}')
    assert done.returncode != 0
    assert "did you mean 'threads'" in done.stdout + done.stderr
    (copy.folder / "twice.yaml").write_text("compute: {threads: 1}\ncompute: {threads: 2}\n")
    done = copy.snakemake(TABLE, "--configfile", "twice.yaml")
    assert done.returncode != 0
    assert "twice.yaml is not YAML: line 2: 'compute' stands here and in line 1 already" in done.stdout + done.stderr


def test_handover_from_snakemake_to_dvc_and_back(copy: Project) -> None:
    import sys

    copy.dvc("status", "-q")
    done = copy.run(sys.executable, "-m", "pipeline.handover")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(copy.dvc("status", "--json").stdout) == {"plan": ["always changed"]}
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


@pytest.fixture
def committed(reproduced: Project, tmp_path: Path) -> Project:
    """A copy of what DVC has made, in git: `dvc exp` needs that."""
    project = reproduced.copy(tmp_path / "copy")
    for command in (("git", "add", "-A"), ("git", "commit", "-qm", "base")):
        assert project.run(*command).returncode == 0
    return project


def test_dvc_experiments_reach_the_stages(committed: Project) -> None:
    done = committed.dvc("exp", "run", "-S", "models.dmvfn_demo.train.max_steps=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert _steps(committed) == 1
    # a key that params.yaml lacks is added
    done = committed.dvc("exp", "run", "-S", "++models.dmvfn_demo.train.weight_decay=0.002")
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(_checkpoint(committed)["params"])["models.dmvfn_demo.train"]["weight_decay"] == 0.002
    done = committed.dvc("exp", "run", "-S", "++models.dmvfn_demo.train.warmup_step=1")
    assert done.returncode != 0
    assert "unknown key (did you mean 'warmup_steps'?)" in done.stdout + done.stderr


@pytest.mark.slow
def test_dvc_experiments_in_the_queue_and_in_a_folder_of_their_own(committed: Project) -> None:
    done = committed.dvc("exp", "run", "--queue", "-S", "++experiments.demo.missing_weights=error")
    assert done.returncode == 0, done.stdout + done.stderr
    done = committed.dvc("exp", "run", "--run-all")
    assert "no weights alexnet" in done.stdout + done.stderr, "the override has not reached the score stage"
    done = committed.dvc("exp", "run", "--temp", "-S", "++models.dmvfn_demo.train.warmup_steps=2")
    assert done.returncode == 0, done.stdout + done.stderr


def test_values_set_on_the_generated_file_are_refused(committed: Project) -> None:
    done = committed.dvc("exp", "run", "-S", "workflow/resolved/train/dmvfn_demo-demo.json:code=1")
    assert done.returncode != 0
    assert "reaches no stage" in (done.stdout + done.stderr).replace("\n", " ")


def test_dvc_asks_again_when_the_plan_changes(reproduced: Project, tmp_path: Path) -> None:
    project = reproduced.copy(tmp_path / "copy")
    path = project.folder / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    tree["experiments"]["demo"]["models"]["flow_warp"] = None
    path.write_text(yaml.safe_dump(tree, sort_keys=False))  # as a user's editor does, without `pipeline.plan`
    done = project.dvc("repro")
    assert done.returncode != 0
    assert "type the same command again" in done.stdout + done.stderr or "pipeline.plan" in done.stdout + done.stderr
    done = project.dvc("repro")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "flow warp" not in table(project).decode()


def test_report(demo: Project) -> None:
    done = demo.snakemake("--report", "report.html")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "demo_metrics.csv" in (demo.folder / "report.html").read_text()


def test_lineage_names_the_weights(demo: Project) -> None:
    import csv

    import torch

    from pipeline import weights

    rows = {r["model"]: r for r in csv.DictReader((demo.folder / TABLE).open())}
    tree: Any = torch.load(demo.folder / "data/checkpoints/dmvfn_demo/demo.pt", weights_only=True)
    assert weights.digest(tree["weights"])[:12] == rows["DMVFN"]["checkpoint"]
    assert json.loads(tree["params"])["models.dmvfn_demo.train"]["max_steps"] == 3
