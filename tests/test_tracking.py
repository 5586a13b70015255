"""The mirror to MLflow: parallel jobs on a fresh database, a server that is away, what is found again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

SCRIPT = """
import sys
from pipeline import tracking
with tracking.run(True, experiment="train-demo", name=sys.argv[1], params={"train": {"lr": 0.1}}, tags={"model": sys.argv[1]}) as run:
    for step in range(50):
        run.metrics(step, {"loss": 1.0 / (step + 1)})
    open(sys.argv[1] + ".txt", "w").write("x")
    run.artifact(sys.argv[1] + ".txt")
print("active" if run.active else "off")
"""


def start(folder: Path, name: str, **env: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, name], cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT), **env},
    )  # fmt: skip


@pytest.mark.timeout(300)
def test_parallel_jobs_on_a_fresh_database(tmp_path: Path) -> None:
    jobs = [start(tmp_path, name) for name in ("a", "b", "c")]
    for job in jobs:
        out, error = job.communicate(timeout=240)
        assert job.returncode == 0, error
        assert out.strip().endswith("active"), error
    script = (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        "r = mlflow.search_runs(experiment_names=['train-demo']);"
        "print(sorted(r['tags.model']), set(r['params.train.lr']), r['metrics.loss'].round(3).tolist(), set(r['status']))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, text=True, capture_output=True)
    assert done.stdout.strip() == "['a', 'b', 'c'] {'0.1'} [0.02, 0.02, 0.02] {'FINISHED'}", done.stderr


def test_an_experiment_of_dvc_s_queue_logs_into_the_project(tmp_path: Path) -> None:
    """DVC runs it in a copy, names the project in DVC_ROOT, and removes the copy afterwards."""
    project, copy = tmp_path / "project", tmp_path / "copy"
    project.mkdir()
    copy.mkdir()
    job = start(copy, "a", DVC_ROOT=str(project), DVC_EXP_NAME="lean-owl")
    out, error = job.communicate(timeout=120)
    assert out.strip() == "active", error
    assert [file.name for file in copy.iterdir()] == ["a.txt"]
    assert len(list((project / "mlruns").rglob("a.txt"))) == 1
    script = (
        "import mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        "print(mlflow.search_runs(experiment_names=['train-demo'])['tags.dvc_experiment'].tolist())"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=project, text=True, capture_output=True)
    assert done.stdout.strip() == "['lean-owl']", done.stderr


def test_server_that_is_away_is_said_once_and_stops_nothing(tmp_path: Path) -> None:
    job = start(tmp_path, "a", MLFLOW_TRACKING_URI="http://127.0.0.1:9", MLFLOW_HTTP_REQUEST_MAX_RETRIES="0")
    out, error = job.communicate(timeout=120)
    assert job.returncode == 0, error
    assert out.strip() == "off"
    assert error.count("MLflow is not reached, going on without it") == 1


def test_a_failed_run_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from pipeline import tracking

    monkeypatch.chdir(tmp_path)
    with pytest.raises(ZeroDivisionError):
        with tracking.run(True, experiment="e", name="n", params={}, tags={}):
            raise ZeroDivisionError
    assert mlflow.search_runs(experiment_names=["e"])["status"].tolist() == ["FAILED"]


def test_off_does_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline import tracking

    monkeypatch.chdir(tmp_path)
    with tracking.run(False, experiment="e", name="n", params={}, tags={}) as run:
        run.metrics(1, {"loss": 1.0})
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, sys
from pathlib import Path
from pipeline import tracking
kept = Path("demo.resume/key.mlflow")
with tracking.run(True, experiment="train-demo", name="dmvfn on demo, seed 0", params={"lr": 0.1}, tags={"model": "dmvfn"}, kept=kept, goes_on=bool(sys.argv[1:])) as run:
    run.metrics(1, {"loss": 1.0})
    run.flush()
    if not sys.argv[1:]:
        os.kill(os.getpid(), 9)
    run.metrics(2, {"loss": 0.5})
"""


def runs(folder: Path) -> list[tuple[str, float]]:
    script = (
        "import json, mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db');"
        "r = mlflow.search_runs(experiment_names=['train-demo'], order_by=['attributes.start_time']);"
        "print(json.dumps(list(zip(r['status'], r['metrics.loss']))))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=folder, text=True, capture_output=True)
    return [tuple(run) for run in json.loads(done.stdout)]


@pytest.mark.slow
def test_a_run_whose_process_was_killed_is_gone_on_with(tmp_path: Path) -> None:
    """Two kills: the second begins where no state was saved, so it is another run; then one that goes on."""
    for arguments, expected in (
        ([], [("RUNNING", 1.0)]),
        ([], [("KILLED", 1.0), ("RUNNING", 1.0)]),
        (["goes on"], [("KILLED", 1.0), ("FINISHED", 0.5)]),
    ):
        subprocess.run(
            [sys.executable, "-c", KILLED, *arguments], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(ROOT)}
        )
        assert runs(tmp_path) == expected


def test_a_training_says_its_data_its_loss_and_that_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    from pipeline import tracking
    from pipeline.errors import Interrupted

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DVC_EXP_NAME", "lean-owl")
    Path("demo.metrics.jsonl").write_text("".join(f'{{"step": {i}, "loss": {1 / i}}}\n' for i in range(1, 9)))
    with pytest.raises(Interrupted):
        with tracking.run(True, experiment="train-demo", name="dmvfn on demo, seed 0", params={}, tags={}) as run:
            run.dataset("demo", "data/frames/demo/train.arrow", "0123456789abcdef", "training")
            run.training(Path("demo.metrics.jsonl"), "dmvfn on demo")
            raise Interrupted("stopped")
    assert run.active
    client = mlflow.MlflowClient()
    (one,) = client.search_runs([client.get_experiment_by_name("train-demo").experiment_id])
    assert one.info.status == "KILLED"
    assert one.info.run_name == "dmvfn on demo, seed 0, lean-owl"
    (read,) = one.inputs.dataset_inputs
    assert (read.dataset.name, read.dataset.digest) == ("demo", "0123456789ab")
    assert {tag.key: tag.value for tag in read.tags} == {"mlflow.data.context": "training"}
    files = sorted(file.path for file in client.list_artifacts(one.info.run_id))
    assert files == ["demo.metrics.jsonl", "loss.svg"]
    (view,) = [value for key, value in client.get_experiment(one.info.experiment_id).tags.items() if "View" in key]
    assert json.loads(view) == {"selectedColumns": ["attributes.`Dataset`", "metrics.`loss`"]}


def test_what_is_made_again_replaces_its_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    from pipeline import tracking

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    for lr in (0.1, 0.2):
        tags = {"stage": "table", "experiment": "demo"}
        with tracking.run(
            True, experiment="table", name="demo", params={}, tags=tags, replaces=("stage", "experiment")
        ) as whole:
            for model in ("one", "two"):
                params = {f"models.{model}": {"train": {"lr": lr}}}
                with tracking.run(
                    whole.active, experiment="table", name=model, params=params, tags=tags, nested=True
                ) as run:
                    run.metrics(0, {"psnr": 1.0})
    runs = mlflow.search_runs(experiment_names=["table"])
    assert sorted(runs["tags.mlflow.runName"]) == ["demo", "one", "two"]
    rows = runs[runs["tags.mlflow.runName"] != "demo"]
    assert set(rows["params.model.train.lr"]) == {"0.2"}  # one line of the comparison for both
    (parent,) = set(rows["tags.mlflow.parentRunId"])
    assert parent in set(runs["run_id"])
    assert set(runs["status"]) == {"FINISHED"}
