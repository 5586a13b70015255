"""Training: killed and resumed, in several processes, with a loss that is not finite."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import psutil
import pytest

from pipeline import params, plan, train
from pipeline.errors import RetakeError
from pipeline.store.frames import Writer
from tests.engines import Project

STEPS = 12
COMMAND = (sys.executable, "-m", "pipeline.train", "--model", "dmvfn_demo", "--dataset", "demo")
RECIPE: dict[str, Any] = {
    "models.dmvfn_demo.train.max_steps": STEPS,
    "models.dmvfn_demo.train.batch": 2,
    "models.dmvfn_demo.train.crop": 64,
    "models.dmvfn_demo.train.validate_every": 4,
    "models.dmvfn_demo.train.validate_windows": 2,
    "models.dmvfn_demo.train.checkpoint_every": 1,
    "models.dmvfn_demo.network.routing": True,
    "compute.threads": 1,
    "compute.workers": 0,
    "tracking.mlflow": False,
}


def write_frames(project: Project) -> None:
    rng = np.random.default_rng(0)
    for split, clips in (("train", 3), ("val", 1), ("test", 1)):
        path = project.folder / f"data/frames/demo/{split}.arrow"
        with Writer(path, codec="raw", meta={"dataset": "demo", "split": split}) as out:
            for c in range(clips):
                texture = cv2.resize(
                    rng.integers(0, 256, (12, 24, 3), dtype=np.uint8), (200, 64), interpolation=cv2.INTER_CUBIC
                )
                for i in range(9):
                    out.add(f"drive{c}", i, np.ascontiguousarray(texture[:, 3 * i : 3 * i + 80]))


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path / "p", RECIPE)
    write_frames(project)
    return project


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The checkpoint of a training that nothing disturbed."""
    project = Project(tmp_path_factory.mktemp("whole"), RECIPE)
    write_frames(project)
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    return checkpoint(project).read_bytes()


def checkpoint(project: Project) -> Path:
    return project.folder / "data/checkpoints/dmvfn_demo/demo.pt"


