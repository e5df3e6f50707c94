"""The default channel of a connection over which messages are published: one write for a message, one read for what comes."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stem_kombu import timeouts
from stem_kombu.concurrency.poller import POLLIN, poller
from stem_kombu.transports.amqp.frame_writer import FrameWriter, channel_number
from stem_kombu.transports.amqp.frames import AmqpFrames
from stem_kombu.transports.amqp.message_frames import AROUND

if TYPE_CHECKING:
    from amqp import Connection as AmqpConnection
    from kombu import Connection


class PublishingChannel:
    """For one thread at a time. Every method raises what the driver raises when the connection or its channel is lost."""

    def __init__(self, connection: Connection) -> None:
        channel: Any = connection.default_channel  # py-amqp's, of which Kombu's annotations know nothing
        self._channel = channel
        self._amqp: AmqpConnection = connection.connection
        self._socket: Any = self._amqp.sock
        self._socket.settimeout(timeouts.BROKER_REPLY)  # once, and not around each frame as py-amqp does
        self._frames, self._writer = AmqpFrames(self._amqp, channel), FrameWriter(self._amqp)
        self._poller = poller()
        self._poller.register(self._socket, POLLIN)
        self._is_tls = isinstance(self._socket, ssl.SSLSocket)

    @property
    def number(self) -> int:
        return channel_number(self._channel)

    @property
    def longest_payload(self) -> int:
        """Bytes of a frame."""
        return int(self._amqp.frame_max) - AROUND

    def confirm(self, confirmed: Callable[[int, bool], object], refused: Callable[[int, bool], object]) -> None:
        """Have the broker confirm what is published from now on."""
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(confirmed)
        self._channel.events["basic_nack"].add(refused)
        self._frames.confirmed = confirmed

    def write(self, frames: bytes, timeout: float) -> None:
        """Hand the frames to the system within ``timeout`` seconds; nothing is read."""
        self._writer.write(frames, timeout)

    def end(self, timeout: float) -> None:
        """Close the channel, which the broker answers once it has read all that was written before; raises ``TimeoutError``
        where it sends nothing for ``timeout`` seconds."""
        self._socket.settimeout(timeout)
        self._channel.close()

    def has_news(self, seconds: float = 0.0) -> bool:
        """Whether the broker has sent something, after waiting at most ``seconds`` for it."""
        # A record of TLS may hold several frames, which the descriptor knows nothing of.
        return (self._is_tls and self._socket.pending() > 0) or bool(self._poller.poll(seconds * 1000))

    def take_in(self) -> None:
        """Read what has come, without waiting for more."""
        while self._frames.take_in():
            pass
