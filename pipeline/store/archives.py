"""What an archive holds: clips, and the members that are their frames; hostile archives are refused before any is read.

    names(Path("data/raw/kitti/2011_09_26_drive_0060_sync.zip"))
    read(Member(archive, "2011_09_26/…/0000000000.png"))        # bytes, checked against the member's CRC-32

Members are only ever read into memory, never unpacked; a zip inside a zip is a file like any other. A zip in parts
(`.zip.001`, `.zip.002`, …) is read as it lies; its first part's path stands for all. A folder that holds what an
archive unpacks to may stand in for it (`place`).
"""

from __future__ import annotations

import bisect
import copy
import functools
import io
import itertools
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import RetakeError

CHUNK = 1 << 20
LIMIT = 256 << 20  # bytes of one member: no frame, list or clip of a data set is as large
RATIO = 100  # declared size over stored size; images and videos are near 1, text below 20
SMALL = 16 << 20  # bytes: what may be packed tighter than that, harmless at this size
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile reads bzip2 and LZMA without a bound on memory
DATE = (1980, 1, 1, 0, 0, 0)  # of all members: their own ones take a fifth of an opened archive's memory
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


class CutOff(RetakeError):
    """A video ends before its end, or is damaged from some frame on: raised behind its last good frame."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside an archive (zip), or in a folder when `archive` is one."""

    archive: Path
    name: str


@dataclass(frozen=True)
class Clip:
    """One clip: its name and its frames, (frame number, member) in order."""

    name: str
    frames: list[tuple[int, Member]]


@dataclass(frozen=True)
class Stream:
    """One clip whose frames come in one go from one member, a video or a record; how many is known at the end.

    `frames()` yields (frame number, image) in order, where `image()` gives (height, width, 3) uint8 RGB in any thread.
    It raises RetakeError, or CutOff behind the last good frame. `values()`, where a data set measured something with
    each frame: (frames, n) float32.
    """

    name: str
    source: Member
    frames: Callable[[], Iterator[tuple[int, Callable[[], np.ndarray]]]]
    values: Callable[[], np.ndarray] | None = None


def place(path: Path) -> Path:
    """Return where the archive `path` is: there; or, for the parts of a zip, joined; or as an unpacked folder.

    The folder (or a link to one) has the archive's name without suffix. Where there is none of these, `path`.
    """
    joined = path.with_name(re.sub(r"\.[0-9]{3}$", "", path.name))
    folder = path.with_name(re.sub(r"\.(zip|tar)$", "", joined.name))
    for candidate in (path, joined):
        if candidate.exists():
            return candidate
    return folder if folder.is_dir() else path


def names(path: Path) -> list[str]:
    """Return the names of all members of an archive, or of all that is below a folder; folders end in "/".

    Raises RetakeError as `open_zip`.
    """
    if not path.is_dir():
        return _cached(path).namelist()
    found = []
    for folder, folders, files in os.walk(path):
        below = os.path.relpath(folder, path).replace(os.sep, "/")
        root = "" if below == "." else f"{below}/"
        found += [f"{root}{name}/" for name in folders] + [f"{root}{name}" for name in files]
    return sorted(found)


def open_zip(path: str | Path) -> zipfile.ZipFile:
    """Return the zip at `path`, opened for reading, every member's entry checked.

    Raises RetakeError that names the archive and the member: not a zip, truncated, absolute or parent paths, drive
    letters, links, devices, encrypted members, duplicate names, overlapping members, unknown compression, a bomb by
    its declared size.
    """
    path = Path(path)
    try:
        return _open(path)
    except RetakeError as error:
        raise RetakeError(f"{error}. {_remedy(path)}") from None


def check(path: Path) -> None:
    """Read the whole zip, flat in memory: raise RetakeError as `open_zip`, and for a member that is damaged."""
    with _open(path) as archive:
        for info in archive.infolist():
            for _ in chunks(path, archive, info):
                pass


def read(member: Member, limit: int = LIMIT) -> bytes:
    """Return the bytes of one member, at most `limit`, checked against its CRC-32; opened archives are kept open.

    Raises RetakeError that names archive and member: missing, damaged, larger than `limit` or than it declares.
    """
    where = f"{member.archive}: {member.name!r}"
    if member.archive.is_dir():
        reason = bad_name(member.name)
        if reason:
            raise RetakeError(f"{where}: {reason}")
        path = member.archive / member.name
        if not path.is_file():
            raise RetakeError(f"{where}: no such file in the folder")
        if path.stat().st_size > limit:
            raise RetakeError(f"{where} is {path.stat().st_size} bytes, more than the {limit} that a member may have")
        return path.read_bytes()
    archive = _cached(member.archive)
    try:
        info = archive.getinfo(member.name)
    except KeyError:
        raise RetakeError(f"{where}: no such member. {_remedy(member.archive)}") from None
    if info.file_size > limit:
        raise RetakeError(f"{where} declares {info.file_size} bytes, more than the {limit} that a member may have")
    try:
        return b"".join(chunks(member.archive, archive, info))
    except RetakeError as error:
        raise RetakeError(f"{error}. {_remedy(member.archive)}") from None


