"""One NumPy array of a file: `.npy` read in place, `.npz` with one array held in memory."""

from __future__ import annotations

import io
import math
import sys
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np

from pipeline.errors import RetakeError
from pipeline.sources import limits
from pipeline.sources.archives import Zip

SUFFIXES = (".npy", ".npz")


def read_array(path: Path) -> np.ndarray:
    """Return the array of a `.npy` file, memory-mapped, or the only one of a `.npz` file; read-only.

    What the header claims must be just what the file holds. Raises RetakeError for a file that is no array, of objects,
    damaged, or an archive beyond the limits.
    """
    limits.check_file(path)
    if path.suffix.lower() == ".npz":
        return _packed(path)
    with path.open("rb") as file:
        dtype, shape, order = _layout(file, path.stat().st_size, str(path))
        return np.memmap(file, dtype, "r", file.tell(), shape, order)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a `.npz` file, whatever its name ends in, by name; read-only. Raises RetakeError as `read_array`."""
    with Zip(path) as archive:
        if (size := sum(archive.size(name) for name in archive.members)) > limits.HELD:
            raise RetakeError(f"{path} unpacks to {size} bytes, up to {limits.HELD} are held in memory")
        return {name.removesuffix(".npy"): _member(archive, name) for name in archive.members}


def _packed(path: Path) -> np.ndarray:
    with Zip(path) as archive:
        names = list(archive.members)
        if len(names) != 1:
            raise RetakeError(f"{path} holds {len(names)} arrays ({', '.join(names[:5])}): give one")
        if (size := archive.size(names[0])) > limits.HELD:
            raise RetakeError(
                f"{path} unpacks to {size} bytes, up to {limits.HELD} are held in memory: save it as .npy, which is read in place"
            )
        return _member(archive, names[0])


def _member(archive: Zip, name: str) -> np.ndarray:
    data = b"".join(archive.chunks(name))
    file = io.BytesIO(data)
    dtype, shape, order = _layout(file, len(data), f"{archive.path}: {name!r}")
    return np.frombuffer(data, dtype, offset=file.tell()).reshape(shape, order=order)


def _layout(file: BinaryIO, length: int, where: str) -> tuple[np.dtype, tuple[int, ...], Literal["C", "F"]]:
    """Return dtype, shape and order of the array whose header begins `file`, which is left where the values begin."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except Exception as error:  # NumPy evaluates the header's text: what a hostile one raises has no end
        why = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise RetakeError(f"{where} cannot be read as an array: {why[:200]}") from None
    expected = file.tell() + math.prod(shape) * dtype.itemsize
    if dtype.hasobject or not dtype.itemsize or any(isinstance(side, bool) for side in shape):
        raise RetakeError(
            f"{where} cannot be read as an array: it holds {'objects' if dtype.hasobject else f'{dtype} {shape}'}, not numbers"
        )
    most = math.prod(side for side in shape if side) * dtype.itemsize  # beside a side of 0 others may be any number
    if min(shape, default=1) < 0 or expected != length or most > sys.maxsize:
        raise RetakeError(
            f"{where} cannot be read as an array: {shape} of {dtype} takes {expected} bytes, the file has {length}"
        )
    return dtype, shape, "F" if fortran else "C"
