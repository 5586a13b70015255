"""TensorFlow checkpoints read without TensorFlow: V2 bundles (`<prefix>.index` + shards) and V1 files.

    read("model/TecoGAN", ["generator/generator_unit/output_stage/conv/Conv/biases"])
    read("vgg_19.ckpt", names, check=True)        # check=True compares every CRC-32C

Both formats are tables of sorted keys (LevelDB's SSTable) whose values are protobuf messages. Nothing in a file is
executed: the worst that a hostile file can do is to be refused. Files are mapped, only the tensors asked for are copied.
"""

from __future__ import annotations

import contextlib
import functools
import math
import mmap
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from pipeline.errors import RetakeError, near
from pipeline.sources import archives, tars

MAGIC = bytes.fromhex("57fb808b247547db")
FOOTER = 48
TRAILER = 5  # type byte and masked CRC-32C after each block
DTYPES = {
    1: np.float32,
    2: np.float64,
    3: np.int32,
    4: np.uint8,
    5: np.int16,
    6: np.int8,
    9: np.int64,
    10: np.bool_,
    19: np.float16,
}
# TensorProto's fields of values, where `tensor_content` (4) is not used
FLOAT, DOUBLE, INT, INT64, BOOL, HALF = 5, 6, 7, 10, 11, 13
CONTENT = 4

Message = dict[int, list[Any]]


@dataclass
class Variable:
    """One tensor of a checkpoint: what it is, and where its bytes lie.

    V2: `shard`, `offset`, `size`, `crc`. V1: `parts`, (extents, TensorProto) of each slice. `partitioned`: a V2 variable
    that has been saved in slices.
    """

    code: int
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    crc: int = 0
    partitioned: bool = False
    parts: list[tuple[list[tuple[int, int]], bytes]] = field(default_factory=list)


def read(source: str | Path, names: Iterable[str] | None = None, *, check: bool = False) -> dict[str, np.ndarray]:
    """Return {variable: array}, in TensorFlow's layout and dtype.

    `source`: a V1 file, the prefix of a V2 bundle (its .index file will do), or a zip or tar file that holds one of
    them, as they are published. `names`: exact names; None: all numeric variables. `check`: compare the checksums of all that is read.
    Raises RetakeError for a missing file or shard, a damaged or compressed table, a wrong checksum, missing names.
    """
    path = Path(source)
    if _is_archive(path):
        with unpacked(path) as inside:
            return read(inside, names, check=check)
    bundle = Bundle(source, check=check)
    asked = list(bundle.variables) if names is None else list(names)
    missing = [name for name in asked if name not in bundle.variables]
    if missing:
        raise RetakeError(
            f"{bundle.path} lacks {len(missing)} of {len(asked)} variables: {', '.join(missing[:8])}"
            f"{', …' if len(missing) > 8 else ''}{near(missing[0], bundle.variables) if len(bundle.variables) < 2000 else ''}"
        )
    return {name: bundle.array(name) for name in asked if names is not None or bundle.numeric(name)}


def shapes(source: str | Path) -> dict[str, tuple[int, ...]]:
    """Return {variable: shape} of all that a checkpoint holds, without reading it."""
    return {name: variable.shape for name, variable in Bundle(source).variables.items()}


def is_checkpoint(source: str | Path) -> bool:
    """Return whether a path is a V1 file, an .index file or the prefix of a V2 bundle."""
    table = _table_path(Path(source))
    if not table.is_file():  # a named pipe would be waited for
        return False
    try:
        with table.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(file.tell() - len(MAGIC), 0))
            return file.read() == MAGIC
    except OSError:
        return False


def holds(source: str | Path) -> bool:
    """Return whether a path is a TensorFlow checkpoint, or an archive with one: what `read` reads."""
    path = Path(source)
    return is_checkpoint(path) or (_is_archive(path) and bool(_tables(_members(path))))


