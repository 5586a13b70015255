"""Fetch one file and verify it, by HTTP or as its host wants (`sources/hosts.py`): for the download stage and `weights.py`.

In: a row of workflow/sources.csv or workflow/weights.csv. Out: the file, complete and verified, or an error that gives
every address's own reason. A download goes into `<file>.part` (with `<file>.part.json`: where it began, and the
server's ETag), goes on there after a break, in this run or a later one, and is renamed when length, SHA-256 and
structure are right. A part that is not right is deleted.
"""

from __future__ import annotations

import contextlib
import csv
import email.utils
import http.client
import io
import json
import os
import queue
import random
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import requests
import urllib3
from pydantic import AliasChoices, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from urllib3.exceptions import ReadTimeoutError

from pipeline.atomic import write_text
from pipeline.errors import RetakeError, log
from pipeline.sources import hosts, limits
from pipeline.sources.verified import Check, Stopped, lock, pause, verify

SOURCES = Path("workflow/sources.csv")
RAW = Path("data/raw")  # the archives, in a folder for each kind of dataset
ROUNDS = 5  # rounds over all addresses that bring nothing new, before giving up
BACKOFF = 1.0  # seconds before the second round, doubled each round
LONGEST = 120.0  # seconds: who asks to wait longer (Retry-After) is not waited for
TIMEOUT = (15.0, 60.0)  # seconds to connect, and without a byte
CHUNK = 1 << 14  # bytes; a break loses less than that
SLOWEST = 70.0  # seconds that a chunk may take; silence is noticed before that, by TIMEOUT
PAGE = "answers with an HTML page (a login, a quota or a notice), not with the file"
ADDRESS = rf"(https?://|({'|'.join(hosts.HOSTS)}):)\S+"
NUMBER = "[0-9]{1,18}"
RETRY = {408, 425, 429, 500, 502, 503, 504}


class Failed(RetakeError):
    """No address gave the file. `unreachable`: not one of them could even be connected to."""

    def __init__(self, text: str, unreachable: bool) -> None:
        super().__init__(text)
        self.unreachable = unreachable


class _Refused(Exception):
    """This address will not give the file, however often it is asked."""


class _Broken(Exception):
    """This address may give the file later; `after`: the seconds that it asks to wait."""

    def __init__(self, text: str, *, after: float = 0.0, unreachable: bool = False) -> None:
        super().__init__(text)
        self.after, self.unreachable = after, unreachable


# The licences, as the csv files have them, that let people pass a file on; of what has another, or none, nothing is pushed.
REDISTRIBUTED = (
    "MIT",
    "Apache-2.0",
    "BSD-2-Clause",
    "BSD-3-Clause (torchvision)",
    "CC BY-NC-SA 3.0",
    "CC BY 3.0, (c) Blender Foundation",
    "film CC BY 3.0, (c) Blender Foundation",
)


