"""What an archive holds: clips, and the members that are their frames; hostile archives are refused before any is read.

    open_zip("data/raw/kitti/2011_09_26_drive_0060_sync.zip").namelist()
    read(Member(archive, "2011_09_26/…/0000000000.png"))        # bytes, checked against the member's CRC-32

Members are only ever read into memory, never unpacked; a zip inside a zip is a file like any other.
"""

from __future__ import annotations

import copy
import functools
import os
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import RetakeError

CHUNK = 1 << 20
LIMIT = 256 << 20  # bytes of one member: no frame, list or clip of a data set is as large
RATIO = 100  # declared size over stored size; images and videos are near 1, text below 20
SMALL = 16 << 20  # bytes: what may be packed tighter than that, harmless at this size
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile reads bzip2 and LZMA without a bound on memory
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


@dataclass(frozen=True)
class Member:
    """One file inside an archive (zip), or in a folder when `archive` is one."""

    archive: Path
    name: str


@dataclass(frozen=True)
class Clip:
    """One clip: its name and its frames, (frame number, member) in order."""

    name: str
    frames: list[tuple[int, Member]]


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
            for _ in _chunks(path, archive, info):
                pass


def read(member: Member, limit: int = LIMIT) -> bytes:
    """Return the bytes of one member, at most `limit`, checked against its CRC-32; opened archives are kept open.

    Raises RetakeError that names archive and member: missing, damaged, larger than `limit` or than it declares.
    """
    where = f"{member.archive}: {member.name!r}"
    if member.archive.is_dir():
        reason = _bad_name(member.name)
        if reason:
            raise RetakeError(f"{where}: {reason}")
        path = member.archive / member.name
        if not path.is_file():
            raise RetakeError(f"{where}: no such file in the folder")
        if path.stat().st_size > limit:
            raise RetakeError(f"{where} is {path.stat().st_size} bytes, more than the {limit} that a member may have")
        return path.read_bytes()
    try:
        status = member.archive.stat()
    except FileNotFoundError:
        raise _absent(member.archive) from None
    archive = _opened(member.archive, status.st_size, status.st_mtime_ns, os.getpid())
    try:
        info = archive.getinfo(member.name)
    except KeyError:
        raise RetakeError(f"{where}: no such member. {_remedy(member.archive)}") from None
    if info.file_size > limit:
        raise RetakeError(f"{where} declares {info.file_size} bytes, more than the {limit} that a member may have")
    try:
        return b"".join(_chunks(member.archive, archive, info))
    except RetakeError as error:
        raise RetakeError(f"{error}. {_remedy(member.archive)}") from None


def _chunks(path: Path, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Iterator[bytes]:
    """Yield a member's bytes; raise RetakeError when it is damaged or unpacks to another size than it declares."""
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


@functools.lru_cache(maxsize=16)
def _opened(path: Path, size: int, mtime_ns: int, pid: int) -> zipfile.ZipFile:
    """`size` and `mtime_ns` notice another file under the same name; a forked process opens its own file offset."""
    return open_zip(path)


def _open(path: Path) -> zipfile.ZipFile:
    try:
        archive = zipfile.ZipFile(path)
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
        reason = _bad_name(member.orig_filename) or _bad_member(member)
        key = "/".join(p for p in re.split(r"[/\\]", member.filename) if p not in ("", "."))
        if not reason and key in seen:
            reason = f"has the same name as {seen[key]!r}"
        if reason:
            raise RetakeError(f"{path}: refused, its member {member.orig_filename!r} {reason}")
        seen[key] = member.orig_filename
        total += member.file_size
    size = path.stat().st_size
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
    if end > size:
        raise RetakeError(f"{path}: refused, its member {last!r} ends behind the archive's end")


def _bad_name(name: str) -> str | None:
    """Return why a member may not be called `name`, or None. Backslashes separate too, as on Windows."""
    parts = re.split(r"[/\\]", name)
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


def _absent(path: Path) -> RetakeError:
    return RetakeError(f"no archive {path}: `python -m pipeline.download --list` says where it comes from")


def _remedy(path: Path) -> str:
    return f"Put the publisher's {path.name} there again (delete this one to have it downloaded), then run again"
