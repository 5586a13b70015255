"""One changed bit in any file that stages pass on: harmless, or an error that names the file; never other values, never a traceback.

`FLIPS` flips a kind at random places, seeded; the slow test makes twenty times as many.
"""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipeline import params, plan, recipes, weights
from pipeline.errors import RetakeError
from pipeline.metrics import cache
from pipeline.store import scores, sealed
from pipeline.store.frames import Store, Writer

FLIPS = 20
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 255, (6, 16, 24, 3), np.uint8)
FLOW = (RNG.integers(-640, 640, (6, 16, 24, 2)) / 64).astype(np.float32)
FEATURES = RNG.normal(size=(9, 5)).astype(np.float32)
ROWS = [(f"clip:{i}", k, 0, "psnr", 20.0 + i + k, 1.0) for i in range(6) for k in range(3)]

Kind = tuple[Path, Callable[[], Any]]  # a file, and what reads it


def store(path: Path, codec: str, images: np.ndarray) -> Kind:
    meta = {"dataset": "toy", "protocol": {"window": 2}}
    with Writer(path, codec=codec, dtype=str(images.dtype), channels=images.shape[-1], meta=meta) as out:
        for i, image in enumerate(images):
            out.add(f"clip{i // 3}", i % 3, image, source=f"toy.zip/{i}.png")

    def read() -> Any:
        found = Store(path)
        facts = [found.identity, sorted(found.meta.items()), list(found.clips.items()), found.frame.tolist()]
        return repr(facts), [(found.source(row), found.image(row).tobytes()) for row in range(len(found))]

    return path, read


def checkpoint(path: Path) -> Kind:
    tree = {"kind": "toy", "weights": {"a": torch.arange(300.0), "b": torch.ones(3, 3)}, "best": None, "step": 5}
    weights.save(path, tree)

    def read() -> Any:
        found = weights.load_tree(path)
        return repr({k: v for k, v in found.items() if k != "weights"}), weights.digest(found["weights"])

    return path, read


def features(folder: Path, suffix: str) -> Kind:
    def read() -> Any:
        return cache.rows({"network": "toy"}, len(FEATURES), lambda: [FEATURES]).tobytes()

    read()
    return next((folder / "data/features").glob(f"*{suffix}")), read


def handed() -> Kind:
    path = params.hand_over(params.load())

    def read() -> Any:
        os.environ[params.VARIABLE] = str(path)
        try:
            return params.load().model_dump_json()
        finally:
            del os.environ[params.VARIABLE]

    return path, read


def resolved() -> Kind:
    sealed.write(plan.READ, {"read": "abc"})
    return plan.READ, lambda: plan._written(plan.READ)


def own_params() -> Kind:
    """Nothing can tell a changed bit there from an edit: only tracebacks are wrong."""

    def read() -> Any:
        recipes.read()
        return None

    return Path("params.yaml"), read


def make(kind: str, folder: Path) -> Kind:
    """Write a whole file of one kind and return it with its reader."""
    if kind in ("raw", "png", "zstd"):
        return store(Path(f"data/frames/{kind}.arrow"), kind, IMAGES)
    if kind == "predictions":
        return store(Path("data/predictions/toy.arrow"), "zstd", IMAGES.astype(np.uint16) * 257)
    if kind == "flow":
        return store(Path("data/flow/toy.arrow"), "flow64", FLOW)
    if kind == "checkpoint":
        return checkpoint(Path("data/checkpoints/toy.pt"))
    if kind.startswith("features"):
        return features(folder, kind.removeprefix("features"))
    if kind == "scores":
        path = Path("data/scores/toy.parquet")
        scores.write(path, ROWS, {"metrics": {"psnr": {"values": len(ROWS)}}})
        return path, lambda: repr(scores.read(path))
    if kind == "manifest":
        path = Path("data/raw/toy/test.json")
        sealed.write(path, {"archives": [{"file": "a.zip", "bytes": 5, "sha256": "ab" * 32}], "missing": []})
        return path, lambda: repr(sealed.read(path))
    if kind == "handed params":
        return handed()
    return resolved() if kind == "plan" else own_params()


KINDS = ["raw", "png", "zstd", "predictions", "flow", "checkpoint", "features.npy", "features.json", "scores", "manifest",
         "handed params", "plan", "params"]  # fmt: skip


