"""Faults met in the field, each with the right value: names that collide, cells that run, writers that are no longer wanted, logs."""

from __future__ import annotations

import csv
import io
import json
import logging
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import atomic, errors, metrics, params, recipes, tracking, weights
from pipeline.errors import RetakeError
from pipeline.metrics import temporal
from pipeline.tables import published, text
from pipeline.tables.cells import Cell, Column, Row
from pipeline.tasks.super_resolution.table import LAYOUT

ROOT = Path(__file__).resolve().parents[1]


# Frames without a value


@pytest.mark.parametrize("level", [1, 15, 45, 75, 150, 195, 210])
def test_ssim_y_of_a_flat_output_is_no_number(level: int) -> None:
    flat = np.full((64, 64, 3), level, np.uint8)
    assert np.isnan(temporal.ssim_y(flat, flat - 1))


def test_ssim_y_stays_in_its_range_next_to_flat() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        target = np.full((16, 16, 3), rng.integers(256), np.uint8)
        output = target.copy()
        output[rng.integers(16), rng.integers(16), rng.integers(3)] ^= 1
        assert -1 <= temporal.ssim_y(target, output) <= 1


def test_means_leave_out_what_has_no_value_and_say_so() -> None:
    values = np.array([[20.0, np.inf, 30.0, np.nan], [np.inf] * 4, [np.nan] * 4])
    assert metrics.mean(values).tolist()[:2] == [25.0, np.inf]
    assert np.isnan(metrics.mean(values)[2])
    told = metrics.left_out(values[0], "flat")
    assert told == "mean of 2 of 4 values, left out: 1 without a value (flat), 1 infinite (equal to the truth)"
    assert metrics.left_out(np.array([1.0, 2.0]), None) == ""


def test_one_equal_frame_does_not_make_the_mean_infinite() -> None:
    column = Column("psnr", "psnr", {"digits": 2})
    means, counts, _ = column.averaged({"a": np.array([[np.inf, 20.0, 30.0]])}, {"a": 1.0})
    assert (means.tolist(), counts.tolist()) == ([[25.0]], [1.0])


# Names and cells of tables


ABOUT = {"label": "PSNR-Y", "better": "higher", "scale": 1.0, "digits": 2, "needs": "frames"}


def test_every_scene_has_columns_of_its_own() -> None:
    scenes = ["walk-1", "walk_1", "frames", "low", "y", "—", "…", "walk 1 2"]
    meta = {
        "metrics": dict.fromkeys(("psnr", "psnr_y"), ABOUT),
        "values": {"psnr": {scene: np.zeros((1, 2)) for scene in scenes}},
    }
    e: Any = SimpleNamespace(metrics={"psnr": None, "psnr_y": None})
    columns = LAYOUT.columns(e, meta)
    names = [name for column in columns for name in column.names]
    assert len(set(names)) == len(names)
    assert {c.window for c in columns if c.metric == "psnr" and c.window} == set(scenes)
    assert next(c.name for c in columns if c.window == "walk-1") == "psnr_walk_1"


def test_columns_of_one_name_are_refused() -> None:
    with pytest.raises(RetakeError, match="two columns of the table are called n"):
        text.metrics_csv([], [Column("n", "n", ABOUT)])


@pytest.mark.parametrize("cell", ["=cmd|' /C calc'!A0", "+1+cmd", "-2+3", "@SUM(A1)"])
def test_a_cell_that_a_spreadsheet_would_run_is_quoted(cell: str) -> None:
    assert list(csv.reader(io.StringIO(text.as_csv(["model"], [{"model": cell}]))))[1] == [f"'{cell}"]


@pytest.mark.parametrize("cell", ["-0.5", "+1e-3", "-inf", "a=b", "DMVFN"])
def test_other_cells_stay_as_they_are(cell: str) -> None:
    assert list(csv.reader(io.StringIO(text.as_csv(["model"], [{"model": cell}]))))[1] == [cell]


def test_what_is_not_seen_is_written_out() -> None:
    assert text.visible("a\nb\u202ec | é") == "a\\nb\\u202ec | é"


def test_latex_says_that_data_are_partial() -> None:
    facts = {"partial": "2 of 28 archives", "note": "", "training": "on `demo`, max_steps 20", "flow": "", "frames": "`demo` at 8x8",
             "checkpoint": "", "data": "", "params": "", "unit": "", "units": ""}  # fmt: skip
    row = Row("a", "A", "measured", cells={"psnr": Cell(20.0)}, facts=facts)
    latex = text.as_latex("demo", [row], [Column("psnr", "psnr", ABOUT)], set())
    printed = [line for line in latex.splitlines() if not line.startswith("%")]
    assert any("Partial data: 2 of 28 archives. Not comparable" in line for line in printed)
    assert "max_steps 20" in latex


