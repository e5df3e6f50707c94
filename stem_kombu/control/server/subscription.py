"""One connection of a listener, from its opening to its loss: consuming, and making sure that it really hears.

Kombu subscribes at its first drain and not when it is told to consume, and a subscription can be lost without any error:
a socket that is half open, a binding that somebody removed. So an ear believes only what it has heard: its own message
at first, and then some broadcast every now and then.
"""

from __future__ import annotations

import random
import secrets
import threading
from collections.abc import Callable
from typing import Any, Protocol

from stem_kombu.clock import Clock
from stem_kombu.concurrency.wakeup import WakePipe, wait_readable
from stem_kombu.control.lines import acknowledges, body_of, drain, hang_up, line, loop_body, looped_token
from stem_kombu.control.protocol.codec import LARGEST_COMMAND
from stem_kombu.control.server.reply_publisher import Speaker
from stem_kombu.errors import BrokerError, BrokerUnavailable
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.transports import names
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.amqp.control import AmqpMail, open_amqp_mail
from stem_kombu.transports.connections import SLICE, connect, drop_idle, pulse
from stem_kombu.transports.redis.control import ControlReader, body_in, open_control_reader

_PREFETCH = 16
#: Messages on AMQP that are acknowledged together, or when nothing has come for a moment: an acknowledgement each would be
#: written in front of each answer.
_ACK_TOGETHER = 8
_CONNECT_TIMEOUT, _REPLY_TIMEOUT = 4.0, 5.0
#: Seconds after which a message to oneself is sent again, at first and later, and seconds after which it is given up.
_AGAIN_SOON, _AGAIN_LATER = 0.05, 1.0
_GIVE_UP = 5.0
#: Seconds for which it is sent again that soon: one worker that hears nothing must not shout at all the others.
_SOON = 1.0
#: Longest wait, in seconds: AMQP's heartbeats want to be looked after.
_LONGEST_WAIT = 1.0
#: Unreadable messages with nothing else between them, after which the connection itself is suspected.
_MOST_GARBAGE = 100


class Receive(Protocol):
    """Takes a message; ``say(reply_to, body)`` answers it."""

    def __call__(self, body: bytes, say: Callable[[str, bytes], None], /, *, private: bool) -> None: ...