class Source(BaseModel):
    """One row of workflow/sources.csv or workflow/weights.csv. No url: people put the file there by hand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=r"^[a-z][a-z0-9_]*$", validation_alias=AliasChoices("name", "dataset"))
    file: str = Field(pattern=r"^[^/\\\s.][^/\\\n]*$")
    url: str = Field(pattern=f"^({ADDRESS})?$")
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
            if not re.fullmatch(ADDRESS, mirror):
                raise ValueError(f"{mirror!r} is not an address")
        return mirrors

    @field_validator("bytes", mode="before")
    @classmethod
    def _unknown(cls, text: Any) -> Any:
        return text or None

    @model_validator(mode="after")
    def _obtainable(self) -> Source:
        if not self.urls and not self.login:
            raise ValueError("needs a url, or in `login` the page where people get the file")
        return self

    @property
    def urls(self) -> tuple[str, ...]:
        """All addresses, the mirrors last."""
        return ((self.url,) if self.url else ()) + self.mirror

    @property
    def redistribute(self) -> bool:
        """Whether the licence lets people pass the file on."""
        return self.licence in REDISTRIBUTED

    @property
    def size(self) -> str:
        """The published length for people to read."""
        return human(self.bytes) if self.bytes else "size not published"


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
        lines = csv.reader(io.StringIO(limits.text(path), newline=""))
        table = [(lines.line_num, values) for values in lines]
    except FileNotFoundError:
        raise RetakeError(f"no {path} in {Path.cwd()}: run from the project's folder") from None
    except csv.Error as error:
        raise RetakeError(f"{path} is not a csv file: {error}") from None
    if not table or table[0][1] != columns:
        raise RetakeError(f"{path}:1: the columns must be {','.join(columns)}")
    rows: list[Source] = []
    seen: dict[str, int] = {}
    for number, values in table[1:]:
        where = f"{path}:{number}"
        if len(values) != len(columns):
            raise RetakeError(
                f"{where}: {len(values)} values, the header has {len(columns)} (quote a value with commas)"
            )
        try:
            row = Source.model_validate(dict(zip(columns, values, strict=True)))
        except ValidationError as error:
            wrong = [f"{e['loc'][0]} {e['input']!r}: {e['msg']}" if e["loc"] else e["msg"] for e in error.errors()]
            raise RetakeError(f"{where}: {'; '.join(wrong).replace('Value error, ', '')}") from None
        for unique in [f"{row.name}/{row.file}"] if key == "dataset" else [row.name, row.file]:
            if unique in seen:
                raise RetakeError(f"{where}: {unique} stands in line {seen[unique]} too")
            seen[unique] = number
        rows.append(row)
    return rows


def rows_of(kind: str, names: list[str], made: bool) -> list[Source]:
    """Return the rows of the archives `names`; archives that code makes have none in the file."""
    if made:
        return [Source(name=kind, file=name, url="", bytes=None, sha256="", licence="-", login="-") for name in names]
    rows = {row.file: row for row in sources(SOURCES) if row.name == kind}
    lacking = [name for name in names if name not in rows]
    if lacking:
        raise RetakeError(f"{SOURCES} has no row with dataset {kind} and file {', '.join(lacking)}: add it")
    return [rows[name] for name in names]


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
        best, idle = _there(part), 0
        began = _began(part).get("url")
        urls = sorted(source.urls, key=lambda url: url != began)
        reasons: dict[str, str] = {}
        unreachable: set[str] = set()
        while urls and idle < ROUNDS:
            wait = 0.0
            for url in list(urls):
                try:
                    whole = _get(source, url, part, moved, stop, patient)
                    digest = _accept(source, part, check, whole)
                except _Refused as error:
                    reasons[url] = str(error)
                    urls.remove(url)
                except _Broken as error:
                    reasons[url] = str(error)
                    wait = max(wait, error.after)
                    unreachable = unreachable | {url} if error.unreachable else unreachable - {url}
                    if error.unreachable and not patient:
                        urls.remove(url)
                    if _there(part) > best:  # another address might have to start anew
                        break
                else:
                    part.replace(path)
                    _state(part).unlink(missing_ok=True)
                    hosts.discard(part)
                    return digest
            # A server that drops and resumes may do so for ever; one that brings nothing new may not.
            idle = 0 if _there(part) > best else idle + 1
            best = max(best, _there(part))
            if urls and idle < ROUNDS:
                pause(max(wait, BACKOFF * 2 ** max(idle - 1, 0) * random.uniform(0.8, 1.2)), stop)
        tried = "\n".join(f"    {url}: {reason}" for url, reason in reasons.items())
        raise Failed(f"{source.file} ({source.size}) cannot be downloaded:\n{tried}", unreachable == set(source.urls))


def _get(
    source: Source, url: str, part: Path, moved: Callable[[int], None], stop: threading.Event, patient: bool
) -> bool:
    """Bring `part` to its full length from `url`; return whether all of it came in this one answer."""
    if hosts.knows(url):
        return _get_from_host(url, part, moved, stop, patient)
    have, began = _length(part), _began(part)
    # else halves of two servers, or of two versions of the file, could be joined unnoticed
    same = began.get("url") == url and (began.get("etag") or began.get("modified"))
    trusted = bool(source.sha256 or same)
    if not trusted or have > (source.bytes or have):
        have = 0  # the part is overwritten when an answer comes
    if have and have == source.bytes:
        return False
    version = began if began.get("url") == url else {}
    headers = {"Accept-Encoding": "identity", "User-Agent": "retake"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if version.get("etag") or version.get("modified"):
            headers["If-Range"] = version.get("etag") or version["modified"]
    try:
        timeout = TIMEOUT if patient else (min(TIMEOUT[0], 5.0), TIMEOUT[1])
        with _answered(url, headers=headers, timeout=timeout) as answer:
            start, total = _understand(source, answer, part, have, version)
            if start is None:
                return False
            moved(start)
            if start == 0:
                _discard(part)
            _receive(source, url, answer, part, start, total, moved, stop)
    except requests.exceptions.SSLError as error:  # it stays so
        why = re.sub(r".*\] |\s*\(_ssl.*", "", str(error))[:200]
        raise _Refused(
            f"cannot be trusted: {why}. Set this machine's clock, or REQUESTS_CA_BUNDLE to the certificates of your institution"
        ) from None
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Broken(_words(error), unreachable=_no_connection(error)) from None
    except (requests.exceptions.ChunkedEncodingError, requests.exceptions.ContentDecodingError):
        raise _Broken(f"the connection broke after {_length(part)} bytes") from None
    except (requests.RequestException, urllib3.exceptions.HTTPError, http.client.HTTPException, ValueError) as error:
        raise _Refused(f"answers what cannot be understood: {error}"[:300]) from None
    return start == 0


def _get_from_host(url: str, part: Path, moved: Callable[[int], None], stop: threading.Event, patient: bool) -> bool:
    """Do what `_get` does where the host does not give files by plain HTTP."""
    anew = not hosts.there(part)
    _discard(part)  # what another address has left
    try:
        hosts.get(url, part, moved, stop, patient=patient)
    except hosts.Refused as error:
        raise _Refused(str(error)) from None
    except hosts.Broken as error:
        raise _Broken(str(error)) from None
    except (requests.ConnectionError, requests.Timeout) as error:
        raise _Broken(_words(error), unreachable=_no_connection(error)) from None
    return anew


def _understand(
    source: Source, answer: requests.Response, part: Path, have: int, began: dict[str, str]
) -> tuple[int | None, int | None]:
    """Return where the body starts (None: the part is whole already) and the file's length, if told."""
    status, fields = answer.status_code, answer.headers
    if status == 416:
        total = re.fullmatch(rf"bytes \*/({NUMBER})", fields.get("Content-Range", ""))
        if have and total and int(total[1]) == have and source.bytes in (None, have):
            return None, have
        _discard(part)
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
        raise _Refused(PAGE)
    start, length = 0, fields.get("Content-Length", "")
    total_bytes = int(length) if re.fullmatch(NUMBER, length) else None
    if status == 206:
        span = re.fullmatch(rf"bytes ({NUMBER})-{NUMBER}/({NUMBER}|\*)", fields.get("Content-Range", ""))
        now = _version(answer)
        if not span or int(span[1]) != have or any(began[k] != now[k] for k in began.keys() & now.keys()):
            _discard(part)
            raise _Broken("answers with another range, or of another version, than it began; starting anew")
        start, total_bytes = have, None if span[2] == "*" else int(span[2])
    if source.bytes and total_bytes is not None and total_bytes != source.bytes:
        if start:
            _discard(part)
        raise _Refused(f"holds {total_bytes} bytes, {source.bytes} are published")
    return start, total_bytes


