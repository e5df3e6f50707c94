"""Sockets that a forked child has from its parent: closed there at once, without a word on the wire.

A child that kept them would keep the parent's connections alive when the parent is killed, so that the broker would give
its messages to nobody; and one that closed them in order would say goodbye in the parent's name.
"""

from __future__ import annotations

import os
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kombu import Connection

_open: weakref.WeakSet[Connection] = weakref.WeakSet()


def close_in_children(connection: Connection) -> None:
    """Close this process's copy of the connection's sockets in every child that is forked from now on."""
    _open.add(connection)


def _close_copies() -> None:
    for connection in list(_open):
        for holder, attribute in _sockets(connection):
            sock = getattr(holder, attribute, None)
            if sock is not None:
                setattr(holder, attribute, None)
                # The descriptor alone: shutdown() would end the parent's connection, and so would TLS's goodbye.
                try:
                    os.close(sock.detach())
                except (OSError, AttributeError):
                    continue
    _open.clear()


def _sockets(connection: object) -> Iterator[tuple[object, str]]:
    """Where the drivers keep them: py-amqp one, redis-py one in each connection of a channel's pools."""
    established = getattr(connection, "_connection", None)
    yield getattr(established, "transport", None), "sock"
    for channel in list(getattr(established, "channels", None) or ()):
        for pool in (getattr(channel, name, None) for name in ("_pool", "_async_pool")):
            for kept in ("_available_connections", "_in_use_connections"):
                for one in list(getattr(pool, kept, None) or ()):
                    yield one, "_sock"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
