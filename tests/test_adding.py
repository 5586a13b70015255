"""docs/adding.md word for word: its files go into a fresh project, which makes the table of one's own model and videos."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import plan
from pipeline.drawing.encode import write_video
from tests.engines import ROOT, Project


def blocks() -> list[tuple[str, str]]:
    """Return (file, text) of the document's blocks that name a file."""
    text = (ROOT / "docs/adding.md").read_text()
    return re.findall(r"^```\w+ file=(\S+)\n(.*?)^```$", text, re.M | re.S)


def videos(folder: Path) -> None:
    """Write two training videos and a test video of a bright square that moves."""
    for split, number in (("train", 0), ("train", 1), ("test", 2)):
        rng = np.random.default_rng(number)
        background = rng.integers(0, 120, (96, 128, 3), np.uint8)
        images = [background.copy() for _ in range(12)]
        for i, image in enumerate(images):
            image[20:50, 4 * i + 10 : 4 * i + 40] = 230
        (folder / split).mkdir(parents=True, exist_ok=True)
        write_video(folder / split / f"video{number}.mp4", iter(images), 10)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    for file, text in blocks():
        path = project.folder / file
        if file == "params.yaml":  # below the sections that are there
            tree = yaml.safe_load(path.read_text())
            for section, entries in yaml.safe_load(text).items():
                tree.setdefault(section, {}).update(entries)
            text = yaml.safe_dump(tree, sort_keys=False)
        path.write_text(text if file == "params.yaml" or not path.exists() else f"{path.read_text()}\n{text}")
    project.edit({"compute.threads": 1, "compute.workers": 0, "tracking.mlflow": False})
    return project


def test_the_document_s_model_and_dataset_make_a_table(project: Project) -> None:
    videos(project.folder / "videos")
    done = project.snakemake("results/mine_metrics.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    rows = project.rows("results/mine_metrics.csv")
    assert {model for model, _ in rows} == {"Copy last frame", "Residual"}
    assert all(np.isfinite(float(row["psnr_t5"])) for row in rows.values())
    assert "Nothing to be done" in project.snakemake("results/mine_metrics.csv").stderr
    videos_before = (project.folder / "videos/test/video2.mp4").read_bytes()
    (project.folder / "videos/test/video3.mp4").write_bytes(videos_before)
    assert "frames" in project.rules("results/mine_metrics.csv"), "a video of one's own more is noticed"


METRIC = '''
"""Mean absolute error."""

import numpy as np

from pipeline import params

BETTER, NEEDS = "lower", "frames"


class Params(params.Metric):
    """It has no settings."""


def settings(p):
    """Return what a reader must know."""
    return {"name": "MAE"}


def build(p, device):
    """Return the function of two clips."""
    return lambda prediction, target: np.abs(prediction - target).mean(axis=(1, 2, 3), dtype=np.float64)
'''


def test_a_metric_is_one_file_and_no_table_changes_by_its_arrival(project: Project) -> None:
    """Instances, resolved params and digests of code of every stage are the same; an experiment may use it at once."""
    project.edit({"reproduce": ["demo", "demo_vsr", "kitti", "bair", "sky", "sintel"]})

    def planned() -> dict[str, str]:
        done = project.run(sys.executable, "-m", "pipeline.plan")
        assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: other stages than before
        files = [project.folder / plan.FILE, *(project.folder / plan.RESOLVED).rglob("*.json")]
        return {str(file.relative_to(project.folder)): file.read_text() for file in files}

    before = planned()
    (project.folder / "pipeline/metrics/mae.py").write_text(METRIC)
    assert planned() == before
    project.edit({"experiments.demo.metrics.mae": {"kind": "mae"}})
    after = planned()
    assert before.keys() == after.keys()
    assert before.pop(str(plan.READ)) != after.pop(str(plan.READ))
    differ = {Path(file) for file in before if before[file] != after[file]}
    assert {file.parent.name for file in differ} == {"score", "table"}
    assert all(file.stem.split("-")[0] == "demo" for file in differ)


def test_a_trained_model_is_short() -> None:
    model = [text for file, text in blocks() if file.startswith("pipeline/models")]
    settings = yaml.safe_load(next(text for file, text in blocks() if file == "params.yaml"))["models"]
    lines = sum(len(text.splitlines()) for text in model) + len(yaml.safe_dump(settings).splitlines())
    assert lines <= 90


@pytest.mark.parametrize(
    ("file", "old", "message"),
    [
        ("pipeline/models/residual.py", "def configure(self)", "defines no configure: a model of the task prediction that is trained"),
        ("pipeline/models/residual.py", "def predict(self", "defines no predict"),
        ("pipeline/models/residual.py", "def build(", "lacks build"),
        ("pipeline/datasets/my_videos.py", "SPLITS =", "lacks SPLITS"),
        ("pipeline/datasets/my_videos.py", '"train", "test"', "has no split 'train'"),
    ],
)  # fmt: skip
def test_a_missing_part_is_named_before_anything_runs(project: Project, file: str, old: str, message: str) -> None:
    path = project.folder / file
    text = path.read_text()
    assert old in text
    path.write_text(
        text.replace(
            old, '"test",' if old.startswith('"') else old.replace("def ", "def not_").replace("SPLITS", "NOT")
        )
    )
    done = project.snakemake("results/mine_metrics.csv", "-n")
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
