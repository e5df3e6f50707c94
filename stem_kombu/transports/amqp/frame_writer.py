"""Frames of AMQP on their way to the broker: one write for as many as there are."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from amqp import Connection as AmqpConnection


class FrameWriter:
    """The writing end of a connection of py-amqp whose socket has a timeout, for the thread that owns it."""

    def __init__(self, amqp: AmqpConnection) -> None:
        self._amqp = amqp
        self._socket = amqp.sock
        self._is_tls = isinstance(self._socket, ssl.SSLSocket)

    def write(self, frames: bytes, timeout: float) -> None:
        """Hand the frames to the system within ``timeout`` seconds; nothing is read. Raises what the driver raises when the
        connection is lost."""
        self._amqp.bytes_sent += 1  # by which py-amqp knows when a heartbeat is due
        if not self._is_tls:
            try:
                # Not send(), which polls before it writes, because the socket has a timeout.
                written = os.write(self._socket.fileno(), frames)
            except BlockingIOError:
                written = 0
            except OSError:
                self._amqp.transport.connected = False
                raise
            if written == len(frames):
                return
            frames = frames[written:]
        transport = self._amqp.transport
        with transport.having_timeout(timeout):
            transport.write(frames)


def channel_number(channel: object) -> int:
    """Of a channel of py-amqp. Raises what the driver raises for one that is closed."""
    number: int | None = getattr(channel, "channel_id", None)
    if number is None:
        from amqp.exceptions import RecoverableConnectionError

        raise RecoverableConnectionError("the channel is closed")
    return number
