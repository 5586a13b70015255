"""Fetch one file by HTTP and verify it: what the download stage and `weights.py` are made of.

In: a row of workflow/sources.csv or workflow/weights.csv. Out: the file, complete and verified, or an error that gives
every address's own reason. A download goes into `<file>.part` (with `<file>.part.json`: where it began and the server's
ETag), goes on there after a break, in this run or a later one, and is renamed when length, SHA-256 and structure are right.

Of files whose checksum nobody publishes the first verified one is recorded in `SHA256SUMS` (`sha256sum -c` reads it);
`.verified.json` remembers what was hashed, by size, times and inode, so that 30 GB are not read again by every run.
"""

from __future__ import annotations

import contextlib
import csv
import email.utils
import errno
import fcntl
import hashlib
import json
import os
import random
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from pipeline.errors import RetakeError, log
from pipeline.store.atomic import write_text

ROUNDS = 5  # rounds over all addresses that bring nothing new, before giving up
BACKOFF = 1.0  # seconds before the second round, doubled each round
LONGEST = 120.0  # seconds: who asks to wait longer (Retry-After) is not waited for
TIMEOUT = (15.0, 60.0)  # seconds to connect, and without a byte
CHUNK = 1 << 16
RETRY = {408, 425, 429, 500, 502, 503, 504}

Check = Callable[[Path], None]


class Failed(RetakeError):
    """No address gave the file. `unreachable`: not one of them could even be connected to."""

    def __init__(self, text: str, unreachable: bool) -> None:
        super().__init__(text)
        self.unreachable = unreachable


class Stopped(Exception):
    """Another download of this run ended it; the part stays."""


class _Refused(Exception):
    """This address will not give the file, however often it is asked."""


