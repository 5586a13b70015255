"""Atomic writing: a file is complete or absent, whatever happens to the process that writes it.

Nor does a stage that is no longer wanted write: its engine was killed, params changed, a later run of the same stage has begun.
`claim` says so by a file that names the latest process; who finds another one there before a rename ends without it. That
needs no locks, which network disks mostly do not keep, and holds between machines.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import re
import socket
import uuid
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import RetakeError

CLAIMS = Path("data/.claims")
LONGEST = 200  # bytes of a name that has room for more behind it; file systems take 255
_claimed: tuple[Path, str, Path] | None = None  # the claim's file, what this process wrote there, the output


@contextlib.contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`; it is synced and renamed to `path` when the block ends well.

    On an error the temporary file is removed and `path` is as it was. What a killed writer left is removed by the next on the
    same machine; on another one nobody knows whether its writer still lives. The temporary name keeps the suffix, so that
    writers which look at it (OpenCV, PyAV) work. Raises RetakeError when a later run has begun the stage of this process.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    name = (
        path.name if len(os.fsencode(path.name)) <= LONGEST else hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    )
    for left in path.parent.glob(f".{_escape(name)}.*.tmp*"):
        pid = re.search(rf"\.{_machine()}-(\d+)-[0-9a-f]+\.tmp", left.name)
        if pid and not alive(int(pid[1])):
            left.unlink(missing_ok=True)
    own = f"{_machine()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    temporary = path.with_name(f".{name}.{own}.tmp{path.suffix}")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        keep_claim()
        temporary.replace(path)
    except OSError as error:  # writes that fail name no file: a full disk must be known by one
        if error.errno is None and "No space left" in str(error):  # pyarrow's
            raise OSError(errno.ENOSPC, str(error), str(path)) from None
        named = str(error.filename or temporary).removeprefix("file:")  # PyAV's own
        if error.errno is not None and named == str(temporary):
            raise OSError(error.errno, error.strerror, str(path)) from None
        raise
    finally:
        temporary.unlink(missing_ok=True)


def write_bytes(path: str | Path, data: bytes) -> None:
    """Write `data` to `path` atomically."""
    with atomic(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` atomically, UTF-8."""
    write_bytes(path, text.encode())


def claim(output: Path, work: str = "") -> None:
    """Say that this process makes a stage's first output; an earlier one that still runs then writes nothing any more.

    `work`: processes that give the same words do the same, may run together, and both end well.
    """
    global _claimed
    _claimed = None
    name = str(output.with_suffix(".claim")).replace("/", "~")
    file, token = (CLAIMS / name).absolute(), work or uuid.uuid4().hex
    with contextlib.suppress(OSError):  # a read-only tree: there is nothing to write over
        write_text(file, token)
        _claimed = file, token, output


def keep_claim() -> None:
    """Raise RetakeError when a later process has claimed what this one makes."""
    if _claimed is None:
        return
    file, token, output = _claimed
    try:
        latest = file.read_text()
    except FileNotFoundError:  # somebody has cleared the folder
        return
    if latest != token:
        raise RetakeError(
            f"a later run has begun to make {output}: this one ends without writing anything (was its engine killed?)"
        )


@functools.cache
def _machine() -> str:
    """Return what tells apart the process ids of this machine, since it started, in this container, from all others."""
    try:
        parts = Path("/proc/sys/kernel/random/boot_id").read_text(), str(Path("/proc/self/ns/pid").readlink())
    except OSError:  # no Linux
        parts = socket.gethostname(), str(uuid.getnode())
    return hashlib.sha256(repr(parts).encode()).hexdigest()[:8]


def _escape(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def alive(pid: int) -> bool:
    """Say whether a process of this machine has this id."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
