"""Tar archives, read in place: where each member's bytes lie, so that 30 GB are neither unpacked nor joined.

    members("data/raw/bair/bair_robot_pushing_dataset_v0.tar")["softmotion30_44k/test/traj_0_to_255.tfrecords"]

Only uncompressed tars are read: in a compressed one no member can be found without unpacking those before it. A tar
has checksums of its headers, none of its contents: what is in a member must bring its own, as records do.
"""

from __future__ import annotations

import contextlib
import functools
import gzip
import io
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import RetakeError
from pipeline.sources.archives import bad_name, names
from pipeline.sources.limits import RATIO, SMALL, check_file, instead

BLOCK = 512
HEADER = 1 << 20  # bytes that a header and its extensions (long names) may have
GZIP = b"\x1f\x8b"
ERRORS = (tarfile.TarError, EOFError, OSError, OverflowError, ValueError, zlib.error)  # of a tar that is none


@dataclass(frozen=True)
class Span:
    """A run of bytes inside a file."""

    path: Path
    offset: int
    size: int

    def bytes(self) -> bytes:
        """Return them, fewer where the file ends before."""
        with self.path.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)


@contextlib.contextmanager
def opened(path: Path, *, packed: bool = True) -> Iterator[tarfile.TarFile]:
    """Yield a tar archive, plain or (`packed`) compressed by gzip, that is read within the limits.

    What goes beyond them, or is no tar, raises one of ERRORS.
    """
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        length = path.stat().st_size
        if packed and file.read(2) == GZIP:
            length = max(RATIO * length, SMALL)
            file.seek(0)
            file = stack.enter_context(gzip.open(file))
        file.seek(0)
        yield stack.enter_context(tarfile.open(fileobj=_Bounded(file, length), mode="r:"))


class _Bounded(io.RawIOBase):
    """A file of which at most `length` bytes are read, and no headers larger than HEADER."""

    def __init__(self, file: Any, length: int) -> None:
        self._file, self._length = file, length

    def read(self, size: int = -1) -> bytes:
        """Return `size` bytes, fewer at the file's end."""
        if not 0 <= size <= HEADER:
            raise tarfile.ReadError(f"a header of it claims {size} bytes, up to {HEADER} are read")
        self._check(self._file.tell() + size)
        return self._file.read(size)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Go to a place, counted from the start."""
        assert whence == io.SEEK_SET
        self._check(offset)
        return self._file.seek(offset)

    def tell(self) -> int:
        """Return the place."""
        return self._file.tell()

    def _check(self, place: int) -> None:
        if place > self._length + 2 * BLOCK:
            raise tarfile.ReadError(f"it is truncated, or unpacks to more than {self._length} bytes")


def check(path: Path) -> None:
    """Read every header of the tar at `path`; raises RetakeError as `members`."""
    _members(path)


def members(path: Path) -> dict[str, Span]:
    """Return the regular files in the tar at `path`, by name, in its order; or those below a folder, sorted.

    Raises RetakeError that names the archive and the member: not a tar, compressed, truncated, damaged headers,
    absolute or parent paths, links, devices, sparse files, duplicate names.
    """
    if path.is_dir():
        files = [name for name in names(path) if not name.endswith("/")]
        return {name: Span(path / name, 0, (path / name).stat().st_size) for name in files}
    if not path.exists():
        raise RetakeError(f"no archive {path}: `python -m pipeline.download --list` says where it comes from")
    status = path.stat()
    return _remembered(path, status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=4)
def _remembered(path: Path, size: int, mtime_ns: int) -> dict[str, Span]:
    return _members(path)


def _members(path: Path) -> dict[str, Span]:
    remedy = _remedy(path)
    members: dict[str, Span] = {}
    size, end = check_file(path), 0
    try:
        with opened(path, packed=False) as archive:
            for info in archive:
                if checked(path, info).name in members:
                    raise RetakeError(f"{path}: refused, its member {info.name!r} stands in it twice. {remedy}")
                if info.isreg():
                    members[info.name] = Span(path, info.offset_data, info.size)
                end = info.offset_data + -(-info.size // BLOCK) * BLOCK
            # A damaged header ends the listing as the end mark does: two blocks of zeros are the difference.
            mark = Span(path, end, 2 * BLOCK).bytes()
    except ERRORS as error:
        raise RetakeError(f"{path} is not a whole tar archive: {_why(path, error)}. {remedy}") from None
    if mark != bytes(2 * BLOCK):
        what = "is truncated" if end + len(mark) >= size else "is damaged"
        raise RetakeError(f"{path} {what}: no header and no end mark at byte {end} of {size}. {remedy}")
    return members


def checked(path: Path, info: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a member of the tar at `path`; raises RetakeError for a path that leaves its folder, a link or a device."""
    reason = bad_name(info.name) or _bad(info)
    if reason:
        raise RetakeError(f"{path}: refused, its member {info.name!r} {reason}. {_remedy(path)}")
    return info


def _bad(info: tarfile.TarInfo) -> str | None:
    if info.issym() or info.islnk():
        return "is a link"
    if info.issparse():
        return "is a sparse file"
    if not info.isreg() and not info.isdir():
        return "is a device, pipe or unknown thing"
    return None


def _remedy(path: Path) -> str:
    return f"Put the publisher's {path.name} there again (or move this one away to have it downloaded), then run again"


def _why(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if start.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        return "it is compressed, unpack it to a plain .tar"
    return instead(start) or ("it is empty" if not start else str(error))
