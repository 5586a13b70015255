"""Files whose hosts do not give them by plain HTTP; `fetch.py` asks here for addresses with these schemes.

gdrive:<id>          a file on Google Drive, by gdown; a broken download goes on where it broke
gdrive-folder:<id>   a folder there, as one zip: stored, by name, without times, so that its bytes are always the same
vimeo:<id>           a video, in the best quality that is offered, by yt-dlp (the extra `videos`)
"""

from __future__ import annotations

import re
import shutil
import threading
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import requests

from pipeline.errors import RetakeError
from pipeline.sources.verified import Stopped

RETRIES = 2  # of gdown, within one attempt; the caller has rounds of its own
TIMEOUT = (15.0, 60.0)  # seconds to connect, and without a byte
PAGES = 60.0  # seconds that Google Drive may show pages before the file's first byte; gdown follows them for ever
BY_HAND = "Download it by hand in a browser from {page}"
QUOTA = (
    "Google Drive's quota of downloads of this file is used up, for up to 24 hours. " + BY_HAND + " (signed in to "
    "Google, a copy that is made in the own Drive can be downloaded at once), or let gdown sign in: "
    "`gdown --cookies-from-browser firefox {page}`"
)

Moved = Callable[[int], None]


class Refused(RetakeError):
    """The host will not give the file, however often it is asked."""


class Broken(RetakeError):
    """The host may give the file later."""


def get(url: str, part: Path, moved: Moved, stop: threading.Event, *, patient: bool = True) -> None:
    """Bring the whole file at `url` to `part`; what an attempt that breaks has got lies beside it, for the next.

    `moved` hears how many bytes are there, `stop` ends it. `patient` False asks once. Raises Refused, Broken, Stopped,
    or requests' own exception where there is no connection.
    """
    scheme, _, name = url.partition(":")
    HOSTS[scheme](name, part, moved, stop, patient)


def knows(url: str) -> bool:
    """Say whether `url` has one of this module's schemes."""
    return url.partition(":")[0] in HOSTS


def there(part: Path) -> int:
    """Return how many bytes of `part` earlier attempts have got."""
    inside = [path for path in _folder_of(part).rglob("*") if path.is_file()]
    return sum(path.stat().st_size for path in _pieces(part) + inside)


def discard(part: Path) -> None:
    """Delete what earlier attempts have got of `part`."""
    for piece in _pieces(part):
        piece.unlink()
    shutil.rmtree(_folder_of(part), ignore_errors=True)


def _file(name: str, part: Path, moved: Moved, stop: threading.Event, patient: bool) -> None:
    import gdown

    page = f"https://drive.google.com/file/d/{name}/view"
    ending = _Ending(stop)

    def hear(now: int, _: int | None) -> None:
        ending.began = True
        moved(now)

    try:
        gdown.download(
            id=name, output=str(part), quiet=True, resume=True, progress=hear,
            timeout=TIMEOUT, retries=RETRIES if patient else 0, cancel=ending,
        )  # fmt: skip
    except gdown.DownloadCancelled:
        if stop.is_set():
            raise Stopped from None
        raise Refused(
            f"shows pages for {PAGES:g} s, such as the one that asks to confirm the download, and never the file. "
            + BY_HAND.format(page=page)
        ) from None
    except gdown.FileURLRetrievalError as error:
        raise _page(error, page) from None
    except gdown.DownloadError as error:
        if isinstance(error.__cause__, requests.ConnectionError | requests.Timeout):
            raise error.__cause__ from None
        if "range" in str(error) or "temporary files" in str(error):  # what is there does not fit what is sent
            discard(part)
        raise Broken(f"{str(error).splitlines()[0]}; trying again") from None
    except requests.HTTPError as error:
        status, reason = error.response.status_code, error.response.reason
        kind: type[RetakeError] = Broken if status == 429 or status >= 500 else Refused
        raise kind(f"answers {status} {reason}. {BY_HAND.format(page=page)}") from None
    except (AssertionError, KeyError) as error:  # how gdown takes a page that it was not written for
        raise Refused(
            f"answers with a page that gdown {gdown.__version__} does not understand ({error!r}). "
            + BY_HAND.format(page=page)
        ) from None


