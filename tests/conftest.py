"""Options and fixtures that every test file may use."""

from __future__ import annotations

import contextlib
import copy
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from pipeline import params

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden", default=None, help="folder of parity cases (default: tests/golden)")
    parser.addoption("--golden-seed", type=int, default=0, help="seed that the parity cases' weights are filled with")


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real data and parity cases beside the repository."""
    if not SHARED.is_dir():
        pytest.skip("no folder `shared` with real data beside the repository")
    return SHARED


def resolved() -> dict[str, Any]:
    """Return all params of the project as plain values, for a test to change and hand to `params.validate`."""
    with contextlib.chdir(ROOT):
        return copy.deepcopy(params.load({}).tree)


def furnish(folder: Path) -> None:
    """Give a folder that a test works in what stages read of the project itself: the list of weights, and the code."""
    (folder / "workflow").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "workflow/weights.csv", folder / "workflow")
    if not (folder / "pipeline").exists():
        (folder / "pipeline").symlink_to(ROOT / "pipeline")


def handed_over(values: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a stage that reads these params, as the Snakefile hands them over; for this folder."""
    with contextlib.chdir(ROOT):
        p = params.validate(values)
    return {**os.environ, "PYTHONPATH": str(ROOT), params.VARIABLE: str(params.hand_over(p))}
