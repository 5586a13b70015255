"""i2v-cINN's three trainings as stages: what each reads, what a change retrains, and the chain from nothing to tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import params, plan, recipes
from tests.engines import Project

PUSH = {
    "stage1": "cinn_push_stage1-demo_push",
    "encoder": "cinn_push_encoder-demo_push",
    "flow": "cinn_push-demo_push",
    "controlled": "cinn_push_control-demo_push",
}
SMALL: dict[str, Any] = {
    **{f"models.{name}.train.max_steps": 2 for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")},
    **{f"models.{name}.train.batch": 2 for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")},
    **{f"models.{name}.train.validate_windows": 2 for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")},
    "models.cinn_push.train.batch": 8,  # ActNorm is set by a batch
    "protocols.demo_push.items": 2,
    "protocols.demo_push.samples": 2,
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
    "reproduce": ["demo_push", "demo_push_own"],
}


def trainings(changes: dict[str, Any]) -> dict[str, tuple[Any, list[str]]]:
    """Return what each training of the chain uses, and the files that it reads, after changes of params.yaml."""
    overrides: dict[str, Any] = {}
    for key, value in changes.items():
        node = overrides
        *parents, last = key.split(".")
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    read = recipes.read(overrides)
    p = params.validate(read.values, read.source)
    stages = plan.plan(p, ["demo_push"])["train"]
    return {
        name: (plan.uses(p, "train", stages[key]), plan.inputs(p, "train", stages[key])) for name, key in PUSH.items()
    }


@pytest.mark.parametrize(
    ("changes", "retrained"),
    [
        ({}, set()),
        ({"models.cinn_push.train.lr": 2e-3}, {"flow", "controlled"}),
        ({"models.cinn_push_control.train.lr": 2e-3}, {"controlled"}),
        ({"models.cinn_push_encoder.train.kl": 1e-3}, {"encoder", "flow", "controlled"}),
        ({"models.cinn_push_stage1.train.kl": 1e-3}, {"stage1", "flow", "controlled"}),
        ({"models.cinn_push.predict.weights": "last"}, set()),
        ({"experiments.demo_push.metrics.psnr": None}, set()),
        ({"protocols.demo_push.samples": 1}, set()),
    ],
)
def test_each_is_retrained_when_what_it_uses_changes(changes: dict[str, Any], retrained: set[str]) -> None:
    before, after = trainings({}), trainings(changes)
    direct = {name for name in PUSH if before[name] != after[name]}
    files = {
        str(plan.OUTPUTS["train"][0]).format(model=PUSH[name].rpartition("-")[0], dataset="demo_push"): name
        for name in PUSH
    }
    following = {name for name in PUSH if {files.get(file) for file in after[name][1]} & direct}
    assert direct | following == retrained


def test_the_flow_reads_the_checkpoints_of_both_others() -> None:
    read = {name: files for name, (_, files) in trainings({}).items()}
    made = [f"data/checkpoints/{name}/demo_push.pt" for name in ("cinn_push_stage1", "cinn_push_encoder")]
    assert [file for file in read["flow"] if "checkpoints" in file] == made
    assert not any("checkpoints" in file for name in ("stage1", "encoder") for file in read[name])


def test_published_weights_are_inputs_by_part() -> None:
    p = params.load()
    fields = plan.plan(p, ["data/checkpoints/cinn_published/bair.pt"])["train"]["cinn_published-bair"]
    assert len([file for key, file in fields.items() if key.startswith("own_")]) == 4


@pytest.mark.slow
def test_the_chain_in_both_engines_gives_the_same_bytes(tmp_path: Path) -> None:
    projects = [Project(tmp_path / engine, SMALL) for engine in ("snakemake", "dvc")]
    for project, run in zip(projects, (projects[0].snakemake, lambda: projects[1].dvc("repro")), strict=True):
        done = run()
        assert done.returncode == 0, done.stdout + done.stderr
        assert project.rows("results/demo_push_metrics.csv").keys() == {
            (name, True) for name in ("start", "cinn_push_stage1", "cinn_push", "cinn_push_control")
        }
    for file in (
        *(f"data/checkpoints/{name}/demo_push.pt" for name in ("cinn_push_stage1", "cinn_push_encoder", "cinn_push")),
        "results/demo_push_metrics.csv",
        "results/demo_push_own_metrics.csv",
    ):
        first, second = (project.folder / file for project in projects)
        assert first.read_bytes() == second.read_bytes(), file
    project = projects[0]
    project.edit({"models.cinn_push_encoder.train.kl": 1e-3})
    assert project.rules().count("train") == 3
