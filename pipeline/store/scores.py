"""Score files: Parquet, one value a row, with what the table must know in the schema's metadata and a checksum of all.

Columns: window, horizon, sample, metric, value, weight; what they mean says pipeline/score.py.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.atomic import atomic
from pipeline.errors import RetakeError

Row = tuple[str, int, int, str, float, float]
COLUMNS = [
    ("window", pa.string()),
    ("horizon", pa.int32()),
    ("sample", pa.int32()),
    ("metric", pa.string()),
    ("value", pa.float64()),
    ("weight", pa.float64()),
]


def write(path: Path, rows: list[Row], meta: dict[str, Any]) -> None:
    """Write values and what is said of them, atomically."""
    schema = pa.schema(COLUMNS)
    columns = [list(column) for column in zip(*rows, strict=True)] or [[]] * len(schema)
    table = pa.table([pa.array(v, f.type) for v, f in zip(columns, schema, strict=True)], schema=schema)
    told = json.dumps(meta, sort_keys=True)
    table = table.replace_schema_metadata({"retake": told, "seal": _seal(table, told)})
    with atomic(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the columns by name, (values,) each, text as objects, and the metadata, with the file's `seal`, a digest of all; raises RetakeError for a file that is missing, damaged, or no score file."""
    again = f"make it again with `snakemake --force {path}`"
    if not path.is_file():  # a named pipe would be waited for
        raise RetakeError(f"no {'file' if path.exists() else 'scores'} {path}: make them with `snakemake {path}`")
    path.open("rb").close()  # another user's, which cannot be read, is not damaged
    try:
        table = pq.read_table(path, memory_map=False)
        table.validate(full=True)
        metadata = table.schema.metadata or {}
        told = metadata.get(b"retake", b"").decode()
        whole = table.schema.equals(pa.schema(COLUMNS)) and metadata.get(b"seal", b"").decode() == _seal(table, told)
    except (
        pa.ArrowException, OSError, ValueError, TypeError, LookupError, AttributeError, MemoryError, OverflowError,
    ) as error:  # fmt: skip
        raise RetakeError(f"{path} is damaged ({str(error).splitlines()[0][:200]}): {again}") from None
    if not whole:
        raise RetakeError(f"{path} is damaged, its checksum is another, or holds no scores of this project: {again}")
    columns = {
        name: _texts(table.column(name)) if kind == pa.string() else table.column(name).to_numpy()
        for name, kind in COLUMNS
    }
    return columns, json.loads(told) | {"seal": metadata[b"seal"].decode()}


def _texts(column: pa.ChunkedArray) -> np.ndarray:
    """Return a column of texts as objects; equal texts are one object, which makes comparing them cheap."""
    coded = column.combine_chunks().dictionary_encode()
    return np.array(coded.dictionary.to_pylist(), object)[coded.indices.to_numpy()]


def _seal(table: pa.Table, told: str) -> str:
    total = hashlib.sha256(f"{told}\0{table.num_rows}\0".encode())
    for name, kind in COLUMNS:
        column = table.column(name)
        if kind == pa.string():
            whole = pa.ListArray.from_arrays(pa.array([0, len(column)], pa.int32()), column.combine_chunks())
            total.update(pc.binary_join(whole, "\0")[0].as_buffer().to_pybytes() + b"\0")
        else:
            total.update(column.to_numpy().tobytes())
    return total.hexdigest()
