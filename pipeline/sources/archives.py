"""What an archive holds: clips, and the members that are their frames; hostile archives are refused before any is read.

    names(Path("data/raw/kitti/2011_09_26_drive_0060_sync.zip"))
    read(Member(archive, "2011_09_26/…/0000000000.png"))        # bytes, checked against the member's CRC-32

Members are only ever read into memory, never unpacked; a zip inside a zip is a file like any other. A zip in parts
(`.zip.001`, `.zip.002`, …) is read as it lies; its first part's path stands for all. A folder that holds what an
archive unpacks to may stand in for it (`place`).
"""

from __future__ import annotations

import array
import bisect
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
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from pipeline.errors import RetakeError
from pipeline.sources.limits import MEMBER, MEMBERS, RATIO, SMALL, check_file, hidden, instead

CHUNK = 1 << 20
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # zipfile reads bzip2 and LZMA without a bound on memory
ZIP_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")


class CutOff(RetakeError):
    """A video ends before its end, or is damaged from some frame on: raised behind its last good frame."""


class Damaged(CutOff):
    """A frame of a video is damaged, and there are more behind it: raised behind the last good frame before."""

    def __init__(self, reason: str, name: str) -> None:
        stem = Path(name).stem
        super().__init__(
            f"{reason}. Let FFmpeg conceal what is damaged first: ffmpeg -i {Path(name).name} -crf 0 -c:a copy {stem}_mended.mkv"
        )


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

    Links in a folder are followed; what is hidden there, or a desktop's, is left out. Raises RetakeError as `Zip`, and for a
    folder that a link makes a part of itself.
    """
    if not path.is_dir():
        return list(_cached(path).members)
    known = []
    for folder, folders, files in os.walk(path, followlinks=True):
        below = os.path.relpath(folder, path).replace(os.sep, "/")
        root = "" if below == "." else f"{below}/"
        folders[:], files = ([name for name in entries if not hidden(PurePath(name))] for entries in (folders, files))
        for name in folders:
            inner = Path(folder, name)
            if inner.is_symlink() and inner.resolve() in {p.resolve() for p in inner.parents}:
                raise RetakeError(f"{inner} is a link to a folder that it lies in: remove the link")
        known += [f"{root}{name}/" for name in folders] + [f"{root}{name}" for name in files]
    return sorted(known)


def below(folder: Path) -> list[Path]:
    """Return what is below a folder at any depth, by name, as `names`."""
    return sorted(folder / name for name in names(folder))


class Zip(zipfile.ZipFile):
    """An opened zip, every member's entry checked; in 200 bytes a member, for data sets have millions of them.

    `members`: name -> place in the archive's directory; a name that is not written plainly ("./a", "a\\b") is given as the
    path that it means, folders end in "/". Raises RetakeError that names the archive and the member: not a
    zip, truncated, absolute or parent paths, drive letters, links, devices, encrypted members, duplicate names,
    overlapping members, unknown compression, a bomb by its declared size.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        parts = _parts(path)
        try:
            self._length = sum(map(check_file, parts))
            super().__init__(io.BufferedReader(_Joined(parts)) if path.suffix == ".001" else path)
        except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
            raise RetakeError(f"{path} is not a whole zip archive: {_why(path, error)}") from None
        except FileNotFoundError:
            raise _absent(path) from None
        try:
            self._check()
        except BaseException:
            self.close()
            raise

    def _RealGetContents(self) -> None:
        """Let zipfile read the directory, and keep of each ZipInfo (600 bytes) what reading its member needs."""
        self.members: dict[str, int] = {}
        self._offsets, self._stored, self._sizes = (array.array("Q") for _ in range(3))
        self._sums, self._kinds = array.array("I"), array.array("H")
        self._odd: dict[str, str] = {}  # name -> how the archive writes it, where it does not write it plainly
        self.filelist, self.NameToInfo = _Sink(self._add), {}  # type: ignore[assignment]
        super()._RealGetContents()  # type: ignore[misc]

    def _add(self, info: zipfile.ZipInfo) -> None:
        written = info.orig_filename
        name = _plain(written)
        reason = bad_name(written) or _bad_member(info)
        if not 0 <= info.header_offset <= self._length - 30 - info.compress_size:
            reason = reason or "does not lie inside the archive"
        same = next((n for n in (name, name.rstrip("/"), f"{name}/") if n in self.members), None)
        if not reason and same is not None:
            reason = f"has the same name as {self._odd.get(same, same)!r}"
        if not reason and len(self.members) >= MEMBERS:
            reason = f"is one more than the {MEMBERS} that an archive may have"
        if reason:
            raise RetakeError(f"{self.path}: refused, its member {written!r} {reason}")
        if name != written:
            self._odd[name] = written
        self.members[name] = len(self.members)
        self._offsets.append(info.header_offset)
        self._stored.append(info.compress_size)
        self._sizes.append(info.file_size)
        self._sums.append(info.CRC)
        self._kinds.append(info.compress_type)
        self.NameToInfo.clear()

    def _check(self) -> None:
        """Look at all members together."""
        offsets, stored, sizes = (
            np.frombuffer(a, np.uint64).astype(np.int64) for a in (self._offsets, self._stored, self._sizes)
        )
        total = int(sizes.sum())
        if total > max(RATIO * self._length, SMALL):
            raise RetakeError(
                f"{self.path}: refused, its {len(sizes)} members declare {total} bytes, over {RATIO} times "
                f"the archive's {self._length}"
            )
        order = np.argsort(offsets, kind="stable")
        ends = (offsets + 30 + stored)[order]
        for place in np.flatnonzero(offsets[order][1:] < ends[:-1])[:1]:
            one, other = (self._name(int(order[i])) for i in (place + 1, place))
            raise RetakeError(f"{self.path}: refused, its member {one!r} shares bytes with {other!r}")

    def _name(self, place: int) -> str:
        return next(itertools.islice(self.members, place, None))

    def size(self, name: str) -> int:
        """Return how many bytes a member declares to unpack to. Raises KeyError for one that is not there."""
        return self._sizes[self.members[name]]

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a member's bytes; raise RetakeError when it is damaged or unpacks to another size than it declares."""
        where, place = f"{self.path}: {name!r}", self.members[name]
        info = zipfile.ZipInfo(name)
        info.orig_filename = self._odd.get(name, name)
        info.header_offset, info.compress_size, info.CRC = (a[place] for a in (self._offsets, self._stored, self._sums))
        info.compress_type, declared = self._kinds[place], self._sizes[place]
        # zipfile cuts a member at its declared size without a word: give it room, so that more is seen to be more.
        info.file_size = declared + 2 * CHUNK
        size = 0
        try:
            with self.open(info) as file:
                while size <= declared and (data := file.read(CHUNK)):
                    size += len(data)
                    yield data
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
            raise RetakeError(f"{where} is damaged: {error}") from None
        if size != declared:
            unpacked = f"more than the {declared}" if size > declared else f"{size} of the {declared}"
            raise RetakeError(f"{where} unpacks to {unpacked} bytes that it declares")


