"""What the service shows: its page, the published forecasts, metrics and probes. It only reads.

A path is answered if it is one of a few, or the name of a file that a manifest names; nothing else of a
request reaches the file system.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from data_prep.schema import RefusedInput
from nowcast.service.health import Health
from nowcast.service.publishing import MANIFEST, Publisher
from nowcast.service.settings import Http
from nowcast.viewer import static_files

logger = logging.getLogger(__name__)

SOCKET_SECONDS = 15.0
"""Within which each part of a request must come and each part of an answer be taken."""
PIECE = 1 << 16
FORECAST = re.compile(r"/forecasts/(\d{8}T\d{4}(?:\d{2})?Z)/([A-Za-z0-9][A-Za-z0-9._/-]{0,200})")
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\nContent-Length: 0\r\n\r\n"
TYPES = {
    ".svg": "image/svg+xml",
    ".json": "application/json", ".html": "text/html; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8", ".png": "image/png", ".webp": "image/webp", ".gif": "image/gif",
    ".nc": "application/x-netcdf", ".tif": "image/tiff", ".csv": "text/csv; charset=utf-8",
}  # fmt: skip
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}


class _Server(ThreadingHTTPServer):
    """Answers a bounded number of requests at once."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, settings: Http, health: Health, publisher: Publisher) -> None:
        self.health, self.publisher = health, publisher
        self._free = threading.BoundedSemaphore(settings.connections)
        super().__init__((settings.host, settings.port), _Handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer in a thread, if one is free."""
        if not self._free.acquire(blocking=False):
            request.settimeout(1.0)
            with suppress(OSError):
                request.sendall(BUSY)
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer, and be free again."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:  # noqa: ARG002
        """A reader that goes away is no news."""
        logger.debug("a request ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    server_version, sys_version = "nowcast", ""
    protocol_version = "HTTP/1.1"
    timeout = SOCKET_SECONDS

    def do_GET(self) -> None:  # noqa: N802 (the name that the base class asks for)
        """Answer with content."""
        self._answer()

    def do_HEAD(self) -> None:  # noqa: N802
        """Answer without content."""
        self._answer()

    def handle_one_request(self) -> None:
        """Read a request and answer; one that does not come whole in time is cut off."""
        self._cut = threading.Timer(self.timeout, self._cut_off)
        self._cut.daemon = True
        self._cut.start()
        try:
            super().handle_one_request()
        finally:
            self._cut.cancel()

    def _cut_off(self) -> None:
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _answer(self) -> None:
        self._cut.cancel()  # it has come; taking the answer may last as long as it moves on
        path = self.path.partition("?")[0]
        health = self.server.health
        if self.headers.get("Content-Length", "0") != "0" or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # no request here has content, and what there is is not read
            self._send(HTTPStatus.BAD_REQUEST, b"no content is taken\n")
        elif path == "/latest.json":
            self._send(HTTPStatus.OK, _json(health.as_dict()), ".json")
        elif path == "/metrics":
            self._send(HTTPStatus.OK, health.metrics())
        elif path == "/healthz":
            alive = health.is_alive()
            self._send(_status(alive), b"alive\n" if alive else b"no sign of life\n")
        elif path == "/readyz":
            ready = health.is_ready()
            self._send(_status(ready), b"ready\n" if ready else b"no current forecast\n")
        elif (page := static_files().get(path[1:] or "index.html")) is not None:
            self._send(HTTPStatus.OK, page, Path(path).suffix or ".html")
        elif match := FORECAST.fullmatch(path):
            self._send_file(*match.groups())
        else:
            self._send(HTTPStatus.NOT_FOUND, b"there is nothing here\n")

    def _send_file(self, forecast: str, name: str) -> None:
        """A file that the manifest of a forecast names, or the manifest."""
        manifest = self.server.publisher.published.get(forecast)
        named = {MANIFEST, *(file["name"] for file in manifest["files"])} if manifest else set()
        if name not in named:
            self._send(HTTPStatus.NOT_FOUND, b"there is nothing here\n")
            return
        path = self.server.publisher.forecasts / forecast / name
        try:
            handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW)
        except OSError:
            self._send(HTTPStatus.NOT_FOUND, b"it was removed\n")
            return
        with open(handle, "rb") as file:
            size = os.fstat(handle).st_size
            self._start(HTTPStatus.OK, size, path.suffix, cache="public, max-age=86400, immutable")
            while self.command != "HEAD" and (piece := file.read(PIECE)):
                self.wfile.write(piece)

    def _send(self, status: HTTPStatus, content: bytes, suffix: str = "") -> None:
        self._start(status, len(content), suffix, cache="no-store")
        if self.command != "HEAD":
            self.wfile.write(content)

    def _start(self, status: HTTPStatus, size: int, suffix: str, *, cache: str) -> None:
        self.send_response(status)
        kind = TYPES.get(suffix, "application/octet-stream" if suffix else "text/plain; charset=utf-8")
        for name, value in {**HEADERS, "Content-Type": kind, "Cache-Control": cache}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size))
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the name of the base class)
        """Requests are no news."""
        logger.debug("%s " + format, self.address_string(), *args)


@contextmanager
def serving(settings: Http, health: Health, publisher: Publisher) -> Iterator[tuple[str, int] | None]:
    """A server in a thread of its own.

    Yields:
        Its address and port; nothing if it is not enabled.

    Raises:
        RefusedInput: If the address cannot be listened on.
    """
    if not settings.enabled:
        yield None
        return
    try:
        server = _Server(settings, health, publisher)
    except OSError as error:
        raise RefusedInput(
            "http.host and http.port can be listened on",
            came=f"{settings.host}:{settings.port} ({error.strerror or error})",
            do="choose another port, or end who uses it",
        ) from error
    thread = threading.Thread(target=server.serve_forever, args=(0.5,), name="http", daemon=True)
    thread.start()
    try:
        host, port = server.server_address[:2]
        yield str(host), port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _json(told: dict[str, Any]) -> bytes:
    return json.dumps(told).encode()


def _status(good: bool) -> HTTPStatus:  # noqa: FBT001
    return HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE
