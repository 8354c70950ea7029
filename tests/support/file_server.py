"""A loopback file server for tests of downloads: it speaks Range and If-Range, and misbehaves as it is told."""

from __future__ import annotations

import hashlib
import re
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves `files` by path. Every answer uses up one entry of `statuses` and of `cuts`, as long as there are any.

    A status other than 200 is answered alone; a cut is the number of bytes after which the connection breaks, or
    stays open and silent until `stalls` is set, where there is such an event. For each request, `ranges` holds
    the Range asked for and `sent` the bytes of content that were sent. A file that is not there is answered with
    `missing_headers`. `posts` answer what is posted, by path; `authorizations` holds what each request brought.
    """

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.headers: dict[str, str] = {}
        self.missing_headers: dict[str, str] = {}
        self.statuses: list[int] = []
        self.cuts: list[int] = []
        self.stalls: threading.Event | None = None
        self.heeds_range = True
        self.heeds_if_range = True
        self.has_tags = True
        self.has_lengths = True
        self.posts: dict[str, Callable[[bytes], bytes]] = {}
        self.authorizations: list[str | None] = []
        self.ranges: list[str | None] = []
        self.sent: list[int] = []
        self.base = ""


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        place = self.path.partition("?")[0]
        told = self.server.told
        told.ranges.append(self.headers.get("Range"))
        told.authorizations.append(self.headers.get("Authorization"))
        status = told.statuses.pop(0) if told.statuses else 200
        if place in told.redirects:
            self._answer(302, {"Location": told.redirects[place]}, b"")
        elif status != 200 or place not in told.files:
            self._answer(status if status != 200 else 404, told.missing_headers, b"")
        else:
            self._send_file(told.files[place])

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_POST(self) -> None:
        told = self.server.told
        told.authorizations.append(self.headers.get("Authorization"))
        posted = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = told.posts.get(self.path.partition("?")[0])
        if answer is None:
            self._answer(404, told.missing_headers, b"")
        else:
            self._answer(200, {"Content-Type": "application/json"}, answer(posted))

    def _send_file(self, content: bytes) -> None:
        told = self.server.told
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag, **told.headers} if told.has_tags else dict(told.headers)
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        condition = self.headers.get("If-Range")
        is_same = condition in (None, tag) or not told.heeds_if_range
        if not asked or not told.heeds_range or not is_same:
            self._answer(200, headers, content)
            return
        start = int(asked[1])
        if start >= len(content):
            self._answer(416, {"Content-Range": f"bytes */{len(content)}"}, b"")
            return
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._answer(206, headers, content[start:])

    def _answer(self, status: int, headers: dict[str, str], content: bytes) -> None:
        told = self.server.told
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if told.has_lengths:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        cut = told.cuts.pop(0) if content and told.cuts else len(content)
        told.sent.append(min(cut, len(content)))
        # the client may have gone
        with suppress(OSError):
            self.wfile.write(content[:cut])
            if cut < len(content):
                if told.stalls:
                    told.stalls.wait(60)
                self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:
        """Stay silent."""


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, told: FileServer) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.told = told


@contextmanager
def running_file_server() -> Iterator[FileServer]:
    """A server for as long as the block lasts; its address is in `base`."""
    told = FileServer()
    with _Server(told) as server:
        told.base = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield told
        finally:
            server.shutdown()
            thread.join()