class _Broken(Exception):
    """This address may give the file later; `after`: the seconds that it asks to wait."""

    def __init__(self, text: str, *, after: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(text)
        self.after, self.unreachable = after, unreachable


class Source(BaseModel):
    """One row of workflow/sources.csv or workflow/weights.csv. No url: people put the file there by hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", validation_alias=AliasChoices("name", "dataset"))
    file: str = Field(pattern=r"^[^/\\\s.][^/\\\n]*$")
    url: str = Field(pattern=r"^(https?://\S+)?$")
    mirror: tuple[str, ...] = ()
    bytes: int | None = Field(gt=0)
    sha256: str = Field(pattern=r"^([0-9a-f]{64})?$")
    licence: str = Field(min_length=1)
    login: str = ""
    note: str = ""
    use: str = ""

    @field_validator("mirror", mode="before")
    @classmethod
    def _split(cls, text: Any) -> Any:
        return text.split() if isinstance(text, str) else text

    @field_validator("mirror")
    @classmethod
    def _addresses(cls, mirrors: tuple[str, ...]) -> tuple[str, ...]:
        for mirror in mirrors:
            if not re.match(r"https?://", mirror):
                raise ValueError(f"{mirror!r} is not an address")
        return mirrors

    @field_validator("bytes", mode="before")
    @classmethod
    def _unknown(cls, text: Any) -> Any:
        return text or None

    @model_validator(mode="after")
    def _obtainable(self) -> Source:
        if not self.url and not self.login:
            raise ValueError("needs a url, or in `login` the page where people get the file")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, the mirrors last."""
        return ((self.url,) if self.url else ()) + self.mirror

    @property
    def size(self) -> str:
        """The published length for people to read."""
        return human(self.bytes) if self.bytes else "size not published"


@dataclass(frozen=True)
class Fact:
    """What a verified file (or folder) is: its name, its bytes, its SHA-256."""

    file: str
    bytes: int
    sha256: str


def human(size: float) -> str:
    """Return a number of bytes for people to read: "1.6 GB"."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 1000:
            break
        size, unit = size / 1000, "TB"
    return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"


def sources(path: Path, *, key: str = "dataset", extra: tuple[str, ...] = ()) -> list[Source]:
    """Return the rows of a csv file whose columns are `key`, those of `Source`, and `extra`.

    Raises RetakeError that names the line: wrong columns, a wrong value, a file listed twice.
    """
    columns = [key, "file", "url", "mirror", "bytes", "sha256", "licence", "login", "note", *extra]
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise RetakeError(f"no {path} in {Path.cwd()}: run from the project's folder") from None
    lines = csv.reader(text.splitlines())
    if next(lines, None) != columns:
        raise RetakeError(f"{path}:1: the columns must be {','.join(columns)}")
    rows: list[Source] = []
    seen: dict[tuple[str, str], int] = {}
    for values in lines:
        where = f"{path}:{lines.line_num}"
        if len(values) != len(columns):
            raise RetakeError(
                f"{where}: {len(values)} values, the header has {len(columns)} (quote a value with commas)"
            )
        try:
            row = Source.model_validate(dict(zip(columns, values, strict=True)))
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, e['loc'])) or 'row'}: {e['msg']} (is {e['input']!r})" for e in error.errors()]
            raise RetakeError(f"{where}: {'; '.join(wrong)}") from None
        unique = (row.name if key == "dataset" else "", row.file)
        if unique in seen:
            raise RetakeError(f"{where}: {row.file} stands in line {seen[unique]} too")
        seen[unique] = lines.line_num
        rows.append(row)
    return rows


def fetch(
    source: Source,
    path: Path,
    *,
    check: Check | None = None,
    patient: bool = True,
    moved: Callable[[int], None] = lambda _: None,
    stop: threading.Event | None = None,
) -> str | None:
    """Download one file to `path` and return its SHA-256, or None when another process has just done so.

    `check` raises RetakeError for a file of wrong structure. `patient` False gives up at once where nothing can be
    connected to. `moved` hears the bytes that are there. Raises Failed, with every address's reason.
    """
    stop = stop or threading.Event()
    with lock(path, stop):
        if path.exists():
            return None
        part = path.with_name(path.name + ".part")
        best, idle = _length(part), 0
        urls, reasons, unreachable = list(source.urls), {}, set()
        while urls and idle < ROUNDS:
            pause = 0.0
            for url in list(urls):
                try:
                    whole = _get(source, url, part, moved, stop, patient)
                    digest = _accept(source, part, check, whole)
                except _Refused as error:
                    reasons[url] = str(error)
                    urls.remove(url)
                except _Broken as error:
                    reasons[url] = str(error)
                    pause = max(pause, error.after)
                    unreachable.add(url) if error.unreachable else unreachable.discard(url)
                    if error.unreachable and not patient:
                        urls.remove(url)
                else:
                    os.replace(part, path)
                    _state(part).unlink(missing_ok=True)
                    return digest
            # A server that drops and resumes may do so for ever; one that brings nothing new may not.
            idle = 0 if _length(part) > best else idle + 1
            best = max(best, _length(part))
            if urls and idle < ROUNDS:
                _sleep(max(pause, BACKOFF * 2 ** max(idle - 1, 0) * random.uniform(0.8, 1.2)), stop)
        tried = "\n".join(f"    {url}: {reason}" for url, reason in reasons.items())
        raise Failed(f"{source.file} ({source.size}) cannot be downloaded:\n{tried}", unreachable == set(source.urls))


def _get(
    source: Source, url: str, part: Path, moved: Callable[[int], None], stop: threading.Event, patient: bool
) -> bool:
    """Bring `part` to its full length from `url`; return whether all of it came in this one answer."""
    have, began = _length(part), _began(part)
    trusted = source.sha256 or began.get("url") == url  # else two servers' halves could be joined unnoticed
    if have and (not trusted or (source.bytes and have > source.bytes)):
        part.unlink()
        have = 0
    if have and have == source.bytes:
        return False
    headers = {"Accept-Encoding": "identity", "User-Agent": "retake"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if began.get("url") == url and began.get("validator"):
            headers["If-Range"] = began["validator"]
    try:
        timeout = TIMEOUT if patient else (min(TIMEOUT[0], 5.0), TIMEOUT[1])
        with requests.get(url, headers=headers, stream=True, timeout=timeout) as answer:
            start, total = _understand(source, answer, part, have)
            if start is None:
                return False
            moved(start)
            if start == 0:
                _state(part).unlink(missing_ok=True)
            _receive(source, answer, part, start, total, moved, stop)
    except requests.ConnectionError as error:
        raise _Broken(_words(error), unreachable=not isinstance(error, requests.ReadTimeout)) from None
    except requests.Timeout as error:
        raise _Broken(_words(error), unreachable=isinstance(error, requests.ConnectTimeout)) from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise _Broken(f"the connection broke after {_length(part)} bytes") from None
    except requests.RequestException as error:
        raise _Refused(str(error)) from None
    return start == 0


def _understand(source: Source, answer: requests.Response, part: Path, have: int) -> tuple[int | None, int | None]:
    """Return where the body starts (None: the part is whole) and the file's full length if told. Raises for the rest."""
    status, fields = answer.status_code, answer.headers
    if status == 416:
        total = re.fullmatch(r"bytes \*/(\d+)", fields.get("Content-Range", ""))
        if total and int(total[1]) == have and source.bytes in (None, have):
            return None, have
        part.unlink(missing_ok=True)
        raise _Broken(f"refuses to go on after {have} bytes (416); starting anew")
    if status in RETRY:
        after = _retry_after(fields.get("Retry-After", ""))
        if after > LONGEST:
            raise _Refused(f"answers {status} {answer.reason} and asks to wait {after:.0f} s: run again then")
        raise _Broken(f"answers {status} {answer.reason}", after=after)
    if status not in (200, 206):
        raise _Refused(f"answers {status} {answer.reason}")
    if fields.get("Content-Encoding", "identity") != "identity":
        raise _Refused(f"sends it as {fields['Content-Encoding']}, which was not asked for")
    if fields.get("Content-Type", "").startswith("text/html") and not source.file.endswith((".html", ".htm")):
        raise _Refused("answers with an HTML page (a login, a quota or a notice), not with the file")
    start, length = 0, fields.get("Content-Length", "")
    total_bytes = int(length) if length.isdigit() else None
    if status == 206:
        span = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", fields.get("Content-Range", ""))
        validator = _began(part).get("validator")
        if not span or int(span[1]) != have or (validator and validator != _validator(answer)):
            part.unlink(missing_ok=True)
            raise _Broken("answers with another range, or of another version, than it began; starting anew")
        start, total_bytes = have, None if span[2] == "*" else int(span[2])
    if source.bytes and total_bytes is not None and total_bytes != source.bytes:
        if start:
            part.unlink(missing_ok=True)
        raise _Refused(f"holds {total_bytes} bytes, {source.bytes} are published")
    return start, total_bytes


def _receive(
    source: Source,
    answer: requests.Response,
    part: Path,
    start: int,
    total: int | None,
    moved: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Write the body to `part` from byte `start`. The part is there before its state: without one it is not trusted."""
    at = start
    with part.open("r+b" if start else "wb") as file:
        file.seek(start)
        if start == 0:
            write_text(_state(part), json.dumps({"url": answer.request.url, "validator": _validator(answer)}))
        for chunk in answer.iter_content(CHUNK):
            if at == 0 and re.match(rb"\s*<(!doctype|html)", chunk[:64].lower()):
                raise _Refused("answers with an HTML page (a login, a quota or a notice), not with the file")
            at += len(chunk)
            if source.bytes and at > source.bytes:
                raise _Refused(f"sends more than the {source.bytes} bytes that are published")
            file.write(chunk)
            moved(at)
            if stop.is_set():
                raise Stopped
        file.flush()
        os.fsync(file.fileno())
    if total is not None and at < total:
        raise _Broken(f"the connection broke after {at} of {total} bytes")


def _accept(source: Source, part: Path, check: Check | None, whole: bool) -> str:
    """Return the part's SHA-256 when it is right; delete it when it is not."""
    try:
        return verify(part, source, check)
    except RetakeError as error:
        part.unlink(missing_ok=True)
        log.warning("%s was wrong and is deleted: %s", part, error)
        if whole:
            raise _Refused(f"gives a wrong file: {error}") from None
        raise _Broken(f"what was put together from several answers was wrong ({error}); starting anew") from None


def verify(path: Path, source: Source, check: Check | None = None) -> str:
    """Return the SHA-256 of `path` (of a folder: of its files' sums). Raises RetakeError when it is not what is published."""
    size = _size(path)
    if source.bytes and size != source.bytes:
        what = "truncated, or another file" if size < source.bytes else "another file"
        raise RetakeError(f"{path} has {size} bytes, {source.bytes} are published: it is {what}")
    digest = _sha256(path)
    if source.sha256 and digest != source.sha256:
        raise RetakeError(f"{path} has SHA-256 {digest}, {source.sha256} is published: it is corrupt, or another file")
    if check and path.is_file():
        check(path)
    return digest


def known(
    root: Path,
    path: Path,
    source: Source,
    *,
    check: Check | None = None,
    digest: str | None = None,
    fresh: bool = False,
    record: bool = True,
) -> Fact:
    """Return what the file at `path`, below `root`, is; hash it only when it changed since the last time.

    `digest`: its SHA-256 if just verified. `fresh`: hash it anyway. `record`: write down the first checksum of a file
    that none is published for. Raises RetakeError when it is wrong or not the one recorded; never touches the file.
    """
    name = path.relative_to(root).as_posix()
    stamp = _stamp(path)
    entry = {} if fresh else _remembered(root).get(name, {})
    if digest is None and entry.get("stamp") == stamp and source.bytes in (None, entry["bytes"]):
        digest = entry["sha256"] if source.sha256 in ("", entry["sha256"]) else None
    if digest is None:
        digest = verify(path, source, check)
    fact = Fact(path.name, _size(path), digest)
    if not source.sha256 and path.is_file():
        _hold_to_sums(root, name, digest, record)
    if entry.get("stamp") != stamp or entry.get("sha256") != digest:
        _remember(root, name, {"stamp": stamp, "bytes": fact.bytes, "sha256": digest})
    return fact


def _hold_to_sums(root: Path, name: str, digest: str, record: bool) -> None:
    sums = root / "SHA256SUMS"
    recorded = _sums(sums).get(name)
    if recorded is None and record:
        with lock(sums):
            lines = _sums(sums) | {name: digest}
            write_text(sums, "".join(f"{lines[k]}  {k}\n" for k in sorted(lines)))
    elif recorded is not None and recorded != digest:
        raise RetakeError(
            f"{root / name} has changed: its SHA-256 was {recorded} when it was first verified ({sums}) and is {digest} "
            f"now. Put the first one back; or, if the publisher has a new version, delete its line in {sums}"
        )


def _sums(path: Path) -> dict[str, str]:
    lines: dict[str, str] = {}
    for number, line in enumerate(path.read_text().splitlines() if path.exists() else [], 1):
        match = re.fullmatch(r"([0-9a-f]{64}) [ *](.+)", line)
        if not match:
            raise RetakeError(f"{path}:{number}: not a line of sha256sum: {line!r}. Delete the line")
        lines[match[2]] = match[1]
    return lines


def _remembered(root: Path) -> dict[str, Any]:
    try:
        return json.loads((root / ".verified.json").read_text())
    except (FileNotFoundError, ValueError):  # without it files are hashed again, nothing else
        return {}


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
    at = path.with_name(f".{path.name}.lock")
    at.parent.mkdir(parents=True, exist_ok=True)
    waited = False
    while not (release := _acquire(at)):
        if not waited:
            log.info("waiting for another process that works on %s", path)
        waited = True
        _sleep(0.1, stop or threading.Event())
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
            if host == socket.gethostname() and pid.isdigit() and not Path(f"/proc/{pid}").exists():
                at.unlink(missing_ok=True)
        return None
    with os.fdopen(file, "w") as out:
        out.write(f"{socket.gethostname()} {os.getpid()}")
    return lambda: at.unlink(missing_ok=True)


def _sha256(path: Path) -> str:
    if path.is_dir():
        lines = [f"{_sha256(file)}  {file.relative_to(path).as_posix()}\n" for file in _files(path)]
        return hashlib.sha256("".join(lines).encode()).hexdigest()
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in _files(path)) if path.is_dir() else path.stat().st_size


def _stamp(path: Path) -> str:
    """Return what changes when the content does: the change time cannot be set back as the modification time can."""
    text = ""
    for file in _files(path) if path.is_dir() else [path]:
        s = file.stat()
        text += f"{file} {s.st_size} {s.st_mtime_ns} {s.st_ctime_ns} {s.st_ino}\n"
    return hashlib.sha256(text.encode()).hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _began(part: Path) -> dict[str, Any]:
    try:
        return json.loads(_state(part).read_text())
    except (FileNotFoundError, ValueError):  # then the part is trusted only as far as a published SHA-256 goes
        return {}


def _validator(answer: requests.Response) -> str | None:
    tag = answer.headers.get("ETag", "")
    return tag if tag.startswith('"') else answer.headers.get("Last-Modified")


def _retry_after(value: str) -> float:
    if value.isdigit():
        return float(value)
    with contextlib.suppress(ValueError, TypeError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return 0.0


def _words(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"cannot be connected to within {TIMEOUT[0]:.0f} s"
    if isinstance(error, requests.ReadTimeout):
        return f"nothing arrived for {TIMEOUT[1]:.0f} s"
    reason = getattr(error.args[0], "reason", error.args[0]) if error.args else error
    return str(reason).split("): ", 1)[-1]


def _sleep(seconds: float, stop: threading.Event) -> None:
    if stop.wait(seconds):
        raise Stopped
