"""What commands may write to: nothing of the user's is ever overwritten."""

from __future__ import annotations

from pathlib import Path

from pipeline.errors import RetakeError
from pipeline.sources import limits


def unused(path: Path | None) -> None:
    """Raise RetakeError where `path`, a file that a command was told to write, exists; an input is one that exists."""
    if path is not None and (path.exists() or path.is_symlink()):
        raise RetakeError(f"{path} exists: nothing is overwritten; move it away, or give another name")


def unused_folder(path: Path) -> None:
    """Raise RetakeError where `path`, a folder that a command was told to write to, is a file or holds files."""
    if (path.exists() or path.is_symlink()) and not path.is_dir():
        raise RetakeError(f"{path} is a file: nothing is overwritten; give another name")
    if path.is_dir() and any(inside.name not in limits.DESKTOP for inside in path.iterdir()):
        raise RetakeError(f"{path} holds other files: give the name of a new or an empty folder")
