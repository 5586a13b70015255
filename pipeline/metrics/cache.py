"""Features and flow that are computed once: `data/features/<key>.npy`, memory-mapped; no registry entry of its own.

A key is everything that the rows depend on: the content (a store's identity and which of its frames, or the frames' own
SHA-256), the network, its weights' digest, the input, the version of the code. So the ground truth's features serve every
model and every experiment, and those of predictions every later table. `<key>.json` beside it says what it is, with a
checksum, which is compared before the rows are used. Files
appear whole; two processes that want the same one wait for one another. All of it may be deleted at any time.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.atomic import atomic
from pipeline.errors import RetakeError, log
from pipeline.sources.verified import lock
from pipeline.store import sealed

ROOT = Path("data/features")
CHECK = "crc32"  # key of the JSON file: what the rows' bytes must give
AT_ONCE = 1 << 24  # bytes


def rows(key: dict[str, Any], count: int, make: Callable[[], Iterable[np.ndarray]]) -> np.ndarray:
    """Return the `count` rows of `key`, (count, ...) float32, mapped read-only.

    `make` gives them in blocks (n, ...) where they are not there. Raises RetakeError when it gives another number.
    """
    text = json.dumps(key, sort_keys=True)
    path = ROOT / f"{digest(text.encode())[:32]}.npy"
    with lock(path):
        kept = _open(path, count)
        if kept is None:
            _write(path, count, make())
            kept = np.load(path, mmap_mode="r")
            sealed.write(path.with_suffix(".json"), {**key, CHECK: _checksum(kept)})
    return kept


def digest(*parts: bytes | memoryview) -> str:
    """Return the SHA-256 of the parts, one after the other."""
    total = hashlib.sha256()
    for part in parts:
        total.update(part)
    return total.hexdigest()


def of_images(images: np.ndarray) -> str:
    """Return the SHA-256 of images: their shape, type and values."""
    return digest(f"{images.shape} {images.dtype}".encode(), np.ascontiguousarray(images).data)


class Taken:
    """Rows of a mapped array, or of other `Taken` ones, by index; read slice by slice: what `frechet` needs of features."""

    def __init__(self, base: Any, index: np.ndarray) -> None:
        self.base, self.index = base, index
        self.shape, self.ndim = (len(index), *base.shape[1:]), base.ndim

    def __len__(self) -> int:
        return len(self.index)

    def __getitem__(self, row: slice | np.ndarray) -> np.ndarray:
        return self.base[self.index[row]]


def _open(path: Path, count: int) -> np.ndarray | None:
    """Return the rows that are there; None where there are none, or not whole."""
    if not path.is_file():
        return None
    try:
        told = sealed.read(path.with_suffix(".json"))
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
        if len(kept) == count and told.get(CHECK) == _checksum(kept):
            return kept
        why = f"{len(kept)} rows, {count} are needed, or other values than were written"
    except Exception as error:  # what NumPy raises for a damaged header differs with the place of the damage
        why = str(error)
    log.warning("%s is damaged (%s): made again", path, why)
    return None


def _checksum(rows: np.ndarray) -> str:
    """Return the CRC-32 of rows, their shape and type; 8 hexadecimal digits."""
    total = zlib.crc32(f"{rows.shape} {rows.dtype}".encode())
    flat = rows.reshape(-1).view(np.uint8)
    for start in range(0, len(flat), AT_ONCE):
        total = zlib.crc32(flat[start : start + AT_ONCE].data, total)
    return f"{total:08x}"


def _write(path: Path, count: int, blocks: Iterable[np.ndarray]) -> None:
    with atomic(path) as temporary:
        out, row = None, 0
        for block in blocks:
            if out is None:
                out = np.lib.format.open_memmap(temporary, "w+", np.float32, (count, *block.shape[1:]))
            if row + len(block) <= count:
                out[row : row + len(block)] = block
            row += len(block)
        if out is None or row != count:
            raise RetakeError(f"{path}: {row} rows of features were made of {count} that are needed")
        out.flush()
