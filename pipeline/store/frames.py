"""Frame stores: Arrow IPC files that hold the frames of one split, memory-mapped, every frame once.

One row a frame: `clip, frame, sample, source, height, width, image`. `frame` is the frame's own number in its clip,
`sample` numbers several predictions of one frame (0 elsewhere), `source` the archive member it came from. Images are
RGB, (height, width, 3); flow stores (`store/flow.py`) and prediction stores have the same rows. A record batch holds at
most `BATCH_BYTES`, so memory stays flat whatever the length of a clip. The schema's metadata holds what the reader must
know (codec, dtype) and what the table reports (dataset, resize filter, versions); the last, empty batch carries the
SHA-256 of all rows, which is the data's identity in every lineage. Where a data set measured something with each frame
(a robot's position), the column `values` has it, and the metadata's `values` says what it is.

A disk or a copy may change a bit. The last batch also has a CRC-32 of each batch and a seal: the SHA-256 of identity, those
CRCs, metadata and the columns that number the frames. The seal is compared when a store is opened, a batch when something in it
is read for the first time, once a process.

    with Writer("data/frames/kitti/test.arrow", codec="png", meta={"dataset": "kitti"}) as out:
        out.add("drive", 0, image)
    store = Store("data/frames/kitti/test.arrow")
    store.read("drive", range(3))          # (3, height, width, 3) uint8
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import math
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from pipeline.atomic import atomic
from pipeline.errors import RetakeError, readable
from pipeline.sources import limits
from pipeline.store import flow

BATCH_BYTES = 32 << 20
SCHEMA = pa.schema(
    [
        ("clip", pa.string()),
        ("frame", pa.int32()),
        ("sample", pa.int16()),
        ("source", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("image", pa.large_binary()),
    ]
)
NUMBERS = ("frame", "sample", "height", "width")
VALUES = pa.field("values", pa.list_(pa.float32()))  # of those stores alone whose metadata says what they are


def _png(image: np.ndarray) -> bytes:
    """RLE with the UP filter: as fast to write as OpenCV's default and 10 % faster to read; a bare level is 4x slower."""
    options = {
        cv2.IMWRITE_PNG_COMPRESSION: 1,
        cv2.IMWRITE_PNG_STRATEGY: cv2.IMWRITE_PNG_STRATEGY_RLE,
        cv2.IMWRITE_PNG_FILTER: cv2.IMWRITE_PNG_FILTER_UP,
    }
    return _opencv(".png", image, [number for option in options.items() for number in option])


def _zstd(image: np.ndarray) -> bytes:
    """Red and blue less green, then each row less the one above it, wrapping round; zstd. Photographs and decoded video
    are mostly smaller than as PNG, and faster to write (bench/bench_video.py) and to read.

    Of 16 bits each column is taken less the one to its left, too; 128 is added, so that a small difference of either sign has
    the same high byte, and the low bytes of all pixels, mostly noise, come before the high ones (bench/bench_codec.py).
    """
    rows = image.transpose(0, 2, 1).copy()
    rows[:, ::2] -= rows[:, 1:2]
    if rows.dtype == np.uint16:
        rows[..., 1:] -= rows[..., :-1].copy()
    deltas = rows.copy()
    deltas[1:] -= rows[:-1]
    if deltas.dtype == np.uint16:
        deltas += np.uint16(128)
        deltas = np.stack(cv2.split(deltas.view(np.uint8).reshape(-1, 1, 2)))
    return pa.Codec("zstd", compression_level=1).compress(deltas, asbytes=True)