@pytest.mark.parametrize("label", ["Copy\nlast", "a\u202eb", " A", "", "a\x00b", "A\t"])
def test_a_label_is_one_line_of_visible_characters(label: str) -> None:
    with pytest.raises(RetakeError, match=r"experiments\.demo\.models\.copy_last"):
        params.load({"experiments": {"demo": {"models": {"copy_last": label}}}})


def test_two_rows_of_one_label_are_refused() -> None:
    with pytest.raises(RetakeError, match="the row copy_last has the label 'DMVFN' too"):
        params.load({"experiments": {"demo": {"models": {"copy_last": "DMVFN"}}}})
    with pytest.raises(RetakeError, match=r"predictions\.mine: the row copy_last has this label"):
        params.load({"experiments": {"demo": {"models": {"copy_last": "mine"}, "predictions": {"mine": "x"}}}})


@pytest.mark.parametrize("setting", [{"lr": float("inf")}, {"lr": float("nan")}, {"seed": 2**70}, {"seed": -1}])
def test_numbers_that_no_training_can_take_are_refused_with_the_params(setting: dict[str, Any]) -> None:
    with pytest.raises(RetakeError, match=f"models.dmvfn_demo.train.{next(iter(setting))}"):
        params.load({"models": {"dmvfn_demo": {"train": setting}}})


# Checkpoints


STATE = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.ones(2)}
FORMS = {
    "bare": STATE,
    "module": {"state_dict": {f"module.{k}": v for k, v in STATE.items()}, "epoch": 1},
    "model": {"model": STATE, "epoch": 1},
    "model_state_dict": {"model_state_dict": STATE, "optimizer_state_dict": {"lr": 1.0}},
    "compiled": {"state_dict": {f"_orig_mod.module.{k}": v for k, v in STATE.items()}},
}


@pytest.mark.parametrize("form", FORMS)
def test_one_loader_for_all_wrappers(form: str, tmp_path: Path) -> None:
    torch.save(FORMS[form], tmp_path / "w.pt")
    assert weights.digest(weights.load_file(tmp_path / "w.pt")) == weights.digest(STATE)


def safetensors(head: dict[str, Any], body: bytes) -> bytes:
    told = json.dumps(head).encode()
    return len(told).to_bytes(8, "little") + told + body


def test_safetensors_are_read(tmp_path: Path) -> None:
    body, head = b"", {"__metadata__": {"format": "pt"}}
    for name, value in STATE.items():
        data = value.numpy().tobytes()
        head[name] = {"dtype": "F32", "shape": list(value.shape), "data_offsets": [len(body), len(body) + len(data)]}  # type: ignore[dict-item]
        body += data
    (tmp_path / "w.safetensors").write_bytes(safetensors(head, body))
    assert weights.digest(weights.load_file(tmp_path / "w.safetensors")) == weights.digest(STATE)