def _receive(
    source: Source,
    url: str,
    answer: requests.Response,
    part: Path,
    start: int,
    total: int | None,
    moved: Callable[[int], None],
    stop: threading.Event,
) -> None:
    """Write the body to `part` from byte `start`. The part is there before its state: without one it is not trusted."""
    received, told, free = start, total or source.bytes, shutil.disk_usage(part.parent).free
    if told and told - start > free:
        raise _Refused(
            f"has {human(told - start)} to send, the disk of {part.parent.absolute()} has {human(free)} free"
        )
    with _hurried(answer) as arrived, part.open("r+b" if start else "wb") as file:
        file.seek(start)
        if start == 0:
            write_text(_state(part), json.dumps({"url": url, **_version(answer)}))
        for chunk in answer.iter_content(CHUNK):
            arrived()
            if received == 0 and re.match(rb"\s*<(!doctype|html)", chunk[:64].lower()):
                _discard(part)
                raise _Refused(PAGE)
            received += len(chunk)
            if source.bytes and received > source.bytes:
                _discard(part)
                raise _Refused(f"sends more than the {source.bytes} bytes that are published")
            if not told and received - start > free / 2:
                _discard(part)
                raise _Refused(
                    f"has sent {human(received)} and never said how much will come: half of what was free on the disk of "
                    f"{part.parent.absolute()}"
                )
            file.write(chunk)
            moved(received)
            if stop.is_set():
                raise Stopped
        file.flush()
        os.fsync(file.fileno())
    whole = told or received
    if received < whole:
        raise _Broken(f"the connection broke after {received} of {whole} bytes")


