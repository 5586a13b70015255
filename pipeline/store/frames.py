"""Frame stores: Arrow IPC files that hold the frames of one split, memory-mapped, every frame once.

One row a frame: `clip, frame, sample, source, height, width, image`. `frame` is the frame's own number in its clip,
`sample` numbers several predictions of one frame (0 elsewhere), `source` the archive member it came from. Images are
RGB, (height, width, 3); flow stores (`store/flow.py`) and prediction stores have the same rows. A record batch holds at
most `BATCH_BYTES`, so memory stays flat whatever the length of a clip. The schema's metadata holds what the reader must
know (codec, dtype) and what the table reports (dataset, resize filter, versions); the last, empty batch carries the
SHA-256 of all rows, which is the data's identity in every lineage. Where a data set measured something with each frame
(a robot's position), the column `values` has it, and the metadata's `values` says what it is.

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
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa

from pipeline.atomic import atomic
from pipeline.errors import RetakeError
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
    """
    rows = image.transpose(0, 2, 1).copy()
    rows[:, ::2] -= rows[:, 1:2]
    deltas = rows.copy()
    deltas[1:] -= rows[:-1]
    return pa.Codec("zstd", compression_level=1).compress(deltas, asbytes=True)


def _from_zstd(data: memoryview, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    height, width, channels = shape
    size = height * width * channels * dtype.itemsize
    try:
        plain = pa.Codec("zstd").decompress(pa.py_buffer(data), decompressed_size=size)
        rows = np.frombuffer(plain, dtype).reshape(height, channels * width).copy()
    except (OSError, ValueError):
        raise _damaged(shape, dtype) from None
    for above, row in itertools.pairwise(rows):  # np.add.accumulate takes twice as long
        row += above
    planes = rows.reshape(height, channels, width)
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


def _damaged(shape: tuple[int, ...], dtype: np.dtype) -> RetakeError:
    return RetakeError(
        f"a stored image cannot be decoded as {shape} {dtype}: the store is damaged, delete and remake it"
    )


ENCODE: dict[str, Callable[[np.ndarray], bytes]] = {
    "raw": lambda image: np.ascontiguousarray(image).tobytes(),
    "png": _png,
    "zstd": _zstd,
    "jpeg": lambda image: _opencv(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95]),
    "flow64": flow.encode,
}
DECODE: dict[str, Callable[[memoryview, tuple[int, ...], np.dtype], np.ndarray]] = {
    "raw": lambda data, shape, dtype: np.frombuffer(data, dtype).reshape(shape),
    "png": _decode,
    "zstd": _from_zstd,
    "jpeg": _decode,
    "flow64": flow.decode,
}


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
        columns = [*SCHEMA, VALUES] if "values" in meta else list(SCHEMA)
        self._schema = pa.schema(columns, {"retake": json.dumps(meta, sort_keys=True)})
        self._atomic = atomic(path)
        self._rows: list[tuple[Any, ...]] = []
        self._bytes = 0
        self._hash = hashlib.sha256()
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
                self._file.write_batch(
                    pa.RecordBatch.from_pylist([], self._schema), custom_metadata={"sha256": self._hash.hexdigest()}
                )
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
        if clip != self._clip:
            if clip in self._seen:
                raise ValueError(f"clip {clip!r} was written before: rows of a clip must be adjacent")
            self._seen.add(clip)
            self._clip = clip
        if encoded is None:
            if image is None or image.dtype != self.dtype or image.ndim != 3 or image.shape[2] != self.channels:
                what = None if image is None else (image.shape, image.dtype)
                raise ValueError(f"{clip} frame {frame}: expected {self.dtype} (h, w, {self.channels}), got {what}")
            size = image.shape[:2]
            encoded = ENCODE[self.codec](image)
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

    def _flush(self) -> None:
        if self._rows:
            columns = [
                pa.array(values, field.type)
                for values, field in zip(zip(*self._rows, strict=True), self._schema, strict=True)
            ]
            self._file.write_batch(pa.record_batch(columns, schema=self._schema))
        self._rows, self._bytes = [], 0


class Store:
    """One store, mapped read-only. Opens in milliseconds; images are decoded when asked for; pickles as its path.

    `meta`: the writer's metadata. `identity`: SHA-256 of all rows. `clips`: clip -> range of its rows.
    `frame`, `sample`, `size`: arrays over rows. Raises RetakeError for a file that is not a complete store.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._open()

    def _open(self) -> None:
        if not self.path.exists():
            raise RetakeError(f"no store at {self.path}: make it with `snakemake {self.path}`")
        try:
            self._file = pa.ipc.open_file(pa.memory_map(str(self.path), "r"))
            self.meta: dict[str, Any] = json.loads((self._file.schema.metadata or {})[b"retake"])
            last = self._file.get_batch_with_custom_metadata(self._file.num_record_batches - 1)
            self.identity: str = last.custom_metadata[b"sha256"].decode()
        except (pa.ArrowInvalid, KeyError, OSError, TypeError, ValueError) as error:
            raise RetakeError(
                f"{self.path} is not a complete frame store ({error}): delete it and make it again"
            ) from error
        self._batches = [self._file.get_batch(i) for i in range(self._file.num_record_batches - 1)]
        columns = {
            name: np.concatenate(
                [b.column(name).to_numpy(zero_copy_only=False) for b in self._batches] or [np.empty(0, object)]
            )
            for name in ("clip", "frame", "sample", "height", "width")
        }
        self.frame: np.ndarray = columns["frame"].astype(np.int64)
        self.sample: np.ndarray = columns["sample"].astype(np.int64)
        self.size: np.ndarray = np.stack([columns["height"], columns["width"]], axis=-1).astype(np.int64)
        clip = columns["clip"]
        starts = np.flatnonzero(np.r_[True, clip[1:] != clip[:-1]]) if len(clip) else np.empty(0, int)
        ends = np.r_[starts[1:], len(clip)] if len(clip) else starts
        self.clips: dict[str, range] = {str(clip[a]): range(int(a), int(b)) for a, b in zip(starts, ends, strict=True)}
        self._first = np.cumsum([0] + [b.num_rows for b in self._batches])
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
        found = np.flatnonzero((self.frame[of_clip] == frame) & (self.sample[of_clip] == 0))
        if not len(found):
            raise RetakeError(f"{self.path} has no {clip} frame {frame}: make it again with `snakemake {self.path}`")
        return rows[int(found[0])]

    def source(self, row: int) -> str:
        """Return the archive member (or file) that row came from."""
        return str(self._column("source", row))

    def _column(self, name: str, row: int) -> pa.Scalar:
        batch = int(np.searchsorted(self._first, row, side="right")) - 1
        return self._batches[batch].column(name)[row - int(self._first[batch])]

    def encoded(self, row: int) -> memoryview:
        """Return the stored bytes of one image, without copying."""
        batch = int(np.searchsorted(self._first, row, side="right")) - 1
        column = self._batches[batch].column("image")
        _, offsets, data = column.buffers()
        at = row - int(self._first[batch]) + column.offset
        start, end = np.frombuffer(offsets, np.int64, 2, at * 8)
        return memoryview(data)[int(start) : int(end)]

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
