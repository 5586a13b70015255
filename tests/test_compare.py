"""Comparing: two rows of one table, the same table at two commits, and files."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from pipeline import compare
from pipeline.errors import RetakeError
from tests.engines import Project
from tests.test_papers import record


def test_two_rows_of_a_table(demo: Project, tmp_path: Path) -> None:
    project = demo.copy(tmp_path / "p")
    done = project.run(
        sys.executable, "-m", "pipeline.compare", "dmvfn_demo", "copy_last", "--experiment", "demo", "--metric", "ssim"
    )
    assert done.returncode == 0, done.stderr
    table = json.loads((project.folder / "results/records/demo.json").read_text())
    rows = {row["name"]: row["cells"]["ssim_t1"]["mean"] for row in table["rows"]}
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("| SSIM t+1")]
    assert f"{rows['dmvfn_demo'] - rows['copy_last']:+.3f}" in line
    assert "PSNR" not in done.stdout
    assert "| kind " in done.stdout
    for arguments, message in (
        (["dmvfn_dem", "copy_last"], "did you mean 'dmvfn_demo'"),
        (["dmvfn_demo", "copy_last", "--metric", "sim"], "did you mean 'ssim'"),
    ):
        done = project.run(sys.executable, "-m", "pipeline.compare", *arguments, "--experiment", "demo")
        assert done.returncode == 1
        assert message in done.stderr


def test_two_runs_of_mlflow(demo: Project, tmp_path: Path) -> None:
    """Rows by the scores that their runs hold: the same differences as from this folder; other runs by their last values."""
    project = demo.copy(tmp_path / "p")
    project.edit({"tracking.mlflow": True})
    done = project.run(sys.executable, "-m", "pipeline.table", "--experiment", "demo")
    assert done.returncode == 0, done.stderr
    script = (
        "import json, mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient();"
        "runs = c.search_runs([c.get_experiment_by_name('table').experiment_id]);"
        "print(json.dumps({r.info.run_name: [r.info.run_id, r.data.tags.get('mlflow.parentRunId'),"
        "[f.path for f in c.list_artifacts(r.info.run_id)], [i.dataset.name for i in r.inputs.dataset_inputs]] for r in runs}))"
    )
    runs = json.loads(project.run(sys.executable, "-c", script).stdout)
    whole, parent, files, _ = runs.pop("demo")
    assert parent is None
    assert {"demo_metrics.csv", "demo_metrics.md", "demo.png", "demo_steps.csv", "demo.json"} <= set(files)
    assert set(runs) == {"demo, DMVFN, seed 1234", "demo, DIS flow warp", "demo, Copy last frame"}
    assert all(run[1:] == [whole, ["scores"], ["demo"]] for run in runs.values())
    ids = [runs[name][0] for name in ("demo, DMVFN, seed 1234", "demo, Copy last frame")]
    compare_ = (sys.executable, "-m", "pipeline.compare")
    of_runs = project.run(*compare_, *ids)
    of_rows = project.run(*compare_, "dmvfn_demo", "copy_last", "--experiment", "demo")

    def differences(text: str) -> list[list[str]]:
        return [
            [cell.strip() for cell in line.split("|")]
            for line in text.splitlines()
            if line.startswith(("| PSNR", "| SSIM"))
        ]

    assert differences(of_runs.stdout) == differences(of_rows.stdout) != [], of_runs.stderr
    assert "| model.train.lr " in of_runs.stdout
    last = project.run(*compare_, whole, ids[0])
    assert last.returncode == 0, last.stderr
    assert "| last value " in last.stdout
    done = project.run(*compare_, ids[0], "0123456789abcdef0123456789abcdef")
    assert done.returncode == 1
    assert "no run '0123456789abcdef0123456789abcdef' in MLflow" in done.stderr


def test_two_files(tmp_path: Path) -> None:
    one, other = record(), record(cell={"mean": 90.0})
    other["rows"][0]["digests"]["code"] = "9"
    text = compare.records(one, other, ("a", "b"), None)
    assert "+1.470" in text
    assert "DMVFN: other code" in text
    one["rows"][0]["training"], other["rows"][0]["training"] = ("on `kitti`, batch 4, lr 0.001", "on `kitti`, batch 8")
    text = compare.records(one, other, ("a", "b"), None)
    assert "* DMVFN, training batch: 4 in a, 8 in b." in text
    assert "* DMVFN, training lr: 0.001 in a, none in b." in text and "kitti` in" not in text
    other["metrics"]["lpips"]["identity"] = "2"
    with pytest.raises(RetakeError, match="do not compare"):
        compare.records(one, other, ("a", "b"), None)
    assert "LPIPS" not in compare.records(one, other, ("a", "b"), ["ms_ssim"])


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a|b", "a\n# b", "\x1b[2J", "\u202eevil", "</td>"])
def test_names_of_other_people_stay_text(name: str) -> None:
    one, other = record(label=name, training=f"lr {name}"), record(label=name, partial=name)
    text = compare.records(one, other, ("a", "b"), None)
    assert all(character.isprintable() or character == "\n" for character in text)
    assert "<" not in text and "\n# b" not in text
    bars = {line.replace("\\|", "").count("|") for line in text.splitlines() if line.startswith("|")}
    assert len(bars) == 1


def test_dvc_shows_the_same_means_and_commits_compare(demo: Project, tmp_path: Path) -> None:
    project = demo.copy(tmp_path / "p")
    assert project.run(sys.executable, "-m", "pipeline.handover").returncode == 0
    for command in (["git", "add", "-A"], ["git", "commit", "-qm", "one"]):
        assert project.run(*command).returncode == 0
    shown = json.loads(project.dvc("metrics", "show", "--json").stdout)
    means = json.loads((project.folder / "results/demo_means.json").read_text())
    (side,) = shown.values()
    assert side["data"]["results/demo_means.json"]["data"] == means
    done = project.run(sys.executable, "-m", "pipeline.compare", "HEAD", "HEAD", "--experiment", "demo")
    assert done.returncode == 0, done.stderr
    assert "| +0.000 – +0.000 |" in done.stdout  # paired, by the scores that DVC has
    done = project.run(sys.executable, "-m", "pipeline.compare", "HEAD", "none", "--experiment", "demo")
    assert done.returncode == 1
    assert "no model, file or commit 'none'" in done.stderr
