"""Downloads from a server that misbehaves, archives put there by hand, hostile archives, kill -9, two processes."""

from __future__ import annotations

import contextlib
import datetime
import email.utils
import errno
import fcntl
import io
import json
import os
import random
import re
import shutil
import socket
import ssl
import stat
import struct
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from pipeline import download, fetch, params
from pipeline.errors import RetakeError
from pipeline.sources import archives, verified
from pipeline.sources.archives import Member
from tests.conftest import ROOT, handed_over, resolved
from tests.server import Move, Request, Server

REFUSED = "http://127.0.0.1:9/x.zip"  # nobody listens on the discard port


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as one:
        yield one


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(fetch, "BACKOFF", 0.01)
    monkeypatch.setattr(fetch, "TIMEOUT", (10.0, 20.0))
    monkeypatch.chdir(tmp_path)


def noise(size: int, seed: int = 0) -> bytes:
    return random.Random(seed).randbytes(size)


def packed(size: int = 300_000, seed: int = 0, name: str = "a/0000000000.png") -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        out.writestr(zipfile.ZipInfo(name), noise(size, seed))
    return buffer.getvalue()


def source(*urls: str, size: int | None = None, sha256: str = "", file: str = "x.zip") -> fetch.Source:
    return fetch.Source(
        name="demo",
        file=file,
        url=urls[0] if urls else "",
        mirror=urls[1:],
        bytes=size,
        sha256=sha256,
        licence="-",
        login="-",
    )


def sha256(data: bytes) -> str:
    import hashlib

    return hashlib.sha256(data).hexdigest()


def get(one: fetch.Source, path: Path | None = None, **options: Any) -> bytes:
    """Fetch as the stage does; return what was fetched, and make sure that nothing else is left."""
    path = path or Path(one.file)
    digest = fetch.fetch(one, path, check=archives.check if path.suffix == ".zip" else None, **options)
    assert digest == sha256(path.read_bytes())
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    return path.read_bytes()


def failing(one: fetch.Source, **options: Any) -> str:
    """Fetch, expect it to fail; return the message, and make sure that no file of the archive's name was made."""
    with pytest.raises(fetch.Failed) as caught:
        get(one, **options)
    assert not Path(one.file).exists()
    return str(caught.value)


def start(request: Request) -> int:
    """Return the byte from which the rest was asked for."""
    assert request.range is not None
    return int(request.range.removeprefix("bytes=").removesuffix("-"))


# What a server can do


def test_plain_download(server: Server) -> None:
    body = packed()
    assert get(source(server.put("x", body), size=len(body))) == body
    assert len(server.asked("x")) == 1


def test_dropped_connections_resume_where_they_broke(server: Server) -> None:
    body = packed()
    url = server.put("x", body, Move(drop=100_000), Move(drop=70_000), Move())
    assert get(source(url, size=len(body))) == body
    first, second, third = server.asked("x")
    assert first.range is None
    assert 100_000 - fetch.CHUNK < start(second) <= 100_000
    assert 170_000 - 2 * fetch.CHUNK < start(third) <= 170_000
    assert second.if_range is not None
    assert server.sent("x") < len(body) + 2 * fetch.CHUNK, "each byte once, but for a piece at each break"


def test_many_drops_with_progress_are_not_too_many(server: Server) -> None:
    body = packed()
    url = server.put("x", body, *[Move(drop=25_000)] * 11, Move())
    assert get(source(url, size=len(body))) == body
    assert len(server.asked("x")) == 12 > fetch.ROUNDS


def test_reset_connection(server: Server) -> None:
    body = packed()
    assert get(source(server.put("x", body, Move(drop=150_000, reset=True), Move()), size=len(body))) == body


def test_server_that_ignores_ranges_starts_anew(server: Server) -> None:
    body = packed()
    url = server.put("x", body, Move(drop=100_000, ranges=False), Move(ranges=False))
    assert get(source(url, size=len(body))) == body
    assert [r.status for r in server.asked("x")] == [200, 200]
    assert server.sent("x") == len(body) + 100_000


def test_server_that_ignores_ranges_and_always_drops_is_given_up(server: Server) -> None:
    body = packed()
    message = failing(source(server.put("x", body, Move(drop=100_000, ranges=False)), size=len(body)))
    assert "the connection broke after" in message
    assert len(server.asked("x")) == fetch.ROUNDS + 1  # the first round brought something


def test_length_that_is_too_long_ends_in_416_and_is_right(server: Server) -> None:
    body = packed()
    url = server.put("x", body, Move(length=1000), Move())
    assert get(source(url)) == body
    assert [r.status for r in server.asked("x")] in ([200, 416], [200, 206])
    assert server.asked("x")[1].sent < fetch.CHUNK


def test_length_that_is_not_the_published_one(server: Server) -> None:
    body = packed()
    message = failing(source(server.put("x", body, Move(length=7)), size=len(body)))
    assert f"holds {len(body) + 7} bytes, {len(body)} are published" in message
    assert server.asked("x")[0].sent <= len(body)


def test_length_that_is_too_short(server: Server) -> None:
    body = packed()
    message = failing(source(server.put("x", body, Move(length=-1000)), size=len(body), sha256=sha256(body)))
    assert f"holds {len(body) - 1000} bytes" in message
    # Without published facts the archive itself tells.
    message = failing(source(server.put("y", body, Move(length=-1000))))
    assert "not a whole zip archive" in message


def test_no_length_at_all(server: Server) -> None:
    body = packed()
    assert get(source(server.put("x", body, Move(length=None)))) == body
    Path("x.zip").unlink()
    url = server.put("y", body, Move(length=None, drop=50_000), Move(length=None))
    assert get(source(url, size=len(body))) == body, "a known length notices the break"
    assert 50_000 - fetch.CHUNK < start(server.asked("y")[1]) <= 50_000


def test_longer_body_than_published(server: Server) -> None:
    body = packed()
    message = failing(source(server.put("x", body + b"more", Move(length=None)), size=len(body)))
    assert f"sends more than the {len(body)} bytes" in message


