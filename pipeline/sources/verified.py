"""Verified files: downloads and archives put there by hand are held to the same rules, and never written to.

Length and SHA-256 where they are published, and the archive's own structure. Of files whose checksum nobody publishes
the first verified one is recorded in `SHA256SUMS` (`sha256sum -c` reads it) and a later change is an error.
`.verified.json` remembers what was hashed, by size, times and inode, so that 30 GB are not read again by every run.
`lock` keeps two processes from working on one file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import re
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.atomic import alive, write_text
from pipeline.errors import RetakeError, log
from pipeline.sources import archives, limits

RAW = Path("data/raw")
Check = Callable[[Path], None]  # raises RetakeError for a file whose structure is wrong


class Stopped(Exception):
    """The run ended while something was waited for or downloaded; what is half done stays."""


@dataclass(frozen=True)
class Fact:
    """What a verified file is: its name, its bytes, its SHA-256."""

    file: str
    bytes: int
    sha256: str


def verify(path: Path, size: int | None, sha256: str, check: Check | None = None) -> str:
    """Return the SHA-256 of the file at `path`.

    `size` (bytes) and `sha256` are the published ones, None and "" where there are none. Raises RetakeError when it is
    another, or when `check` finds its structure wrong.
    """
    measured = limits.check_file(path)
    if not measured:
        raise RetakeError(f"{path} is empty, 0 bytes")
    if size and measured != size:
        what = "truncated, or another file" if measured < size else "another file"
        raise RetakeError(f"{path} has {measured} bytes, {size} are published: it is {what}")
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 and digest != sha256:
        raise RetakeError(f"{path} has SHA-256 {digest}, {sha256} is published: it is corrupt, or another file")
    if check:
        check(path)
    return digest


def known(
    root: Path,
    path: Path,
    size: int | None,
    sha256: str,
    check: Check | None = None,
    *,
    digest: str | None = None,
    fresh: bool = False,
    record: bool = True,
) -> Fact:
    """Return what the file at `path`, below `root`, is; it is read only when it changed since the last time.

    `size`, `sha256`, `check`: as `verify`. `digest`: its SHA-256, if it was verified just now. `fresh`: read it anyway.
    `record`: write down the first SHA-256 where none is published. Raises RetakeError when the file is wrong, or
    another than the one recorded.
    """
    name = path.relative_to(root).as_posix()
    stamp = _stamp(path)
    entry = _remembered(root).get(name, {})
    right = entry.get("stamp") == stamp and size in (None, entry["bytes"]) and sha256 in ("", entry["sha256"])
    if digest is None:
        digest = entry["sha256"] if right and not fresh else verify(path, size, sha256, check)
    fact = Fact(path.name, path.stat().st_size, digest)
    if not sha256:
        _hold_to_sums(root, name, digest, record)
    if entry.get("stamp") != stamp or entry.get("sha256") != digest:
        _remember(root, name, {"stamp": stamp, "bytes": fact.bytes, "sha256": digest})
    return fact


def changed(path: Path, size: int, sha256: str) -> bool:
    """Say whether an archive below data/raw is another than the one of so many bytes and this SHA-256; one that is gone is not.

    It is read where nothing but its inode or change time is another than when it was verified: a copy of the project.
    """
    if path.is_dir():
        fact = unpacked(path)
        return (fact.bytes, fact.sha256) != (size, sha256)
    if not path.exists():
        return False
    name, stamp = path.relative_to(RAW).as_posix(), _stamp(path)
    entry = _remembered(RAW).get(name, {})
    if entry.get("stamp") is None:
        return stamp[0] != size
    if stamp[:2] != entry["stamp"][:2]:
        return True
    if stamp != entry["stamp"] and verify(path, None, "") == entry.get("sha256"):
        _remember(RAW, name, entry := {**entry, "stamp": stamp})
    return stamp != entry["stamp"] or entry.get("sha256") != sha256


def unpacked(path: Path) -> Fact:
    """Return what the folder at `path` is: its name, its bytes, and the SHA-256 of its files' names and lengths.

    The files are not read: folders that stand in for an archive may hold hundreds of GB that nobody published sums of.
    """
    files = [(name, (path / name).stat().st_size) for name in archives.names(path) if (path / name).is_file()]
    text = "".join(f"{size}  {name}\n" for name, size in sorted(files))
    return Fact(path.name, sum(size for _, size in files), hashlib.sha256(text.encode()).hexdigest())


def _hold_to_sums(root: Path, name: str, digest: str, record: bool) -> None:
    sums = root / "SHA256SUMS"
    if name not in _sums(sums) and record:
        with lock(sums):
            lines = {name: digest} | _sums(sums)
            write_text(sums, "".join(f"{lines[k]}  {k}\n" for k in sorted(lines)))
    recorded = _sums(sums).get(name, digest)
    if recorded != digest:
        raise RetakeError(
            f"{root / name} has changed: its SHA-256 was {recorded} when it was first verified ({sums}), now it is "
            f"{digest}. Put the first one back; or, if the publisher has a new version, delete its line in {sums}"
        )


def _sums(path: Path) -> dict[str, str]:
    lines: dict[str, str] = {}
    for number, line in enumerate(limits.text(path).splitlines() if path.exists() else [], 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise RetakeError(f"{path}:{number}: not a line of sha256sum: {line!r}. Delete the line")
        lines[match[2]] = match[1]
    return lines


def _remembered(root: Path) -> dict[str, Any]:
    try:
        known = json.loads(limits.text(root / ".verified.json"))
    except (
        FileNotFoundError,
        ValueError,
        RecursionError,
        RetakeError,
    ):  # without it files are hashed again, nothing else
        return {}
    return {k: v for k, v in known.items() if isinstance(v, dict)} if isinstance(known, dict) else {}


def _remember(root: Path, name: str, entry: dict[str, Any]) -> None:
    path = root / ".verified.json"
    try:
        with lock(path):
            write_text(path, json.dumps(_remembered(root) | {name: entry}, indent=1, sort_keys=True))
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):  # a shared read-only folder: hash each time
            raise


@contextlib.contextmanager
def lock(path: Path, stop: threading.Event | None = None) -> Iterator[None]:
    """Hold the lock of `path`, `.<name>.lock` beside it; waits while another thread or process holds it."""
    lock_file = path.with_name(f".{path.name}.lock")
    lock_file.parent.mkdir(parents=True, exist_ok=True)
    waited = 0
    while not (release := _acquire(lock_file)):
        if waited == 20:
            log.info("waiting for another process that works on %s", path)
        waited += 1
        pause(0.1, stop)
    try:
        yield
    finally:
        release()


def _acquire(at: Path) -> Callable[[], None] | None:
    file = os.open(at, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.path.samestat(os.fstat(file), at.stat())
    except (BlockingIOError, FileNotFoundError):
        os.close(file)
        return None
    except OSError as error:
        os.close(file)
        if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP):
            raise
        return _acquire_by_name(at.with_suffix(".held"))
    if not same:  # its last holder has removed the name since: whoever comes next locks another file
        os.close(file)
        return None

    def release() -> None:
        at.unlink(missing_ok=True)
        os.close(file)

    return release


def _acquire_by_name(at: Path) -> Callable[[], None] | None:
    """For file systems without flock: the file's existence is the lock. One left by a dead process here is removed."""
    try:
        file = os.open(at, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    except FileExistsError:
        with contextlib.suppress(FileNotFoundError):
            host, _, pid = at.read_text().partition(" ")
            if host == socket.gethostname() and pid.isdigit() and not alive(int(pid)):
                at.unlink(missing_ok=True)
        return None
    with os.fdopen(file, "w") as out:
        out.write(f"{socket.gethostname()} {os.getpid()}")
    return lambda: at.unlink(missing_ok=True)


def _stamp(path: Path) -> list[int]:
    """Return what changes when the content does: a change time cannot be set back as a modification time can."""
    status = path.stat()
    return [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]


def pause(seconds: float, stop: threading.Event | None = None) -> None:
    """Wait; raises Stopped as soon as `stop` is set."""
    if (stop or threading.Event()).wait(seconds):
        raise Stopped
