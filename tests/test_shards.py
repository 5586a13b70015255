"""Stages in parts: the joined file is the one that a single job writes, byte for byte, whoever was killed in between."""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import test_flow_task
from hypothesis import given
from hypothesis import strategies as st
from test_prediction_task import Dimmed, use
from test_score import copy, toy, write_flows, write_frames, write_predictions

from pipeline import compute, flow, frames, params, plan, predict, score, shards
from pipeline.datasets import kitti
from pipeline.errors import RetakeError
from pipeline.params import Params
from pipeline.shards import Shard
from pipeline.store import scores
from pipeline.store.frames import Store, Writer
from pipeline.tasks.common.score import Metrics
from tests.conftest import furnish
from tests.engines import SMALL_DEMO, Project
from tests.layouts import drive_zip, encoded, kitti_params, manifest, picture
from tests.layouts import project as layout_project

Make = Callable[[Params, Shard | None], object]


def split(p: Params, number: int | dict[str, int]) -> Params:
    return p.model_copy(update={"compute": p.compute.model_copy(update={"shards": number})})


def check(p: Params, make: Make, output: Path, kill: Any = Writer, method: str = "__exit__") -> None:
    """Hold what a single job writes against 2, 7 and 50 parts, made in any order; one of 7 is killed in its work, and repeated."""
    make(p, None)
    whole = output.read_bytes()
    for number in (2, 7, 50):
        output.unlink()
        in_parts = split(p, {"toy": 2, "kitti": 2} if number == 2 else number)
        for i in reversed(range(1, number + 1)):
            if (i, number) == (2, 7):
                killed(lambda: make(split(p, 7), Shard(2, 7)), kill, method)
                with pytest.raises(RetakeError, match=r"/7/1\.(arrow|parquet)"):
                    make(split(p, 7), None)
                assert not output.exists()
            make(in_parts, Shard(i, number))
        make(in_parts, None)
        assert output.read_bytes() == whole, number