@pytest.mark.parametrize("status", [401, 403, 404, 410])
def test_refusing_server_hands_over_to_the_mirror(server: Server, status: int) -> None:
    body = packed()
    first, mirror = server.put("x", body, Move(status=status)), server.put("mirror", body)
    assert get(source(first, mirror, size=len(body))) == body
    assert len(server.asked("x")) == 1, "not asked twice"


def test_refusing_servers_end_in_one_message_with_every_reason(server: Server) -> None:
    first, mirror = server.put("x", b"", Move(status=403)), server.put("mirror", b"", Move(status=404))
    message = failing(source(first, mirror, size=1_574_584_300))
    assert "x.zip (1.6 GB) cannot be downloaded" in message
    assert f"{first}: answers 403 Forbidden" in message
    assert f"{mirror}: answers 404 Not Found" in message


def test_416_of_a_part_that_is_whole(server: Server) -> None:
    body = packed()
    url = server.put("x", body)
    Path("x.zip.part").write_bytes(body)
    Path("x.zip.part.json").write_text(json.dumps({"url": url, "etag": f'"{sha256(body)[:16]}"'}))
    assert get(source(url)) == body
    assert [(r.status, r.sent) for r in server.asked("x")] == [(416, 0)]


def test_416_of_a_part_that_is_too_long_starts_anew(server: Server) -> None:
    body = packed()
    url = server.put("x", body)
    Path("x.zip.part").write_bytes(body + b"too long")
    Path("x.zip.part.json").write_text(json.dumps({"url": url, "etag": f'"{sha256(body)[:16]}"'}))
    assert get(source(url)) == body
    assert [r.status for r in server.asked("x")] == [416, 200]


def test_429_waits_as_long_as_asked(server: Server) -> None:
    body = packed()
    url = server.put("x", body, Move(status=429, headers={"Retry-After": "1"}), Move())
    before = time.monotonic()
    assert get(source(url)) == body
    assert time.monotonic() - before >= 1.0


def test_retry_after_a_date(server: Server) -> None:
    body = packed()
    date = email.utils.formatdate(time.time() + 2, usegmt=True)
    before = time.monotonic()
    assert get(source(server.put("x", body, Move(status=503, headers={"Retry-After": date}), Move()))) == body
    assert time.monotonic() - before >= 0.9


def test_429_that_asks_for_an_hour_is_not_waited_for(server: Server) -> None:
    before = time.monotonic()
    message = failing(source(server.put("x", b"", Move(status=429, headers={"Retry-After": "3600"}))))
    assert "answers 429 Too Many Requests and asks to wait 3600 s: run again then" in message
    assert time.monotonic() - before < 5


def test_500_is_tried_again_with_growing_pauses(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr(fetch, "pause", lambda seconds, stop: pauses.append(seconds))
    body = packed()
    assert get(source(server.put("x", body, *[Move(status=500)] * 4, Move()))) == body
    assert [0.8 <= p / fetch.BACKOFF / 2**i <= 1.2 for i, p in enumerate(pauses)] == [True] * 4


def test_500_for_ever_is_given_up(server: Server) -> None:
    message = failing(source(server.put("x", b"", Move(status=500))))
    assert "answers 500 Internal Server Error" in message
    assert len(server.asked("x")) == fetch.ROUNDS


def test_silence_is_a_broken_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "TIMEOUT", (10.0, 0.5))
    monkeypatch.setattr(fetch, "ROUNDS", 2)
    body = packed()
    assert get(source(server.put("x", body, Move(stall=1.5), Move()))) == body
    assert len(server.asked("x")) == 2
    message = failing(source(server.put("y", body, Move(stall=1.0)), file="y.zip"))
    assert "nothing arrived for 0.5 s" in message


def test_a_server_that_sends_a_byte_now_and_then_is_given_up(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SLOWEST", 0.4)
    for name, length in (("x", 0), ("y", None)):
        url = server.put(name, b"PK" * 10, Move(piece=1, slow=0.1, length=length))
        assert "sends less than 40960 bytes a second" in failing(source(url))
        assert len(server.asked(name)) == 1


def test_a_server_that_never_ends_its_headers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "SLOWEST", 0.5)
    given_up = threading.Event()

    def talk(listening: socket.socket) -> None:
        connection, _ = listening.accept()
        with connection, contextlib.suppress(OSError):
            connection.sendall(b"HTTP/1.1 200 OK\r\nX-Long: ")
            while not given_up.wait(0.05):
                connection.sendall(b"x")

    with socket.create_server(("127.0.0.1", 0)) as listening:
        talking = threading.Thread(target=talk, args=(listening,))
        talking.start()
        message = failing(source(f"http://127.0.0.1:{listening.getsockname()[1]}/x.zip"))
        given_up.set()
        talking.join()
    assert "has not begun to answer for 0.5 seconds" in message


def test_a_certificate_that_nobody_has_signed_is_said_at_once(tmp_path: Path) -> None:
    key, certificate = _self_signed(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler) as secure:
        secure.socket = context.wrap_socket(secure.socket, server_side=True)
        serving = threading.Thread(target=secure.serve_forever)
        serving.start()
        message = failing(source(f"https://127.0.0.1:{secure.server_port}/x.zip"))
        secure.shutdown()
        serving.join()
    assert "cannot be trusted: certificate verify failed: self-signed certificate" in message
    assert "REQUESTS_CA_BUNDLE" in message


