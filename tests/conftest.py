"""Options and fixtures that every test file may use."""

from __future__ import annotations

import contextlib
import copy
import fcntl
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest

# Before torch is imported, and for the processes that tests start: threads of one test wait for each other where other tests
# share the cores, a hundred times as long as they work.
os.environ["OMP_NUM_THREADS"] = "1"

from pipeline import params, predict, score
from pipeline.shards import Shard
from tests.engines import LIKE_DEMO, Project

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, help="folder of parity cases (default: tests/golden)")
    parser.addoption("--golden-seed", type=int, default=0, help="seed that the parity cases' weights are filled with")


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Take back the number of threads that a stage has set."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and parity cases beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` with real data beside the repository")
    return SHARED


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A SLURM cluster of two nodes in a temporary folder, as long as a module's tests run."""
    from tests.slurm import Cluster

    running = Cluster()
    yield running
    running.stop()


def resolved() -> dict[str, Any]:
    """Return all params of the project as plain values, for a test to change and hand to `params.validate`."""
    with contextlib.chdir(ROOT):
        return copy.deepcopy(params.load({}).tree)


def furnish(folder: Path) -> None:
    """Give a folder that a test works in what stages read of the project itself: lists, references, and the code."""
    (folder / "workflow").mkdir(parents=True, exist_ok=True)
    for name in ("weights.csv", "references.bib", "paper_tables.yaml"):
        shutil.copy(ROOT / "workflow" / name, folder / "workflow")
    if not (folder / "pipeline").exists():
        (folder / "pipeline").symlink_to(ROOT / "pipeline")


def handed_over(values: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a stage that reads these params, as the Snakefile hands them over; for this folder."""
    with contextlib.chdir(ROOT):
        p = params.validate(values)
    return {**os.environ, "PYTHONPATH": str(ROOT), params.VARIABLE: str(params.hand_over(p))}


def in_parts(p: params.Params, row: str, outputs: tuple[str, str]) -> None:
    """Hold the predictions and scores of a row of the experiment `toy` against those that 2 and 7 parts are joined to."""
    predict.predict(p, "toy", row)
    score.score(p, "toy", row)
    whole = [Path(output).read_bytes() for output in outputs]
    for number in (2, 7):
        split = p.model_copy(update={"compute": p.compute.model_copy(update={"shards": number})})
        for made, output, bytes_of_one in zip((predict.predict, score.score), outputs, whole, strict=True):
            Path(output).unlink()
            for part in range(1, number + 1):
                made(split, "toy", row, Shard(part, number))
            made(split, "toy", row)
            assert Path(output).read_bytes() == bytes_of_one, f"{output} of {number} parts"


def finished(factory: pytest.TempPathFactory, name: str, run: Callable[[Project], CompletedProcess[str]]) -> Project:
    """Return a small demo that an engine has finished; tests copy what they change. All workers of a run share one."""
    shared = factory.getbasetemp()
    if shared.name.startswith("popen-"):  # a worker's folder lies in the run's
        shared = shared.parent
    folder, done = shared / name, shared / f"{name}.done"
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not done.exists():
            made = run(Project(folder, LIKE_DEMO))
            assert made.returncode == 0, made.stdout + made.stderr
            done.touch()
    return Project.at(folder)


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A small demo that Snakemake has finished."""
    return finished(tmp_path_factory, "demo", lambda project: project.snakemake())


@pytest.fixture(scope="session")
def reproduced(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """The same, finished by DVC."""
    return finished(tmp_path_factory, "reproduced", lambda project: project.dvc("repro"))
