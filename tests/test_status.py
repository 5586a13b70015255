"""`pipeline.status`: what is due is what the engine says, named by what changed; what is in the way; what it will cost."""

from __future__ import annotations

import contextlib
import json
import re
import sys
from pathlib import Path

import pytest

from pipeline import cost, params, plan, status
from pipeline.store.frames import Store
from tests.engines import SMALL_DEMO, Project


def told(project: Project, *targets: str) -> list[str]:
    done = project.run(sys.executable, "-m", "pipeline.status", *targets)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def copy(demo: Project, tmp_path: Path) -> Project:
    return demo.copy(tmp_path / "copy")


def test_what_is_made_is_up_to_date_or_partial(demo: Project) -> None:
    lines = told(demo, "demo", "data/checkpoints/dmvfn_demo/demo.pt")
    assert lines == [
        "demo: partial",
        "  partial: weights alexnet could not be fetched: put alexnet-owt-7be5be79.pth into data/weights",
        "data/checkpoints/dmvfn_demo/demo.pt: up to date",
    ]


def test_a_changed_key_is_named_and_what_is_due_is_what_snakemake_runs(copy: Project) -> None:
    copy.edit({"models.dmvfn_demo.train.max_steps": 6})
    lines = told(copy, "demo")
    assert lines[:2] == ["demo: stale", "  because train dmvfn_demo-demo: models.dmvfn_demo.train.max_steps changed"]
    due = next(line for line in lines if line.startswith("  due: "))
    counts = [part.split() for part in due.removeprefix("  due: ").split(", ")]
    rules = copy.rules("results/demo_metrics.csv")
    assert sorted(rule for number, rule in counts for _ in range(int(number))) == rules
    assert "to download 0 bytes" in lines[-1] or "to download 244.4 MB" in lines[-1]  # AlexNet, if anything asks for it
    assert lines[-1].endswith(" h")


def test_changed_code_is_named(copy: Project) -> None:
    network = copy.folder / "pipeline/models/copy_last.py"
    network.write_text(network.read_text() + "\n\nADDED = 1\n")
    assert told(copy, "demo")[1] == "  because predict demo-copy_last: its code changed"


def test_what_is_in_the_way_is_said(copy: Project) -> None:
    copy.edit({"experiments.demo.missing_weights": "error"})
    demo, gated, *rest = [line for line in told(copy, "demo", "cityscapes") if not line.startswith("  due")]
    assert demo == "demo: blocked"
    assert gated == "  blocked: weights alexnet could not be fetched: put alexnet-owt-7be5be79.pth into data/weights"
    assert "cityscapes: blocked" in rest
    assert any("archives need a login (https://www.cityscapes-dataset.com" in line for line in rest)


def test_unknown_targets_are_refused(demo: Project) -> None:
    done = demo.run(sys.executable, "-m", "pipeline.status", "dmo")
    assert done.returncode == 1
    assert "no experiment 'dmo' (did you mean 'demo'?)" in done.stderr


def test_bytes_are_those_of_the_stores(demo: Project) -> None:
    with contextlib.chdir(demo.folder):
        p = params.load()
        stages = plan.plan(p, ["demo"])
        stores = [(s, fields) for s in ("frames", "flow", "predict") for fields in stages[s].values()]
        whole = {plan.path(s, **fields): cost.store(p, s, fields) for s, fields in stores}
        for path, most in whole.items():
            store = Store(path)
            pixel = {"uint8": 3, "uint16": 6, "float32": 4}[store.meta["dtype"]]
            taken = int(store.size.prod(1).sum()) * pixel
            # The last frame of each clip has no flow, and models that draw nothing make one sample of three
            slack = {"uint8": 1, "float32": 1.2, "uint16": p.protocols["next5"].samples}[store.meta["dtype"]]
            assert taken <= (most or 0) <= taken * slack, path
            assert path.stat().st_size < (most or 0) + 100_000


