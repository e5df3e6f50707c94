"""One connection of a listener, from its opening to its loss: receiving, and making sure that it really does.

A subscription can be lost without any error: a socket that is half open, a binding that an operator removed. So what counts
is what was received: a message to itself at first, and then some broadcast every now and then.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Protocol

from stem_kombu import chance, timeouts
from stem_kombu.clock import Clock
from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.control.protocol.codec import LARGEST_COMMAND
from stem_kombu.errors import BrokerUnavailable
from stem_kombu.transports import names
from stem_kombu.transports.control_link import (
    Addresses,
    ControlConnection,
    ControlLink,
    MalformedMessage,
    MessageKind,
    Received,
)

#: Malformed messages with nothing else between them, after which the connection itself is suspected.
_MOST_MALFORMED = 100


class Receive(Protocol):
    """Takes a message; ``say(reply_to, body)`` answers it, in the same thread."""

    def __call__(self, body: bytes, say: Callable[[str, bytes], None], /, *, private: bool) -> None: ...


class ControlSubscription:
    """Receives what is broadcast in a namespace, where the link fans out, and what is sent to one worker's inbox.

    ``receive(body, say, private=…)`` is called with each message, the means to answer it, and whether it came to the inbox;
    ``malformed(reason, text)`` with what could not be read. After ``hearing_check`` to twice as many seconds without a
    broadcast it sends one to itself; as all others receive that as well, a fleet as a whole sends that often. ``pipe`` is
    open, and ends a wait. Used by one thread, but for ``close``.
    """

    def __init__(
        self,
        link: ControlLink,
        namespace: str,
        worker: str,
        *,
        receive: Receive,
        malformed: Callable[[str, str], None],
        hearing_check: float,
        pipe: WakePipe,
        clock: Clock,
    ) -> None:
        self._link, self._namespace, self._worker = link, namespace, worker
        self._receive = receive
        self._malformed = malformed
        self._hearing_check = hearing_check
        self._pipe = pipe
        self._clock = clock
        self._inbox = names.inbox_name(namespace, worker)
        self._connection: ControlConnection | None = None
        self._fans_out = True
        self._proven = False
        self._malformed_in_a_row = 0
        # The token that is waited for, ``None`` while there is no doubt.
        self._token: str | None = None
        self._doubt_at = self._doubted_at = self._probe_at = 0.0

    def open(self) -> None:
        """Connect and subscribe. Raises :class:`BrokerError`."""
        self._fans_out = self._link.fans_out()
        addresses = Addresses(
            self._namespace,
            self._worker,
            inbox=self._inbox,
            broadcasts=self._fans_out,
            largest=LARGEST_COMMAND,
        )
        self._connection = self._link.open(addresses, timeout=timeouts.CONTROL_CONNECT, limit=timeouts.CONTROL_REPLY)
        self._doubt(self._clock.monotonic())

    def listen(self) -> bool:
        """Wait for some messages, a moment at most; whether it is proven now, and was not before, that they arrive.

        Raises :class:`BrokerError` when they don't any more.
        """
        connection = self._connection
        if connection is None:
            raise BrokerUnavailable(f"control of worker {self._worker} is not connected")
        now = self._clock.monotonic()
        if self._token is None and now >= self._doubt_at:
            self._doubt(now)
        if self._token is not None and connection.is_blocked:
            # The broker takes no messages, so this one can't come back. That the queues are bound and consumed it has
            # confirmed; whether broadcasts arrive is asked again later.
            self._trust()
        if self._token is not None:
            doubted = now - self._doubted_at
            if doubted > timeouts.RECEIVE_GIVE_UP:
                raise BrokerUnavailable(f"worker {self._worker} does not receive what it sends to itself")
            if now >= self._probe_at:
                self._send_probe(connection, self._token)
                soon = not self._proven and doubted < timeouts.RECEIVE_SOON
                self._probe_at = now + (timeouts.RECEIVE_AGAIN_SOON if soon else timeouts.RECEIVE_AGAIN_LATER)
        due = max(0.0, (self._doubt_at if self._token is None else self._probe_at) - self._clock.monotonic())
        patience = due if connection.keepalive is None else min(due, connection.keepalive)
        self._take(connection.wait(patience, self._pipe.reader))
        if self._token is None and not self._proven:
            self._proven = True
            return True
        return False

    def close(self) -> None:
        """Let the connection go, from any thread."""
        if self._connection is not None:
            self._connection.close()

    def _take(self, received: Sequence[Received]) -> None:
        for message in received:
            if isinstance(message, MalformedMessage):
                self._malformed_in_a_row += 1
                self._malformed("envelope", f"a message's envelope can't be read: {message.error}")
                continue
            self._malformed_in_a_row = 0
            broadcast = message.kind is MessageKind.BROADCAST
            if broadcast and self._proven:
                self._trust()
            token = probe_token(message.body)
            if token is None:
                self._receive(message.body, self._reply, private=not broadcast)
            elif token == self._token:
                self._trust()
        if self._malformed_in_a_row >= _MOST_MALFORMED:
            raise BrokerUnavailable(f"{_MOST_MALFORMED} messages in a row could not be read")

    def _doubt(self, now: float) -> None:
        self._token = chance.token_hex(16)
        self._doubted_at = self._probe_at = now

    def _trust(self) -> None:
        self._token = None
        self._doubt_at = self._clock.monotonic() + self._hearing_check * (1 + chance.random())

    def _send_probe(self, connection: ControlConnection, token: str) -> None:
        if self._fans_out:
            connection.broadcast(probe_body(token), expires=timeouts.RECEIVE_GIVE_UP)
        else:
            connection.send(self._inbox, probe_body(token), expires=timeouts.RECEIVE_GIVE_UP)

    def _reply(self, reply_to: str, body: bytes) -> None:
        assert self._connection is not None
        self._connection.send(reply_to, body, expires=timeouts.REPLY_EXPIRES)


def probe_body(token: str) -> bytes:
    """The message that a worker sends to everyone, itself included, to prove that it receives what is broadcast."""
    return b'{"loop":' + json.dumps(token).encode() + b"}"


def probe_token(body: bytes) -> str | None:
    """The token of :func:`probe_body`, ``None`` for any other message."""
    if not body.startswith(b'{"loop":') or len(body) > 200:
        return None
    return body[8:-1].decode("ascii", "replace").strip('" ')
