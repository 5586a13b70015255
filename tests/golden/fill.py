"""Deterministic weights for parity checks.

A parity case names every parameter of a published checkpoint (key and shape, in
`keys.json`) and holds the inputs and outputs that the published architecture gives
when each parameter is filled by `fill` (in `case.npz`). Nobody has to ship weights:
the same key, shape and seed give the same tensor on every machine.

    state = state_dict("tests/golden/dmvfn", seed=0)      # {published key: float32 ndarray}
"""

from __future__ import annotations

import json
import zlib
from pathlib import Path

import numpy as np


def fill(key: str, shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Return the float32 tensor that stands for parameter `key` of this `shape`.

    `np.random.RandomState` is used because its stream is frozen across NumPy releases.
    """
    rng = np.random.RandomState(zlib.crc32(f"{seed}:{key}".encode()))
    size = tuple(int(n) for n in shape)
    leaf = key.rsplit(".", 1)[-1]
    if leaf == "num_batches_tracked":
        return np.zeros(size, np.int64)
    if leaf == "running_var":
        value = 0.5 + rng.uniform(size=size)
    elif leaf == "running_mean":
        value = 0.1 * rng.standard_normal(size)
    elif leaf in ("weight_u", "weight_v"):  # spectral norm keeps unit vectors
        value = rng.standard_normal(size)
        value = value / np.linalg.norm(value)
    elif len(size) >= 2:
        value = rng.standard_normal(size) * np.sqrt(1.0 / np.prod(size[1:]))
    elif leaf.startswith("weight") or leaf in ("gamma", "scale"):
        value = rng.uniform(0.5, 1.0, size)
    else:
        value = 0.05 * rng.standard_normal(size)
    return np.asarray(value, np.float32)


def state_dict(case: str | Path, seed: int = 0) -> dict[str, np.ndarray]:
    """Return the published-layout state dict of one case folder.

    Integer buffers (permutations and the like) are not drawn: a case that has any keeps
    them in `buffers.npz`.
    """
    case = Path(case)
    keys = json.loads((case / "keys.json").read_text())
    state = {key: fill(key, tuple(shape), seed) for key, shape in keys.items()}
    if (case / "buffers.npz").exists():
        with np.load(case / "buffers.npz") as buffers:
            state.update({key: buffers[key] for key in buffers.files})
    return state