def _self_signed(folder: Path) -> tuple[Path, Path]:
    """Write a key and a certificate for 127.0.0.1 and return their files."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    today = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(today).not_valid_after(today + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    plain = serialization.NoEncryption()
    key_file, file = folder / "key.pem", folder / "certificate.pem"
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.TraditionalOpenSSL, plain)
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    return key_file, file


@pytest.mark.parametrize("length", [0, None])
def test_no_server_fills_the_disk(server: Server, monkeypatch: pytest.MonkeyPatch, length: int | None) -> None:
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: SimpleNamespace(free=100_000))
    message = failing(source(server.put("x", packed(), Move(length=length))))
    assert ("300.1 kB to send" if length == 0 else "and never said how much will come") in message
    assert "100.0 kB free" in message or "half of what was free" in message
    assert str(Path.cwd()) in message
    assert not Path("x.zip.part").exists()


@pytest.mark.parametrize("value", ["9" * 5000, "\xb2", "-5", "x"])
def test_a_senseless_length_is_no_length(server: Server, value: str) -> None:
    body = packed()
    assert get(source(server.put("x", body, Move(headers={"Content-Length": value}, length=None)))) == body


@pytest.mark.parametrize(
    ("status", "name", "value"),
    [(302, "Location", "http://[::1"), (302, "Location", "http://a\xff:99999999/"), (302, "Location", "x" * 10000),
     (429, "Retry-After", "\xb2"), (503, "Retry-After", "Mon, 01 Jan 99999 00:00:00 GMT"), (416, "Content-Range", "bytes */\xb2"),
     (206, "Content-Range", "bytes 0-9/" + "9" * 5000)],
)  # fmt: skip
def test_senseless_headers_are_an_error_of_the_address(server: Server, status: int, name: str, value: str) -> None:
    url = server.put("x", packed(), Move(status=status, headers={name: value}, length=None))
    assert url in failing(source(url))


def test_a_damaged_state_of_a_part_is_not_believed(server: Server) -> None:
    body = packed()
    for state in (b"[1]", b'{"url": 5}', b"\xff", b"[" * 100_000):
        Path("x.zip.part").write_bytes(body[:1000])
        Path("x.zip.part.json").write_bytes(state)
        assert get(source(server.put("x", body))) == body
        Path("x.zip").unlink()


@pytest.mark.parametrize("kind", ["type", "body"])
def test_html_page_instead_of_the_archive(server: Server, kind: str) -> None:
    page = b"\n<!DOCTYPE html><html><body>Quota exceeded</body></html>"
    headers = {"Content-Type": "text/html; charset=utf-8"} if kind == "type" else {}
    good = packed()
    url = server.put("x", page, Move(headers=headers))
    assert "answers with an HTML page" in failing(source(url))
    assert len(server.asked("x")) == 1
    assert get(source(url, server.put("mirror", good))) == good


def flipped(body: bytes, at: int = 150_000) -> bytes:
    return body[:at] + bytes([body[at] ^ 1]) + body[at + 1 :]


@pytest.mark.parametrize(
    ("wrong", "known", "reason"),
    [
        (flipped(packed()), "sha256", "is published: it is corrupt, or another file"),
        (flipped(packed()), "nothing", "'a/0000000000.png' is damaged: Bad CRC-32"),
        (packed(seed=1), "sha256", "it is corrupt, or another file"),
        (packed(200_000), "bytes", f"holds {len(packed(200_000))} bytes, {len(packed())} are published"),
        (packed()[:200_000], "nothing", "not a whole zip archive: it is truncated or damaged"),
        (b"Rar!" + noise(len(packed()) - 4), "bytes", "not a whole zip archive: it starts with b'Rar!'"),
    ],
    ids=["corrupt", "corrupt, no checksum", "swapped", "swapped, other length", "truncated", "no zip"],
)
def test_wrong_bodies_are_noticed_deleted_and_named(
    server: Server, caplog: pytest.LogCaptureFixture, wrong: bytes, known: str, reason: str
) -> None:
    body = packed()
    size = len(body) if known == "bytes" else None
    digest = sha256(body) if known == "sha256" else ""
    url = server.put("x", body, Move(body=wrong))
    assert reason in failing(source(url, size=size, sha256=digest))
    assert not Path("x.zip.part").exists()
    if "holds" not in reason:  # that one is refused by its header
        assert "x.zip.part was wrong and is deleted" in caplog.text
    assert len(server.asked("x")) == 1, "the same address would give the same again"
    assert get(source(url, server.put("mirror", body), size=size, sha256=digest)) == body


@pytest.mark.parametrize("known", ["sha256", "nothing"])
def test_corrupt_start_of_an_earlier_run_is_not_built_on_for_ever(server: Server, known: str) -> None:
    body = packed()
    url = server.put("x", body)
    Path("x.zip.part").write_bytes(flipped(body)[:200_000])
    Path("x.zip.part.json").write_text(json.dumps({"url": url, "etag": f'"{sha256(body)[:16]}"'}))
    assert get(source(url, size=len(body), sha256=sha256(body) if known == "sha256" else "")) == body
    assert [r.range for r in server.asked("x")] == ["bytes=200000-", None]


@pytest.mark.parametrize("if_range", [True, False], ids=["heeds If-Range", "does not"])
def test_file_that_changes_between_two_requests_is_not_spliced(server: Server, if_range: bool) -> None:
    old, new = noise(300_000, 1), noise(300_000, 2)
    url = server.put("x", new, Move(body=old, drop=100_000), Move(if_range=if_range), Move())
    assert get(source(url, file="x.bin")) == new, "nothing but the ETag tells"


def test_part_of_unknown_origin_is_used_only_where_a_checksum_proves_it(server: Server) -> None:
    body = packed()
    url = server.put("x", body)
    Path("x.zip.part").write_bytes(body[:200_000])
    assert get(source(url, sha256=sha256(body))) == body
    assert server.sent("x") == len(body) - 200_000
    Path("x.zip").unlink()
    Path("x.zip.part").write_bytes(body[:200_000])
    assert get(source(url)) == body
    assert server.asked("x")[-1].range is None


def test_mirror_goes_on_where_the_first_address_broke_if_the_checksum_is_known(server: Server) -> None:
    body = packed()
    first = server.put("x", body, Move(drop=200_000), Move(status=404))
    mirror = server.put("mirror", body, Move(etag='"another"'))
    assert get(source(first, mirror, sha256=sha256(body))) == body
    assert len(body) - 200_000 <= server.sent("mirror") < len(body) - 200_000 + fetch.CHUNK
    assert server.asked("mirror")[0].if_range is None, "the ETag is the other server's"


def test_mirror_starts_anew_if_no_checksum_is_known(server: Server) -> None:
    body = packed()
    first = server.put("x", body, Move(drop=200_000), Move(status=404))
    assert get(source(first, server.put("mirror", body))) == body
    assert server.sent("mirror") == len(body)


def test_mirror_is_not_asked_while_the_first_address_gets_on(server: Server) -> None:
    body = packed()
    first = server.put("x", body, *[Move(drop=100_000)] * 3, Move())
    assert get(source(first, server.put("mirror", body))) == body
    assert server.asked("mirror") == []


def test_nothing_listens(server: Server) -> None:
    with pytest.raises(fetch.Failed, match="Connection refused") as caught:
        get(source(REFUSED), patient=False)
    assert caught.value.unreachable
    body = packed()
    assert get(source(REFUSED, server.put("x", body)), patient=False) == body


def test_impatience_is_for_connections_only(server: Server) -> None:
    body = packed()
    assert get(source(server.put("x", body, Move(status=503), Move())), patient=False) == body


def test_encoding_that_was_not_asked_for(server: Server) -> None:
    url = server.put("x", b"abc", Move(headers={"Content-Encoding": "gzip"}))
    assert "sends it as gzip" in failing(source(url))


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.builds(
            Move,
            status=st.sampled_from([200, 200, 200, 200, 500, 429, 404]),
            drop=st.none() | st.integers(0, 40_000),
            length=st.sampled_from([0, 0, 0, 5, -5, None]),
            ranges=st.booleans(),
            if_range=st.booleans(),
            etag=st.sampled_from(["right", "right", None, 'W/"weak"']),
            body=st.sampled_from([None, None, None, packed(30_000, 1), packed(20_000, 2), b"<html>"]),
        ),
        max_size=6,
    ),
    st.sampled_from(["nothing", "bytes", "sha256"]),
)
def test_whatever_servers_do_the_file_is_right_or_absent(tmp_path: Path, moves: list[Move], known: str) -> None:
    body = packed(30_000)
    right = {body} if known == "sha256" else {body, packed(30_000, 1), packed(20_000, 2)}
    folder = tmp_path / "one"
    with Server() as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "BACKOFF", 0.0)
        url = server.put("x", body, *moves, Move())
        one = source(
            url,
            server.put("mirror", body),
            size=len(body) if known == "bytes" else None,
            sha256=sha256(body) if known == "sha256" else "",
        )
        try:
            assert get(one, folder / "x.zip") in right, "never parts of two versions"
        except fetch.Failed:
            assert not (folder / "x.zip").exists()
    shutil.rmtree(folder, ignore_errors=True)


# Locks


def test_lock_excludes_threads_and_leaves_nothing() -> None:
    held, most = 0, 0

    def work() -> None:
        nonlocal held, most
        for _ in range(5):
            with verified.lock(Path("x")):
                held += 1
                most = max(most, held)
                time.sleep(0.002)
                held -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert list(Path().iterdir()) == []


def test_lock_without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_flock(*_: Any) -> None:
        raise OSError(errno.ENOTSUP, "not supported")

    monkeypatch.setattr(fcntl, "flock", no_flock)
    dead = subprocess.Popen(["true"])
    dead.wait()
    Path(".x.held").write_text(f"{os.uname().nodename} {dead.pid}")  # left by a killed process
    with verified.lock(Path("x")):
        assert verified._acquire(Path(".x.lock")) is None
    assert verified._acquire(Path(".x.lock")) is not None


STAGE = [sys.executable, "-m", "pipeline.download", "--dataset", "kitti", "--split", "test"]
DRIVES = [f"2011_09_26_drive_{n}_sync" for n in ("0060", "0084", "0093", "0096")]


def tree(setting: str = "all") -> dict[str, Any]:
    values = resolved()
    values["datasets"]["kitti"] |= {"archives": setting, "published_test": None}
    return values


def drive(i: int, size: int = 300_000) -> bytes:
    return packed(size, seed=i, name=f"2011_09_26/{DRIVES[i]}/image_02/data/0000000000.png")


def write_sources(rows: dict[str, tuple[str, int | str, str]]) -> None:
    """rows: file -> (addresses, bytes, sha256)."""
    lines = ["dataset,file,url,mirror,bytes,sha256,licence,login,note"]
    for file, (urls, size, digest) in rows.items():
        url, _, mirror = urls.partition(" ")
        lines.append(f"kitti,{file},{url},{mirror},{size},{digest},CC BY-NC-SA 3.0,https://kitti.example/page,")
    Path("workflow").mkdir(exist_ok=True)
    Path("workflow/sources.csv").write_text("\n".join(lines) + "\n")


def offer(server: Server, *moves: Move, checksums: bool = False, size: int = 300_000) -> list[bytes]:
    """Serve four drives and list them; return their bytes."""
    bodies = [drive(i, size) for i in range(4)]
    write_sources(
        {
            f"{name}.zip": (server.put(name, body, *moves), len(body), sha256(body) if checksums else "")
            for name, body in zip(DRIVES, bodies, strict=True)
        }
    )
    return bodies


def stage(setting: str = "all") -> dict[str, Any]:
    """Run the stage in this process; return the manifest."""
    download.download(params.validate(tree(setting)), "kitti", "test")
    return json.loads(Path("data/raw/kitti/test.json").read_text())


def environment(setting: str = "all") -> dict[str, str]:
    return handed_over(tree(setting))


def test_stage_downloads_verifies_and_writes_the_manifest(server: Server) -> None:
    bodies = offer(server)
    manifest = stage()
    assert manifest["archives"] == [
        {"file": f"{name}.zip", "bytes": len(body), "sha256": sha256(body)}
        for name, body in zip(DRIVES, bodies, strict=True)
    ]
    assert (manifest["dataset"], manifest["split"], manifest["missing"]) == ("kitti", "test", [])
    sums = Path("data/raw/SHA256SUMS").read_text()
    assert sums == "".join(f"{sha256(b)}  kitti/{n}.zip\n" for n, b in zip(DRIVES, bodies, strict=True))
    subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd="data/raw", check=True)
    assert sorted(p.name for p in Path("data/raw/kitti").iterdir()) == sorted(
        [*(f"{n}.zip" for n in DRIVES), "test.json"]
    )
    before = len(server.log)
    assert stage() == manifest
    assert len(server.log) == before, "the second run asks for nothing"


def test_archives_are_fetched_in_parallel(server: Server) -> None:
    offer(server, Move(stall=0.5))
    stage()
    assert server.most == download.PARALLEL


def test_killed_stage_goes_on_where_it_was(server: Server) -> None:
    bodies = offer(server, Move(slow=0.05), size=3_000_000)
    process = subprocess.Popen(STAGE, env=environment(), stderr=subprocess.DEVNULL)
    part = Path("data/raw/kitti") / f"{DRIVES[0]}.zip.part"
    deadline = time.monotonic() + 60
    while not (part.exists() and part.stat().st_size > 400_000) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.kill()
    process.wait()
    halves = {name: (Path("data/raw/kitti") / f"{name}.zip.part").stat().st_size for name in DRIVES}
    assert not Path("data/raw/kitti/test.json").exists()
    before = len(server.log)
    assert all(0 < size < len(body) for size, body in zip(halves.values(), bodies, strict=True))
    offer(server, Move(), size=3_000_000)
    subprocess.run(STAGE, env=environment(), check=True, stderr=subprocess.DEVNULL)
    for name, body in zip(DRIVES, bodies, strict=True):
        (request,) = [r for r in server.log[before:] if r.path == f"/{name}"]
        assert request.range == f"bytes={halves[name]}-"
        assert request.sent == len(body) - halves[name], "what was there is not fetched again"
        assert (Path("data/raw/kitti") / f"{name}.zip").read_bytes() == body
    assert sorted(p.name for p in Path("data/raw").rglob("*") if "part" in p.name or "tmp" in p.name) == []


def test_two_processes_fetch_each_file_once(server: Server) -> None:
    bodies = offer(server, Move(slow=0.1))
    both = [subprocess.Popen(STAGE, env=environment(), stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=100)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], errors
    for name, body in zip(DRIVES, bodies, strict=True):
        assert server.sent(name) == len(body)
    assert len(Path("data/raw/SHA256SUMS").read_text().splitlines()) == 4
    assert not [p for p in Path("data/raw").rglob(".*") if p.name != ".verified.json"]


def test_nothing_reachable_is_one_message_with_the_way_out() -> None:
    write_sources({f"{name}.zip": (f"{REFUSED} {REFUSED}/mirror", 1000, "") for name in DRIVES})
    put(0)
    write_sources({f"{name}.zip": (f"{REFUSED} {REFUSED}/mirror", len(drive(0)), "") for name in DRIVES})
    before = time.monotonic()
    with pytest.raises(RetakeError) as caught:
        stage()
    assert time.monotonic() - before < 20
    text = str(caught.value)
    assert "kitti test: 1 of 4 archives are there and right" in text
    assert "missing (3):" in text
    for name in DRIVES[1:]:
        assert f"{name}.zip" in text
    assert f"{REFUSED}: Failed to establish a new connection" in text
    assert "Get them from https://kitti.example/page" in text
    assert "Put them into data/raw/kitti under these names and run the same command again" in text
    assert "set datasets.kitti.archives to present" in text
    assert "now 1 of 4" in text
    assert not Path("data/raw/kitti/test.json").exists()


def test_present_downloads_nothing_and_lists_what_is_missing(server: Server) -> None:
    bodies = offer(server)
    put(1)
    manifest = stage("present")
    assert manifest["archives"] == [{"file": f"{DRIVES[1]}.zip", "bytes": len(bodies[1]), "sha256": sha256(bodies[1])}]
    assert manifest["missing"] == [f"{DRIVES[i]}.zip" for i in (0, 2, 3)]
    assert server.log == []


def test_present_with_nothing_there_says_so(server: Server) -> None:
    offer(server)
    with pytest.raises(RetakeError, match=r"0 of 4 archives are there(.|\n)*Put them into data/raw/kitti"):
        stage("present")
    assert server.log == []


def test_gated_data_are_one_message_with_page_names_and_folder() -> None:
    Path("workflow").mkdir()
    rows = [f"kitti,{name}.zip,,,,,licence,https://kitti.example/login (account),unpack nothing" for name in DRIVES]
    Path("workflow/sources.csv").write_text("\n".join([",".join(COLUMNS), *rows]) + "\n")
    with pytest.raises(RetakeError) as caught:
        stage()
    text = str(caught.value)
    assert text.count("https://kitti.example/login (account)") == 1
    assert all(f"{name}.zip" in text for name in DRIVES)
    assert "Put them into data/raw/kitti" in text


# Archives put there by hand


def put(i: int, data: bytes | None = None) -> Path:
    path = Path("data/raw/kitti") / f"{DRIVES[i]}.zip"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(drive(i) if data is None else data)
    return path


def test_hand_placed_archives_are_verified_and_used(server: Server) -> None:
    bodies = offer(server, checksums=True)
    for i in range(4):
        put(i).chmod(0o444)
    assert [a["sha256"] for a in stage()["archives"]] == [sha256(b) for b in bodies]
    assert server.log == []


@pytest.mark.parametrize(
    ("data", "checksums", "reason"),
    [
        (drive(1)[:1000], False, "has 1000 bytes, {size} are published: it is truncated, or another file"),
        (drive(1) + b"x", False, "has {longer} bytes, {size} are published: it is another file"),
        (drive(2), True, "is published: it is corrupt, or another file"),
        (flipped(drive(1)), False, "is damaged: Bad CRC-32"),
        (b"<html>" + noise(len(drive(1)) - 6), False, "is not a whole zip archive: it is an HTML page"),
    ],
    ids=["truncated", "longer", "swapped", "corrupt", "page"],
)
def test_wrong_hand_placed_archives_are_named_and_left(
    server: Server, data: bytes, checksums: bool, reason: str
) -> None:
    offer(server, checksums=checksums)
    path = put(1, data)
    path.chmod(0o444)
    before = path.stat()
    with pytest.raises(RetakeError) as caught:
        stage()
    text = str(caught.value)
    assert str(path) in text
    assert reason.format(size=len(drive(1)), longer=len(drive(1)) + 1) in text
    assert "left as they are" in text
    assert "Put the publisher's files there, or move these away" in text
    assert path.read_bytes() == data
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert not Path("data/raw/kitti/test.json").exists()


def test_all_wrong_archives_stand_in_one_message(server: Server) -> None:
    offer(server)
    put(0, b"short")
    put(2, flipped(drive(2)))
    with pytest.raises(RetakeError) as caught:
        stage()
    assert f"{DRIVES[0]}.zip has 5 bytes" in str(caught.value)
    assert f"{DRIVES[2]}.zip: '2011_09_26/{DRIVES[2]}/image_02/data/0000000000.png' is damaged" in str(caught.value)
    assert "wrong (2)" in str(caught.value)


def test_later_change_is_an_error_that_says_so(server: Server) -> None:
    offer(server)
    stage()
    path = put(1, packed(seed=9, name=f"2011_09_26/{DRIVES[1]}/image_02/data/0000000000.png"))
    with pytest.raises(RetakeError) as caught:
        stage()
    assert f"{path} has changed: its SHA-256 was {sha256(drive(1))} when it was first verified" in str(caught.value)
    assert "delete its line in data/raw/SHA256SUMS" in str(caught.value)
    sums = Path("data/raw/SHA256SUMS")
    sums.write_text("".join(line for line in sums.read_text().splitlines(True) if DRIVES[1] not in line))
    assert stage()["archives"][1]["sha256"] == sha256(path.read_bytes())
    assert sha256(path.read_bytes()) in sums.read_text()


def test_unchanged_archives_are_not_hashed_again_and_changed_ones_are(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    real = verified.verify
    monkeypatch.setattr(verified, "verify", lambda path, *rest: (read.append(path.name), real(path, *rest))[1])
    offer(server)
    for i in range(4):
        put(i)
    stage()
    assert sorted(read) == [f"{name}.zip" for name in DRIVES]
    read.clear()
    stage()
    assert read == []
    # Another content with the length and the modification time of the first.
    path = Path("data/raw/kitti") / f"{DRIVES[3]}.zip"
    before = path.stat()
    path.write_bytes(flipped(drive(3)))
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(RetakeError, match="damaged"):
        stage()
    assert read == [path.name]
    read.clear()
    shutil.copy2(path, "copy")
    path.unlink()
    shutil.copy2("copy", path)  # another file under the name
    with pytest.raises(RetakeError, match="damaged"):
        stage()


def test_checksum_published_later_is_heeded(server: Server) -> None:
    offer(server)
    stage()
    text = Path("workflow/sources.csv").read_text()
    Path("workflow/sources.csv").write_text(text.replace(f"{len(drive(1))},,", f"{len(drive(1))},{'0' * 64},", 1))
    with pytest.raises(RetakeError, match=rf"{'0' * 64} is published"):
        stage()


def test_damaged_sums_file_is_named_with_the_line(server: Server) -> None:
    offer(server)
    Path("data/raw").mkdir(parents=True)
    Path("data/raw/SHA256SUMS").write_text("not a line\n")
    with pytest.raises(RetakeError, match=r"data/raw/SHA256SUMS:1: not a line of sha256sum: 'not a line'"):
        stage()


def test_check_reads_everything_again_and_fetches_nothing(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    offer(server)
    names = [f"{drive}.zip" for drive in params.registry("datasets")["kitti"].EXPECTED["train"]]
    with Path("workflow/sources.csv").open("a") as out:
        out.writelines(f"kitti,{name},{REFUSED},,,,licence,page,\n" for name in names)
    stage()
    before = len(server.log)
    download.check(params.validate(tree()), "kitti")
    text = capsys.readouterr().out
    assert f"right    {DRIVES[0]}.zip  {sha256(drive(0))}" in text
    assert f"missing  {names[0]}" in text
    put(2, flipped(drive(2)))
    with pytest.raises(RetakeError, match="damaged"):
        download.check(params.validate(tree()), "kitti")
    assert len(server.log) == before


def test_list_shows_every_dataset(
    server: Server, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(ROOT / "workflow", "workflow")
    put(0)
    monkeypatch.setattr(sys, "argv", ["download", "--list"])
    download.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["dataset", "archives", "size", "here", "by", "licence", "login"]
    machine = next(line for line in lines if line.startswith("kitti") and "machine" in line)
    assert "28 " in machine
    assert "33.8 GB" in machine
    assert "1 of 28" in machine
    assert any(line.startswith("kitti") and "hand" in line and "drive.google.com" in line for line in lines)
    assert any(line.startswith("demo") and "code" in line for line in lines)
    sizes = {line.split()[0]: re.split("  +", line)[2] for line in lines if line.split()[0] in ("vimeo90k", "dtdb")}
    assert sizes == {"vimeo90k": "about 116.7 GB", "dtdb": "not published"}  # rounded figures are told as such


def test_unknown_dataset_and_split_name_the_nearest() -> None:
    with pytest.raises(RetakeError, match=r"unknown dataset 'kiti' .did you mean 'kitti'"):
        download.download(params.validate(tree()), "kiti", "test")
    with pytest.raises(RetakeError, match=r"no split 'tests' .did you mean 'test'"):
        download.download(params.validate(tree()), "kitti", "tests")


def test_archive_without_a_row_is_named() -> None:
    write_sources({f"{name}.zip": (REFUSED, 1, "") for name in DRIVES[1:]})
    with pytest.raises(
        RetakeError, match=rf"workflow/sources.csv has no row with dataset kitti and file {DRIVES[0]}.zip"
    ):
        stage()


def test_archives_made_by_code(monkeypatch: pytest.MonkeyPatch) -> None:
    def generate(p: Any, split: str, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "made.zip").write_bytes(packed(seed=len(split)))

    module = SimpleNamespace(SPLITS=("test",), archives=lambda p, split: ["made.zip"], generate=generate)
    monkeypatch.setattr(params, "registry", lambda package: {"made": module})
    p: Any = SimpleNamespace(datasets={"small": SimpleNamespace(kind="made", archives="all")})
    download.download(p, "small", "test")
    manifest = json.loads(Path("data/raw/small/test.json").read_text())
    assert manifest["archives"] == [
        {"file": "made.zip", "bytes": len(packed(seed=4)), "sha256": sha256(packed(seed=4))}
    ]
    module.generate = lambda p, split, folder: (folder / "made.zip").write_bytes(packed(seed=5))
    download.download(p, "small", "test")  # other code, other archives: nothing of theirs is held to a recorded sum
    assert not Path("data/raw/SHA256SUMS").exists()


def test_full_disk_stops_all_archives(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, Move(slow=0.02))

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "x.part")

    monkeypatch.setattr(fetch, "_receive", full)
    with pytest.raises(OSError) as caught:
        stage()
    assert caught.value.errno == errno.ENOSPC


# sources.csv

COLUMNS = ["dataset", "file", "url", "mirror", "bytes", "sha256", "licence", "login", "note"]


def test_sources_of_the_project_are_valid() -> None:
    rows = fetch.sources(ROOT / "workflow/sources.csv")
    zips = [row for row in rows if row.name == "kitti" and row.urls]
    assert len(zips) == 28
    assert sum(row.bytes or 0 for row in zips) == 33815433897
    kitti = params.registry("datasets")["kitti"]
    wanted = {f"{drive}.zip" for split in kitti.EXPECTED.values() for drive in split}
    assert {row.file for row in zips} == wanted
    for row in zips:
        assert row.url.endswith(f"/{row.file.removesuffix('_sync.zip')}/{row.file}")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("kitti,a.zip,https://x.example/a,,12,,free,,", None),
        ('kitti,a.zip,,https://x.example/a  https://y.example/a,,,free,,"a, b"', None),
        ("kitti,a.zip,ftp://x.example/a,,12,,free,,", "url 'ftp://x.example/a'"),
        ("kitti,a.zip,https://x.example/a,nowhere,12,,free,,", "'nowhere' is not an address"),
        ("kitti,../a.zip,https://x.example/a,,12,,free,,", "file '../a.zip'"),
        ("kitti,/a.zip,https://x.example/a,,12,,free,,", "file '/a.zip'"),
        ("kitti,.a.zip,https://x.example/a,,12,,free,,", "file '.a.zip'"),
        ("Kitti,a.zip,https://x.example/a,,12,,free,,", "dataset 'Kitti'"),
        ("kitti,a.zip,https://x.example/a,,1.6 GB,,free,,", "bytes '1.6 GB'"),
        ("kitti,a.zip,https://x.example/a,,-1,,free,,", "bytes '-1'"),
        ("kitti,a.zip,https://x.example/a,,12,abc,free,,", "sha256 'abc'"),
        ("kitti,a.zip,https://x.example/a,,12,,,,", "licence ''"),
        ("kitti,a.zip,,,12,,free,,", "needs a url, or in `login` the page"),
        ("kitti,a.zip,https://x.example/a,,12,,free,", "8 values, the header has 9"),
        ("kitti,b.zip,https://x.example/a,,12,,free,,", "kitti/b.zip stands in line 2 too"),
    ],
)
def test_rows_are_checked_and_errors_name_the_line(line: str, message: str | None) -> None:
    path = Path("sources.csv")
    path.write_text(",".join(COLUMNS) + f"\nkitti,b.zip,https://x.example/b,,,,free,,\n{line}\n")
    if message is None:
        row = fetch.sources(path)[1]
        assert row.file == "a.zip"
        assert len(row.urls) in (1, 2)
    else:
        with pytest.raises(RetakeError) as caught:
            fetch.sources(path)
        assert str(caught.value).startswith("sources.csv:3: ")
        assert message in str(caught.value)


def test_other_columns_and_other_files() -> None:
    Path("sources.csv").write_text("dataset,file\n")
    with pytest.raises(RetakeError, match=r"sources.csv:1: the columns must be dataset,file,url"):
        fetch.sources(Path("sources.csv"))
    Path("sources.csv").write_bytes(b"\xff\xfe")
    with pytest.raises(RetakeError, match="is not UTF-8"):
        fetch.sources(Path("sources.csv"))
    with pytest.raises(RetakeError, match="run from the project's folder"):
        fetch.sources(Path("none.csv"))


# Hostile archives


def zipped(*members: tuple[str, bytes, dict[str, Any]], method: int = zipfile.ZIP_STORED) -> Path:
    path = Path("x.zip")
    with zipfile.ZipFile(path, "w", method) as out:
        for name, data, fields in members:
            info = zipfile.ZipInfo("x")
            info.filename = name  # the constructor would tidy it
            info.compress_type = method
            for key, value in fields.items():
                setattr(info, key, value)
            out.writestr(info, data)
    return path


def link(kind: int) -> dict[str, Any]:
    return {"create_system": 3, "external_attr": (kind | 0o777) << 16}


@pytest.mark.parametrize(
    ("member", "reason"),
    [
        (("/etc/passwd", b"x", {}), "has an absolute path"),
        (("../up", b"x", {}), "leaves its folder"),
        (("a/../../up", b"x", {}), "leaves its folder"),
        (("a\\..\\..\\up", b"x", {}), "leaves its folder"),
        (("\\\\server\\x", b"x", {}), "has an absolute path"),
        (("C:\\x", b"x", {}), "has a path with a drive letter"),
        (("c:/x", b"x", {}), "has a path with a drive letter"),
        (("link", b"/etc/passwd", link(stat.S_IFLNK)), "is a link"),
        (("null", b"", link(stat.S_IFCHR)), "is a device"),
        (("disk", b"", link(stat.S_IFBLK)), "is a device"),
        (("pipe", b"", link(stat.S_IFIFO)), "is a device, pipe or socket"),
        (("good/0000000000.png", b"y", {}), "has the same name as 'good/0000000000.png'"),
        (("good//./0000000000.png", b"y", {}), "has the same name as"),
        (("good\\0000000000.png", b"y", {}), "has the same name as"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_hostile_members_are_refused(member: tuple[str, bytes, dict[str, Any]], reason: str) -> None:
    path = zipped(("good/0000000000.png", b"x", {}), member)
    with pytest.raises(RetakeError) as caught:
        archives.names(path)
    assert str(caught.value).startswith("x.zip: refused, its member ")
    assert reason in str(caught.value)
    with pytest.raises(RetakeError, match="refused"):
        archives.read(Member(path, "good/0000000000.png"))


def patched(path: Path, old: bytes, new: bytes, count: int) -> Path:
    data = path.read_bytes()
    assert data.count(old) == count
    path.write_bytes(data.replace(old, new))
    return path


def test_encrypted_member() -> None:
    path = zipped(("secret.png", b"x", {}))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(RetakeError, match=r"x.zip: refused, its member 'secret.png' is encrypted"):
        archives.names(path)


def test_bomb_by_declared_size() -> None:
    path = zipped(("zeros.png", bytes(20 << 20), {}), method=zipfile.ZIP_DEFLATED)
    with pytest.raises(
        RetakeError, match=r"'zeros.png' declares 20971520 bytes, over 100 times the \d+ that are stored"
    ):
        archives.names(path)


def test_bomb_of_many_members() -> None:
    path = zipped(*[(f"{i}.png", bytes(1 << 20), {}) for i in range(40)], method=zipfile.ZIP_DEFLATED)
    with pytest.raises(RetakeError, match=r"its 40 members declare 41943040 bytes, over 100 times the archive's \d+"):
        archives.names(path)


def test_bomb_by_real_size() -> None:
    size = 3_000_000
    path = zipped(("small.png", noise(2) + bytes(size - 2), {}), method=zipfile.ZIP_DEFLATED)
    patched(path, struct.pack("<I", size), struct.pack("<I", 1000), 2)
    for refuse in (lambda: archives.read(Member(path, "small.png")), lambda: archives.check(path)):
        with pytest.raises(
            RetakeError, match=r"x.zip: 'small.png' unpacks to more than the 1000 bytes that it declares"
        ):
            refuse()


def test_member_that_unpacks_to_less() -> None:
    path = zipped(("small.png", bytes(1000), {}), method=zipfile.ZIP_DEFLATED)
    patched(path, struct.pack("<I", 1000), struct.pack("<I", 2000), 2)
    with pytest.raises(RetakeError, match=r"unpacks to 1000 of the 2000 bytes|damaged"):
        archives.read(Member(path, "small.png"))


def test_members_that_share_bytes() -> None:
    path = zipped(("a.png", noise(5000), {}), ("b.png", noise(5000, 1), {}))
    with zipfile.ZipFile(path) as opened:
        offset = opened.getinfo("b.png").header_offset
    central = path.read_bytes().rindex(b"PK\x01\x02")
    data = bytearray(path.read_bytes())
    assert struct.unpack_from("<I", data, central + 42)[0] == offset
    struct.pack_into("<I", data, central + 42, 0)
    path.write_bytes(data)
    with pytest.raises(RetakeError, match=r"'b.png' shares bytes with 'a.png'"):
        archives.names(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_other_compression_is_refused(method: int) -> None:
    with pytest.raises(RetakeError, match="only stored and deflated members are read"):
        archives.names(zipped(("a.png", b"x" * 100, {}), method=method))


def test_zip_inside_is_a_file_like_any_other() -> None:
    path = zipped(("inner.zip", packed(), {}))
    assert archives.names(path) == ["inner.zip"]
    assert archives.read(Member(path, "inner.zip")) == packed()


def test_read_bounds_missing_members_and_folders() -> None:
    path = zipped(("a.png", noise(5000), {}))
    assert archives.read(Member(path, "a.png")) == noise(5000)
    with pytest.raises(RetakeError, match=r"'a.png' declares 5000 bytes, more than the 100"):
        archives.read(Member(path, "a.png"), limit=100)
    with pytest.raises(RetakeError, match=r"x.zip: 'b.png': no such member"):
        archives.read(Member(path, "b.png"))
    with pytest.raises(RetakeError, match=r"no archive y.zip: .*--list"):
        archives.read(Member(Path("y.zip"), "b.png"))
    Path("folder").mkdir()
    Path("folder/a.png").write_bytes(b"abc")
    assert archives.read(Member(Path("folder"), "a.png")) == b"abc"
    for name, reason in [("../x.zip", "leaves its folder"), ("b.png", "no such file"), ("/etc/passwd", "absolute")]:
        with pytest.raises(RetakeError, match=reason):
            archives.read(Member(Path("folder"), name))


def test_opened_archives_notice_a_new_file_under_the_name() -> None:
    assert archives.read(Member(zipped(("a.png", b"first", {})), "a.png")) == b"first"
    assert archives.read(Member(zipped(("a.png", b"second", {})), "a.png")) == b"second"


def test_hostile_download_is_refused_deleted_and_reported(server: Server) -> None:
    hostile = zipped(("../../up.png", noise(1000), {})).read_bytes()
    Path("x.zip").unlink()
    message = failing(source(server.put("x", hostile)))
    assert (
        "gives a wrong file: x.zip.part: refused, its member '../../up.png' has a path that leaves its folder"
        in message
    )
    assert list(Path().iterdir()) == []


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.integers(0, 10_000), st.integers(0, 255)), min_size=1, max_size=4), st.integers(0, 300))
@example([], 22)
def test_damaged_archives_are_refused_or_right(tmp_path: Path, changes: list[tuple[int, int]], cut: int) -> None:
    buffer = io.BytesIO()
    members = {"a/0.png": noise(60), "a/1.txt": b"text " * 20}
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in members.items():
            out.writestr(name, data)
    data = bytearray(buffer.getvalue())
    for at, value in changes:
        data[at % len(data)] = value
    path = tmp_path / "damaged.zip"
    path.write_bytes(data[: len(data) - max(cut - 250, 0)])
    try:
        archives.check(path)
        found = {n: archives.read(Member(path, n)) for n in archives.names(path) if n in members}
    except RetakeError as error:
        found, message = {}, str(error)
    else:
        message = str(path)
    assert str(path) in message
    assert found.items() <= members.items()
