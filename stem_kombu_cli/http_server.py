"""Answers of a worker or a fleet over HTTP: an address that must be meant, a bounded number of requests at once, few paths."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from types import TracebackType
from typing import Any, TypeAlias, cast

from stem_kombu import timeouts
from stem_kombu.drivers import forking
from stem_kombu.errors import ConfigurationError
from stem_kombu.version import __version__

#: Requests that are answered at once.
_AT_ONCE = 16

#: A status, a type of content, and a body.
Answer: TypeAlias = tuple[int, str, bytes]
#: What is answered at each path, given the header ``Accept``.
Routes: TypeAlias = Mapping[str, Callable[[str], Answer]]


def checked_address(text: str, *, public: bool, option: str = "--health") -> tuple[str, int]:
    """Host and port of ``HOST:PORT``. Raises :class:`ConfigurationError` for what is none, and unless ``public`` for a host that
    is more than this machine. ``option`` is how the flags begin that say so."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConfigurationError(f"{option}-listen: {text!r} is not HOST:PORT", hint="write 127.0.0.1:8080")
    if not public and not _is_loopback(host):
        raise ConfigurationError(
            f"{option}-listen: {host} can be reached from other machines, and the answers describe this fleet",
            hint=f"listen on 127.0.0.1, or allow it: {option}-public",
        )
    return host, int(port)


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


class HttpServer:
    """Answers while it is open, from a thread of its own. ``option`` is the flag that gave the address.

    Raises :class:`ConfigurationError` where the address can't be listened on.
    """

    def __init__(self, address: tuple[str, int], routes: Routes, *, option: str) -> None:
        #: What is answered at each path.
        self.routes = routes
        host = address[0]
        try:
            self._server = _Server(address, self.routes)
        except OSError as error:
            raise ConfigurationError(
                f"{option}: {host}:{address[1]} can't be listened on: {error.strerror or error}",
                hint="give another port, or stop what has this one",
            ) from error
        #: The port, also where 0 was given.
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, name="stem-http-server", daemon=True)
        forking.renew_in_children(self)
        self._thread.start()

    def __enter__(self) -> HttpServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`: the port stays the parent's."""
        self._server.socket.close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], routes: Routes) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self.routes = routes
        self._free = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, _Handler)

    def process_request(self, request: Any, client_address: object) -> None:
        if self._free.acquire(blocking=False):
            super().process_request(request, client_address)
        else:
            self.shutdown_request(request)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone is no matter of the log."""


class _Handler(BaseHTTPRequestHandler):
    server_version, sys_version = f"stem/{__version__}", ""
    timeout = timeouts.HTTP_REQUEST

    def do_GET(self) -> None:  # the base class calls it by this name
        route = cast("_Server", self.server).routes.get(self.path.partition("?")[0])
        status, kind, body = (
            (404, "text/plain", b"not found\n") if route is None else route(self.headers.get("Accept", ""))
        )
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_HEAD = do_GET

    def log_message(self, format: str, *args: object) -> None:
        """Probes come every few seconds; they are not logged."""
