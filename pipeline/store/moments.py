"""Statistics of a true set that stand for its frames: a `.moments` file, NumPy's npz with a checksum.

Of each metric the mean (D,) and a root (r, D) of the covariance of its features (`frechet.Gaussian`), and what must be the same
where they are used: the metric's settings, what its features depend on, and the clips with their sizes. Frames cannot be
made from it.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.atomic import write_bytes
from pipeline.errors import RetakeError
from pipeline.sources.arrays import read_arrays

SUFFIX = ".moments"
ABOUT = "about"


class Strict(BaseModel):
    """A part of the file's description; what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Of(Strict):
    """Statistics of one metric. `features`: the network, the digest of its weights, the input; `samples`: what they are of."""

    settings: dict[str, Any]
    features: dict[str, Any]
    samples: int = Field(ge=2)


class Clip(Strict):
    """A true clip: its frames are (height, width) px."""

    name: str
    frames: int
    height: int
    width: int


class About(Strict):
    """What a file is of. `truth`: the name it was made from; `data`: SHA-256 of all frames; `seal`: of the arrays and all this."""

    format: Literal[1] = 1
    truth: str
    data: str
    clips: list[Clip] = Field(min_length=1)
    metrics: dict[str, Of] = Field(min_length=1)
    seal: str = ""


Arrays = dict[str, tuple[np.ndarray, np.ndarray]]  # of each metric: mean (D,), root (r, D), float64


def write(path: Path, about: About, arrays: Arrays) -> None:
    """Write statistics, atomically."""
    about = about.model_copy(update={"seal": _seal(about, arrays)})
    text = np.frombuffer(about.model_dump_json().encode(), np.uint8)
    buffer = io.BytesIO()
    parts = [
        (f"{part}_{i}", array)
        for i, both in enumerate(arrays.values())
        for part, array in zip(("mean", "root"), both, strict=True)
    ]
    np.savez(buffer, allow_pickle=False, **{ABOUT: text, **dict(parts)})
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> tuple[About, Arrays]:
    """Return what `write` wrote; raises RetakeError for a file that is missing, damaged or no statistics."""
    if not path.is_file():  # a named pipe would be waited for
        raise RetakeError(f"no file {path}: `python -m pipeline.statistics` writes one of a true set")
    again = f"get it again, or write it again (python -m pipeline.statistics TRUTH --metrics … --output {path})"
    wrong = RetakeError(f"{path} is damaged, or holds no statistics of a true set: {again}")
    try:
        stored = read_arrays(path)
    except RetakeError as error:
        raise RetakeError(f"{error}: {again}") from None
    try:
        about = About.model_validate_json(stored.pop(ABOUT).astype(np.uint8, casting="no").tobytes())
        arrays = {name: (stored.pop(f"mean_{i}"), stored.pop(f"root_{i}")) for i, name in enumerate(about.metrics)}
    except (KeyError, TypeError, ValidationError):
        raise wrong from None
    whole = all(_fits(mean, root, about.metrics[name].samples) for name, (mean, root) in arrays.items())
    if stored or not whole or about.seal != _seal(about, arrays):
        raise wrong
    return about, arrays


def _fits(mean: np.ndarray, root: np.ndarray, samples: int) -> bool:
    floats = mean.dtype == root.dtype == np.float64 and mean.ndim == 1 and root.ndim == 2
    return bool(
        floats
        and root.shape[1] == len(mean)
        and len(root) <= min(samples, len(mean))
        and np.isfinite(mean).all()
        and np.isfinite(root).all()
    )


def _seal(about: About, arrays: Arrays) -> str:
    total = hashlib.sha256(json.dumps(about.model_dump(exclude={"seal"}), sort_keys=True).encode())
    for both in arrays.values():
        for array in both:
            total.update(f"{array.shape} {array.dtype}".encode())
            total.update(np.ascontiguousarray(array).data)
    return total.hexdigest()
