"""Small JSON files that pass between stages, each with a checksum of itself under the key `seal`.

A manifest or a measured time with one changed bit is mostly still JSON. Who reads one with `read` gets what was written, or an
error that names the file.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pipeline.atomic import write_text
from pipeline.errors import RetakeError

SEAL = "seal"


def write(path: str | Path, tree: dict[str, Any]) -> None:
    """Write a mapping as JSON, atomically, with its checksum."""
    write_text(path, json.dumps({**tree, SEAL: digest(tree)}, indent=2) + "\n")


def read(path: str | Path) -> dict[str, Any]:
    """Return the mapping that `write` wrote; raises RetakeError for a file that is missing, damaged, or no such file."""
    path = Path(path)
    if not path.is_file():  # a named pipe would be waited for
        raise RetakeError(f"no file {path}: make it with `snakemake {path}`")
    again = f"make it again with `snakemake --force {path}`"
    try:
        tree = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise RetakeError(f"{path} is damaged ({str(error).splitlines()[0]}): {again}") from None
    seal = tree.pop(SEAL, None) if isinstance(tree, dict) else None
    if seal is None or seal != digest(tree):
        raise RetakeError(f"{path} is damaged, its checksum is another: {again}")
    return tree


def digest(tree: dict[str, Any]) -> str:
    """Return the checksum of a mapping without its seal."""
    return hashlib.sha256(json.dumps(tree, sort_keys=True).encode()).hexdigest()[:16]
