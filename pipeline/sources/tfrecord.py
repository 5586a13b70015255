"""Records of TensorFlow (.tfrecords), read without TensorFlow, every checksum compared.

    for span in records(members(tar)["softmotion30_44k/test/traj_0_to_255.tfrecords"]):
        example(payload(span))["0/endeffector_pos"]          # (3,) float32

A record is its length (uint64), the masked CRC-32C of these eight bytes, the data, and the data's masked CRC-32C. The
data is a tf.train.Example: a protobuf map from names to lists of byte strings, floats or integers.
"""

from __future__ import annotations

import struct

import numpy as np

from pipeline.errors import RetakeError
from pipeline.sources.limits import MEMBER
from pipeline.sources.tars import Span
from pipeline.sources.tensorflow import Damaged, fields, masked_crc, varints

HEAD, TAIL = 12, 4
REMEDY = "The file is damaged: put the publisher's there again, then run again"


def records(file: Span) -> list[Span]:
    """Return where the data of each record of a file lies; their lengths are checked, their data is not read.

    Raises RetakeError that names the record and its place for a wrong checksum and for a file that is cut off.
    """
    spans: list[Span] = []
    offset = 0
    with file.path.open("rb") as source:
        while offset < file.size:
            source.seek(file.offset + offset)
            head = source.read(min(HEAD, file.size - offset))
            where = f"{file.path}, byte {file.offset + offset}: record {len(spans)}"
            if len(head) < HEAD:
                raise RetakeError(f"{where} is cut off after {len(head)} bytes. {REMEDY}")
            length, crc = struct.unpack("<QI", head)
            if masked_crc(head[:8]) != crc:
                raise RetakeError(f"{where}: wrong CRC-32C of its length. {REMEDY}")
            if length > MEMBER:
                raise RetakeError(f"{where} claims {length} bytes, more than the {MEMBER} that are read. {REMEDY}")
            offset += HEAD + length + TAIL
            if offset > file.size:
                raise RetakeError(
                    f"{where} is cut off: {offset - file.size} of its {length} bytes are missing. {REMEDY}"
                )
            spans.append(Span(file.path, file.offset + offset - TAIL - length, length))
    return spans


def payload(record: Span) -> bytes:
    """Return the data of a record. Raises RetakeError when its CRC-32C is another."""
    data = Span(record.path, record.offset, record.size + TAIL).bytes()
    if len(data) != record.size + TAIL or masked_crc(data[:-TAIL]) != struct.unpack("<I", data[-TAIL:])[0]:
        raise RetakeError(f"{record.path}, byte {record.offset}: wrong CRC-32C of a record's data. {REMEDY}")
    return data[:-TAIL]


def example(data: bytes) -> dict[str, list[bytes] | np.ndarray]:
    """Return the features of a tf.train.Example: byte strings in a list, numbers as float32 or int64 arrays.

    Raises ValueError for what is none.
    """
    features: dict[str, list[bytes] | np.ndarray] = {}
    try:
        for message in fields(data).get(1, []):
            for raw in fields(message).get(1, []):
                entry = fields(raw)
                feature = fields(entry[2][-1]) if 2 in entry else {}
                name = bytes(entry[1][-1]).decode() if 1 in entry else ""
                for kind, lists in feature.items():
                    features[name] = _values(kind, fields(lists[-1]).get(1, []))
    except (Damaged, IndexError, TypeError, UnicodeDecodeError) as error:
        raise ValueError(f"no tf.train.Example: {error}") from None
    return features


def _values(kind: int, values: list) -> list[bytes] | np.ndarray:
    """Return a BytesList (1), FloatList (2) or Int64List (3); packed numbers come as bytes, others one by one."""
    if kind == 1:
        return [bytes(value) for value in values]
    if kind == 2:
        return np.frombuffer(b"".join(values), "<f4").astype(np.float32)
    if kind != 3:
        raise Damaged(f"a feature of kind {kind}")
    pieces = [np.array([v], np.uint64) if isinstance(v, int) else varints(np.frombuffer(v, np.uint8)) for v in values]
    return np.concatenate(pieces).view(np.int64) if pieces else np.empty(0, np.int64)
