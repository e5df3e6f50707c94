"""What browsers of queues have in common: one connection, opened when it is needed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.messages.encoding import LARGEST_BODY
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import broker_errors

if TYPE_CHECKING:
    from kombu import Connection

#: Messages that are read at a time: few enough that no other client of the broker waits for it.
PAGE = 500


@dataclass(frozen=True, slots=True)
class NoMessage:
    """An entry of a queue that is no message of Kombu's; ``problem`` says why. A worker that meets it puts it aside."""

    problem: str

    @classmethod
    def of(cls, error: Exception) -> NoMessage:
        """What reading the entry raised."""
        return cls(f"no message of Kombu's ({type(error).__name__}: {error})")


class BrowsingConnection:
    """A connection that only reads. Used by one thread."""

    def __init__(self, template: Connection) -> None:
        self._template = template
        self._connection: Any = None

    @contextmanager
    def channel(self) -> Iterator[Any]:
        """The channel of the open connection. Within the block, what the driver raises becomes
        :class:`~stem_kombu.errors.BrokerUnavailable`, and the next block connects again."""
        if self._connection is None:
            connection = connect(self._template.clone())
            limit_decompression(connection.default_channel, LARGEST_BODY)
            self._connection = connection
        try:
            with broker_errors(self._template, "looking into queues"):
                yield self._connection.default_channel
        except Exception:
            self.close()
            raise

    def close(self) -> None:
        """Let the connection go. May be called twice."""
        connection, self._connection = self._connection, None
        if connection is not None:
            release(connection)
