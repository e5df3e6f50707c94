"""What systemd is told of a worker that it has started (``Type=notify``): ready, alive, stopping. Nothing where none did.

The watchdog is fed only while each vital thread moves, as a liveness probe would find it; so ``WatchdogSec=`` of the unit
restarts a worker that hangs, and none whose broker is down.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Callable, Mapping
from types import TracebackType

from stem_kombu import timeouts
from stem_kombu.clock import monotonic
from stem_kombu.health_page import DRAINING, STATE, Page, health_of

logger = logging.getLogger(__name__)


class ServiceManager:
    """Tells the socket that ``NOTIFY_SOCKET`` of ``environ`` names, between its beginning and end as a context.

    ``read()`` is the page of the worker's health file as it stands.
    """

    def __init__(self, environ: Mapping[str, str], read: Callable[[], Page]) -> None:
        self._address = environ.get("NOTIFY_SOCKET", "")
        self._read = read
        self._period = _watchdog_period(environ)
        self._ended = threading.Event()
        self._is_stopping = False
        self._thread: threading.Thread | None = None

    def ready(self, status: str) -> None:
        """It consumes; ``status`` is what ``systemctl status`` shows."""
        self._tell(f"READY=1\nSTATUS={status}")

    def __enter__(self) -> ServiceManager:
        if self._address:
            self._thread = threading.Thread(target=self._run, name="stem-notify", daemon=True)
            self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._thread is not None:
            self._ended.set()
            self._thread.join()
            self._stopping("ending")

    def _run(self) -> None:
        fed_at = float("-inf")
        while True:
            page, now = self._read(), monotonic()
            if page.cells[STATE] == DRAINING:
                self._stopping("finishing what runs")
            if self._period is not None and now - fed_at >= self._period / 2 and health_of(page, now).live:
                self._tell("WATCHDOG=1")
                fed_at = now
            if self._ended.wait(
                timeouts.CLI_NOTIFY_LOOK if self._period is None else min(timeouts.CLI_NOTIFY_LOOK, self._period / 4)
            ):
                return

    def _stopping(self, status: str) -> None:
        if not self._is_stopping:
            self._is_stopping = True
            self._tell(f"STOPPING=1\nSTATUS={status}")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        # Of an address that begins with @ that is a zero byte: it is in no file system.
        address = f"\0{self._address[1:]}" if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
                sender.connect(address)
                sender.send(text.encode())
        except OSError as error:
            logger.warning("NOTIFY_SOCKET %s takes no %r: %s", self._address, text.partition("\n")[0], error)


def _watchdog_period(environ: Mapping[str, str]) -> float | None:
    """Seconds within which systemd wants to be told again, ``None`` when it does not, or not by this process."""
    micros, pid = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    if not micros.isascii() or not micros.isdigit() or int(micros) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(micros) / 1e6