@contextlib.contextmanager
def unpacked(archive: Path) -> Iterator[Path]:
    """Yield the checkpoint in a zip or tar file, unpacked for the time of the `with` block; other members stay packed.

    Raises RetakeError when the archive holds none, or several, or a member that would leave its folder, a link or a device.
    """
    members = _members(archive)
    tables = _tables(members)
    if len(tables) != 1:
        held = ", ".join(tables or sorted(members)[:8]) or "nothing"
        raise RetakeError(
            f"{archive} must hold one TensorFlow checkpoint (a .ckpt file, or .index with .data-*), it holds: {held}. "
            "Unpack it and give the checkpoint's path"
        )
    prefix = tables[0].removesuffix(".index")
    needed = [name for name in members if name == tables[0] or name.startswith(f"{prefix}.data-")]
    with tempfile.TemporaryDirectory() as folder:
        for name, chunks in _contents(archive, needed):
            with (Path(folder) / PurePosixPath(name).name).open("wb") as file:
                file.writelines(chunks)
        yield Path(folder) / PurePosixPath(tables[0]).name


def _is_archive(path: Path) -> bool:
    return path.is_file() and not is_checkpoint(path) and (zipfile.is_zipfile(path) or _is_tar(path))


def _is_tar(path: Path) -> bool:
    try:
        with tars.opened(path) as archive:
            return archive.next() is not None
    except tars.ERRORS:
        return False


def _tables(members: Iterable[str]) -> list[str]:
    """Return the members that are checkpoints; macOS adds files of its own beside each."""
    return sorted(n for n in members if n.endswith((".index", ".ckpt")) and not PurePosixPath(n).name.startswith("._"))


def _members(archive: Path) -> list[str]:
    """Return the names of all files in a zip or tar, which may be compressed; hostile archives are refused."""
    if zipfile.is_zipfile(archive):
        return [name for name in archives.names(archive) if not name.endswith("/")]
    try:
        with tars.opened(archive) as tarred:
            return [member.name for member in tarred if tars.checked(archive, member).isreg()]
    except tars.ERRORS as error:
        raise RetakeError(f"{archive} is not a whole tar archive: {error}. Fetch it again") from None


