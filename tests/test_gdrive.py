"""Google Drive by the real gdown, whose requests a detour leads to a server on loopback; Vimeo by a stand-in for yt-dlp."""

from __future__ import annotations

import csv
import hashlib
import io
import random
import re
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import pytest
import requests
from requests.adapters import HTTPAdapter

from pipeline import download, fetch, params
from pipeline.errors import RetakeError
from pipeline.sources import archives, hosts, verified
from tests.conftest import ROOT
from tests.server import Move, Request, Server

ID = "1xWLiU-MBGN7MrsFHQm4_yXmfHBsMbJQo"
URL = f"gdrive:{ID}"
FIRST = f"drive.google.com/uc?id={ID}"
FILE = f"drive.usercontent.google.com/download?id={ID}&export=download&confirm=t&uuid=5f0c"
CHUNK = 512 * 1024  # gdown's
HTML = {"Content-Type": "text/html; charset=utf-8"}

CONFIRM = (
    "<!DOCTYPE html><html><head><title>Google Drive - Virus scan warning</title></head><body>"
    '<p class="uc-warning-caption">Google Drive can\'t scan this file for viruses.</p>'
    '<form id="download-form" action="https://drive.usercontent.google.com/download" method="get">'
    '<input type="submit" id="uc-download-link" value="Download anyway"/>'
    f'<input type="hidden" name="id" value="{ID}"><input type="hidden" name="export" value="download">'
    '<input type="hidden" name="confirm" value="t"><input type="hidden" name="uuid" value="5f0c"></form></body></html>'
).encode()
QUOTA = (
    b"<!DOCTYPE html><html><head><title>Google Drive - Quota exceeded</title></head><body>\n"
    b'<p class="uc-error-caption">Sorry, you can&#39;t view or download this file at this time.</p>\n'
    b'<p class="uc-error-subcaption">Too many users have viewed or downloaded this file recently. Please try accessing '
    b"the file again later. It may take up to 24 hours to be able to view or download the file.</p>\n</body></html>"
)
SIGN_IN = b"<!doctype html><html><head><title>Sign in - Google Accounts</title></head><body>Sign in</body></html>"


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def packed(size: int = 3_000_000, seed: int = 0) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr(zipfile.ZipInfo("sky_timelapse/readme"), noise(size, seed))
    return buffer.getvalue()