def _from_zstd(data: memoryview, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    height, width, channels = shape
    size = height * width * channels * dtype.itemsize
    try:
        plain = pa.Codec("zstd").decompress(pa.py_buffer(data), decompressed_size=size)
        places = np.frombuffer(plain, np.uint8).reshape(dtype.itemsize, -1, 1)
    except (OSError, ValueError):
        raise _damaged(shape, dtype) from None
    rows = cv2.merge(list(places)).view(dtype).reshape(height, channels * width)
    if dtype == np.uint16:
        rows -= np.uint16(128)
    for above, row in itertools.pairwise(rows):  # np.add.accumulate takes twice as long
        row += above
    planes = rows.reshape(height, channels, width)
    if dtype == np.uint16:
        np.add.accumulate(planes, axis=2, out=planes)
    planes[:, ::2] += planes[:, 1:2]
    return cv2.merge([planes[:, channel] for channel in range(channels)]).reshape(shape)


def _opencv(suffix: str, image: np.ndarray, options: list[int]) -> bytes:
    done, data = cv2.imencode(suffix, image[..., ::-1], options)
    if not done:
        raise RetakeError(f"OpenCV cannot write an image of shape {image.shape}, {image.dtype} as {suffix}")
    return data.tobytes()


def _decode(data: memoryview, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED) if len(data) else None
    if image is None or image.shape != shape or image.dtype != dtype:
        raise _damaged(shape, dtype)
    return cv2.cvtColor(image, cv2.COLOR_BGR2RGB)


def _raw(data: memoryview, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    if len(data) != math.prod(shape) * dtype.itemsize:
        raise _damaged(shape, dtype)
    return np.frombuffer(data, dtype).reshape(shape)


def _damaged(shape: tuple[int, ...], dtype: np.dtype) -> RetakeError:
    return RetakeError(f"a stored image cannot be decoded as {shape} {dtype}: its store is damaged, make that again")


ENCODE: dict[str, Callable[[np.ndarray], bytes]] = {
    "raw": lambda image: np.ascontiguousarray(image).tobytes(),
    "png": _png,
    "zstd": _zstd,
    "jpeg": lambda image: _opencv(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95]),
    "flow64": flow.encode,
}
DECODE: dict[str, Callable[[memoryview, tuple[int, ...], np.dtype], np.ndarray]] = {
    "raw": _raw,
    "png": _decode,
    "zstd": _from_zstd,
    "jpeg": _decode,
    "flow64": flow.decode,
}


DTYPES = ("uint8", "uint16", "float32")
CHANNELS = (2, 3)
# What a damaged or hostile file may make Arrow, JSON and NumPy raise
READING = (
    pa.ArrowException,
    LookupError,
    OSError,
    TypeError,
    ValueError,
    AttributeError,
    OverflowError,
    RecursionError,
    MemoryError,
)


class Writer:
    """Writes one store, atomically: the file appears when the `with` block ends well.

    `codec`: a key of `ENCODE`. `dtype`: of the images, "uint8", "uint16" or, for flow, "float32". `meta`: JSON, goes
    into the schema; with a key `values` in it, each frame comes with numbers.
    """

    def __init__(
        self, path: str | Path, *, codec: str, meta: dict[str, Any], dtype: str = "uint8", channels: int = 3
    ) -> None:
        self.codec, self.dtype, self.channels = codec, dtype, channels
        meta = {**meta, "codec": codec, "dtype": dtype, "channels": channels}
        self._schema = _schema(json.dumps(meta, sort_keys=True), "values" in meta)
        self._atomic = atomic(path)
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0
        self._hash = hashlib.sha256()
        self._index = hashlib.sha256()
        self._checks: list[str] = []
        self._seen: set[str] = set()
        self._clip: str | None = None

    def __enter__(self) -> Writer:
        self._path = self._atomic.__enter__()
        self._sink = pa.OSFile(str(self._path), "wb")
        self._file = pa.ipc.new_file(self._sink, self._schema)
        return self

    def __exit__(self, *error: Any) -> None:
        try:
            if error[0] is None:
                self._flush()
                told = {"sha256": self._hash.hexdigest(), "batches": " ".join(self._checks)}
                told["seal"] = _seal(self._schema, told["sha256"], told["batches"], self._index)
                self._file.write_batch(pa.RecordBatch.from_pylist([], self._schema), custom_metadata=told)
                self._file.close()
            self._sink.close()
        except BaseException as failure:
            self._atomic.__exit__(type(failure), failure, failure.__traceback__)
            raise
        self._atomic.__exit__(*error)

    def add(
        self,
        clip: str,
        frame: int,
        image: np.ndarray | None = None,
        *,
        source: str = "",
        sample: int = 0,
        encoded: bytes | None = None,
        size: tuple[int, int] | None = None,
        values: np.ndarray | None = None,
    ) -> None:
        """Append one frame; the frames of a clip come one after the other.

        Either `image` (height, width, channels), or `encoded` bytes of the store's codec with their `size` (height, width).
        `values`: (n,) float32, in stores that have them.
        """
        clip, source = readable(clip), readable(source)
        if clip != self._clip:
            if clip in self._seen:
                raise ValueError(f"clip {clip!r} was written before: rows of a clip must be adjacent")
            self._seen.add(clip)
            self._clip = clip
        if encoded is None:
            encoded, size = self.encode(clip, frame, image)
        assert size is not None
        row = (clip, frame, sample, source, *size)
        self._hash.update(repr(row).encode())
        self._hash.update(encoded)
        self._rows.append((*row, encoded))
        if VALUES.name in self._schema.names:
            if values is None or values.dtype != np.float32 or values.ndim != 1:
                raise ValueError(f"{clip} frame {frame}: its values must be float32 (n,)")
            self._hash.update(values.tobytes())
            self._rows[-1] += (values,)
        self._bytes += len(encoded)
        if self._bytes >= BATCH_BYTES:
            self._flush()

    def encode(self, clip: str, frame: int, image: np.ndarray | None) -> tuple[bytes, tuple[int, int]]:
        """Return what `add` takes as `encoded` and `size`; any thread may call this. Raises ValueError for another type or shape."""
        if image is None or image.dtype != self.dtype or image.ndim != 3 or image.shape[2] != self.channels:
            what = None if image is None else (image.shape, image.dtype)
            raise ValueError(f"{clip} frame {frame}: expected {self.dtype} (h, w, {self.channels}), got {what}")
        return ENCODE[self.codec](image), (image.shape[0], image.shape[1])

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(values, field.type)
                for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            batch = pa.record_batch(columns, schema=self._schema)
            self._file.write_batch(batch)
            self._index.update(_numbering(batch))
            self._checks.append(_checksum(batch))
        self._rows, self._bytes = [], 0


def _schema(meta: str, values: bool) -> pa.Schema:
    return pa.schema([*SCHEMA, VALUES] if values else list(SCHEMA), {"retake": meta})


def _numbering(batch: pa.RecordBatch) -> bytes:
    """Return the columns of a batch that say which frame is which, as bytes."""
    clips = "\0".join(batch.column("clip").to_pylist())
    return clips.encode() + b"\0" + b"".join(batch.column(name).to_numpy().tobytes() for name in NUMBERS)


def _seal(schema: pa.Schema, identity: str, checks: str, index: Any) -> str:
    total = index.copy()
    total.update(f"{identity}\0{checks}\0{schema.metadata[b'retake'].decode()}".encode())
    return str(total.hexdigest())


def _checksum(batch: pa.RecordBatch) -> str:
    """Return the CRC-32 of all that a batch holds, 8 hexadecimal digits."""
    total = zlib.crc32(_numbering(batch))
    total = zlib.crc32("\0".join(batch.column("source").to_pylist()).encode(), total)
    offsets, data = _images(batch)
    total = zlib.crc32(np.diff(offsets).tobytes(), total)
    total = zlib.crc32(data[int(offsets[0]) : int(offsets[-1])], total)
    if VALUES.name in batch.schema.names:
        for row in batch.column(VALUES.name):
            total = zlib.crc32(np.array(row.as_py(), np.float32).tobytes(), total)
    return f"{total:08x}"


def _images(batch: pa.RecordBatch) -> tuple[np.ndarray, memoryview]:
    """Return where each stored image of a batch begins, (rows + 1,) int64, and the bytes of all, without copying."""
    column = batch.column("image")
    _, offsets, data = column.buffers()
    starts = np.frombuffer(offsets, np.int64, len(column) + 1, column.offset * 8)
    return starts, memoryview(data if data is not None else b"")


class Store:
    """One store, mapped read-only. Opens in milliseconds; images are decoded when asked for; pickles as its path.

    `meta`: the writer's metadata. `identity`: SHA-256 of all rows. `clips`: clip -> range of its rows.
    `frame`, `sample`, `size`: arrays over rows. Raises RetakeError for a file that is not a complete store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        if not self.path.is_file():  # a named pipe would be waited for
            what = "no store at" if not self.path.exists() else "no file, but something else, is"
            raise RetakeError(f"{what} {self.path}: make it with `snakemake {self.path}`")
        self.path.open("rb").close()  # another user's, which cannot be read, is not damaged
        try:
            self._read()
        except READING as error:
            why = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise RetakeError(f"{self.path} is not a complete frame store ({why}): {self._again}") from error
        self._whole = [False] * len(self._batches)

    @property
    def _again(self) -> str:
        return f"move it away and make it again with `snakemake {self.path}`"

    def _read(self) -> None:
        """Read all but the images; raises ValueError or what Arrow raises for a file that is damaged."""
        self._file = pa.ipc.open_file(pa.memory_map(str(self.path), "r"))
        text = (self._file.schema.metadata or {})[b"retake"].decode()
        self.meta: dict[str, Any] = json.loads(text)
        if not self._file.schema.equals(_schema(text, "values" in self.meta)):
            raise ValueError("it has other columns")
        last = self._file.get_batch_with_custom_metadata(self._file.num_record_batches - 1)
        self.identity: str = last.custom_metadata[b"sha256"].decode()
        checks = last.custom_metadata[b"batches"].decode()
        self._checks = checks.split()
        self._batches = [self._file.get_batch(i) for i in range(self._file.num_record_batches - 1)]
        index = hashlib.sha256()
        for batch in self._batches:
            batch.validate(full=True)
            index.update(_numbering(batch))
        seal = _seal(self._file.schema, self.identity, checks, index)
        if last.custom_metadata[b"seal"].decode() != seal or len(self._checks) != len(self._batches):
            raise ValueError("it is damaged: its checksum is another")
        columns = {
            name: np.concatenate([batch.column(name).to_numpy() for batch in self._batches] or [np.empty(0, np.int32)])
            for name in NUMBERS
        }
        self.frame: np.ndarray = columns["frame"].astype(np.int64)
        self.sample: np.ndarray = columns["sample"].astype(np.int64)
        self.size: np.ndarray = np.stack([columns["height"], columns["width"]], axis=-1).astype(np.int64)
        clip = np.array([name for batch in self._batches for name in batch.column("clip").to_pylist()], object)
        starts = np.flatnonzero(np.r_[True, clip[1:] != clip[:-1]]) if len(clip) else np.empty(0, int)
        ends = np.r_[starts[1:], len(clip)] if len(clip) else starts
        self.clips: dict[str, range] = {str(clip[a]): range(int(a), int(b)) for a, b in zip(starts, ends, strict=True)}
        self._first = np.cumsum([0] + [b.num_rows for b in self._batches])
        if self.meta["dtype"] not in DTYPES or self.meta["channels"] not in CHANNELS:
            raise ValueError("it is of no type of images that stores have")
        largest = self.size[self.size.prod(axis=1).argmax()] if len(self.size) else (1, 1)
        if reason := limits.beyond(*map(int, largest)) or (self.size.min(initial=1) < 1 and "it has empty frames"):
            raise ValueError(reason)
        self._decode = DECODE[self.meta["codec"]]
        self._dtype = np.dtype(self.meta["dtype"])

    def __getstate__(self) -> Path:
        return self.path

    def __setstate__(self, path: Path) -> None:
        self.path = path
        self._open()

    def __len__(self) -> int:
        return int(self._first[-1])

    def values(self, clip: str) -> np.ndarray:
        """Return what was measured with each frame of a clip, (frames, n) float32.

        Raises RetakeError for a store without.
        """
        if VALUES.name not in self._file.schema.names:
            raise RetakeError(f"{self.path} has no values beside its frames: {self.meta.get('kind')} measures nothing")
        rows = self.clips[clip]
        return np.stack([self._column(VALUES.name, row).as_py() for row in rows]).astype(np.float32)

    @functools.cached_property
    def content(self) -> np.ndarray:
        """(height, width) of each image without its padding, which is at the bottom and at the right; as `size`."""
        if self.meta.get("fit") != "pad":
            return self.size
        return np.concatenate([self.values(clip) for clip in self.clips]).astype(np.int64)

    def row(self, clip: str, frame: int) -> int:
        """Return the row of a frame by its number (its first sample); raises RetakeError where there is none."""
        rows = self.clips.get(clip, range(0))
        of_clip = slice(rows.start, rows.stop)
        matching = np.flatnonzero((self.frame[of_clip] == frame) & (self.sample[of_clip] == 0))
        if not len(matching):
            raise RetakeError(f"{self.path} has no {clip} frame {frame}: make it again with `snakemake {self.path}`")
        return rows[int(matching[0])]

    def source(self, row: int) -> str:
        """Return the archive member (or file) that row came from."""
        return str(self._column("source", row))

    def _place(self, row: int) -> tuple[pa.RecordBatch, int]:
        """Return the batch that a row is in, and its place there; raises RetakeError for a batch that is damaged."""
        batch = int(np.searchsorted(self._first, row, side="right")) - 1
        if not self._whole[batch]:
            if _checksum(self._batches[batch]) != self._checks[batch]:
                frames = f"rows {self._first[batch]} to {self._first[batch + 1] - 1}"
                raise RetakeError(f"{self.path} is damaged, {frames} are not what was written: {self._again}")
            self._whole[batch] = True
        return self._batches[batch], row - int(self._first[batch])

    def _column(self, name: str, row: int) -> pa.Scalar:
        batch, index = self._place(row)
        return batch.column(name)[index]

    def encoded(self, row: int) -> memoryview:
        """Return the stored bytes of one image, without copying."""
        batch, index = self._place(row)
        starts, data = _images(batch)
        return data[int(starts[index]) : int(starts[index + 1])]

    def image(self, row: int) -> np.ndarray:
        """Return one image, (height, width, channels); with codec raw a read-only view of the mapped file."""
        shape = (int(self.size[row, 0]), int(self.size[row, 1]), int(self.meta["channels"]))
        return self._decode(self.encoded(row), shape, self._dtype)

    def read(self, clip: str, frames: Iterable[int], crop: tuple[int, int, int, int] | None = None) -> np.ndarray:
        """Return images of one clip by position in it (0 is its first row), stacked: (n, height, width, channels).

        `crop`: (top, left, height, width); with codec raw only the crop is copied.
        """
        rows = self.clips[clip]
        images = [self.image(rows[i]) for i in frames]
        if crop is not None:
            top, left, height, width = crop
            images = [image[top : top + height, left : left + width] for image in images]
        return np.stack(images)


def join(parts: list[Path], output: Path, today: dict[str, Any]) -> Store:
    """Write the rows of several stores as one and return it; its bytes are those that one writer would have written.

    `today`: what all must say of themselves. Raises RetakeError for a part that is missing, damaged, or made otherwise than that
    or than the first.
    """
    stores = [Store(part) for part in parts]
    expected = stores[0].meta | json.loads(json.dumps(today))
    for store in stores:
        other = [key for key in {**expected, **store.meta} if store.meta.get(key) != expected.get(key)]
        if other:
            raise RetakeError(f"{store.path} was made with another {', '.join(other)}: remove it and make it again")
    own = ("codec", "dtype", "channels")
    layout, meta = {k: expected[k] for k in own}, {k: v for k, v in expected.items() if k not in own}
    with Writer(output, meta=meta, **layout) as out:
        for store in stores:
            for clip, rows in store.clips.items():
                values = store.values(clip) if "values" in meta else [None] * len(rows)
                for row, measured in zip(rows, values, strict=True):
                    out.add(
                        clip,
                        int(store.frame[row]),
                        source=store.source(row),
                        sample=int(store.sample[row]),
                        encoded=bytes(store.encoded(row)),
                        size=(int(store.size[row, 0]), int(store.size[row, 1])),
                        values=measured,
                    )
    return Store(output)


def frames_of(store: Store) -> Store:
    """Return the frame store that a flow or prediction store was made from.

    Raises RetakeError when that was made anew since.
    """
    frames = Store(store.meta["frames"])
    if frames.identity != store.meta["data"]:
        raise RetakeError(
            f"{frames.path} was made anew after {store.path}: make that again with `snakemake {store.path}`"
        )
    return frames
