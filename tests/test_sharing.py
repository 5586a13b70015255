"""Sharing with DVC: pushed, cloned, pulled, and nothing is due in either engine; what a licence holds back is made again."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipeline import fetch, params, plan
from tests.engines import ROOT, SMALL_DEMO, Project

TABLE = "results/demo_metrics.csv"
TWO_ROWS: dict[str, Any] = SMALL_DEMO | {
    "experiments.demo.models": {"copy_last": "copy", "flow_warp": "flow warp"},
    "experiments.demo.metrics": {"psnr": {"kind": "psnr"}},
}
RESTRICTED = ("data/raw/demo/test.json", "data/frames/demo/test.arrow", "data/predictions/demo/copy_last.arrow")
SHARED = ("data/flow/dis/demo/test.arrow", "data/scores/demo/copy_last.parquet", TABLE, "results/demo_speed.csv")


@pytest.fixture(scope="module")
def made(demo: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A table that Snakemake has made, told to DVC and committed."""
    return finished(demo.copy(tmp_path_factory.mktemp("sharing") / "project"))


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same of a data set whose licence lets nobody pass it on."""
    project = Project(tmp_path_factory.mktemp("gated"))
    with (project.folder / "workflow/sources.csv").open("a") as rows:
        rows.write("demo,clips.zip,,,,,nobody may pass it on,https://demo.example/,\n")
    project.edit(TWO_ROWS)
    return finished(project)


def finished(project: Project) -> Project:
    ok(project.snakemake())
    ok(project.run(sys.executable, "-m", "pipeline.handover"))
    commit(project)
    return project


def ok(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def commit(project: Project) -> None:
    ok(project.run("git", "add", "-A"))
    ok(project.run("git", "commit", "-qm", "made"))


def clone(project: Project, folder: Path) -> Project:
    ok(project.run("git", "clone", "-q", str(project.folder), str(folder)))
    return Project.at(folder)


def stages(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the stages that `dvc repro` has run, without the one that looks what has changed and always runs."""
    ok(done)
    return sorted(set(re.findall("Running stage '(.*)'", done.stdout)) - {"plan"})


def held(remote: Path, project: Project, file: str) -> bool:
    """Whether a folder of DVC's holds a file of the project by its MD5."""
    digest = hashlib.md5((project.folder / file).read_bytes()).hexdigest()
    return (remote / "files/md5" / digest[:2] / digest[2:]).exists()


def share(project: Project, second: Project, **env: str) -> None:
    """Pull into a clone, as the README says, and look that nothing is due there."""
    ok(second.run("dvc", "pull", env=env))
    ok(second.run(sys.executable, "-m", "pipeline.handover"))
    assert json.loads(second.run("dvc", "status", "--json").stdout) == {"plan": ["always changed"]}
    assert "Nothing to be done" in ok(second.snakemake("-n"))
    assert (second.folder / TABLE).read_bytes() == (project.folder / TABLE).read_bytes()


def test_what_is_pulled_need_not_be_made_again(made: Project, tmp_path: Path) -> None:
    project = made.copy(tmp_path / "first")
    ok(project.run("dvc", "remote", "add", "-d", "shared", str(tmp_path / "remote")))
    commit(project)
    ok(project.run("dvc", "push"))
    assert all(held(tmp_path / "remote", project, file) for file in (*RESTRICTED, *SHARED))
    second = clone(project, tmp_path / "second")
    share(project, second)
    assert stages(second.run("dvc", "repro")) == []


def test_snakemake_alone_shares_by_a_copy(made: Project, tmp_path: Path) -> None:
    second = clone(made, tmp_path / "second")
    assert "Nothing to be done" not in ok(second.snakemake("-n"))
    ok(made.run("cp", "-a", "data", "results", ".snakemake", str(second.folder)))
    assert "Nothing to be done" in ok(second.snakemake("-n"))
    refused = second.snakemake("--cache", "frames", env={"SNAKEMAKE_OUTPUT_CACHE": str(tmp_path)})
    assert refused.returncode != 0  # docs/design.md says why
    assert "may not be marked as eligible for between-workflow caching" in refused.stderr


