"""A limit on the time for which a database may leave a question without an answer.

Drivers such as psycopg2 wait for ever: for a server that is silent, and for a pooler whose connections are all taken. A thread of
this module ends a connection that has not come back to its pool in time. The question fails then, and is tried again.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import MutableMapping
from typing import TYPE_CHECKING, Protocol

from sqlalchemy import event
from sqlalchemy.exc import OperationalError

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.drivers import forking

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine, ExceptionContext

#: Drivers of PostgreSQL that connect by libpq, which knows a limit, and whose connections tell their descriptor.
_DRIVERS = frozenset({"psycopg2", "psycopg"})


class DriverConnection(Protocol):
    def fileno(self) -> int: ...


class NoAnswer(OperationalError):
    """The database did not answer in time, and the connection was ended."""

    def __init__(self) -> None:
        super().__init__(None, None, TimeoutError(f"no answer within {timeouts.SQL_TRANSACTION:g} s"))


class _Watch:
    """Connections that are in use: until when each may be, and in which thread it is."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._used: dict[int, tuple[float, DriverConnection, int]] = {}
        self._ended: set[int] = set()
        self._thread: threading.Thread | None = None
        forking.renew_in_children(self)

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`."""
        self._lock, self._thread = threading.Lock(), None
        self._used.clear()

    def begin(self, connection: DriverConnection, *_: object) -> None:
        """This thread uses it from now on."""
        thread = threading.get_ident()
        with self._lock:
            self._used[id(connection)] = (SYSTEM.monotonic() + timeouts.SQL_TRANSACTION, connection, thread)
            self._ended.discard(thread)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="stem-sql-limit", daemon=True)
                self._thread.start()

    def end(self, connection: DriverConnection, *_: object) -> None:
        """It is in its pool again, or closed."""
        with self._lock:
            self._used.pop(id(connection), None)

    def has_ended(self) -> bool:
        """Whether the connection that this thread used last was ended here."""
        return threading.get_ident() in self._ended

    def _run(self) -> None:
        while True:
            SYSTEM.sleep(timeouts.SQL_LOOK)
            with self._lock:
                now = SYSTEM.monotonic()
                for key, (until, connection, thread) in list(self._used.items()):
                    if now >= until:
                        del self._used[key]
                        self._ended.add(thread)
                        _shut_down(connection)


_watch = _Watch()


def limit_answers(engine: Engine) -> None:
    """From now on a transaction of that engine fails with :class:`NoAnswer` after ``timeouts.SQL_TRANSACTION`` seconds, on
    PostgreSQL; elsewhere nothing changes. Call it before the engine has connected."""
    if engine.dialect.driver not in _DRIVERS:
        return
    event.listen(engine, "do_connect", _limit_connecting)
    event.listen(engine, "handle_error", _name_the_cause)
    # The first questions are the dialect's own, before the connection is handed to anything.
    event.listen(engine.pool, "connect", _watch.begin, insert=True)
    event.listen(engine.pool, "checkout", _watch.begin)
    for back in ("checkin", "invalidate", "close", "close_detached"):
        event.listen(engine.pool, back, _watch.end)


def _limit_connecting(_dialect: object, _record: object, _given: object, named: MutableMapping[str, object]) -> None:
    named.setdefault("connect_timeout", timeouts.SQL_CONNECT)


def _name_the_cause(context: ExceptionContext) -> NoAnswer | None:
    return NoAnswer() if context.is_disconnect and _watch.has_ended() else None


def _shut_down(connection: DriverConnection) -> None:
    """Its thread, which waits for the socket, sees its end."""
    try:
        copy = socket.socket(fileno=os.dup(connection.fileno()))
    except Exception:  # noqa: BLE001 - closed meanwhile, of which each driver tells in its own way
        return
    try:
        copy.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # its other end was quicker
    finally:
        copy.close()
