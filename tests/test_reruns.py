"""What a change reruns, in both engines: just the stages that it reaches."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.store import sealed
from tests.engines import Project

AFTER_FRAMES = {"flow", "train", "predict", "score", "table"}


@pytest.fixture(scope="module")
def made(demo: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The finished demo, handed over to DVC."""
    project = demo.copy(tmp_path_factory.mktemp("reruns") / "project")
    project.dvc("status", "-q")
    done = project.run(sys.executable, "-m", "pipeline.handover")
    assert done.returncode == 0, done.stdout + done.stderr
    return project


def line(file: str, old: str = "", new: str = "") -> Callable[[Project], None]:
    """Return what replaces text in a file; without text it adds a line of code."""

    def change(project: Project) -> None:
        path = project.folder / file
        text = path.read_text()
        assert old in text, f"{file} has no {old!r}"
        path.write_text(text.replace(old, new, 1) if old else text + "\n\nADDED = 1\n")

    return change


def comments(project: Project) -> None:
    for path in (project.folder / "pipeline").rglob("*.py"):
        path.write_text("# A comment.\n" + path.read_text() + "\n# Another.\n")


def params(**changes: Any) -> Callable[[Project], None]:
    return lambda project: project.edit({key.replace("__", "."): value for key, value in changes.items()})


def weights(project: Project) -> None:
    """Put a file of the right name in place; its checksum is wrong, which its stage will say."""
    (project.folder / "data/weights/alexnet-owt-7be5be79.pth").write_bytes(b"weights")


TOGETHER = {"results", "report"}  # are made again with every table

# What is changed, the stages whose own code, params or files that touches, and all that follow in a run.
CASES: dict[str, tuple[Callable[[Project], None], set[str], set[str]]] = {
    "nothing": (lambda project: None, set(), set()),
    "comments everywhere": (comments, set(), set()),
    "a default that an entry uses": (
        line("pipeline/models/dmvfn/__init__.py", "seed: params.Seed = Field(1234)", "seed: params.Seed = Field(5)"),
        {"train"},
        {"train", "predict", "score", "table"},
    ),
    "a default that no entry uses": (
        line("pipeline/models/dmvfn/__init__.py", "epochs: params.Count = Field(300)", "epochs: params.Count = Field(301)"),
        set(),
        set(),
    ),
    "the base of like": (
        params(models__dmvfn_base__train__weight_decay=3.0e-3),
        {"train"},
        {"train", "predict", "score", "table"},
    ),
    "a paper's file": (
        line("workflow/papers/arflow.yaml", "dis: {kind: dis}", "dis: {kind: dis, predict: {preset: fast}}"),
        {"flow"},
        {"flow", "predict", "score", "table"},
    ),
    "an entry in params.yaml": (
        params(models__dmvfn_demo__train__max_steps=2),
        {"train"},
        {"train", "predict", "score", "table"},
    ),
    "a metric taken away": (params(experiments__demo__metrics={"psnr": {"kind": "psnr"}}), {"score", "table"}, {"score", "table"}),
    "the columns of the table": (params(experiments__demo__report=[1]), {"table"}, {"table"}),
    "threads": (params(compute__threads=2), set(), set()),
    "mirroring": (params(tracking__mlflow=True), set(), set()),
    "a line in a stage": (line("pipeline/table.py"), {"table"}, {"table"}),
    "a line in mirroring": (line("pipeline/tracking.py"), set(), set()),
    "an estimator's setting": (
        params(models__dis__predict__preset="fast"),
        {"flow"},
        {"flow", "predict", "score", "table"},
    ),
    "a line in a model": (
        line("pipeline/models/dmvfn/network.py"),
        {"train", "predict"},
        {"train", "predict", "score", "table"},
    ),
    "a line in a baseline": (line("pipeline/models/copy_last.py"), {"predict"}, {"predict", "score", "table"}),
    "a line in a metric": (line("pipeline/metrics/psnr.py"), {"score"}, {"score", "table"}),
    "a line in what renders the demo": (
        line("pipeline/drawing/rendering.py"),
        {"download", "frames", "flow"},
        {"download", "frames", *AFTER_FRAMES},
    ),
    "a line in a shared helper": (
        line("pipeline/store/frames.py"),
        {"frames", *AFTER_FRAMES, "report"},
        {"frames", *AFTER_FRAMES},
    ),
    "a line in planning": (line("pipeline/plan.py"), set(), set()),
    "a line in another task": (line("pipeline/tasks/super_resolution/clips.py"), set(), set()),
    "a line in the task's clips": (
        line("pipeline/tasks/prediction/clips.py"),
        {"predict", "score"},
        {"predict", "score", "table"},
    ),
    "published numbers": (line("results/published/dmvfn.csv"), {"table", "results"}, {"table"}),
    "weights appear": (weights, {"pretrained"}, {"pretrained", "score", "table"}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_a_change_reruns_what_it_reaches(made: Project, tmp_path: Path, case: str) -> None:
    change, direct, following = CASES[case]
    project = made.copy(tmp_path / "copy")
    change(project)
    assert set(project.rules()) == following | (TOGETHER if "table" in following else set())
    done = project.run(sys.executable, "-m", "pipeline.plan")  # as DVC's first stage does
    assert done.returncode == 0, done.stderr
    status = json.loads(project.dvc("status", "--json").stdout or "{}")
    assert {stage.partition("@")[0] for stage in status} - {"plan"} == direct


def test_only_the_models_that_changed_are_predicted_again(made: Project, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "copy")
    line("pipeline/models/dmvfn/network.py")(project)
    rules = project.rules()
    assert rules.count("train") == 1
    assert rules.count("predict") == 1


def test_weights_that_go_are_missed(made: Project, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "copy")
    file = project.folder / "data/weights/alexnet-owt-7be5be79.pth"
    manifest = project.folder / "data/weights/alexnet.json"
    pulled = {"file": file.name, "sha256": hashlib.sha256(b"weights").hexdigest()}
    sealed.write(manifest, pulled)
    assert set(project.rules()) <= {"score", "table"} | TOGETHER, "a clone has the manifest and has never had the file"
    file.write_bytes(b"weights")
    assert set(project.rules()) <= {"score", "table"} | TOGETHER, "the file is the one that the manifest tells of"
    file.unlink()
    assert set(project.rules()) == {"pretrained", "score", "table"} | TOGETHER
    assert project.run(sys.executable, "-m", "pipeline.plan").returncode == 0
    token = project.folder / "workflow/resolved/pretrained/alexnet.json"
    first = token.read_text()
    assert project.run(sys.executable, "-m", "pipeline.pretrained", "--weights", "alexnet").returncode == 0
    assert sealed.read(manifest) == {"file": file.name, "sha256": None, "token": sealed.read(token)["token"]}
    assert project.run(sys.executable, "-m", "pipeline.plan").returncode == 0
    assert token.read_text() == first, "an agreeing manifest keeps its token"
    assert set(project.rules()) <= {"score", "table"} | TOGETHER, "the manifest is newer than the scores"