def test_what_a_licence_holds_back_is_made_again_from_the_archives(gated: Project, tmp_path: Path) -> None:
    project = gated.copy(tmp_path / "first")
    ok(project.run("dvc", "remote", "add", "-d", "shared", str(tmp_path / "remote")))
    commit(project)
    ok(project.run("dvc", "push"))
    assert not any(held(tmp_path / "remote", project, file) for file in RESTRICTED)
    assert all(held(tmp_path / "remote", project, file) for file in SHARED)
    second = clone(project, tmp_path / "second")
    ok(second.run("dvc", "pull", "--allow-missing"))
    assert not any((second.folder / file).exists() for file in RESTRICTED)
    assert (second.folder / TABLE).read_bytes() == (project.folder / TABLE).read_bytes()
    again = {name.partition("@")[0] for name in stages(second.run("dvc", "repro"))}
    # scores and flow hold; the table tells the speed, which predicting again has measured anew
    assert again == {"download", "frames", "predict", "table", "results", "report"}
    assert (second.folder / TABLE).read_bytes() == (project.folder / TABLE).read_bytes()
    ok(second.run(sys.executable, "-m", "pipeline.handover"))
    assert "Nothing to be done" in ok(second.snakemake("-n"))

    # asked for: a place that only those can read who may have the files
    ok(project.run("dvc", "remote", "add", "--local", "-f", "restricted", str(tmp_path / "private")))
    ok(project.run("dvc", "push"))
    assert all(held(tmp_path / "private", project, file) for file in RESTRICTED)
    assert not any(held(tmp_path / "remote", project, file) for file in RESTRICTED)


def test_what_is_held_back_of_everything() -> None:
    p = params.load({})
    made = plan.plan(p, list(p.experiments))
    back = {
        stage: {name for name, fields in instances.items() if plan.withheld(p, stage, fields)}
        for stage, instances in made.items()
    }
    assert {"cityscapes-test", "ucf101-train", "davis2017-test", "vid4-test_lr", "qst-train"} <= back["frames"]
    assert not {"kitti-test", "sintel-test", "demo-train", "tos-test"} & back["frames"]
    assert back["frames"] == back["download"]
    assert {"cityscapes-dmvfn_cityscapes", "cityscapes-copy_last"} <= back["predict"]
    assert not any(name.startswith(("kitti-", "demo-", "sintel-")) for name in back["predict"])
    assert back["train"] == {"dtvnet_published-sky_timelapse_dtvnet"}
    assert not any(back[stage] for stage in ("flow", "score", "table", "paper", "results", "report"))


def test_every_licence_that_lets_people_pass_files_on_is_one_of_the_lists() -> None:
    rows = fetch.sources(ROOT / fetch.SOURCES) + fetch.sources(ROOT / plan.WEIGHTS, key="name", extra=("use",))
    assert set(fetch.REDISTRIBUTED) == {row.licence for row in rows if row.redistribute}


@pytest.fixture
def bucket() -> Iterator[dict[str, str]]:
    """A real S3 server on loopback with one bucket; the environment that leads there."""
    pytest.importorskip("dvc_s3", reason="needs dvc-s3: pip install dvc-s3")
    pytest.importorskip("moto", reason="needs moto: pip install 'moto[server]'")
    import boto3

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_DEFAULT_REGION": "us-east-1"}
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], stderr=subprocess.DEVNULL
    )
    try:
        address = f"http://127.0.0.1:{port}"
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.2)
        session = boto3.Session(env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1")
        session.client("s3", endpoint_url=address).create_bucket(Bucket="retake")
        yield {**env, "ENDPOINT": address}
    finally:
        server.terminate()
        server.wait(30)


@pytest.mark.s3
def test_a_remote_on_s3(made: Project, tmp_path: Path, bucket: dict[str, str]) -> None:
    project = made.copy(tmp_path / "first")
    ok(project.run("dvc", "remote", "add", "-d", "shared", "s3://retake/tables"))
    ok(project.run("dvc", "remote", "modify", "shared", "endpointurl", bucket["ENDPOINT"]))
    commit(project)
    ok(project.run("dvc", "push", env=bucket))
    second = clone(project, tmp_path / "second")
    assert not (second.folder / TABLE).exists(), "the clone has nothing but what git holds"
    share(project, second, **bucket)
