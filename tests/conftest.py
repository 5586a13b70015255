"""Options and fixtures that every test file may use."""

from __future__ import annotations

from pathlib import Path

import pytest

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
