"""Optical flow at rest: the codec of flow stores, `.flo`, KITTI 16-bit PNG and `.npy` files.

In memory flow is (height, width, 2) float32, u (right) and v (down) in pixels, NaN in both where there is none (outside
the lidar's or renderer's truth). The codec rounds to 1/64 px, as KITTI's files do: no vector is off by more than
`ERROR` = 0.0111 px, the length of half a step in u and v. Each field is compressed on its own, so that a reader
decodes only what it asks for: differences to the left neighbour, low bytes apart from high bytes, zstd. Fields with
components from 512 px on take four bytes a component instead of two.
"""

from __future__ import annotations

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pyarrow as pa

from pipeline.atomic import write_bytes
from pipeline.errors import RetakeError
from pipeline.sources import images, limits

UNIT = 64  # steps a pixel
ERROR = 2**0.5 / (2 * UNIT)  # px, the most that a decoded vector is off
LARGEST = 2**17  # px; up to here steps of 1/64 are exact in float32

FLO_MAGIC = 202021.25
FLO_UNKNOWN = 1e9  # Middlebury's files mark pixels without flow by components above this; their writer uses 1e10


def encode(flow: np.ndarray) -> bytes:
    """Return one field as bytes: a byte that says 2 or 4 bytes a component, then the zstd frame.

    Raises RetakeError for infinite flow, or flow from `LARGEST` px on.
    """
    steps = np.ascontiguousarray(np.rint(flow.transpose(2, 0, 1) * np.float32(UNIT)))
    invalid = np.isnan(steps).any(axis=0)
    steps[:, invalid] = 0
    largest = float(max(steps.max(initial=0), -steps.min(initial=0)))
    if not largest < LARGEST * UNIT:
        raise RetakeError(
            f"flow of {largest / UNIT:g} px: from {LARGEST} px on it is no motion, look at the two frames"
        )
    width = 2 if largest < 2**15 else 4
    planes = steps.astype(f"<i{width}")
    planes[:, invalid] = np.iinfo(planes.dtype).min
    deltas = planes.copy()
    deltas[:, :, 1:] -= planes[:, :, :-1]  # wraps around, as the sum in decode does
    shuffled = deltas.view(np.uint8).reshape(-1, width).T
    return bytes([width]) + pa.Codec("zstd", compression_level=3).compress(shuffled.tobytes(), asbytes=True)