def killed(work: Callable[[], object], kill: Any, method: str) -> None:
    """Do the work in a process of its own that SIGKILL ends where it calls a method."""
    child = os.fork()
    if not child:
        setattr(kill, method, lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL))
        work()
        os._exit(0)
    _, how = os.waitpid(child, 0)
    assert os.WIFSIGNALED(how)
    assert os.WTERMSIG(how) == signal.SIGKILL


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """A folder with frames: 3 and 1 windows."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_frames()
    return toy(compute__batch=1)


def test_predictions(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Dimmed())
    output = Path("data/predictions/toy/copy_last.arrow")

    def make(p: Params, shard: Shard | None) -> None:
        predict.predict(p, "toy", "copy_last", shard)

    check(project, make, output)
    speed = json.loads(output.with_suffix(".speed.json").read_text())
    assert speed["ms_per_frame"] * speed["frames_per_s"] == pytest.approx(1000)
    assert "made" not in speed


def test_batches_are_those_of_a_single_job(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    network = Dimmed()
    use(monkeypatch, network)
    p = split(toy(compute__batch=3), 2)
    monkeypatch.setattr(network, "notes", list)
    for i in (1, 2):
        network.batches.clear()
        predict.predict(p, "toy", "copy_last", Shard(i, 2))
        assert network.batches[-2:] == [[3, 3], [1, 1]][i - 1], "two samples of three windows, then of the fourth"


def test_parts_that_were_made_otherwise_are_refused(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    use(monkeypatch, Dimmed())
    predict.predict(split(project, 2), "toy", "copy_last", Shard(1, 2))
    other = toy(compute__batch=1, compute__precision="bf16-mixed")
    predict.predict(split(other, 2), "toy", "copy_last", Shard(2, 2))
    with pytest.raises(RetakeError, match=r"copy_last/2/2.arrow was made with another params: remove it"):
        predict.predict(split(project, 2), "toy", "copy_last")


def test_scores(project: Params) -> None:
    write_flows()
    p = toy(experiments__toy__metrics={k: {"kind": k} for k in ("psnr", "ssim", "epe")})
    write_predictions(p, "flow_warp", copy)
    output = Path("data/scores/toy/flow_warp.parquet")
    check(p, lambda p, shard: score.score(p, "toy", "flow_warp", shard), output, scores, "write")
    assert scores.read(output)[1]["metrics"]["epe"]["values"] == 4
    write_predictions(p, "flow_warp", copy, samples=1)
    with pytest.raises(RetakeError, match=r"scores/toy/flow_warp/7/1.parquet is of other predictions than today's"):
        score.score(split(p, 7), "toy", "flow_warp")


def test_scores_of_sets_are_made_where_parts_are_joined(project: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.tasks.common import windows_score

    monkeypatch.setattr(windows_score, "_of_sets", _sets)
    p = toy(
        experiments__toy__metrics={k: {"kind": k} for k in ("psnr", "fid")}, experiments__toy__missing_weights="skip"
    )
    monkeypatch.setattr(score, "_build", _with_sets)
    write_predictions(p, "copy_last", copy)
    output = Path("data/scores/toy/copy_last.parquet")
    check(p, lambda p, shard: score.score(p, "toy", "copy_last", shard), output, scores, "write")
    rows, meta = scores.read(output)
    assert rows["metric"].tolist() == ["psnr"] * 4 * 3 * 2 + ["fid"]
    assert meta["sets"] == {"fid": {"units": 4}}


def _with_sets(p: Params, experiment: str, name: str) -> Metrics:
    module = params.registry("metrics")["psnr"]
    psnr = module.build(p.experiments[experiment].metrics["psnr"], "cpu")
    return Metrics({"frames": {"psnr": psnr}, "features": {"fid": len}})


def _sets(*arguments: Any) -> Any:
    _, _, windows, _, metrics = arguments
    made = list(metrics.of("features"))
    return [("", 0, 0, key, 5.0, 1.0) for key in made], {key: {"units": len(windows)} for key in made}


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Params:
    """Frames and exact flow of six pairs in clips of two sizes."""
    furnish(tmp_path)
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    with Writer(test_flow_task.FRAMES, codec="raw", meta={"partial": None}) as out:
        for clip, (height, width) in test_flow_task.SIZES.items():
            for number in range(4):
                out.add(clip, number, rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
    for path in (test_flow_task.TRUTH, test_flow_task.NOC):
        with Writer(path, codec="flow64", dtype="float32", channels=2, meta={}) as out:
            for clip, size in test_flow_task.SIZES.items():
                for number in range(3):
                    field = np.full((*size, 2), 3, np.float32)
                    field[:10] = np.nan
                    if clip == "clean/a" or number == 1:
                        field[:] = np.nan  # has no values
                    out.add(clip, number, field)
    return test_flow_task.toy()


def test_predicted_flow_and_its_scores(pairs: Params) -> None:
    check(pairs, lambda p, shard: predict.predict(p, "toy", "dis", shard), Path("data/predictions/toy/dis.arrow"))
    output = Path("data/scores/toy/dis.parquet")
    check(pairs, lambda p, shard: score.score(p, "toy", "dis", shard), output, scores, "write")
    lacking = scores.read(output)[1]["lacking"]["epe"]
    assert lacking.count("clean/a:") == 3, "three are named, the others counted"


def test_flow(pairs: Params) -> None:
    output = Path("data/flow/dis/toy/test.arrow")
    check(pairs, lambda p, shard: flow.make(p, "dis", "toy", "test", shard), output)
    assert [len(rows) for rows in Store(output).clips.values()] == [3, 3]


def test_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    drives = list(kitti.EXPECTED["test"])[:3]
    raw = Path("data/raw/kitti")
    archives = [drive_zip(raw, d, [encoded(picture(9 * k + i)) for i in range(k + 2)]) for k, d in enumerate(drives)]
    manifest("kitti", "test", archives, [])
    p = layout_project(kitti=kitti_params())
    output = Path("data/frames/kitti/test.arrow")
    check(p, lambda p, shard: frames.make(p, "kitti", "test", shard), output)
    assert [len(rows) for rows in Store(output).clips.values()] == [2, 3, 4]


def test_jobs_of_one_machine_take_different_gpus(
    project: Params, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each job is a process: its lock goes with it."""
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 3)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    chosen: list[int] = []
    monkeypatch.setattr("torch.cuda.set_device", chosen.append)
    p = project.model_copy(update={"compute": project.compute.model_copy(update={"device": "auto"})})
    locks = []
    for _ in range(4):
        monkeypatch.setattr(compute, "_taken", None)
        assert compute.device(p) == compute.device(p) == "cuda"
        locks.append(compute._taken)
    assert chosen == [0, 1, 2], "the fourth shares the first, torch's own choice"
    assert locks[1] is not None
    locks[1].close()
    monkeypatch.setattr(compute, "_taken", None)
    compute.device(p)
    assert chosen[3] == 1
    monkeypatch.setattr(compute, "_taken", None)
    monkeypatch.setenv("LOCAL_RANK", "2")
    compute.device(p)
    assert len(chosen) == 4
    chosen.clear()
    monkeypatch.setattr(compute, "_taken", None)


