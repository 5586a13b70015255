"""What an archive holds: clips, and the members that are their frames."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Member:
    """One file inside an archive (zip), or in a folder when `archive` is one."""

    archive: Path
    name: str


@dataclass(frozen=True)
class Clip:
    """One clip: its name and its frames, (frame number, member) in order."""

    name: str
    frames: list[tuple[int, Member]]
