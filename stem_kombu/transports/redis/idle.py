"""What a Redis connection of Kombu's holds without use: idle connections in its pools, and the means to wait for messages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu import Connection


def drop_idle(connection: Connection, keep: object = None) -> None:
    """Close what the pools of a Redis connection's channels hold and nothing uses just now: of each Kombu has used one for a
    ping, which is not needed where Kombu does not consume. They are opened again when they are needed. Those of the
    channel ``keep`` stay. Does nothing on other transports, and where a release of Kombu keeps its pools elsewhere."""
    if connection.transport.driver_type != "redis":
        return
    made: object = connection.connection
    for channel in (*getattr(made, "channels", ()), *getattr(made, "_avail_channels", ())):
        for pool in (getattr(channel, "_pool", None), getattr(channel, "_async_pool", None)):
            if pool is not None and channel is not keep:
                pool.disconnect(inuse_connections=False)


def poll_later(connection: Connection) -> None:
    """Have a Redis connection that consumes nothing yet open the descriptor by which Kombu waits for messages when it first does.
    Does nothing where a release of Kombu keeps that elsewhere."""
    cycle: Any = getattr(connection.transport, "cycle", None)
    held = getattr(cycle, "poller", None)
    if held is not None and not isinstance(held, _PollLater) and hasattr(held, "close"):
        cycle.poller = _PollLater()
        held.close()


class _PollLater:
    """As :func:`kombu.utils.eventio.poll` makes them, with the first use."""

    def __init__(self) -> None:
        self._made: Any = None

    def __getattr__(self, name: str) -> object:
        if self._made is None:
            from kombu.utils.eventio import poll

            self._made = poll()
        return getattr(self._made, name)

    def unregister(self, descriptor: Any) -> None:
        if self._made is not None:
            self._made.unregister(descriptor)

    def close(self) -> None:
        if self._made is not None:
            self._made.close()
