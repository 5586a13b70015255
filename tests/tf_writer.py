"""Writes TensorFlow checkpoints of both formats, for tests of the reader; shares no code with it.

Made from the description of the formats alone: LevelDB tables with prefix-compressed keys, protobuf messages, masked
CRC-32C. `write_v2("model", tensors)` makes model.index and model.data-00000-of-00001, `write_v1("vgg.ckpt", tensors)` one file.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

CODES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "int64": 9,
    "bool": 10,
    "float16": 19,
}
MAGIC = b"\x57\xfb\x80\x8b\x24\x75\x47\xdb"


def _eight_bits(value: int) -> int:
    for _ in range(8):
        value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value


BYTES = [_eight_bits(value) for value in range(256)]


def crc(data: bytes) -> int:
    """Return the masked CRC-32C, byte by byte."""
    state = 0xFFFFFFFF
    for byte in data:
        state = state >> 8 ^ BYTES[(state ^ byte) & 255]
    state ^= 0xFFFFFFFF
    rotated = (state >> 15 | state << 17) & 0xFFFFFFFF
    return (rotated + 0xA282EAD8) % 2**32


def varint(value: int) -> bytes:
    value %= 2**64  # negatives as two's complement
    out = bytearray()
    while value >= 128:
        out.append(value % 128 + 128)
        value //= 128
    out.append(value)
    return bytes(out)


def message(*fields: tuple[int, Any]) -> bytes:
    """Return a protobuf message; an int is a varint, bytes are a string or message. Zeros are left out."""
    out = b""
    for number, value in fields:
        if isinstance(value, bytes):
            out += varint(number * 8 + 2) + varint(len(value)) + value
        elif value:
            out += varint(number * 8) + varint(value)
    return out


def shape(sizes: tuple[int, ...]) -> bytes:
    return message(*((2, message((1, n))) for n in sizes))


def table(entries: list[tuple[bytes, bytes]], block_size: int = 200, restart: int = 4, checksums: bool = True) -> bytes:
    """Return the file of sorted entries; small blocks and restart intervals, so that small files have several.

    `checksums`: False leaves zeros where CRCs stand, for large files.
    """
    out = bytearray()

    def block(entries: list[tuple[bytes, bytes]]) -> bytes:
        """Append a block and return its handle."""
        body, restarts, before = bytearray(), [], b""
        for i, (key, value) in enumerate(entries):
            common = 0
            if i % restart == 0:
                restarts.append(len(body))
            else:
                while common < min(len(key), len(before)) and key[common] == before[common]:
                    common += 1
            body += varint(common) + varint(len(key) - common) + varint(len(value)) + key[common:] + value
            before = key
        body += b"".join(struct.pack("<I", at) for at in restarts or [0]) + struct.pack("<I", len(restarts or [0]))
        handle = varint(len(out)) + varint(len(body))
        out.extend(body + b"\0" + struct.pack("<I", crc(bytes(body) + b"\0") if checksums else 0))
        return handle

    blocks: list[list[tuple[bytes, bytes]]] = [[]]
    for entry in sorted(entries):
        if sum(len(k) + len(v) for k, v in blocks[-1]) > block_size:
            blocks.append([])
        blocks[-1].append(entry)
    index = [(part[-1][0] + b"\xff", block(part)) for part in blocks]
    meta = block([])
    footer = meta + block(index)
    return bytes(out) + footer + bytes(40 - len(footer)) + MAGIC


def write_v2(
    prefix: str | Path,
    tensors: dict[str, np.ndarray],
    *,
    shards: int = 1,
    strings: tuple[str, ...] = (),
    big: bool = False,
) -> None:
    """Write a bundle; tensors go to the shards in turn. `strings` are names of further entries of string type."""
    prefix = Path(prefix)
    data = [bytearray() for _ in range(shards)]
    header = message((1, shards), (2, int(big)), (3, message((1, 1))))
    entries = [(b"", header)]
    for i, name in enumerate(sorted(tensors)):
        value, shard = tensors[name], i % shards
        raw = value.astype(value.dtype.newbyteorder(">" if big else "<")).tobytes()
        fields = [
            (1, CODES[value.dtype.name]),
            (2, shape(value.shape)),
            (3, shard),
            (4, len(data[shard])),
            (5, len(raw)),
        ]
        fixed = varint(6 * 8 + 5) + struct.pack("<I", crc(raw))
        entries.append((name.encode(), message(*fields) + fixed))
        data[shard] += raw
    entries += [(name.encode(), message((1, 7), (2, shape(())), (5, 3))) for name in strings]
    prefix.with_name(prefix.name + ".index").write_bytes(table(entries))
    for i, part in enumerate(data):
        prefix.with_name(f"{prefix.name}.data-{i:05d}-of-{shards:05d}").write_bytes(part)


def write_v1(
    path: str | Path,
    tensors: dict[str, np.ndarray],
    *,
    content: bool = False,
    packed: bool = True,
    partitioned: dict[str, int] | None = None,
    checksums: bool = True,
) -> None:
    """Write a V1 file. `content`: raw bytes; `packed`: how numbers lie otherwise; `partitioned`: {name: slices of axis 0}."""
    metas, entries = [], []
    for name in sorted(tensors):
        value = tensors[name]
        count = (partitioned or {}).get(name, 1)
        bounds = np.linspace(0, len(value) if value.ndim else 0, count + 1).astype(int)
        slices = []
        for i in range(count):
            piece, extents = value, b""
            for axis in range(value.ndim):
                whole = axis > 0 or count == 1
                extent = b"" if whole else message((1, int(bounds[i])), (2, int(bounds[i + 1] - bounds[i])))
                extents += message((1, extent))
            if count > 1:
                piece = value[bounds[i] : bounds[i + 1]]
            slices.append(extents)
            data = message((1, name.encode()), (2, extents), (3, proto(piece, content=content, packed=packed)))
            entries.append((b"\x01" + name.encode() + bytes([0, i]), message((2, data))))
        parts = [(4, extents) for extents in slices]
        metas.append(message((1, name.encode()), (2, shape(value.shape)), (3, CODES[value.dtype.name]), *parts))
    meta = b"".join(message((1, m)) for m in metas) + message((2, message((1, 21))))
    Path(path).write_bytes(table([(b"", message((1, meta))), *entries], checksums=checksums))


def proto(value: np.ndarray, *, content: bool, packed: bool) -> bytes:
    """Return a TensorProto."""
    flat = value.ravel()
    head = message((1, CODES[value.dtype.name]), (2, shape(value.shape)))
    if content:
        return head + message((4, flat.tobytes()))
    if value.dtype in (np.float32, np.float64):
        number, kind = (5, 5) if value.dtype == np.float32 else (6, 1)
        if packed:
            return head + message((number, flat.tobytes()))
        return head + b"".join(varint(number * 8 + kind) + x.tobytes() for x in flat)
    number = {"int64": 10, "bool": 11, "float16": 13}.get(value.dtype.name, 7)
    numbers = flat.view(np.uint16) if value.dtype == np.float16 else flat
    if packed:
        return head + message((number, b"".join(varint(int(x)) for x in numbers)))
    return head + b"".join(varint(number * 8) + varint(int(x)) for x in numbers)