def decode(data: memoryview, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return the field that `encode` wrote, (height, width, 2) float32, NaN where there is no flow."""
    height, width, channels = shape
    try:
        kind = np.dtype({2: "<i2", 4: "<i4"}[data[0]])
        size = height * width * channels * kind.itemsize
        plain = pa.Codec("zstd").decompress(pa.py_buffer(data[1:]), decompressed_size=size, asbytes=True)
        shuffled = np.frombuffer(plain, np.uint8).reshape(kind.itemsize, -1)
    except (KeyError, IndexError, ValueError, OSError) as error:
        raise RetakeError(
            f"a stored flow field cannot be decoded as {shape}: its store is damaged, make that again"
        ) from error
    deltas = cv2.merge(list(shuffled)).view(kind).reshape(channels, height, width)
    # Columns are summed as rows of the transposed field: whole rows are added at once.
    columns = np.add.accumulate(deltas.transpose(0, 2, 1).copy(), axis=1, dtype=kind)
    steps = np.ascontiguousarray(columns.transpose(0, 2, 1))
    flow = cv2.merge([plane.astype(dtype) * dtype.type(1 / UNIT) for plane in steps])
    invalid = steps[0] == np.iinfo(kind).min
    if invalid.any():
        flow[invalid] = np.nan
    return flow


def read_flo(path: str | Path) -> np.ndarray:
    """Return a Middlebury `.flo` file: float32 202021.25, int32 width and height, u and v interleaved.

    Pixels marked as unknown are NaN. Raises RetakeError for a wrong magic, a cut tail, trailing bytes, or NaN.
    """
    return from_flo(Path(path).read_bytes(), str(path))


def from_flo(data: bytes, where: str) -> np.ndarray:
    """Return the flow that the bytes of a `.flo` file hold; `where` names it in errors. As `read_flo`."""
    if len(data) < 12 or struct.unpack_from("<f", data)[0] != FLO_MAGIC:
        raise RetakeError(f"{where} is not a .flo file: it does not begin with the float {FLO_MAGIC}")
    width, height = struct.unpack_from("<ii", data, 4)
    expected = 12 + 8 * width * height
    if reason := limits.beyond(height, width):
        raise RetakeError(f"{where} {reason}")
    if width < 1 or height < 1 or len(data) != expected:
        raise RetakeError(
            f"{where}: {width}x{height} flow takes {expected} bytes, the file has {len(data)}: it is cut off or "
            "damaged, copy or make it again"
        )
    flow = np.frombuffer(data, "<f4", offset=12).reshape(height, width, 2).astype(np.float32)
    bad = np.isnan(flow).any(axis=-1)
    if bad.any():
        y, x = np.argwhere(bad)[0]
        raise RetakeError(f"{where} has NaN at {bad.sum()} pixels, the first at x {x}, y {y}: make it again")
    flow[(np.abs(flow) > FLO_UNKNOWN).any(axis=-1)] = np.nan
    return flow


def write_flo(path: str | Path, flow: np.ndarray) -> None:
    """Write a `.flo` file, atomically; NaN becomes the format's mark for unknown flow."""
    height, width = flow.shape[:2]
    known = np.where(np.isnan(flow).any(axis=-1, keepdims=True), 1e10, flow).astype("<f4")
    write_bytes(path, struct.pack("<fii", FLO_MAGIC, width, height) + known.tobytes())


def read_kitti(path: str | Path) -> np.ndarray:
    """Return a KITTI flow file: 16-bit PNG, R and G are u and v as 64 px + 32768, B is 0 where there is no flow (NaN).

    Raises RetakeError for a file that is missing, no PNG, of 8 bits, or without three channels.
    """
    path = Path(path)
    if not path.is_file():
        raise RetakeError(f"no flow file {path}: check the name")
    return from_kitti(path.read_bytes(), str(path))


def from_kitti(data: bytes, where: str) -> np.ndarray:
    """Return the flow that the bytes of a KITTI flow file hold; `where` names it in errors. As `read_kitti`."""
    try:
        images.header(data)
        images.check_whole(data)
    except ValueError as error:
        raise RetakeError(f"{where} {error}") from None
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        raise RetakeError(f"{where} cannot be read as PNG: it is damaged")
    if image.dtype != np.uint16 or image.ndim != 3 or image.shape[2] != 3:
        channels = 1 if image.ndim == 2 else image.shape[2]
        raise RetakeError(
            f"{where} is no KITTI flow file: those have 3 channels of 16 bits, this has {channels} of "
            f"{8 * image.dtype.itemsize}. A picture of flow cannot be read back"
        )
    flow = (image[..., :0:-1].astype(np.float32) - 2**15) / UNIT  # OpenCV gives valid, v, u
    flow[image[..., 0] == 0] = np.nan
    return flow


def write_kitti(path: str | Path, flow: np.ndarray) -> None:
    """Write a KITTI flow file, atomically, rounded to 1/64 px; raises RetakeError for flow outside [-512, 512) px."""
    valid = ~np.isnan(flow).any(axis=-1)
    steps = np.rint(np.where(valid[..., None], flow, 0) * UNIT)
    if steps.min(initial=0) < -(2**15) or steps.max(initial=0) >= 2**15:
        raise RetakeError(
            f"{path}: flow of {np.abs(steps).max() / UNIT:g} px does not fit KITTI's format, which ends at 512 px: "
            "use .flo"
        )
    image = np.dstack([valid, steps[..., 1] + 2**15, steps[..., 0] + 2**15]).astype(np.uint16)
    image[~valid] = 0
    done, data = cv2.imencode(".png", image)
    assert done
    write_bytes(path, data.tobytes())


def write_npy(path: str | Path, flow: np.ndarray) -> None:
    """Write NumPy's `.npy`, (height, width, 2) float32, atomically; NaN stays NaN."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(flow, np.float32), allow_pickle=False)
    write_bytes(path, buffer.getvalue())


def resize(flow: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return flow at another size, bilinear with aligned corners, its values in pixels of that size."""
    scale = np.array([width / flow.shape[1], height / flow.shape[0]], np.float32)
    for axis, size in ((0, height), (1, width)):
        last = flow.shape[axis] - 1
        position = np.linspace(0, last, size)
        low = np.floor(position).astype(int)
        share = (position - low).astype(np.float32).reshape((-1, 1, 1) if axis == 0 else (-1, 1))
        flow = flow.take(low, axis) * (1 - share) + flow.take(np.minimum(low + 1, last), axis) * share
    return flow * scale