@pytest.mark.parametrize(
    "data",
    [b"", b"junk", safetensors({"a": {"dtype": "F32", "shape": [4], "data_offsets": [0, 99]}}, b"0000"), b"\xff" * 40],
)
def test_damaged_safetensors_are_refused(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_bytes(data)
    with pytest.raises(RetakeError, match=r"w\.safetensors"):
        weights.load_file(tmp_path / "w.safetensors")


@pytest.mark.parametrize("tree", [torch.zeros(3), 5, None, {1: torch.zeros(2)}, {"kind": "dmvfn", "weights": 5}, {}])
def test_what_is_no_checkpoint_is_refused_by_name(tree: Any, tmp_path: Path) -> None:
    torch.save(tree, tmp_path / "w.pt")
    with pytest.raises(RetakeError, match=r"w\.pt"):
        weights.load_model(params.load().models["dmvfn_demo"], tmp_path / "w.pt", "cpu")


# Writers


def test_a_stage_that_a_later_run_took_over_writes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(atomic, "_claimed", None)
    output = Path("data/checkpoints/m/d.pt")
    atomic.claim(output)
    orphan = atomic._claimed
    atomic.claim(output)
    atomic.write_text(output, "new")
    monkeypatch.setattr(atomic, "_claimed", orphan)
    with pytest.raises(RetakeError, match=r"a later run has begun to make data/checkpoints/m/d\.pt"):
        atomic.write_text(output, "old")
    assert output.read_text() == "new"
    assert [f.name for f in output.parent.iterdir()] == ["d.pt"]


def test_temporary_files_of_other_machines_stay_and_those_of_dead_processes_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_claimed", None)
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    pid = dead.stdout.strip()
    other, own = (
        tmp_path / f".x.txt.00000000-{pid}-ab.tmp.txt",
        tmp_path / f".x.txt.{atomic._machine()}-{pid}-ab.tmp.txt",
    )
    other.write_text("")
    own.write_text("")
    atomic.write_text(tmp_path / "x.txt", "x")
    assert other.exists()
    assert not own.exists()


def test_two_writers_of_one_process_id_share_no_file(tmp_path: Path) -> None:
    with atomic.atomic(tmp_path / "x.txt") as one, atomic.atomic(tmp_path / "x.txt") as other:
        assert one != other
        one.write_text("1")
        other.write_text("2")


# One of two containers: both write one file at once, by processes of one id.
CONTAINER = """
import os, sys, time
from pathlib import Path
from pipeline.atomic import atomic
own, other = sys.argv[1:]
with atomic("x.txt") as temporary:
    temporary.write_text(own * 100)
    Path(own).touch()
    while not Path(other).exists():
        time.sleep(0.01)
    with atomic("x.txt") as second:  # looks for what dead writers left
        second.write_text(own)
    print(os.getpid(), temporary.read_text() == own * 100)
    Path(own + "_done").touch()
    while not Path(other + "_done").exists():
        time.sleep(0.01)
"""


def test_writers_in_two_containers_leave_each_other_alone(tmp_path: Path) -> None:
    inside = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", CONTAINER]
    if subprocess.run([*inside[:4], "true"], capture_output=True).returncode:
        pytest.skip("a namespace of processes cannot be made here (unshare)")
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    both = [
        subprocess.Popen([*inside, *names], cwd=tmp_path, env=env, stdout=subprocess.PIPE, text=True)
        for names in (("a", "b"), ("b", "a"))
    ]
    assert [process.communicate(timeout=60)[0] for process in both] == ["1 True\n", "1 True\n"]
    assert (tmp_path / "x.txt").read_text() in ("a" * 100, "b" * 100)
    assert [f.name for f in tmp_path.glob(".*")] == []


# Logs


def test_every_job_logs_to_the_file_that_snakemake_names() -> None:
    arguments = ["--model", "dmvfn", "--dataset", "kitti"]
    assert errors.log_file("train", arguments) == Path("logs/train-dmvfn-kitti.log")
    assert errors.log_file("view", ["a/b.arrow", "--clip", "x"]) == Path("logs/view.log")
    rules = "".join(file.read_text() for file in (ROOT / "workflow/rules").glob("*.smk"))
    for stage in ("download", "frames", "flow", "train", "predict", "bring", "score", "table", "pretrained"):
        command = next(line for line in rules.splitlines() if f"-m pipeline.{stage} " in line).strip().strip('"')
        assert f'"{errors.log_file(stage, command.replace("wildcards.", "").split()[3:])}"'.replace("_", "") in (
            rules.replace("{", "").replace("}", "").replace("_", "")
        )


def test_a_long_stage_prints_lines_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(errors, "MINUTE", 0.01)
    with caplog.at_level(logging.INFO, "retake"):
        for _ in errors.progress(range(5), unit="frame", desc="frames"):
            time.sleep(0.02)
    assert len(caplog.messages) >= 3
    assert all(line.startswith("frames: ") and "\r" not in line for line in caplog.messages)


def test_a_full_disk_does_not_fill_the_terminal(tmp_path: Path) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/x.log").symlink_to("/dev/full")
    script = "from pipeline.errors import log, run\nrun(lambda: [log.info('line %d', i) for i in range(9)], 'x')"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"line {i}" for i in range(9)]


# MLflow and git


def test_a_copied_project_logs_into_its_own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "copy").mkdir()
    with sqlite3.connect(tmp_path / "copy/mlflow.db") as database:
        database.execute("CREATE TABLE experiments (artifact_location TEXT)")
        database.execute("CREATE TABLE runs (artifact_uri TEXT)")
        database.execute("INSERT INTO experiments VALUES ('file:///old/p/mlruns/1'), ('s3://bucket/x')")
        database.execute("INSERT INTO runs VALUES ('/old/p/mlruns/1/ab/artifacts')")
    database.close()
    monkeypatch.chdir(tmp_path / "copy")
    tracking._own_database(Path("mlflow.db"))
    with sqlite3.connect("mlflow.db") as database:
        places = [row[0] for row in database.execute("SELECT * FROM experiments").fetchall()]
        assert places == [f"file://{tmp_path}/copy/mlruns/1", "s3://bucket/x"]
        runs = database.execute("SELECT * FROM runs").fetchall()
        assert runs == [(f"{tmp_path}/copy/mlruns/1/ab/artifacts",)]
    database.close()


def test_a_database_of_another_user_is_said_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mlflow.db").touch()
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match=r"mlflow\.db cannot be written by this user"):
        tracking._own_database(tmp_path / "mlflow.db")


