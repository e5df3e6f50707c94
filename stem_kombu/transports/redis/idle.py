"""Idle connections in the pools of Kombu's Redis channels."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kombu import Connection


def drop_idle(connection: Connection, keep: Any = None) -> None:
    """Close what the pools of a Redis connection's channels hold and nothing uses just now: of each Kombu has used one for a
    ping, which is not needed where Kombu does not consume. They are opened again when they are needed. Those of the
    channel ``keep`` stay. Does nothing on other transports, and where a release of Kombu keeps its pools elsewhere."""
    if connection.transport.driver_type != "redis":
        return
    made: Any = connection.connection
    for channel in (*getattr(made, "channels", ()), *getattr(made, "_avail_channels", ())):
        for pool in (getattr(channel, "_pool", None), getattr(channel, "_async_pool", None)):
            if pool is not None and channel is not keep:
                pool.disconnect(inuse_connections=False)