def _contents(archive: Path, names: list[str]) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield name and contents, in chunks, of some members."""
    if zipfile.is_zipfile(archive):
        with archives.Zip(archive) as zipped:
            for name in names:
                yield name, zipped.chunks(name)
        return
    with tars.opened(archive) as tarred:
        for member in tarred:
            data = tarred.extractfile(member) if member.name in names else None
            if data is not None:
                yield member.name, iter(functools.partial(data.read, archives.CHUNK), b"")


def _table_path(source: Path) -> Path:
    if source.suffix == ".index" or source.is_file():
        return source
    return source.with_name(source.name + ".index")


class Bundle:
    """An open checkpoint. `variables`: {name: Variable}; `array(name)` reads one."""

    def __init__(self, source: str | Path, *, check: bool = False) -> None:
        self.path, self.check = _table_path(Path(source)), check
        if not self.path.is_file():
            raise RetakeError(
                f"no TensorFlow checkpoint {source}: neither a V1 file of that name nor {self.path.name} is in "
                f"{self.path.parent}; give the file, or the name without .index or .data-00000-of-00001"
            )
        self._prefix = self.path.with_suffix("") if self.path.suffix == ".index" else self.path
        self._shards: dict[int, memoryview] = {}
        try:
            entries = list(_entries(_map(self.path), self.path, check))
            first = fields(entries[0][1]) if entries and not entries[0][0] else None
            if first is None:
                raise Damaged("its first entry is no header")
            # A V1 file's first entry has a message in field 1, a bundle's the number of shards
            self.v1 = isinstance(_one(first, 1, 0), bytes | memoryview)
            self.variables = self._v1(entries) if self.v1 else self._v2(first, entries)
        except (Damaged, IndexError, struct.error, UnicodeDecodeError, TypeError, ValueError) as error:
            raise RetakeError(
                f"{self.path} is not a TensorFlow checkpoint, or is damaged: {error}. Fetch it again"
            ) from None

    def numeric(self, name: str) -> bool:
        """Return whether a variable is of a type that is read; strings are not."""
        return self.variables[name].code in DTYPES

    def array(self, name: str) -> np.ndarray:
        """Return one variable. Raises RetakeError as `read` does."""
        variable = self.variables[name]
        if not self.numeric(name):
            raise RetakeError(f"{self.path}: {name} has TensorFlow's type {variable.code}, which is not numeric")
        try:
            return self._array_v1(name, variable) if self.v1 else self._array_v2(name, variable)
        except (Damaged, IndexError, struct.error, TypeError, ValueError) as error:
            raise RetakeError(f"{self.path} is damaged: {name}: {error}. Fetch it again") from None

    # V2

    def _v2(self, header: Message, entries: list[tuple[bytes, memoryview]]) -> dict[str, Variable]:
        self.shards = int(_one(header, 1, 1))
        self.big_endian = bool(_one(header, 2, 0))
        variables = {}
        for key, value in entries[1:]:
            if key.startswith(b"\0"):
                continue  # a slice of a partitioned variable
            entry = fields(value)
            crc = int.from_bytes(_one(entry, 6, b"\0\0\0\0"), "little")
            shard, offset, size = (int(_one(entry, number, 0)) for number in (3, 4, 5))
            shape = _shape(_one(entry, 2, b""))
            variables[key.decode()] = Variable(int(_one(entry, 1, 0)), shape, shard, offset, size, crc, 7 in entry)
        return variables

    def _array_v2(self, name: str, variable: Variable) -> np.ndarray:
        if variable.partitioned:
            raise RetakeError(
                f"{self.path}: {name} was saved in slices (a partitioned variable), which is not read; save it whole"
            )
        dtype = np.dtype(DTYPES[variable.code])
        data = self._shard(variable.shard)[variable.offset : variable.offset + variable.size]
        if len(data) != variable.size:
            raise Damaged(f"the data file ends before byte {variable.offset + variable.size}")
        if variable.size != math.prod(variable.shape) * dtype.itemsize:
            raise Damaged(f"{variable.size} bytes for shape {list(variable.shape)} of {dtype}")
        if self.check and masked_crc(data) != variable.crc:
            raise RetakeError(
                f"{self._shard_path(variable.shard)}: wrong CRC-32C of {name}: the file is damaged, fetch it again"
            )
        stored = np.frombuffer(data, dtype.newbyteorder(">" if self.big_endian else "<")).reshape(variable.shape)
        return stored.astype(dtype)

    def _shard_path(self, number: int) -> Path:
        return self._prefix.with_name(f"{self._prefix.name}.data-{number:05d}-of-{self.shards:05d}")

    def _shard(self, number: int) -> memoryview:
        if number not in self._shards:
            path = self._shard_path(number)
            if not path.is_file():
                raise RetakeError(
                    f"{self.path} needs {path.name} beside it, which is missing: put all files of the checkpoint in {path.parent}"
                )
            self._shards[number] = _map(path)
        return self._shards[number]

    # V1

    def _v1(self, entries: list[tuple[bytes, memoryview]]) -> dict[str, Variable]:
        variables = {}
        for raw in fields(_one(fields(entries[0][1]), 1, b"")).get(1, []):
            meta = fields(raw)
            name = bytes(_one(meta, 1, b"")).decode()
            variables[name] = Variable(int(_one(meta, 3, 0)), _shape(_one(meta, 2, b"")))
        for _, value in entries[1:]:
            data = fields(value).get(2)
            if data is None:
                continue
            part = fields(data[-1])
            variable = variables.get(bytes(_one(part, 1, b"")).decode())
            if variable is not None:
                extents = [fields(extent) for extent in fields(_one(part, 2, b"")).get(1, [])]
                where = [(int(_one(e, 1, 0)), int(_one(e, 2, -1))) for e in extents]
                variable.parts.append((where, _one(part, 3, b"")))
        return variables

    def _array_v1(self, name: str, variable: Variable) -> np.ndarray:
        dtype = np.dtype(DTYPES[variable.code])
        if math.prod(variable.shape) > self.path.stat().st_size:  # no value takes less than a byte
            raise Damaged(f"shape {list(variable.shape)} does not fit in the file")
        out = np.empty(variable.shape, dtype)
        covered = 0
        for extents, message in variable.parts:
            whole = extents or [(0, -1)] * len(variable.shape)
            if len(whole) != len(variable.shape):
                raise Damaged("a slice of another rank")
            index = tuple(slice(a, None if n < 0 else a + n) for a, n in whole)
            target = out[index]
            out[index] = _values(message, dtype, target.size).reshape(target.shape)
            covered += target.size
        if covered != out.size:
            raise Damaged(f"its slices hold {covered} of {out.size} values")
        return out


class Damaged(Exception):
    """What is wrong in a file; the caller knows its name."""


def _map(path: Path) -> memoryview:
    with path.open("rb") as file:
        if path.stat().st_size == 0:
            return memoryview(b"")
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


# Tables


def _entries(data: memoryview, path: Path, check: bool) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the table's keys and values, in order."""
    if len(data) < FOOTER or data[-len(MAGIC) :] != MAGIC:
        raise Damaged("it does not end with a table's footer")
    footer = data[-FOOTER:]
    index = _varint(footer, _varint(footer, 0)[1])[1]  # after the metaindex handle
    for _, handle in _block(data, footer[index:], path, check):
        yield from _block(data, handle, path, check)