def chunks(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield a member's bytes, of the archive opened at `path`; raise RetakeError when it is damaged or unpacks to another size than it declares."""
    where = f"{path}: {info.orig_filename!r}"
    # zipfile cuts a member at its declared size without a word: give it room, so that more is seen to be more.
    room = copy.copy(info)
    room.file_size = info.file_size + 2 * CHUNK
    size = 0
    try:
        with archive.open(room) as file:
            while size <= info.file_size and (data := file.read(CHUNK)):
                size += len(data)
                yield data
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise RetakeError(f"{where} is damaged: {error}") from None
    if size != info.file_size:
        found = f"more than the {info.file_size}" if size > info.file_size else f"{size} of the {info.file_size}"
        raise RetakeError(f"{where} unpacks to {found} bytes that it declares")


def _cached(path: Path) -> zipfile.ZipFile:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise _absent(path) from None
    return _opened(path, status.st_size, status.st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=16)
def _opened(path: Path, size: int, mtime_ns: int, pid: int) -> zipfile.ZipFile:
    """`size` and `mtime_ns` notice another file under the same name; a forked process opens its own file offset."""
    return open_zip(path)


def _open(path: Path) -> zipfile.ZipFile:
    parts = _parts(path)
    try:
        archive = zipfile.ZipFile(io.BufferedReader(_Joined(parts)) if path.suffix == ".001" else path)
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise RetakeError(f"{path} is not a whole zip archive: {_why(path, error)}") from None
    except FileNotFoundError:
        raise _absent(path) from None
    try:
        _check(path, archive.infolist())
    except BaseException:
        archive.close()
        raise
    return archive


def _check(path: Path, members: list[zipfile.ZipInfo]) -> None:
    seen: dict[str, str] = {}
    total = 0
    for member in members:
        reason = bad_name(member.orig_filename) or _bad_member(member)
        key = member.filename
        if "\\" in key or "./" in key or "//" in key or key.endswith(("/", ".")):
            key = "/".join(p for p in re.split(r"[/\\]", key) if p not in ("", "."))
        if not reason and key in seen:
            reason = f"has the same name as {seen[key]!r}"
        if reason:
            raise RetakeError(f"{path}: refused, its member {member.orig_filename!r} {reason}")
        seen[key] = member.orig_filename
        total += member.file_size
    size = sum(part.stat().st_size for part in _parts(path))
    if total > max(RATIO * size, SMALL):
        raise RetakeError(
            f"{path}: refused, its {len(members)} members declare {total} bytes, over {RATIO} times "
            f"the archive's {size}"
        )
    end, last = 0, ""
    for member in sorted(members, key=lambda m: m.header_offset):
        if member.header_offset < end:
            raise RetakeError(f"{path}: refused, its member {member.orig_filename!r} shares bytes with {last!r}")
        end, last = member.header_offset + 30 + member.compress_size, member.orig_filename
        member.date_time = DATE
    if end > size:
        raise RetakeError(f"{path}: refused, its member {last!r} ends behind the archive's end")


def bad_name(name: str) -> str | None:
    """Return why a member may not be called `name`, or None. Backslashes separate too, as on Windows."""
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name:
        return "has no proper name"
    if parts[0] == "":
        return "has an absolute path"
    if re.match(r"[A-Za-z]:", name):
        return "has a path with a drive letter"
    if ".." in parts:
        return "has a path that leaves its folder"
    return None


def _bad_member(member: zipfile.ZipInfo) -> str | None:
    kind = stat.S_IFMT(member.external_attr >> 16)
    if kind == stat.S_IFLNK:
        return "is a link"
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        return "is a device, pipe or socket"
    if member.flag_bits & 0x1:
        return "is encrypted"
    if member.compress_type not in METHODS:
        return f"is compressed by method {member.compress_type}; only stored and deflated members are read"
    if member.file_size > max(RATIO * member.compress_size, SMALL):
        return f"declares {member.file_size} bytes, over {RATIO} times the {member.compress_size} that are stored"
    return None


def _why(path: Path, error: Exception) -> str:
    with path.open("rb") as file:
        start = file.read(64)
    if not start.startswith(ZIP_MAGIC):
        page = start.lstrip().lower().startswith(b"<")
        return "it is an HTML page" if page else f"it starts with {start[:4]!r}"
    return f"it is truncated or damaged ({error})"


def _parts(path: Path) -> list[Path]:
    """Return the files that are one archive: `path`; from `x.zip.001` on `x.zip.002` and so on, as far as they go."""
    if path.suffix != ".001":
        return [path]
    later = (path.with_suffix(f".{number:03d}") for number in itertools.count(2))
    return [path, *itertools.takewhile(Path.exists, later)]


class _Joined(io.RawIOBase):
    """Files one behind the other, read as if they were one."""

    def __init__(self, parts: list[Path]) -> None:
        self._files = [part.open("rb") for part in parts]
        self._starts = [0, *itertools.accumulate(part.stat().st_size for part in parts)]
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = offset + (0, self._at, self._starts[-1])[whence]
        return self._at

    def tell(self) -> int:
        return self._at

    def readinto(self, buffer: Any) -> int:
        part = bisect.bisect_right(self._starts, self._at) - 1
        if part >= len(self._files):
            return 0
        file = self._files[part]
        file.seek(self._at - self._starts[part])
        read = file.readinto(buffer)
        self._at += read
        return read

    def close(self) -> None:
        for file in self._files:
            file.close()
        super().close()


def _absent(path: Path) -> RetakeError:
    return RetakeError(f"no archive {path}: `python -m pipeline.download --list` says where it comes from")


def _remedy(path: Path) -> str:
    return f"Put the publisher's {path.name} there again (delete this one to have it downloaded), then run again"
