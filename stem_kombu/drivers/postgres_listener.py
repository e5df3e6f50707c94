"""One PostgreSQL connection that its owner alone uses, and the notifications that come on it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from stem_kombu.concurrency.poller import POLLIN, poller
from stem_kombu.drivers.postgres import PostgresDatabase
from stem_kombu.drivers.postgres_session import PostgresSession, close_inherited

T = TypeVar("T")


class PostgresListener:
    """Used by one thread at a time. Connects when first used, and again after a loss; listens to ``channels`` from then on.

    ``hears``: the server's notifications reach this connection. They do not behind a pooler that gives the server's
    connections to each transaction anew, and LISTEN would stay there on a connection of others.
    """

    def __init__(self, database: PostgresDatabase, channels: Sequence[str]) -> None:
        self._database = database
        self._channels = tuple(channels)
        self._connection: Any = None
        self._pid = 0
        self.hears = False

    def run(self, operation: Callable[[PostgresSession], T]) -> T:
        """What the operation returns; each of its statements is its own transaction.

        Raises :class:`~stem_kombu.errors.StoreError`; the next call connects again.
        """
        try:
            return operation(PostgresSession(self._connected(), self._database.timeout))
        except self._database.errors as error:
            self.close()
            raise self._database.failure(error) from error
        except BaseException:
            self.close()  # in the middle of something
            raise

    def wait(self, seconds: float, wakes: Sequence[int] = ()) -> tuple[bool, bool]:
        """Whether there was a notification since the last call, and whether one of ``wakes`` is readable; waits at most
        ``seconds`` for one of them."""
        if self._notified():
            return True, False
        waiting = poller()
        if self._connection is not None:
            waiting.register(self._connection.fileno(), POLLIN)
        for wake in wakes:
            waiting.register(wake, POLLIN)
        ready = {descriptor for descriptor, _ in waiting.poll(max(0.0, seconds) * 1000)}
        if ready.difference(wakes):
            try:
                self._connection.poll()
            except self._database.errors as error:
                self.close()
                raise self._database.failure(error) from error
        return self._notified(), not ready.isdisjoint(wakes)

    def close(self) -> None:
        """Let the connection go. May be called twice, also in a forked child."""
        connection, self._connection = self._connection, None
        if connection is None or connection.closed:
            return
        if self._pid == os.getpid():
            connection.close()
        else:
            close_inherited(connection)

    def _connected(self) -> Any:
        if self._connection is not None and (self._connection.closed or self._pid != os.getpid()):
            self.close()
        if self._connection is None:
            self._connection, self._pid = self._database.connect(), os.getpid()
            session = PostgresSession(self._connection, self._database.timeout)
            self.hears = not session.is_pooled()
            for channel in self._channels if self.hears else ():
                session.execute(f'LISTEN "{channel}"')
        return self._connection

    def _notified(self) -> bool:
        if self._connection is None or not self._connection.notifies:
            return False
        self._connection.notifies.clear()
        return True