class ControlSubscription:
    """Hears what is broadcast in a namespace (``fanout``) and what is sent to one worker's inbox.

    ``receive(body, say, private=…)`` is called with each message and the means to answer it, and whether it came to the
    inbox; ``garbage(reason, text)`` with what could not be read. ``later(reply_to, body)`` answers from any thread.
    After ``hearing_check`` to twice as many seconds without a broadcast the ear speaks to itself; it proves thereby for
    all others that they hear, so that a fleet as a whole speaks that often. ``pipe`` is open. Used by the thread that made it.
    """

    def __init__(
        self,
        template: Any,
        namespace: str,
        worker: str,
        *,
        fanout: bool,
        receive: Receive,
        garbage: Callable[[str, str], None],
        later: Callable[[str, bytes], None],
        hearing_check: float,
        pipe: WakePipe,
        clock: Clock,
    ) -> None:
        self._namespace, self._worker = namespace, worker
        self._fanout = fanout
        self._receive = receive
        self._garbage = garbage
        self._later = later
        self._hearing_check = hearing_check
        self._clock = clock
        self._connection = line(template, reply_timeout=_REPLY_TIMEOUT, confirms=False, heartbeats=True)
        driver = str(self._connection.transport.driver_type)
        self._ack = acknowledges(driver)
        # Kombu's virtual transports know no acknowledgement of several.
        self._together = _ACK_TOGETHER if driver == "amqp" else 1
        self._unacknowledged: list[Any] = []
        #: What is raised here when the connection is lost or an operation refused.
        self.errors: tuple[type[Exception], ...] = (
            BrokerError,
            *self._connection.connection_errors,
            *self._connection.channel_errors,
        )
        #: Ends a wait from another thread.
        self.wake: Callable[[], object] = pipe.wake
        self._pipe = pipe
        self._hearing: ControlReader | None = None
        self._mail: AmqpMail | None = None
        # On AMQP with a driver that we can't read by ourselves: says when it is worth to drain.
        self._socket: Any = None
        self._thread = threading.current_thread()
        self._inbox = names.inbox_queue(namespace, worker)
        self._speaker: Speaker
        self._proven = False
        self._unreadable = 0
        # The token that is waited for, ``None`` while there is no doubt.
        self._token: str | None = None
        self._doubt_at = self._doubted_at = self._speak_at = 0.0

    def open(self) -> None:
        """Connect and consume. Raises :class:`BrokerUnavailable`, or what the driver raises."""
        from kombu import Consumer

        connect(self._connection, _CONNECT_TIMEOUT)
        self.wake = getattr(self._connection.transport, "wake", self._pipe.wake)
        if self._connection.transport.driver_type == "amqp":
            self._socket = self._connection.connection.sock
            self._mail = open_amqp_mail(self._connection, timeout=_REPLY_TIMEOUT)
        channel = limit_decompression(self._connection.default_channel, LARGEST_COMMAND)
        self._speaker = Speaker(self._connection, self._mail)
        if self._connection.transport.driver_type == "redis":
            exchange = names.broadcast_exchange(self._namespace) if self._fanout else None
            self._hearing = open_control_reader(
                self._connection, None if exchange is None else exchange.name, self._inbox.name
            )
            if self._hearing is not None:
                if exchange is not None:
                    exchange(channel).declare()  # or its sender takes it for a direct one
                drop_idle(self._connection)
                self._doubt(self._clock.monotonic())
                return
        if self._mail is not None:
            self._mail.consume(self._inbox, prefetch=_PREFETCH)
            if self._fanout:
                self._mail.consume(
                    names.broadcast_queue(self._namespace, self._worker), broadcast=True, prefetch=_PREFETCH
                )
            self._doubt(self._clock.monotonic())
            return
        ways: list[tuple[Any, Callable[[Any], None]]] = [(self._inbox, self._on_inbox)]
        if self._fanout:
            ways.append((names.broadcast_queue(self._namespace, self._worker), self._on_broadcast))
        for queue, on_message in ways:
            consumer = Consumer(
                channel,
                [queue],
                on_message=on_message,
                on_decode_error=self._on_decode_error,
                no_ack=not self._ack,
                accept=["json"],
            )
            if self._ack:
                consumer.qos(prefetch_count=_PREFETCH)
            consumer.consume()
        self._doubt(self._clock.monotonic())

    def listen(self) -> bool:
        """Wait for one event, a moment at most; whether it is proven now, and was not before, that this ear hears.

        Raises :class:`BrokerUnavailable`, or what the driver raises, when it doesn't any more.
        """
        now = self._clock.monotonic()
        if self._token is None and now >= self._doubt_at:
            self._doubt(now)
        if self._token is not None and is_blocked(self._connection):
            # The broker takes no messages, so this one can't come back. That the queues are bound and consumed it has
            # confirmed; whether this ear hears is asked again later.
            self._believe()
        if self._token is not None:
            doubted = now - self._doubted_at
            if doubted > _GIVE_UP:
                raise BrokerUnavailable(f"worker {self._worker} does not hear what it says to itself")
            if now >= self._speak_at:
                self._speak(self._token)
                soon = not self._proven and doubted < _SOON
                self._speak_at = now + (_AGAIN_SOON if soon else _AGAIN_LATER)
        self._drain()
        if self._token is None and not self._proven:
            self._proven = True
            return True
        return False

    def close(self, *, gracefully: bool) -> None:
        """Let the connection go, from any thread. Waits for a blocking read, unless there is a graceful end to it."""
        if self._hearing is not None:
            self._hearing.close()
            gracefully = False
        say = (lambda body: self._speaker.say(body, "", self._inbox.name, 1.0)) if gracefully else None
        hang_up(self._connection, say, clock=self._clock)

    # -- hearing --------------------------------------------------------------------------------------------------------

    def _drain(self) -> None:
        before = self._unreadable
        if self._hearing is not None:
            self._hear(self._hearing)
        elif self._mail is not None:
            self._read(self._mail)
        elif self._socket is None or wait_readable(self._socket, self._pipe.reader, self._patience()):
            drain(self._connection, SLICE, clock=self._clock, garbage=self._on_garbage)
        else:
            self._acknowledge()
            pulse(self._connection, clock=self._clock)
        if self._unreadable == before:
            self._unreadable = 0
        elif self._unreadable >= _MOST_GARBAGE:
            raise BrokerUnavailable(f"{_MOST_GARBAGE} messages in a row could not be read")

    def _patience(self) -> float:
        """Seconds for which nothing has to be done."""
        if self._unacknowledged:
            return SLICE
        due = self._doubt_at if self._token is None else self._speak_at
        return min(_LONGEST_WAIT, max(0.0, due - self._clock.monotonic()))

    def _hear(self, hearing: ControlReader) -> None:
        for broadcast, text in hearing.wait(self._pipe.reader, self._patience(), self._clock.monotonic()):
            try:
                body = body_in(text)
            except ValueError as error:
                self._on_garbage(error)
                continue
            self._on_words(body, broadcast=broadcast)

    def _read(self, mail: AmqpMail) -> None:
        if mail.wait(self._patience(), self._pipe.reader):
            for broadcast, body in mail.take():
                self._on_words(body, broadcast=broadcast)
        else:
            mail.acknowledge()
        pulse(self._connection, clock=self._clock)

    def _on_words(self, body: bytes, *, broadcast: bool) -> None:
        if broadcast and self._proven:
            self._believe()
        self._on_body(body, private=not broadcast)

    def _doubt(self, now: float) -> None:
        self._token = secrets.token_hex(16)
        self._doubted_at = self._speak_at = now

    def _believe(self) -> None:
        self._token = None
        self._doubt_at = self._clock.monotonic() + self._hearing_check * (1 + random.random())

    def _speak(self, token: str) -> None:
        exchange: Any = names.broadcast_exchange(self._namespace) if self._fanout else ""
        self._speaker.say(loop_body(token), exchange, "" if self._fanout else self._inbox.name, _GIVE_UP)

    def _on_broadcast(self, message: Any) -> None:
        if self._proven:
            self._believe()
        self._on_message(message, private=False)

    def _on_inbox(self, message: Any) -> None:
        self._on_message(message, private=True)

    def _take(self, message: Any) -> None:
        if self._ack:
            self._unacknowledged.append(message)
            if len(self._unacknowledged) >= self._together:
                self._acknowledge()

    def _acknowledge(self) -> None:
        taken, self._unacknowledged = self._unacknowledged, []
        if taken:
            taken[-1].ack(multiple=len(taken) > 1)

    def _on_message(self, message: Any, *, private: bool) -> None:
        self._take(message)
        try:
            body = body_of(message)
        except ValueError as error:
            self._garbage("bad-message", f"a message is no text: {error}")
            return
        self._on_body(body, private=private)

    def _on_body(self, body: bytes, *, private: bool) -> None:
        token = looped_token(body)
        if token is None:
            # Closing a connection may hand over a last message, in the thread that closes it.
            here = threading.current_thread() is self._thread
            self._receive(body, self._speaker.reply if here else self._later, private=private)
        elif token == self._token:
            self._believe()

    def _on_decode_error(self, message: Any, error: Exception) -> None:
        self._take(message)
        self._on_garbage(error)

    def _on_garbage(self, error: Exception) -> None:
        self._unreadable += 1
        self._garbage("envelope", f"a message's envelope can't be read: {error!r}")
