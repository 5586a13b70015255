"""What a stage says and how it ends when input is bad; logging and progress for every stage.

A `RetakeError`'s text names the file (and the clip and frame), the rule that was broken and what to do. `run` is the
`if __name__ == "__main__"` line of every stage: it logs to the terminal and to `logs/<name>.log`, turns expected
errors into one message without a traceback, and gives exit code 1.
"""

from __future__ import annotations

import contextlib
import errno
import io
import itertools
import logging
import os
import re
import shutil
import signal
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
log = logging.getLogger("retake")

MINUTE = 60.0  # seconds between the lines of `progress`
INSTANCE = (
    "--dataset",
    "--split",
    "--estimator",
    "--weights",
    "--model",
    "--experiment",
    "--shard",
)  # what names a stage's instance
CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")
REQUEUE = 75  # EX_TEMPFAIL: SIGTERM came, state is saved, the scheduler may start the job again


class RetakeError(Exception):
    """An error that the user can mend: its text says what is wrong, where, and what to do."""


class Interrupted(Exception):
    """A signal came and the state was saved: the same command goes on from there (exit code 75; 130 after Ctrl-C)."""

    def __init__(self, text: str, number: int = signal.SIGTERM) -> None:
        super().__init__(text)
        self.code = 128 + number if number == signal.SIGINT else REQUEUE


def readable(name: str) -> str:
    """Return a file's name as text: bytes that are not UTF-8 are written out, `caf\\xe9`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def near(word: str, words: Iterable[str]) -> str:
    """Return " (did you mean X?)" for the nearest of `words`, or the list of them when none is near."""
    import difflib

    known = sorted(map(str, words))
    match = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f" (did you mean {match[0]!r}?)" if match else f" (known: {', '.join(known) or 'none'})"


def progress(items: Iterable[T] | None = None, **options: Any) -> Any:
    """Return a tqdm bar on stderr; where that is no terminal, a line a minute in the log instead."""
    from tqdm import tqdm

    if sys.stderr.isatty():
        return tqdm(items, dynamic_ncols=True, **options)
    options |= {"mininterval": MINUTE, "maxinterval": MINUTE, "delay": MINUTE, "leave": False}
    return tqdm(items, file=_Lines(), ascii=True, ncols=100, **options)


class _Lines:
    """Takes what tqdm draws and logs it as lines."""

    def write(self, text: str) -> None:
        """Log the text without what moves a terminal's cursor."""
        line = text.strip("\r\n ")
        if line:
            log.info("%s", line)

    def flush(self) -> None:
        """Do nothing: logs are not held back."""


class _Plain(logging.Formatter):
    """Writes out what a terminal would obey, from names of files or a server's words, and what turns the direction of reading."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the message."""
        return CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), super().format(record))


def log_file(name: str, arguments: list[str]) -> Path:
    """Return the log of a command: `logs/<name>.log`, for one instance of a stage `logs/<name>-<its names>.log`.

    Snakemake's rules name the same files.
    """
    names = [value for option, value in itertools.pairwise(arguments) if option in INSTANCE]
    safe = [re.sub(r"[^A-Za-z0-9_.]", "_", value) for value in names]
    return Path("logs") / f"{'-'.join([name, *safe])}.log"


def run(main: Callable[[], None], name: str) -> None:
    """Run a stage's `main` with logs in its own file (`log_file`); expected errors become one message and exit code 1.

    SIGTERM ends it like Ctrl-C does, with what it was writing removed (exit code 143); training saves its state first.
    """
    logging.raiseExceptions = False  # a full disk must not turn each line into a traceback
    handlers: list[logging.Handler] = [logging.StreamHandler()]
    path = log_file(name, sys.argv[1:])
    with contextlib.suppress(OSError):  # a read-only tree, a full disk: the terminal is enough
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.is_file():
            if "RANK" not in os.environ:  # the processes of one training share its log
                path.write_bytes(b"")
            handlers.append(logging.FileHandler(path, mode="a", encoding="utf-8", errors="backslashreplace"))
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files may be what no encoding knows
    for handler in handlers:
        handler.setFormatter(_Plain())
    logging.basicConfig(level=logging.INFO, handlers=handlers)
    signal.signal(signal.SIGTERM, _end)
    try:
        main()
    except RetakeError as error:
        log.error("error: %s", error)
        sys.exit(1)
    except Interrupted as error:
        log.error("interrupted: %s", error)
        sys.exit(error.code)
    except OSError as error:
        log.error("error: %s", explain(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(128 + signal.SIGINT)


def _end(number: int, _: Any) -> None:
    sys.exit(128 + number)


def explain(error: OSError) -> str:
    """Return what an operating system's error means for the user: full disk, read-only folder, or its own words."""
    where = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else ""
    number = error.errno
    if number == errno.ENOSPC:
        folder = Path(where).parent
        free = f" ({shutil.disk_usage(folder).free / 2**20:.0f} MiB free)" if where and folder.exists() else ""
        return f"disk full while writing {where or 'output'}{free}: {error.strerror or error}. Free space, run again"
    if number in (errno.EACCES, errno.EROFS, errno.EPERM):
        if number != errno.EROFS and os.access(where, os.F_OK) and not os.access(where, os.R_OK):
            return f"cannot read {where}: {error.strerror}. Its owner can make it readable (chmod +r), then run again"
        closed = next((str(p) for p in reversed(Path(where).parents) if p.is_dir() and not os.access(p, os.X_OK)), None)
        if closed and number != errno.EROFS:
            return (
                f"cannot reach {where}: {error.strerror}. The owner of {closed} can open it (chmod +rx), then run again"
            )
        return f"cannot write {where}: {error.strerror}. Make the folder writable or link it elsewhere, run again"
    if number == errno.ENOENT:
        made = Path(where).parts[:1] in (("data",), ("results",))
        return f"missing file {where}: check the name" + (f", or make it with `snakemake {where}`" if made else "")
    if number in (errno.EEXIST, errno.ENOTDIR):
        return f"{where} is a file where a folder is needed: give another name, or move it away"
    return f"{where}: {error.strerror}" if where and error.strerror else str(error)
