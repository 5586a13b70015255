"""An HTTP server on loopback that misbehaves as told: what the download tests fetch from."""

from __future__ import annotations

import hashlib
import re
import socket
import struct
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Move:
    """How one request is answered; by default as HTTP asks, with ranges and an ETag."""

    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | None = None  # another body than the file's
    drop: int | None = None  # close the connection after so many bytes of the body
    reset: bool = False  # with drop: reset it instead of closing
    length: int | None = 0  # added to the true Content-Length; None: no Content-Length
    ranges: bool = True
    etag: str | None = "right"
    if_range: bool = True  # honour If-Range
    stall: float = 0.0  # seconds of silence before the body
    slow: float = 0.0  # seconds between pieces
    piece: int = 1 << 16  # bytes


@dataclass(frozen=True)
class Request:
    """What was asked, and how many bytes of the body were sent."""

    path: str
    status: int
    range: str | None
    if_range: str | None
    sent: int


class Server:
    """`put` a file with the moves of its first requests; the last move stays.

    `log` has every request, `most` how many there were at once.
    """

    def __init__(self) -> None:
        self._files: dict[str, tuple[bytes, list[Move]]] = {}
        self._lock = threading.Condition()
        self._busy = self.most = 0
        self._log: list[Request] = []

    def __enter__(self) -> Server:
        outer = self

        class Handler(_Handler):
            server_of_tests = outer

        self._http = _Http(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()

    def __contains__(self, path: str) -> bool:
        return path in self._files

    def put(self, name: str, body: bytes, *moves: Move) -> str:
        """Serve `body` as `name`; return its address."""
        with self._lock:
            self._files[f"/{name}"] = (body, list(moves) or [Move()])
        return f"http://127.0.0.1:{self._http.server_address[1]}/{name}"

    def sent(self, name: str) -> int:
        """Return the bytes of bodies sent for `name`."""
        return sum(r.sent for r in self.asked(name))

    def asked(self, name: str) -> list[Request]:
        """Return the requests for `name`."""
        return [r for r in self.log if r.path == f"/{name}"]

    @property
    def log(self) -> list[Request]:
        """All requests, once every one of them is answered."""
        with self._lock:
            self._lock.wait_for(lambda: not self._busy, timeout=10)
            return list(self._log)

    def move(self, path: str) -> tuple[bytes, Move] | None:
        """Take the next move of a file; `done` says that it was made."""
        with self._lock:
            if path not in self._files:
                return None
            self._busy += 1
            self.most = max(self.most, self._busy)
            body, moves = self._files[path]
            return body, moves.pop(0) if len(moves) > 1 else moves[0]

    def done(self, request: Request) -> None:
        with self._lock:
            self._busy -= 1
            self._log.append(request)
            self._lock.notify_all()


class _Http(ThreadingHTTPServer):
    def handle_error(self, *_: Any) -> None:
        """Say nothing: clients are killed here."""


class _Handler(BaseHTTPRequestHandler):
    server_of_tests: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        found = self.server_of_tests.move(self.path)
        if found is None:
            self._answer(404, b"not found", Move(etag=None, ranges=False))
            return
        whole, move = found
        body = whole if move.body is None else move.body
        if move.status != 200:
            self._answer(move.status, b"<html>no</html>", move)
            return
        etag = f'"{hashlib.sha256(body).hexdigest()[:16]}"' if move.etag == "right" else move.etag
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        headers = {"ETag": etag} if etag else {}
        if asked and move.ranges and (condition in (None, etag) or not move.if_range):
            start = int(asked[1])
            if start >= len(body):
                self._answer(416, b"", move, {"Content-Range": f"bytes */{len(body)}"})
            else:
                span = f"bytes {start}-{len(body) - 1}/{len(body)}"
                self._answer(206, body[start:], move, headers | {"Content-Range": span})
        else:
            self._answer(200, body, move, headers)

    def _answer(self, status: int, body: bytes, move: Move, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in ({"Content-Type": "application/octet-stream"} | (headers or {}) | move.headers).items():
            self.send_header(name, value)
        if move.length is None:
            self.send_header("Connection", "close")
        else:
            self.send_header("Content-Length", str(len(body) + move.length))
        sent = 0
        end = len(body) if move.drop is None else min(move.drop, len(body))
        try:
            self.end_headers()
            self.wfile.flush()
            time.sleep(move.stall)
            while sent < end:
                piece = body[sent : min(sent + move.piece, end)]
                self.wfile.write(piece)
                sent += len(piece)
                time.sleep(move.slow)
        except OSError:
            pass  # the client was killed, or had enough
        if self.path in self.server_of_tests:
            asked = self.headers.get("Range"), self.headers.get("If-Range")
            self.server_of_tests.done(Request(self.path, status, *asked, sent))
        if move.drop is not None or move.length != 0:
            self.close_connection = True
            if move.reset:
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