def _block(data: memoryview, handle: memoryview, path: Path, check: bool) -> Iterator[tuple[bytes, memoryview]]:
    offset, index = _varint(handle, 0)
    size, _ = _varint(handle, index)
    block, trailer = data[offset : offset + size], data[offset + size : offset + size + TRAILER]
    if len(trailer) != TRAILER or size < 4:
        raise Damaged(f"a block of {size} bytes at {offset} reaches past the end")
    if trailer[0] != 0:
        kind = "Snappy" if trailer[0] == 1 else f"type {trailer[0]}"
        raise RetakeError(
            f"{path}: the block at byte {offset} is compressed ({kind}), which is not read; save it uncompressed"
        )
    if check and masked_crc(data[offset : offset + size + 1]) != struct.unpack("<I", trailer[1:])[0]:
        raise RetakeError(f"{path}: wrong CRC-32C of the block at byte {offset}: the file is damaged, fetch it again")
    restarts = struct.unpack("<I", block[-4:])[0]
    end = size - 4 - 4 * restarts
    if end < 0:
        raise Damaged(f"the block at byte {offset} has {restarts} restarts")
    cursor, key = 0, b""
    while cursor < end:
        shared, cursor = _varint(block, cursor)
        unshared, cursor = _varint(block, cursor)
        length, cursor = _varint(block, cursor)
        if cursor + unshared + length > end or shared > len(key):
            raise Damaged(f"an entry of the block at byte {offset} reaches past its end")
        key = key[:shared] + bytes(block[cursor : cursor + unshared])
        cursor += unshared
        yield key, block[cursor : cursor + length]
        cursor += length


# Protobuf


