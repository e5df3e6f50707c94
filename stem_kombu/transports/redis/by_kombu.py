"""The control link on Redis by Kombu's public names, for servers and users that lack what the quicker one needs.

Kombu before 5.7 ignores ``x-expires`` on Redis. There Stem gives each inbox that it sends to its end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stem_kombu.transports.control_link import Addresses, ControlConnection
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.generic.control import GenericControlConnection, GenericControlLink

if TYPE_CHECKING:
    from kombu import Connection

    from stem_kombu.clock import Clock


class ByKombuLink(GenericControlLink):
    """See :class:`~stem_kombu.transports.control_link.ControlLink`."""

    def _listening(
        self, connection: Connection, addresses: Addresses, limit: float, confirms: bool
    ) -> ControlConnection:
        return ByKombuConnection(connection, addresses, clock=self._clock)


class ByKombuConnection(GenericControlConnection):
    """See :class:`~stem_kombu.transports.control_link.ControlConnection`."""

    def __init__(self, connection: Connection, addresses: Addresses, *, clock: Clock) -> None:
        super().__init__(connection, addresses, clock=clock)
        self._queues_expire = queues_expire(connection.default_channel)

    def send(self, inbox: str, body: bytes, *, expires: float) -> None:
        super().send(inbox, body, expires=expires)
        if not self._queues_expire:
            with broker_errors(self._connection, "sending to an inbox"):
                let_expire(self._connection.default_channel, inbox, expires)


def queues_expire(channel: object) -> bool:
    """Whether Kombu's queues on Redis end by themselves (``x-expires``, since Kombu 5.7)."""
    return hasattr(channel, "_maybe_update_queues_expire")


def let_expire(channel: Any, queue: str, seconds: float) -> None:
    """Have the messages of a queue gone after that time, or after a longer one that it has already.

    Raises what the driver raises."""
    import redis

    # Not Kombu's own client, which before 5.7 puts no prefix before the key of this command.
    client: Any = redis.Redis(connection_pool=channel.pool)
    key, milliseconds = channel.global_keyprefix + queue, int(seconds * 1000)
    if client.pttl(key) < milliseconds:  # no message makes the time shorter for which others stay
        client.pexpire(key, milliseconds)