class Drive:
    """The server that stands for Google's; `port` may be changed to one where nobody listens."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.port = urlsplit(server.put("x", b"")).port

    def file(self, body: bytes, *moves: Move) -> None:
        """Serve a large file: the page that warns of viruses first."""
        self.server.put(FIRST, CONFIRM, Move(headers=HTML))
        named = {"Content-Disposition": 'attachment; filename="sky_timelapse.zip"'}
        self.server.put(FILE, body, *(Move(**{**vars(m), "headers": named | m.headers}) for m in moves or [Move()]))

    def page(self, body: bytes, name: str = FIRST) -> None:
        self.server.put(name, body, Move(headers=HTML))

    def asked(self, name: str = FILE) -> list[Request]:
        return self.server.asked(name)


@pytest.fixture
def drive(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Drive]:
    real = HTTPAdapter.send

    def send(self: HTTPAdapter, request: requests.PreparedRequest, *args: Any, **kwargs: Any) -> requests.Response:
        address = urlsplit(str(request.url))
        if not (address.hostname or "").endswith(".google.com"):
            return real(self, request, *args, **kwargs)
        original, request.url = request.url, f"http://127.0.0.1:{one.port}/{str(request.url).partition('://')[2]}"
        answer = real(self, request, *args, **kwargs)
        answer.url = request.url = str(original)
        return answer

    import gdown

    assert gdown
    monkeypatch.setattr(sys.modules["gdown.download"], "DEFAULT_COOKIES_FILE", str(tmp_path / "cookies/cookies.txt"))
    monkeypatch.setattr(sys.modules["gdown.download"].random, "uniform", lambda *_: 0.0)
    monkeypatch.setattr(HTTPAdapter, "send", send)
    with Server() as server:
        one = Drive(server)
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetch, "BACKOFF", 0.01)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def source(url: str = URL, *mirror: str, size: int | None = None, file: str = "sky_timelapse.zip") -> fetch.Source:
    return fetch.Source(name="demo", file=file, url=url, mirror=mirror, bytes=size, sha256="", licence="-", login="-")


def get(one: fetch.Source, **options: Any) -> bytes:
    """Fetch as the stage does; return what was fetched, and make sure that nothing else is left."""
    path = Path(one.file)
    digest = fetch.fetch(one, path, check=archives.check if path.suffix == ".zip" else None, **options)
    assert digest == hashlib.sha256(path.read_bytes()).hexdigest()
    assert [p.name for p in Path().iterdir()] == [path.name]
    return path.read_bytes()


def failing(one: fetch.Source, **options: Any) -> str:
    with pytest.raises(fetch.Failed) as caught:
        fetch.fetch(one, Path(one.file), check=archives.check, **options)
    assert not Path(one.file).exists()
    return str(caught.value)


def offset(request: Request) -> int:
    return int(re.fullmatch(r"bytes=(\d+)-", request.range or "")[1])  # type: ignore[index]


def test_large_file_behind_the_virus_warning(drive: Drive) -> None:
    body, heard = packed(), []
    drive.file(body)
    assert get(source(size=len(body)), moved=heard.append) == body
    assert heard[-1] == len(body)
    assert heard == sorted(heard)
    assert len(drive.asked()) == 1


def test_small_file_that_comes_at_once(drive: Drive) -> None:
    body = packed(1000)
    named = {"Content-Disposition": "attachment; filename*=UTF-8''a%20b.zip"}
    drive.server.put(FIRST, body, Move(headers=named))
    assert get(source()) == body


def test_quota_page(drive: Drive) -> None:
    drive.page(QUOTA)
    text = failing(source())
    assert "Google Drive's quota of downloads of this file is used up, for up to 24 hours" in text
    assert f"by hand in a browser from https://drive.google.com/file/d/{ID}/view" in text
    assert "gdown --cookies-from-browser" in text
    assert len(drive.asked(FIRST)) == 1, "asking again would not help"
    assert not list(Path().iterdir())


@pytest.mark.parametrize("page", [SIGN_IN, b"<html><title>Error 404 (Not Found)!!1</title></html>"])
def test_file_that_is_gone_or_not_public(drive: Drive, page: bytes) -> None:
    drive.page(page)
    text = failing(source())
    assert "answers with a page instead of the file: it is gone, or not public" in text
    assert f"https://drive.google.com/file/d/{ID}/view" in text


def test_page_that_gdown_was_not_written_for(drive: Drive) -> None:
    drive.page(b'<html><form id="download-form" method="get"></form></html>')
    assert re.search(r"a page that gdown [0-9.]+ does not understand \(KeyError", failing(source()))


def test_confirmation_page_for_ever(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PAGES", 0.5)
    drive.server.put(FIRST, CONFIRM, Move(headers=HTML))
    drive.server.put(FILE, CONFIRM, Move(headers=HTML))
    text = failing(source())
    assert "shows pages for 0.5 s, such as the one that asks to confirm the download, and never the file" in text
    assert f"Download it by hand in a browser from https://drive.google.com/file/d/{ID}/view" in text
    assert len(drive.asked()) > 1
    assert not list(Path().iterdir())


def test_file_that_takes_longer_than_pages_may(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hosts, "PAGES", 1.5)
    body, heard = packed(), []

    def slow(now: int) -> None:
        if not heard:
            time.sleep(2)
        heard.append(now)

    drive.file(body)
    assert get(source(size=len(body)), moved=slow) == body
    assert len(heard) > 2


def test_quota_page_and_a_mirror(drive: Drive) -> None:
    drive.page(QUOTA)
    body = packed(1000)
    assert get(source(URL, drive.server.put("mirror.zip", body))) == body


def test_broken_connections_go_on_where_they_broke(drive: Drive) -> None:
    body = packed()
    drive.file(body, Move(drop=1_200_000), Move(drop=900_000), Move())
    assert get(source(size=len(body))) == body
    first, second, third = drive.asked()
    assert first.range is None
    assert 1_200_000 - CHUNK < offset(second) <= 1_200_000
    assert 900_000 - CHUNK < offset(third) - offset(second) <= 900_000
    assert drive.server.sent(FILE) < len(body) + 2 * CHUNK, "each byte once, but for a piece at each break"


def test_more_breaks_than_gdown_stands(drive: Drive) -> None:
    body = packed(4_000_000)
    drive.file(body, *[Move(drop=600_000)] * 6, Move())
    assert get(source()) == body
    assert len(drive.asked()) >= 7


def test_run_that_is_stopped_goes_on_later(drive: Drive) -> None:
    body, stop = packed(), threading.Event()
    drive.file(body, Move(slow=0.002), Move())

    def moved(now: int) -> None:
        if now > 1_000_000:
            stop.set()

    with pytest.raises(verified.Stopped):
        fetch.fetch(source(), Path("sky_timelapse.zip"), check=archives.check, moved=moved, stop=stop)
    assert not Path("sky_timelapse.zip").exists()
    assert [p.suffix for p in Path().iterdir()] == [".part"]
    assert get(source()) == body
    asked = drive.asked()
    assert offset(asked[-1]) >= 1_000_000


def test_file_that_changed_on_the_way(drive: Drive) -> None:
    """The server sends the new one from its start: nothing of the old one is kept."""
    old, new = packed(seed=1), packed(seed=2)
    drive.file(new, Move(drop=1_200_000, body=old), Move())
    assert get(source()) == new


def test_parts_of_two_versions_are_noticed(drive: Drive) -> None:
    old, new = packed(seed=1), packed(seed=2)
    drive.file(new, Move(drop=1_200_000, body=old, etag=None), Move(etag=None), Move())
    text = failing(source())
    assert "gives a wrong file" in text
    assert "is damaged" in text
    assert get(source()) == new


def test_nothing_can_be_connected_to(drive: Drive) -> None:
    drive.port = 9
    with pytest.raises(fetch.Failed) as caught:
        fetch.fetch(source(), Path("sky_timelapse.zip"), patient=False)
    assert caught.value.unreachable


def test_error_of_the_server(drive: Drive) -> None:
    named = {"Content-Disposition": "attachment"}
    drive.server.put(FIRST, b"", Move(status=503, headers=named), Move(status=404, headers=named))
    text = failing(source())
    assert "answers 404 Not Found" in text
    assert len(drive.asked(FIRST)) == 2


# Folders

FOLDER = "1pLsjyCF-bwVFVFJ8vRcVq31DbwIrXtwF"
INNER = "1wbysfMixyhauq93GSTrpIy3knG70qiap"
FILES = {name: f"1{i}".ljust(33, "f") for i, name in enumerate(["b 2.png", "a.png", "c.png"])}


def listing(name: str, entries: list[tuple[str, str]]) -> bytes:
    links = "".join(
        f'<div class="flip-entry"><a href="{url}" target="_blank">{text}</a></div>' for text, url in entries
    )
    return f"<html><head><title>{name}</title></head><body>{links}</body></html>".encode()


def folder_of(drive: Drive, bodies: dict[str, bytes]) -> None:
    """Serve KITTI_test/test/… : the files of FILES but the first in an inner folder."""
    outer, *inner = bodies
    url = "https://drive.google.com/file/d/{}/view?usp=drive_web"
    entries = [("test", f"https://drive.google.com/drive/folders/{INNER}"), (outer, url.format(FILES[outer]))]
    drive.page(listing("KITTI_test", entries), f"drive.google.com/embeddedfolderview?id={FOLDER}")
    entries = [(name, url.format(FILES[name])) for name in inner]
    drive.page(listing("test", entries), f"drive.google.com/embeddedfolderview?id={INNER}")
    for name, body in bodies.items():
        named = {"Content-Disposition": f'attachment; filename="{name}"'}
        drive.server.put(f"drive.google.com/uc?id={FILES[name]}", body, Move(headers=named))


BODIES = {name: noise(50_000, i) for i, name in enumerate(FILES)}


def test_folder_becomes_one_zip_with_the_same_bytes_each_time(drive: Drive) -> None:
    folder_of(drive, BODIES)
    one = source(f"gdrive-folder:{FOLDER}", file="KITTI_test.zip")
    made = get(one)
    with zipfile.ZipFile(io.BytesIO(made)) as archive:
        assert archive.namelist() == ["b 2.png", "test/a.png", "test/c.png"]
        assert archive.read("test/c.png") == BODIES["c.png"]
    Path("KITTI_test.zip").unlink()
    assert get(one) == made


def test_folder_goes_on_behind_the_files_that_are_there(drive: Drive) -> None:
    folder_of(drive, BODIES)
    drive.page(QUOTA, f"drive.google.com/uc?id={FILES['c.png']}")
    one = source(f"gdrive-folder:{FOLDER}", file="KITTI_test.zip")
    text = failing(one)
    assert "quota" in text
    assert FILES["c.png"] in text
    folder_of(drive, BODIES)
    get(one)
    assert len(drive.asked(f"drive.google.com/uc?id={FILES['a.png']}")) == 1


@pytest.mark.parametrize(
    ("entries", "reason"),
    [([("a", "x"), ("b", "y")], "is empty, or cannot be listed"), ([("a", FILES["a.png"])] * 2, "holds a twice")],
)
def test_folders_that_are_no_archive(drive: Drive, entries: list[tuple[str, str]], reason: str) -> None:
    links = [(name, f"https://drive.google.com/file/d/{key}/view") for name, key in entries]
    drive.page(listing("KITTI_test", links), f"drive.google.com/embeddedfolderview?id={FOLDER}")
    text = failing(source(f"gdrive-folder:{FOLDER}"))
    assert reason in text
    assert f"https://drive.google.com/drive/folders/{FOLDER}" in text


def test_folder_that_is_gone(drive: Drive) -> None:
    drive.server.put(f"drive.google.com/embeddedfolderview?id={FOLDER}", b"", Move(status=404))
    assert "status code 404" in failing(source(f"gdrive-folder:{FOLDER}"))


# The stage


def test_stage_says_what_to_do_by_hand(drive: Drive, monkeypatch: pytest.MonkeyPatch) -> None:
    drive.page(QUOTA)
    monkeypatch.setattr(fetch, "SOURCES", ROOT / "workflow/sources.csv")
    module = params.registry("datasets")["sky_timelapse"]
    values = {"kind": "sky_timelapse", "height": 128, "width": 128, "codec": "png", "archives": "all", "paper": "cinn"}
    p = params.Params.model_construct(datasets={"sky": module.Params.model_validate(values)})
    with pytest.raises(RetakeError) as caught:
        download.download(p, "sky", "test")
    text = str(caught.value)
    assert "quota of downloads" in text
    assert "Put them into data/raw/sky_timelapse under these names" in text
    drive.file(packed())
    download.download(p, "sky", "test")
    assert Path("data/raw/sky/test.json").exists()
    assert Path("data/raw/sky_timelapse/sky_timelapse.zip").read_bytes() == packed()


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("gdrive:1abc", True), ("gdrive-folder:1abc", True), ("vimeo:121649159", True), ("https://x.org/a", True),
        ("gdrive: 1abc", False), ("gdrives:1abc", False), ("vimeo:", False), ("file:a.zip", False),
    ],
)  # fmt: skip
def test_addresses(url: str, right: bool, tmp_path: Path) -> None:
    path = tmp_path / "sources.csv"
    for mirror in ("", url):
        with path.open("w") as file:
            rows = csv.writer(file)
            rows.writerow(["dataset", "file", "url", "mirror", "bytes", "sha256", "licence", "login", "note"])
            rows.writerow(["sky", "a.zip", "https://x.org/b" if mirror else url, mirror, "", "", "-", "", ""])
        if right:
            assert fetch.sources(path)[0].urls[-1] == url
        else:
            with pytest.raises(RetakeError, match=r"sources.csv:2: .*(url|is not an address)"):
                fetch.sources(path)


# Vimeo


class DownloadError(Exception):
    pass


def stand_in(body: bytes, error: str = "") -> tuple[Any, list[Any]]:
    """Return a module that does with its options what yt-dlp does, and what it was asked."""
    asked: list[Any] = []

    class YoutubeDL:
        def __init__(self, options: dict[str, Any]) -> None:
            self.options = options

        def __enter__(self) -> YoutubeDL:
            return self

        def __exit__(self, *_: Any) -> None:
            pass

        def download(self, urls: list[str]) -> None:
            asked.append((urls, self.options))
            if error:
                raise DownloadError(f"\x1b[0;31mERROR:\x1b[0m {error}\nmore")
            path = Path(self.options["outtmpl"]["default"] % {})
            Path(f"{path}.part").write_bytes(body[: len(body) // 2])
            self.options["progress_hooks"][0]({"status": "downloading", "downloaded_bytes": len(body) // 2})
            Path(f"{path}.part").unlink()
            path.write_bytes(body)
            self.options["progress_hooks"][0]({"status": "finished", "downloaded_bytes": len(body)})

    version = SimpleNamespace(__version__="2026.01.01")
    return SimpleNamespace(
        YoutubeDL=YoutubeDL, utils=SimpleNamespace(DownloadError=DownloadError), version=version
    ), asked


VIDEO = source("vimeo:121649159", file="100%.mp4")


def test_vimeo(monkeypatch: pytest.MonkeyPatch) -> None:
    module, asked = stand_in(noise(1000))
    monkeypatch.setitem(sys.modules, "yt_dlp", module)
    heard: list[int] = []
    assert get(VIDEO, moved=heard.append) == noise(1000)
    assert heard == [500, 1000]
    ((urls, options),) = asked
    assert urls == ["https://vimeo.com/121649159"]
    assert options["format"] == "bestvideo/best"


def test_vimeo_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", stand_in(b"", "[vimeo] 121649159: This video is private")[0])
    text = failing(VIDEO)
    assert "yt-dlp 2026.01.01 says: [vimeo] 121649159: This video is private." in text
    assert "by hand in a browser from https://vimeo.com/121649159" in text


def test_vimeo_that_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", stand_in(noise(1000))[0])
    stop = threading.Event()
    stop.set()
    with pytest.raises(verified.Stopped):
        fetch.fetch(VIDEO, Path(VIDEO.file), stop=stop)
    assert hosts.there(Path("100%.mp4.part")) == 500
    assert get(VIDEO) == noise(1000)


def test_without_yt_dlp(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yt_dlp", None)
    text = failing(VIDEO)
    assert "yt-dlp is not installed: pip install 'retake[videos]'" in text
