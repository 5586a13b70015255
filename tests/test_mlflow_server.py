"""MLflow's server on PostgreSQL, as the README starts it: jobs at once, kills, and experiments from DVC's queue and from a clone."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engines import ROOT, Project
from tests.test_sharing import LOG_THERE, PULL, PUSH, REMOTE, SERVER, TWO_ROWS, clone, commit, finished, ok, typed
from tests.test_tracking import KILLED, start

pytestmark = pytest.mark.postgres
LIST = """
import json, mlflow, sys
client = mlflow.MlflowClient()
found = client.search_runs([client.get_experiment_by_name(sys.argv[1]).experiment_id], order_by=["attributes.start_time"])
print(json.dumps([[r.info.run_name, r.info.status, r.data.metrics, r.data.tags["dvc_experiment"],
    sorted(f.path for f in client.list_artifacts(r.info.run_id))] for r in found]))
"""


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, str]]:
    """The server; the environment in which stages log there."""
    if not list(Path("/usr/lib/postgresql").glob("*/bin/initdb")):
        pytest.skip("PostgreSQL is not installed: sudo apt-get install postgresql")
    pytest.importorskip("psycopg2", reason="needs psycopg2: pip install psycopg2-binary")
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)  # where root tests, PostgreSQL runs as another user, who cannot enter pytest's folders
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = str(Path(sys.executable).parent) + os.pathsep + os.environ["PATH"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [*shlex.split(SERVER)[:-1], str(folder / "mlflow"), "--port", port, "--workers", "2"],
            cwd=ROOT, env={**os.environ, "PATH": path}, stdout=log, stderr=log,
        )  # fmt: skip
        try:
            address = f"http://127.0.0.1:{port}"
            wait(address, process, folder / "log")
            yield {LOG_THERE.split()[1].partition("=")[0]: address}
        finally:
            process.terminate()
            process.wait(60)
    assert not (folder / "mlflow/runs/postmaster.pid").exists()  # it has stopped the database too
    shutil.rmtree(folder)


def wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + 180
    while time.monotonic() < end and process.poll() is None:
        try:
            if urllib.request.urlopen(f"{address}/health", timeout=10).status == 200:
                return
        except OSError:
            time.sleep(0.5)
    pytest.fail(f"the server has not come up: {log.read_text()}")


def runs(server: dict[str, str], experiment: str) -> list[list[Any]]:
    env = {**os.environ, **server}
    done = subprocess.run([sys.executable, "-c", LIST, experiment], env=env, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def test_four_jobs_at_once(tmp_path: Path, server: dict[str, str]) -> None:
    jobs = [start(tmp_path, name, **server) for name in "abcd"]
    for job in jobs:
        out, error = job.communicate(timeout=300)
        assert out.splitlines()[-1] == "active", error
    assert sorted(runs(server, "train-demo")) == [
        [name, "FINISHED", {"loss": 0.02}, "none", [f"{name}.txt"]] for name in "abcd"
    ]


def test_a_killed_training_goes_on_in_its_run(tmp_path: Path, server: dict[str, str]) -> None:
    env = {**os.environ, **server, "PYTHONPATH": str(ROOT)}
    script = KILLED.replace("train-demo", "train-killed")
    assert subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env).returncode == -9
    assert [run[1] for run in runs(server, "train-killed")] == ["RUNNING"]
    assert subprocess.run([sys.executable, "-c", script, "goes on"], cwd=tmp_path, env=env).returncode == 0
    assert [run[:3] for run in runs(server, "train-killed")] == [["dmvfn on demo, seed 0", "FINISHED", {"loss": 0.5}]]


def test_tables_from_the_queue_and_from_a_clone_arrive(tmp_path: Path, server: dict[str, str]) -> None:
    project = Project(tmp_path / "first", TWO_ROWS)
    finished(project)
    project.edit({"tracking.mlflow": True})
    typed(project, REMOTE, tmp_path / "remote")
    commit(project)
    typed(project, PUSH)
    ok(
        project.dvc(
            "exp", "run", "--queue", "-n", "lean-owl", "-S", "++experiments.demo.missing_weights=error", env=server
        )
    )
    ok(project.dvc("exp", "run", "--run-all", env=server))
    second = clone(project, tmp_path / "second")
    typed(second, PULL)
    again = (sys.executable, "-m", "pipeline.table", "--experiment", "demo")
    for _ in range(2):  # what is made again takes the place of its runs
        ok(second.run(*again, env=server))
    found = [(name, experiment) for name, status, _, experiment, _ in runs(server, "table") if status == "FINISHED"]
    rows = ["demo", "demo, copy", "demo, flow warp"]
    assert sorted(found) == sorted(
        [(name, "none") for name in rows] + [(f"{name}, lean-owl", "lean-owl") for name in rows]
    )
    shutil.rmtree(second.folder)
    files = next(files for name, *_, files in runs(server, "table") if name == "demo")
    assert "demo_metrics.csv" in files  # the server has them, not the machine that made them
