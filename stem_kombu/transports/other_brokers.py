"""Producers for connections that senders give, beside the one of the settings' broker."""

from __future__ import annotations

import threading

from stem_kombu.drivers import forking
from stem_kombu.settings import Settings
from stem_kombu.transports.confirms import asks_for_confirms
from stem_kombu.transports.producer import TaskProducer, open_producer

#: Connections for which a producer is kept; one more, and that which was not used for longest is let go.
MOST = 8


class OtherBrokers:
    """One producer for each connection that is given: a Kombu connection, a pool, or the text of a URL. Each of these is
    cloned, never used. Safe to use from several threads and after a fork."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        forking.renew_in_children(self)
        #: The one that was used last at the end.
        self._held: list[tuple[object, TaskProducer]] = []

    def producer(self, connection: object, settings: Settings) -> TaskProducer:
        """The producer for the broker of that connection. Raises as
        :func:`~stem_kombu.transports.existing.beside` does."""
        with self._lock:
            for entry in self._held:
                if entry[0] is connection or (isinstance(connection, str) and entry[0] == connection):
                    self._held.remove(entry)
                    self._held.append(entry)
                    return entry[1]
            made = open_producer(settings, connection, confirms=asks_for_confirms(settings, connection))
            self._held.append((connection, made))
            over = self._held.pop(0)[1] if len(self._held) > MOST else None
        if over is not None:
            over.close()
        return made

    def close(self) -> None:
        """Let all of them go; they are made again when needed."""
        with self._lock:
            held, self._held = self._held, []
        for _, producer in held:
            producer.close()

    def renew(self) -> None:
        """See :mod:`stem_kombu.drivers.forking`: the producers renew themselves."""
        self._lock = threading.Lock()