@given(st.integers(0, 100), st.integers(1, 9), st.integers(1, 60))
def test_parts_are_all_once_and_in_order(count: int, unit: int, number: int) -> None:
    spans = [Shard(i, number).span(count, unit) for i in range(1, number + 1)]
    assert [place for span in spans for place in span] == list(range(count))
    assert all(span.start % unit == 0 for span in spans if span)
    units = -(-count // unit)
    assert max(map(len, spans)) <= unit * -(-units // number)
    assert not shards.NOTHING.span(count, unit)


def test_what_is_no_part_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    parser = argparse.ArgumentParser()
    shards.add_argument(parser)
    assert parser.parse_args(["--shard", "2/7"]).shard == (2, 7)
    for wrong in ("0/7", "8/7", "2", "a/b", "-1/2"):
        with pytest.raises(SystemExit):
            parser.parse_args(["--shard", wrong])
    assert "give the part's number from 1 and how many there are, such as 2/7" in capsys.readouterr().err


def test_without_shards_the_plan_has_no_parts(project: Params) -> None:
    assert not any(plan.plan(project, ["toy"])[stage] for stage in plan.PARTS)
    stages = plan.plan(split(project, 3), ["toy"])
    assert len(stages["predict_shard"]) == 3 * len(stages["predict"])
    assert list(stages["frames_shard"]) == ["toy-test-3-1", "toy-test-3-2", "toy-test-3-3"]
    assert {fields["estimator"] for fields in stages["flow_shard"].values()} == {"dis"}, "exact flow is read"
    joined = plan.inputs(split(project, 3), "predict", stages["predict"]["toy-copy_last"])
    folder = Path("data/shards/predictions/toy/copy_last/3")
    parts = [str(folder / f"{i}{kind}") for i in (1, 2, 3) for kind in (".arrow", ".speed.json")]
    assert joined == ["data/frames/toy/test.arrow", *parts]


def test_parts_of_some_datasets_and_experiments(project: Params) -> None:
    both = plan.plan(split(project, {"toy": 2}), ["toy"])
    assert list(both["frames_shard"]) == ["toy-test-2-1", "toy-test-2-2"]
    assert len(both["score_shard"]) == 2 * len(both["score"])
    tree = project.model_dump(mode="json")
    tree["experiments"]["other"] = tree["experiments"]["toy"]
    p = params.validate(tree | {"compute": tree["compute"] | {"shards": {"other": 3}}})
    assert not any(plan.plan(p, ["toy"])[stage] for stage in plan.PARTS)
    stages = plan.plan(p, ["other"])
    assert len(stages["predict_shard"]) == 3 * len(stages["predict"])
    assert not stages["frames_shard"], "the dataset is not named"
    with pytest.raises(
        RetakeError, match=r"compute.shards: unknown dataset or experiment 'othr' \(did you mean 'other'"
    ):
        params.validate(tree | {"compute": tree["compute"] | {"shards": {"othr": 3}}})
    for wrong in (0, "many", {"other": 0}):
        with pytest.raises(RetakeError, match=r"compute\.shards"):
            params.validate(tree | {"compute": tree["compute"] | {"shards": wrong}})


TINY: dict[str, Any] = SMALL_DEMO | {
    "experiments.tiny": {
        "dataset": "demo",
        "protocol": "next5",
        "models": {"copy_last": "Copy last frame"},
        "metrics": {"psnr": {"kind": "psnr"}},
        "report": [1],
    },
    "reproduce": ["tiny"],
}
STORES = (
    "data/frames/demo/test.arrow",
    "data/predictions/tiny/copy_last.arrow",
    "data/scores/tiny/copy_last.parquet",
    "results/tiny_metrics.csv",
)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "split"), [("snakemake", 3), ("dvc", {"demo": 3, "tiny": 3})])
def test_engines_run_parts_and_join_them(tmp_path: Path, engine: str, split: Any) -> None:
    project = Project(tmp_path / "whole", TINY)
    done = project.snakemake("results/tiny_metrics.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    parts = Project(tmp_path / "parts", TINY | {"compute.shards": split})
    run = partial(parts.snakemake, "results/tiny_metrics.csv") if engine == "snakemake" else partial(parts.dvc, "repro")
    done = run()
    assert done.returncode == 0, done.stdout + done.stderr
    for store in STORES:
        assert (parts.folder / store).read_bytes() == (project.folder / store).read_bytes(), store
    left = [path for path in (parts.folder / "data/shards").rglob("*.*") if path.is_file()]
    assert len(left) == (0 if engine == "snakemake" else 3 * 4)
    done = run()
    again = re.findall(r"Running stage '(.*)'|^rule (.*):", done.stdout + done.stderr, re.M)
    assert [name for names in again for name in names if name] == (["plan"] if engine == "dvc" else [])
    if engine == "dvc":  # as in a clone that has pulled what was made: it has no parts
        shutil.rmtree(parts.folder / "data/shards")
        done = parts.run(sys.executable, "-m", "pipeline.handover")
        assert done.returncode == 0, done.stdout + done.stderr
        assert parts.rules() == []
        done = parts.dvc("repro", "--allow-missing")
        assert re.findall(r"Running stage '(.*)'", done.stdout) == ["plan"], done.stdout + done.stderr
        (parts.folder / STORES[1]).unlink()
        done = parts.run(sys.executable, "-m", "pipeline.handover")
        assert "in neither engine are all files up to date" in done.stderr, "a joined file is missed"


@pytest.mark.slow
def test_dropped_predictions_are_not_missed_until_something_needs_them(tmp_path: Path) -> None:
    project = Project(tmp_path / "dropped", TINY | {"compute.predictions": "drop"})
    done = project.snakemake("results/tiny_metrics.csv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not (project.folder / "data/predictions/tiny/copy_last.arrow").exists()
    assert (project.folder / "data/predictions/tiny/copy_last.speed.json").exists()
    assert (project.folder / "results/tiny.png").exists()
    assert project.rules("results/tiny_metrics.csv") == []
    project.edit({"experiments.tiny.report": [1, 2]})
    assert project.rules("results/tiny_metrics.csv") == ["predict", "score", "table"]