class _Ending(threading.Event):
    """Is set when `stop` is, or `PAGES` seconds have gone and the file has not begun."""

    def __init__(self, stop: threading.Event) -> None:
        super().__init__()
        self.began = False
        self._stop, self._late = stop, time.monotonic() + PAGES

    def is_set(self) -> bool:
        return self._stop.is_set() or (not self.began and time.monotonic() > self._late)

    def wait(self, timeout: float | None = None) -> bool:
        return self._stop.wait(timeout) or self.is_set()


def _page(error: Exception, page: str) -> Refused:
    """Return what a page of Google Drive, that came instead of the file, means."""
    text = re.sub(r"\s+", " ", str(error))
    if re.search("too many users|quota", text, re.IGNORECASE):
        return Refused(QUOTA.format(page=page))
    return Refused(
        f"answers with a page instead of the file: it is gone, or not public, or Google asks for a sign-in. "
        f"{BY_HAND.format(page=page)}"
    )


def _folder(name: str, part: Path, moved: Moved, stop: threading.Event, patient: bool) -> None:
    import gdown

    page = f"https://drive.google.com/drive/folders/{name}"
    folder = _folder_of(part)
    try:
        listed: Any = gdown.download_folder(
            id=name, output=str(folder), quiet=True, skip_download=True, timeout=TIMEOUT
        )
    except gdown.DownloadError as error:
        raise Refused(f"{str(error).splitlines()[0]} {BY_HAND.format(page=page)} and pack it as a zip") from None
    names = [file.path for file in listed]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice or not names:
        what = f"holds {', '.join(twice)} twice" if twice else "is empty, or cannot be listed"
        raise Refused(f"the folder {what}. {BY_HAND.format(page=page)} and pack it as a zip")
    done = 0
    for file in sorted(listed, key=lambda f: f.path):
        target = folder / file.path
        if not target.is_file():
            target.parent.mkdir(parents=True, exist_ok=True)
            _file(file.id, target, lambda now, before=done: moved(before + now), stop, patient)  # type: ignore[misc]
        done += target.stat().st_size
        moved(done)
    with zipfile.ZipFile(part, "w", zipfile.ZIP_STORED) as out:
        for path in sorted(names):
            with (folder / path).open("rb") as source, out.open(zipfile.ZipInfo(path), "w", force_zip64=True) as to:
                shutil.copyfileobj(source, to, 1 << 20)
    shutil.rmtree(folder)


def _vimeo(name: str, part: Path, moved: Moved, stop: threading.Event, patient: bool) -> None:
    page = f"https://vimeo.com/{name}"
    try:
        import yt_dlp
    except ImportError:
        raise Refused(
            f"yt-dlp is not installed: pip install 'retake[videos]'. Or: {BY_HAND.format(page=page)}"
        ) from None

    def hear(state: dict) -> None:
        if stop.is_set():
            raise Stopped
        moved(state.get("downloaded_bytes") or 0)

    options = {
        **{"format": "bestvideo/best", "outtmpl": {"default": str(part).replace("%", "%%")}, "noplaylist": True},
        **{"quiet": True, "no_warnings": True, "noprogress": True, "progress_hooks": [hear]},
        **{"retries": RETRIES if patient else 0, "socket_timeout": TIMEOUT[1]},
    }
    try:
        with yt_dlp.YoutubeDL(options) as downloader:
            downloader.download([page])
    except yt_dlp.utils.DownloadError as error:
        text = re.sub(r"\x1b\[[\d;]*m", "", str(error)).splitlines()[0].removeprefix("ERROR: ")
        raise Refused(f"yt-dlp {yt_dlp.version.__version__} says: {text}. {BY_HAND.format(page=page)}") from None


HOSTS: dict[str, Callable[[str, Path, Moved, threading.Event, bool], None]] = {
    "gdrive": _file,
    "gdrive-folder": _folder,
    "vimeo": _vimeo,
}


def _pieces(part: Path) -> list[Path]:
    """Return unfinished files of `part`: its name, eight characters and ".part" (gdown), or ".part" alone (yt-dlp)."""
    if not part.parent.is_dir():
        return []
    name = re.compile(re.escape(part.name) + r"(.{8})?\.part", re.DOTALL)
    return [path for path in part.parent.iterdir() if name.fullmatch(path.name)]


def _folder_of(part: Path) -> Path:
    return part.with_name(f"{part.name}.files")