def lines(project: Project) -> list[dict[str, Any]]:
    text = (project.folder / "data/checkpoints/dmvfn_demo/demo.metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def start(project: Project) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        COMMAND, cwd=project.folder, env=project.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def until_step(project: Project, step: int, process: subprocess.Popen[bytes]) -> None:
    path = project.folder / "data/checkpoints/dmvfn_demo/demo.metrics.jsonl"
    end = time.monotonic() + 120
    while time.monotonic() < end and process.poll() is None:
        if path.exists() and path.read_text().count("\n") >= step:
            return
        time.sleep(0.02)
    pytest.fail(f"the training ended or stuck before step {step}")


def test_killed_training_goes_on_to_the_same_bytes(project: Project, whole: bytes) -> None:
    for step in (2, 7):
        process = start(project)
        until_step(project, step, process)
        process.kill()
        process.wait()
        assert not checkpoint(project).exists()
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert checkpoint(project).read_bytes() == whole
    assert [line["step"] for line in lines(project)] == list(range(1, STEPS + 1))
    assert not checkpoint(project).with_suffix(".resume").exists()


def test_killed_training_goes_on_in_the_same_run_of_mlflow(project: Project, whole: bytes) -> None:
    project.edit({"tracking.mlflow": True})
    process = start(project)
    until_step(project, 2, process)
    process.kill()
    process.wait()
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    assert "going on from step" in done.stderr
    assert checkpoint(project).read_bytes() == whole
    script = (
        "import json, mlflow; mlflow.set_tracking_uri('sqlite:///mlflow.db'); c = mlflow.MlflowClient();"
        "(r,) = c.search_runs([c.get_experiment_by_name('train-demo').experiment_id]);"
        "print(json.dumps([r.info.run_name, r.info.status, r.data.metrics['loss'], sorted(f.path for f in c.list_artifacts(r.info.run_id)),"
        "[i.dataset.name for i in r.inputs.dataset_inputs], r.data.params['model.train.max_steps']]))"
    )
    done = project.run(sys.executable, "-c", script)
    assert json.loads(done.stdout) == [
        "dmvfn_demo on demo, seed 1234", "FINISHED", lines(project)[-1]["loss"], ["demo.metrics.jsonl", "loss.svg", "val_psnr.svg"], ["demo"], str(STEPS),
    ], done.stderr  # fmt: skip


def test_sigterm_saves_and_asks_for_a_requeue(project: Project, whole: bytes) -> None:
    process = start(project)
    until_step(project, 3, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    assert checkpoint(project).read_bytes() == whole


def test_saved_state_of_another_recipe_is_not_continued(project: Project, whole: bytes) -> None:
    project.edit({"models.dmvfn_demo.train.lr": 5.0e-3})
    process = start(project)
    until_step(project, 4, process)
    process.kill()
    process.wait()
    project.edit({"models.dmvfn_demo.train.lr": 1.0e-3})
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    assert "going on from step" not in done.stderr
    assert checkpoint(project).read_bytes() == whole


def test_best_and_last_are_kept_with_their_lineage(project: Project, whole: bytes) -> None:
    import io

    import torch

    tree: Any = torch.load(io.BytesIO(whole), weights_only=True)
    assert tree["step"] == STEPS
    assert tree["kind"] == "dmvfn"
    assert tree["best"].keys() == tree["weights"].keys()
    assert json.loads(tree["params"])["models.dmvfn_demo.train"]["max_steps"] == STEPS
    assert len(tree["data"]) == 64


TWO = {"compute.devices": 2, "models.dmvfn_demo.train.max_steps": 20}
ILL = """
import os, signal
def fail(*_):
    raise RuntimeError("this process is ill")
if os.environ.get("RANK") == "1":
    signal.signal(signal.SIGALRM, fail)
    signal.setitimer(signal.ITIMER_REAL, 20)
"""


def test_two_processes_train_one_model_and_keep_their_state(project: Project) -> None:
    """`compute.devices` starts them; SIGTERM to the command alone reaches them, and they log the mean of their losses."""
    project.edit(TWO)
    process = start(project)
    until_step(project, 3, process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 75
    kept = [line["step"] for line in lines(project)]
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    assert f"going on from step {kept[-1]}" in done.stderr
    assert [line["step"] for line in lines(project)] == list(range(1, 21))


@pytest.mark.slow
def test_two_processes_train_to_the_same_weights_again(project: Project) -> None:
    project.edit(TWO | {"models.dmvfn_demo.train.max_steps": 3})
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    both, first = checkpoint(project).read_bytes(), lines(project)
    torchrun = Path(sys.executable).parent / "torchrun"
    done = project.run(str(torchrun), "--standalone", "--nproc-per-node", "2", "-m", *COMMAND[2:])
    assert done.returncode == 0, done.stderr
    assert checkpoint(project).read_bytes() == both, "started by hand they are the same training"
    assert lines(project) == first


@pytest.mark.slow
def test_losses_of_two_processes_are_logged_as_their_mean(project: Project) -> None:
    """The first step of two processes sees the batch of one: without draws of each process its loss is the same."""
    project.edit({"models.dmvfn_demo.network.routing": False, "models.dmvfn_demo.train.max_steps": 1})
    assert project.run(*COMMAND).returncode == 0
    alone = lines(project)[0]
    project.edit({"compute.devices": 2})
    done = project.run(*COMMAND)
    assert done.returncode == 0, done.stderr
    together = lines(project)[0]
    losses = [name for name in alone if name != "step" and not name.startswith("val")]
    assert losses
    for name in losses:
        assert together[name] == pytest.approx(alone[name], rel=1e-5), name


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(project: Project) -> None:
    project.edit(TWO | {"models.dmvfn_demo.train.max_steps": 2000})
    process = subprocess.Popen(
        COMMAND, cwd=project.folder, env=project.environment(), stderr=subprocess.PIPE, text=True
    )
    until_step(project, 3, process)
    ranks = [p for p in psutil.Process(process.pid).children() if "RANK" in p.environ()]
    victim = next(p for p in ranks if p.environ()["RANK"] == "1")
    started = time.monotonic()
    victim.kill()
    said = process.communicate(timeout=120)[1]
    assert time.monotonic() - started < 60
    assert process.returncode == 1
    assert "process 1 of 2 was killed by signal 9" in said
    assert not any(p.is_running() and p.status() != psutil.STATUS_ZOMBIE for p in ranks)
    assert list(checkpoint(project).with_suffix(".resume").glob("*.pt"))


@pytest.mark.slow
def test_an_error_of_one_process_is_shown_and_ends_the_others(project: Project, tmp_path: Path) -> None:
    """Process 1 fails some seconds after its start; process 0 waits for it then."""
    (tmp_path / "sitecustomize.py").write_text(ILL)
    project.edit(TWO | {"models.dmvfn_demo.train.max_steps": 2000})
    done = project.run(*COMMAND, env={"PYTHONPATH": str(tmp_path)}, timeout=300)
    assert done.returncode == 1
    assert "this process is ill" in done.stderr
    assert "process 1 of 2" in done.stderr


@pytest.mark.slow
def test_the_number_of_processes_is_what_params_say(project: Project) -> None:
    torchrun = str(Path(sys.executable).parent / "torchrun")
    done = project.run(torchrun, "--standalone", "--nproc-per-node", "2", "-m", *COMMAND[2:])
    assert done.returncode != 0
    assert "torchrun has started 2 processes and compute.devices is 1: set it to 2" in done.stderr + done.stdout
    done = project.run(*COMMAND, env={"SLURM_STEP_NUM_TASKS": "2", "SLURM_PROCID": "0"})
    assert done.returncode == 1
    assert "srun has started 2 trainings that would write one file" in done.stderr
    assert not checkpoint(project).exists()


def test_two_processes_refuse_an_odd_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "make_fabric", lambda p: SimpleNamespace(world_size=2))
    p = params.load({"models": {"dmvfn_demo": {"train": {"batch": 3}}}})
    with pytest.raises(RetakeError, match=r"models.dmvfn_demo.train.batch 3 cannot be shared by 2 processes"):
        train.train(p, plan.fields_of(p, "train", model="dmvfn_demo", dataset="demo"))


def test_several_machines_need_slurm(project: Project) -> None:
    project.edit({"compute.devices": 2, "compute.nodes": 2})
    done = project.run(*COMMAND)
    assert done.returncode == 1
    assert "several machines are started by SLURM alone" in done.stderr


def test_loss_that_is_not_finite_stops_and_keeps_the_state(project: Project) -> None:
    project.edit(
        {
            "models.dmvfn_demo.train.lr": 1.0e30,
            "models.dmvfn_demo.train.min_lr": 0.0,
            "models.dmvfn_demo.train.warmup_steps": 2,
        }
    )
    done = project.run(*COMMAND)
    assert done.returncode == 1
    assert "training stopped at step" in done.stderr
    assert "not finite" in done.stderr
    assert "the last good state is kept in" in done.stderr
    assert not checkpoint(project).exists()
    assert list(checkpoint(project).with_suffix(".resume").glob("*.pt"))


def test_missing_gpu_that_was_asked_for(project: Project) -> None:
    project.edit({"compute.device": "cuda"})
    done = project.run(*COMMAND, env={"CUDA_VISIBLE_DEVICES": ""})
    assert done.returncode == 1
    assert "torch finds no GPU here" in done.stderr


def test_crop_larger_than_the_frames(project: Project) -> None:
    project.edit({"models.dmvfn_demo.train.crop": 128})
    done = project.run(*COMMAND)
    assert done.returncode == 1
    assert "smaller than the crop of 128" in done.stderr


def test_clip_shorter_than_the_window(project: Project) -> None:
    project.edit({"models.dmvfn_demo.train.window": 10})
    done = project.run(*COMMAND)
    assert done.returncode == 1
    assert "shorter than the window of 10 frames" in done.stderr
    assert "drive0 (9)" in done.stderr


def test_workers_and_order_do_not_change_what_is_seen() -> None:
    """A batch depends on seed and step alone: shares of two processes are together the batch of one."""
    from pipeline.params import Train
    from pipeline.tasks.prediction.train import TrainingClips

    clips = TrainingClips.__new__(TrainingClips)
    clips.train = Train(
        batch=4, epochs=1, max_steps=None, seed=1, window=3, windows="all", max_stride=1, crop=None, validation=None,
        validate_every=1, validate_windows=1, checkpoint_every=1,
    )  # fmt: skip
    clips.windows = [("c", i) for i in range(21)]
    seen = {i for step in range(clips.steps_per_epoch(1)) for _, i in clips.indices(step, 0, 1)}
    assert len(seen) == 20  # the last, partial batch is dropped
    both = [clips.indices(2, rank, 2) for rank in (0, 1)]
    assert not {i for _, i in both[0]} & {i for _, i in both[1]}