def _answered(url: str, **options: Any) -> requests.Response:
    """Return a server's answer, of which the headers are read; raises _Refused when those take longer than `SLOWEST` seconds.

    Between two bytes the timeout of `requests` begins anew.
    """
    answers: queue.SimpleQueue[requests.Response | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(requests.get(url, stream=True, **options))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True).start()
    try:
        answer = answers.get(timeout=SLOWEST)
    except queue.Empty:
        raise _Refused(f"has not begun to answer for {SLOWEST:g} seconds") from None
    if isinstance(answer, Exception):
        raise answer
    return answer


@contextlib.contextmanager
def _hurried(answer: requests.Response) -> Iterator[Callable[[], None]]:
    """Yield what is called for each chunk that arrives; a connection on which none does for `SLOWEST` seconds is shut.

    A server that sends a byte now and then is never silent. Raises _Refused for it.
    """
    last, done, late = [time.monotonic()], threading.Event(), threading.Event()

    def arrived() -> None:
        last[0] = time.monotonic()

    def watch() -> None:
        while not done.wait(min(SLOWEST / 4, 5.0)):
            if time.monotonic() - last[0] > SLOWEST:
                late.set()
                with contextlib.suppress(ValueError, OSError):  # it has ended just now
                    answer.raw.shutdown()
                return

    threading.Thread(target=watch, daemon=True).start()
    try:
        yield arrived
    except (requests.RequestException, urllib3.exceptions.HTTPError):
        if not late.is_set():
            raise
    finally:
        done.set()
    if late.is_set():
        raise _Refused(f"sends less than {CHUNK / SLOWEST:.0f} bytes a second")


def _accept(source: Source, part: Path, check: Check | None, whole: bool) -> str:
    """Return the part's SHA-256 when it is right; delete it when it is not."""
    try:
        return verify(part, source.bytes, source.sha256, check)
    except RetakeError as error:
        _discard(part)
        log.warning("%s was wrong and is deleted: %s", part, error)
        if whole:
            raise _Refused(f"gives a wrong file: {error}") from None
        raise _Broken(f"what was put together from several answers was wrong ({error}); starting anew") from None


def _length(part: Path) -> int:
    return part.stat().st_size if part.exists() else 0


def _there(part: Path) -> int:
    """Return how many bytes earlier attempts have got, from any address."""
    return _length(part) + hosts.there(part)


def _state(part: Path) -> Path:
    return part.with_name(part.name + ".json")


def _discard(part: Path) -> None:
    """Delete a part and its state; the state first, so that it never speaks of another part."""
    _state(part).unlink(missing_ok=True)
    part.unlink(missing_ok=True)


def _began(part: Path) -> dict[str, str]:
    try:
        began = json.loads(_state(part).read_text())
    except (
        FileNotFoundError,
        ValueError,
        RecursionError,
    ):  # then the part is trusted only as far as a published SHA-256 goes
        return {}
    return {k: v for k, v in began.items() if isinstance(v, str)} if isinstance(began, dict) else {}


def _version(answer: requests.Response) -> dict[str, str]:
    """Return what tells this version of the file from others; a weak ETag does not."""
    etag, modified = answer.headers.get("ETag", ""), answer.headers.get("Last-Modified", "")
    return ({"etag": etag} if etag.startswith('"') else {}) | ({"modified": modified} if modified else {})


def _retry_after(value: str) -> float:
    if re.fullmatch("[0-9]+", value):
        return float(value)
    with contextlib.suppress(ValueError, TypeError, OverflowError):
        return max(email.utils.parsedate_to_datetime(value).timestamp() - time.time(), 0.0)
    return 0.0


def _no_connection(error: requests.RequestException) -> bool:
    """Say whether no connection came about: urllib3 then gives up with a `reason`."""
    return isinstance(error, requests.ConnectTimeout) or (bool(error.args) and hasattr(error.args[0], "reason"))


def _words(error: requests.RequestException) -> str:
    if isinstance(error, requests.ConnectTimeout):
        return f"cannot be connected to within {TIMEOUT[0]:g} s"
    cause = error.args[0] if error.args else error
    if isinstance(error, requests.ReadTimeout) or isinstance(cause, ReadTimeoutError):
        return f"nothing arrived for {TIMEOUT[1]:g} s"
    return str(getattr(cause, "reason", cause)).split("): ", 1)[-1]