# Signals to a real training


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small copy of the project whose training takes some seconds, with its frames made."""
    from tests.engines import SMALL_DEMO, Project

    setting = {
        "models.dmvfn_demo.train.max_steps": 500,
        "models.dmvfn_demo.train.checkpoint_every": 1000,
        "compute.workers": 2,
    }
    project = Project(tmp_path_factory.mktemp("signals"), SMALL_DEMO | setting)
    for split in ("train", "val", "test"):
        for stage in ("download", "frames"):
            stage_of(project.folder, stage, "--dataset", "demo", "--split", split).wait()
    return project.folder


def stage_of(folder: Path, stage: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", f"pipeline.{stage}", *arguments], cwd=folder, start_new_session=True,
        env=os.environ | {"PYTHONPATH": str(folder)}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "whom", "code", "kept"),
    [
        (signal.SIGTERM, "main", 75, True), (signal.SIGTERM, "group", 75, True), (signal.SIGINT, "main", 130, True),
        (signal.SIGINT, "group", 130, True), (signal.SIGKILL, "worker", 1, False),
    ],
)  # fmt: skip
def test_signals_keep_the_state(trained: Path, number: int, whom: str, code: int, kept: bool) -> None:
    folder = trained / "data/checkpoints/dmvfn_demo"
    subprocess.run(["rm", "-rf", folder], check=True)
    training = stage_of(trained, "train", "--model", "dmvfn_demo", "--dataset", "demo")
    record = folder / "demo.metrics.jsonl"
    while not (record.exists() and record.stat().st_size):
        assert training.poll() is None, training.communicate()[1]
        time.sleep(0.05)
    workers = children(training.pid)
    if whom == "group":
        os.killpg(training.pid, number)
    else:
        os.kill(training.pid if whom == "main" else workers[0], number)
    error = training.communicate(timeout=120)[1].decode()
    assert training.returncode == code, error
    assert "Traceback" not in error
    assert any(folder.glob("demo.resume/*.pt")) == kept
    time.sleep(1)
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


# Published numbers, which a user may add to


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"\xef\xbb\xbf{head}\n{row}\n", ""),
        (b"{head}\r\n{row}\r\n", ""),
        (b"{head}\n{row}\xe9\n", r"mine\.csv is not UTF-8"),
        (b"paper,dataset\n{row}\n", r"mine\.csv:1: the columns must be paper,table,dataset"),
        (b"{head}\n{row}\n{row},more\n", r"mine\.csv, row 3: not 10 values"),
        (b"{head}\na,b\n", r"mine\.csv, row 2: not 10 values"),
    ],
)
def test_published_numbers_as_spreadsheets_save_them(text: bytes, message: str, tmp_path: Path) -> None:
    head, row = ",".join(published.COLUMNS).encode(), b"P,1,KITTI,M,PSNR,t+1,20.5,dB,,primary"
    file = tmp_path / "mine.csv"
    file.write_bytes(text.replace(b"{head}", head).replace(b"{row}", row))
    if message:
        with pytest.raises(RetakeError, match=message):
            published.lines_of(file)
    else:
        assert [line["paper"] for line in published.lines_of(file)] == ["P"]


def _readers() -> dict[str, Any]:
    from pipeline import compare, fetch, leaderboard, plan
    from pipeline.datasets import folder
    from pipeline.tables import published

    own = folder.Params.model_validate(
        {"kind": "folder", "folder": ".", "height": 64, "width": 64, "lists": {"train": "x"}}
    )
    return {
        "params": lambda: recipes.load(Path("x")),
        "sources": lambda: fetch.sources(Path("x")),
        "published numbers": lambda: published.lines_of(Path("x")),
        "list of clips": lambda: folder.clips(own, "train", []),
        "results": lambda: leaderboard.read(Path("x")),
        "handed params": lambda: params._handed(Path("x")),
        "resolved params": lambda: plan._written(plan.READ),
        "tables": lambda: compare._record("x", "demo", []),
    }


@pytest.mark.parametrize(
    "content", ["pipe", b"a: \xe9\n", "a: 1\n".encode("utf-16"), b"[" * 100_000, b"\0\0", b"1" * 5000]
)
@pytest.mark.parametrize("reader", list(_readers()))
def test_text_that_is_none_is_refused_by_name(
    reader: str, content: bytes | str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline import plan

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan, "READ", Path("x"))
    if isinstance(content, bytes):
        Path("x").write_bytes(content)
    elif reader == "tables":  # what is no file there is taken for a commit
        return
    else:
        os.mkfifo("x")  # would be waited for
    with pytest.raises(RetakeError, match=r"\bx\b"):
        _readers()[reader]()