def _varint(data: memoryview | bytes, at: int) -> tuple[int, int]:
    """Return the number at `at` and the position after it."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise Damaged("a number of more than ten bytes")


def fields(data: memoryview | bytes) -> Message:
    """Return {field number: values} of a message: int for varints, bytes-like for the others."""
    message: Message = {}
    cursor, end = 0, len(data)
    while cursor < end:
        key, cursor = _varint(data, cursor)
        kind = key & 7
        value: Any
        if kind == 0:
            value, cursor = _varint(data, cursor)
        else:
            if kind == 2:
                length, cursor = _varint(data, cursor)
            else:
                length = {1: 8, 5: 4}.get(kind, -1)
            if length < 0 or cursor + length > end:
                raise Damaged("a protobuf field reaches past its message")
            value, cursor = data[cursor : cursor + length], cursor + length
        message.setdefault(key >> 3, []).append(value)
    return message


def _one(message: Message, number: int, default: Any) -> Any:
    return message[number][-1] if number in message else default


def _shape(data: memoryview | bytes) -> tuple[int, ...]:
    sizes = tuple(int(_one(fields(dim), 1, 0)) for dim in fields(data).get(2, []))
    if any(n >= 1 << 63 for n in sizes):
        raise Damaged("a shape with an unknown side")
    return sizes


def _values(message: bytes, dtype: np.dtype, count: int) -> np.ndarray:
    """Return the values of a TensorProto, (count,)."""
    tensor = fields(message)
    content = _one(tensor, CONTENT, b"")
    if len(content):
        values = np.frombuffer(content, dtype.newbyteorder("<")).astype(dtype)
    elif dtype in (np.float32, np.float64):
        number = FLOAT if dtype == np.float32 else DOUBLE
        values = np.frombuffer(b"".join(tensor.get(number, [])), dtype.newbyteorder("<")).astype(dtype)
    else:
        number = {"i8": INT64, "b1": BOOL, "f2": HALF}.get(dtype.str[1:], INT)
        # Packed values come as bytes, unpacked ones as single numbers
        pieces = [
            np.array([value], np.uint64) if isinstance(value, int) else varints(np.frombuffer(value, np.uint8))
            for value in tensor.get(number, [])
        ]
        numbers = np.concatenate(pieces) if pieces else np.empty(0, np.uint64)
        values = numbers.astype(np.uint16).view(dtype) if dtype == np.float16 else numbers.view(np.int64).astype(dtype)
    if len(values) != count:
        raise Damaged(f"{len(values)} values where its slice has {count}")
    return values


def varints(data: np.ndarray) -> np.ndarray:
    """Return the packed varints of a byte array, uint64, decoded all at once."""
    ends = np.flatnonzero(data < 0x80)
    if len(data) and (not len(ends) or ends[-1] != len(data) - 1):
        raise Damaged("a packed number is cut off")
    starts = np.r_[0, ends[:-1] + 1] if len(ends) else ends
    if len(ends) and int((ends - starts).max()) > 9:
        raise Damaged("a number of more than ten bytes")
    place = np.arange(len(data)) - np.repeat(starts, ends - starts + 1)
    bits = (data & 0x7F).astype(np.uint64) << (7 * place).astype(np.uint64)
    return np.add.reduceat(bits, starts) if len(ends) else np.empty(0, np.uint64)


# CRC-32C (Castagnoli), vectorised: the data as lanes of equal length side by side, joined pairwise

POLYNOMIAL = 0x82F63B78
LANES = 4096


@functools.cache
def _crc_table() -> np.ndarray:
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = (table >> np.uint32(1)) ^ np.where(table & np.uint32(1), np.uint32(POLYNOMIAL), np.uint32(0))
    return table


def crc32c(data: memoryview | bytes) -> int:
    """Return the CRC-32C of some bytes."""
    table = _crc_table()
    flat = np.frombuffer(data, np.uint8)
    length = len(flat) // LANES
    state = 0xFFFFFFFF
    if length:
        lanes = flat[: length * LANES].reshape(LANES, length)
        crc = np.zeros(LANES, np.uint32)
        crc[0] = state
        for start in range(0, length, 256):
            for column in np.ascontiguousarray(lanes[:, start : start + 256].T):
                crc = table[(crc ^ column) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
        shift = _zeros(length)
        while len(crc) > 1:
            crc = _apply(shift, crc[::2]) ^ crc[1::2]
            shift = _apply(shift, shift)
        state = int(crc[0])
    for byte in flat[length * LANES :].tolist():
        state = int(table[(state ^ byte) & 0xFF]) ^ (state >> 8)
    return state ^ 0xFFFFFFFF


def masked_crc(data: memoryview | bytes) -> int:
    """Return the CRC-32C in the masked form that is stored beside data."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def _zeros(length: int) -> np.ndarray:
    """Return, as the images of the 32 single bits, what `length` zero bytes do to a CRC's state."""
    table = _crc_table()
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    power = table[bits & np.uint32(0xFF)] ^ (bits >> np.uint32(8))  # one byte
    result = bits
    while length:
        if length & 1:
            result = _apply(power, result)
        power = _apply(power, power)
        length >>= 1
    return result


def _apply(images: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Return the linear map over GF(2) with these images of single bits, applied to each of `values`."""
    out = np.zeros_like(values)
    for bit in range(32):
        out ^= np.where((values >> np.uint32(bit)) & np.uint32(1), images[bit], np.uint32(0))
    return out