def flips(kind: str, folder: Path, count: int) -> int:
    """Flip one bit at `count` places in turn; return how many were named."""
    path, read = make(kind, folder)
    whole, right = path.read_bytes(), read()
    rng, named = random.Random(kind), 0
    for _ in range(count):
        place, bit = rng.randrange(len(whole)), rng.randrange(8)
        damaged = bytearray(whole)
        damaged[place] ^= 1 << bit
        path.write_bytes(damaged)
        where = f"{kind}: bit {bit} of byte {place}"
        try:
            found, error = read(), None
        except RetakeError as refused:
            found, error = right, refused
        assert found == right, f"{where} gives other values"
        assert error is None or path.name in str(error), f"{where}: {error}"
        named += error is not None
    path.write_bytes(whole)
    return named


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with this project's params."""
    (tmp_path / "params.yaml").write_bytes(Path("params.yaml").read_bytes())
    (tmp_path / "workflow").mkdir()
    for item in Path("workflow").iterdir():
        if item.name != plan.RESOLVED.name:
            (tmp_path / "workflow" / item.name).symlink_to(item.resolve())
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(params.VARIABLE, raising=False)
    return tmp_path


@pytest.mark.parametrize("kind", KINDS)
def test_a_flipped_bit_is_harmless_or_named(kind: str, project: Path) -> None:
    flipped(kind, project, FLIPS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_many_flipped_bits_are_harmless_or_named(kind: str, project: Path) -> None:
    flipped(kind, project, 20 * FLIPS)


def flipped(kind: str, project: Path, count: int) -> None:
    """Check that so many flips give no other values (`flips` does), and that a quarter are named where most bytes say something."""
    named = flips(kind, project, count)
    if kind in ("raw", "predictions", "checkpoint", "scores", "manifest", "handed params", "plan"):
        assert named >= count // 4


@pytest.mark.parametrize("kind", ["raw", "checkpoint", "scores", "manifest"])
def test_a_named_pipe_is_refused_not_waited_for(kind: str, project: Path) -> None:
    path, read = make(kind, project)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(RetakeError, match=path.name):
        read()


@pytest.mark.parametrize(
    ("meta", "size"),
    [
        ('{"a":' + "[" * 100_000 + "]" * 100_000 + "}", (4, 4)),
        ("[]", (4, 4)),
        ('{"codec": "raw", "dtype": "O", "channels": 3}', (4, 4)),
        ('{"codec": "raw", "dtype": "uint8", "channels": 1e9}', (4, 4)),
        ('{"codec": "raw", "dtype": "uint8"}', (4, 4)),
        ('{"codec": "pickle", "dtype": "uint8", "channels": 3}', (4, 4)),
        ('{"codec": "zstd", "dtype": "uint8", "channels": 3}', (60000, 60000)),
        ('{"codec": "raw", "dtype": "uint8", "channels": 3}', (-4, -4)),
    ],
)
def test_a_hostile_store_with_right_checksums_is_refused(tmp_path: Path, meta: str, size: tuple[int, int]) -> None:
    from pipeline.store import frames

    path = hostile(tmp_path / "x.arrow", meta, size, bytes(48))
    with pytest.raises(RetakeError, match="is not a complete frame store"):
        frames.Store(path)


@pytest.mark.parametrize("codec", ["raw", "png", "zstd", "jpeg", "flow64"])
@pytest.mark.parametrize("data", [b"", bytes(47), b"\x02" + bytes(9)])
def test_an_image_that_is_none_is_refused(tmp_path: Path, codec: str, data: bytes) -> None:
    meta = json.dumps(
        {
            "codec": codec,
            "dtype": "float32" if codec == "flow64" else "uint8",
            "channels": 2 if codec == "flow64" else 3,
        }
    )
    with pytest.raises(RetakeError, match="cannot be decoded"):
        Store(hostile(tmp_path / "x.arrow", meta, (4, 4), data)).image(0)


def hostile(path: Path, meta: str, size: tuple[int, int], data: bytes) -> Path:
    """Write a store of one image as nobody here writes it, with checksums that are right."""
    import hashlib

    import pyarrow as pa

    from pipeline.store import frames

    schema = frames._schema(meta, False)
    row = {"clip": "a", "frame": 0, "sample": 0, "source": "", "height": size[0], "width": size[1], "image": data}
    batch = pa.RecordBatch.from_pylist([row], schema=schema)
    index = hashlib.sha256(frames._numbering(batch))
    checks = frames._checksum(batch)
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, schema) as out:
        out.write_batch(batch)
        seal = frames._seal(schema, "0", checks, index)
        out.write_batch(
            pa.RecordBatch.from_pylist([], schema=schema),
            custom_metadata={"sha256": "0", "batches": checks, "seal": seal},
        )
    return path


def test_a_batch_is_checked_once(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipeline.store import frames

    path, _ = make("raw", project)
    counted = []
    whole = frames._checksum
    monkeypatch.setattr(frames, "_checksum", lambda batch: counted.append(1) or whole(batch))
    found = Store(path)
    for row in list(range(len(found))) * 2:
        found.image(row)
    assert len(counted) == 1


def test_a_damaged_line_of_the_record_does_not_stop_a_training_that_goes_on(tmp_path: Path) -> None:
    from pipeline.train import Lines

    path = tmp_path / "x.metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st\xffep": 2}\n{"step": 3}\n[]\n{"step": 9}\n')
    Lines(path, 4)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 3]