class _Sink:
    """What zipfile takes for its list of members."""

    def __init__(self, append: Callable[[zipfile.ZipInfo], None]) -> None:
        self.append = append

    def __iter__(self) -> Iterator[zipfile.ZipInfo]:
        return iter(())  # newer versions of zipfile look for overlaps here, as `Zip` does itself


def check(path: Path) -> None:
    """Read the whole zip, flat in memory: raise RetakeError as `Zip`, and for a member that is damaged."""
    with Zip(path) as archive:
        for name in archive.members:
            for _ in archive.chunks(name):
                pass


def read(member: Member, limit: int = MEMBER) -> bytes:
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
    if member.name not in archive.members:
        raise RetakeError(f"{where}: no such member. {_remedy(member.archive)}")
    if (size := archive.size(member.name)) > limit:
        raise RetakeError(f"{where} declares {size} bytes, more than the {limit} that a member may have")
    try:
        return b"".join(archive.chunks(member.name))
    except RetakeError as error:
        raise RetakeError(f"{error}. {_remedy(member.archive)}") from None


def _cached(path: Path) -> Zip:
    try:
        status = path.stat()
    except FileNotFoundError:
        raise _absent(path) from None
    return _opened(path, status.st_size, status.st_mtime_ns, os.getpid())


@functools.lru_cache(maxsize=16)
def _opened(path: Path, size: int, mtime_ns: int, pid: int) -> Zip:
    """`size` and `mtime_ns` notice another file under the same name; a forked process opens its own file offset."""
    try:
        return Zip(path)
    except RetakeError as error:
        raise RetakeError(f"{error}. {_remedy(path)}") from None


def _plain(name: str) -> str:
    """Return the path that a member's name means, with "/" at the end of a folder's; "./" for the folder of all."""
    if "\\" in name or "./" in name or "//" in name or name.endswith("."):
        path = "/".join(p for p in re.split(r"[/\\]", name) if p not in ("", "."))
        return f"{path}/" if path and name.endswith(("/", "\\", "/.")) else path or "./"
    return name


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
    if member.flag_bits & 0x41:
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
        return instead(start) or ("it is empty" if not start else f"it starts with {start[:4]!r}")
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
    return f"Put the publisher's {path.name} there again (or move this one away to have it downloaded), then run again"
