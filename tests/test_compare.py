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


def test_two_files(tmp_path: Path) -> None:
    one, other = record(), record(cell={"mean": 90.0})
    other["rows"][0]["digests"]["code"] = "9"
    text = compare.records(one, other, ("a", "b"), None)
    assert "+1.470" in text
    assert "DMVFN: other code" in text
    other["metrics"]["lpips"]["identity"] = "2"
    with pytest.raises(RetakeError, match="do not compare"):
        compare.records(one, other, ("a", "b"), None)
    assert "LPIPS" not in compare.records(one, other, ("a", "b"), ["ms_ssim"])


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
    assert "+0.000" in done.stdout
    done = project.run(sys.executable, "-m", "pipeline.compare", "HEAD", "none", "--experiment", "demo")
    assert done.returncode == 1
    assert "no model, file or commit 'none'" in done.stderr