def test_bytes_are_foretold_before_anything_is_made(tmp_path: Path) -> None:
    with contextlib.chdir(Project(tmp_path / "fresh").folder):
        p = params.load()
        fields = plan.fields_of(p, "predict", experiment="kitti", model="dmvfn")
        frames = params.registry("datasets")["kitti"].expected(p.datasets["kitti"], "test")["frames"]
        assert frames > 1337  # windows, which are counted when the store is there
        assert cost.store(p, "predict", fields) == frames * 5 * 3 * 256 * 832 * 6
        rows = cost.absent(p, "download", {"dataset": "kitti", "split": "test"})
        assert sum(row.bytes or 0 for row in rows) > 10**9
        assert cost.seconds(p, "predict", fields) is None
        assert status.costs(p, [("predict", fields)]).endswith("time unknown")
        own = params.load({"datasets": {"mine": {"kind": "folder", "height": 64, "width": 64}}})
        told = status.costs(own, [("frames", {"dataset": "mine", "split": "test"})])
        assert told == "to download 0 bytes, to store at most an unknown number of bytes, time unknown"


def test_time_is_that_of_the_same_job_by_step(tmp_path: Path) -> None:
    with contextlib.chdir(Project(tmp_path / "timed").folder):
        p = params.load()
        fields = plan.fields_of(p, "train", model="dmvfn_demo", dataset="demo")
        Path("logs/benchmarks").mkdir(parents=True)
        Path("logs/benchmarks/train-dmvfn_demo-demo.tsv").write_text("s\th:m:s\n120.0\t0:02:00\n")
        assert cost.seconds(p, "train", fields) == 120
        record = plan.path("train", **fields).with_suffix(".metrics.jsonl")
        record.parent.mkdir(parents=True)
        record.write_text('{"step": 149, "loss": 1.0}\n{"step": 150, "loss": 1.0}\n')
        assert cost.seconds(p, "train", fields) == 120 / 150 * 300


def test_hours_are_measured_before_there_are_frames(tmp_path: Path) -> None:
    project = Project(tmp_path / "fresh", SMALL_DEMO | {"compute.workers": 1})
    done = project.run(sys.executable, "-m", "pipeline.status", "demo", "--measure")
    assert done.returncode == 0, done.stderr
    assert re.search(r"[\d.e-]+ h and unknown for \d+ jobs", done.stdout)
    assert not (project.folder / "data/checkpoints").exists()
    assert not (project.folder / "data/frames").exists()
    with contextlib.chdir(project.folder):
        fields = plan.fields_of(params.load(), "train", model="dmvfn_demo", dataset="demo")
        (kept,) = (json.loads(file.read_text()) for file in Path("logs/measured").iterdir())
        assert kept["seconds_per_step"] > 0
        assert cost.seconds(params.load(), "train", fields) == 3 * kept["seconds_per_step"]
        longer, larger = (
            params.load({"models": {"dmvfn_demo": {"train": change}}}) for change in ({"max_steps": 60}, {"crop": 96})
        )
        assert cost.seconds(longer, "train", fields) == 60 * kept["seconds_per_step"]
        assert cost.seconds(larger, "train", fields) is None, "a step of other clips takes another time"


def test_a_training_that_cannot_be_measured_says_why(tmp_path: Path) -> None:
    project = Project(tmp_path / "fresh")
    nowhere = {"https_proxy": "http://127.0.0.1:9"}  # where there is a network nothing is fetched, either
    done = project.run(sys.executable, "-m", "pipeline.status", "kitti", "--measure", env=nowhere)
    assert done.returncode == 0, done.stderr
    assert "dmvfn on kitti cannot be measured: " in done.stderr
    assert "vgg19-dcbb9e9d.pth" in done.stderr
    assert "train.vgg_weight: 0" in done.stderr, "what to do"
    assert "time unknown" in done.stdout


def test_steps_of_a_training(tmp_path: Path) -> None:
    with contextlib.chdir(Project(tmp_path / "fresh").folder):
        p = params.load()
        fields = plan.fields_of(p, "train", model="dmvfn", dataset="kitti")
        frames = params.registry("datasets")["kitti"].expected(p.datasets["kitti"], "train")["frames"]
        recipe = p.models["dmvfn"].train
        assert cost.steps(p, fields) == recipe.epochs * (frames // recipe.batch)
        assert cost.steps(params.load({"models": {"dmvfn": {"train": {"max_steps": 7}}}}), fields) == 7
