"""A client's end of the mailbox: one connection and one private inbox for replies.

The inbox is consumed before anything is published, so that no answer can come too early. Workers are reached through
the fanout exchange where the transport has one, else one by one through their inboxes.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import Clock
from stem_kombu.control.lines import (
    acknowledges,
    body_of,
    drain,
    hang_up,
    line,
    looped_token,
    say,
)
from stem_kombu.control.protocol.codec import LARGEST_REPLY, decode_reply
from stem_kombu.control.protocol.messages import Reply
from stem_kombu.drop_counter import DropCounter
from stem_kombu.errors import BadMessage, BrokerError
from stem_kombu.messages.decompression import limit_decompression
from stem_kombu.signing.keyring import Keyring, Scope, Untrusted
from stem_kombu.signing.seal import REPLY, unsealed
from stem_kombu.transports import names
from stem_kombu.transports.amqp.control import AmqpMail, open_amqp_mail
from stem_kombu.transports.capabilities import Capabilities, capabilities_of
from stem_kombu.transports.connections import SLICE, connect
from stem_kombu.transports.errors import broker_errors, shown_url
from stem_kombu.transports.redis.control import body_in, limit_waits, open_reply_reader

if TYPE_CHECKING:
    from kombu import Connection

#: Longest wait for one answer of the broker, in seconds; for a command with a deadline what is left of it, at least a
#: moment, and changed in such steps.
_REPLY_TIMEOUT, _LEAST_WAIT, _STEP = 10.0, 0.05, 0.2
#: Seconds for each step of closing a connection that has just failed.
_LAST_STEP = 0.05


class Mailbox:
    """Used by one thread at a time. ``template`` is cloned, never used itself.

    With a keyring, replies that no worker of the fleet signed are dropped. Raises
    :class:`~stem_kombu.errors.BrokerUnavailable` when it can't be opened within ``timeout`` seconds.
    """

    def __init__(
        self, template: Connection, namespace: str, *, timeout: float, clock: Clock, keyring: Keyring | None = None
    ) -> None:
        self._clock = clock
        self._namespace = namespace
        self._keyring = keyring
        #: How many replies were not believed, by reason, since somebody last took this away.
        self.untrusted: dict[str, int] = {}
        deadline = clock.monotonic() + timeout
        #: The monotonic time by which the command must be over that this is put to use for: the broker is not waited for
        #: longer (G13). Until it is open that is the opening itself.
        self.until = deadline
        self._limit = self._longest_wait()
        self.abilities: Capabilities = capabilities_of(template, clock=clock, timeout=min(timeout, 2.0))
        self.abilities.require_control(shown_url(template))
        self._connection: Any = line(template, reply_timeout=self._limit, confirms=True, heartbeats=False)
        self.reply_to = names.reply_name(namespace, secrets.token_hex(16))
        # Replies that came while something was being sent: RabbitMQ confirms it on the same connection.
        self._early: list[Reply] = []
        self._heard: Callable[[Reply], object] = self._early.append
        self._complaints = DropCounter("replies to this client", clock)
        #: The monotonic time at which this mailbox was last put to use.
        self.used_at = clock.monotonic()
        try:
            connect(self._connection, max(0.05, deadline - clock.monotonic()))
            with broker_errors(self._connection, "opening the reply inbox"):
                self._open()
        except BrokerError:
            hang_up(self._connection, clock=clock, patience=_LAST_STEP)
            raise
        except BaseException:
            hang_up(self._connection, clock=clock)
            raise
        self.until = float("inf")

    def _open(self) -> None:
        from kombu import Consumer, Producer

        channel = limit_decompression(self._connection.default_channel, LARGEST_REPLY)
        self._producer = Producer(channel, auto_declare=False)
        # Unlike a worker a client is not asked unasked: RabbitMQ may push all that it has for it.
        self._acks = acknowledges(self.abilities.driver) and self.abilities.driver != "amqp"
        redis, amqp = (self.abilities.driver == driver for driver in ("redis", "amqp"))
        self._inbox = open_reply_reader(self._connection, self.reply_to) if redis else None
        self._mail: AmqpMail | None = (
            open_amqp_mail(self._connection, timeout=self._longest_wait(), confirms=True) if amqp else None
        )
        if self._mail is not None:
            self._mail.consume(names.direct_queue(self.reply_to))
        elif self._inbox is None:
            self._consumer = Consumer(
                channel,
                [names.direct_queue(self.reply_to)],
                on_message=self._on_message,
                on_decode_error=self._on_decode_error,
                no_ack=not self._acks,
                accept=["json"],
            )
            self._consumer.consume()
        # A sender that has not declared the exchange takes it for a direct one on Kombu's virtual transports.
        self._exchange = names.broadcast_exchange(self._namespace)
        if self.abilities.fanout:
            self._exchange(channel).declare()

    @property
    def fans_out(self) -> bool:
        """Whether everyone can be reached without knowing who that is."""
        return self.abilities.fanout

    def broadcast(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to everyone: by fanout, else to the inboxes of ``workers``, who are those on the roster."""
        if not self.abilities.fanout:
            self.send_to(body, workers, expires=expires)
            return
        with broker_errors(self._connection, "broadcasting"):
            self._limit_waits()
            self._publish(body, self._exchange, "", expires)
            self._settle()

    def send_to(self, body: bytes, workers: Iterable[str], *, expires: float) -> None:
        """Send to the inbox of each of the workers. Who isn't there gets nothing, and nothing is left behind for long."""
        with broker_errors(self._connection, "sending to inboxes"):
            self._limit_waits()
            for worker in workers:
                inbox = names.inbox_queue(self._namespace, worker)
                if self.abilities.needs_declare_before_reply:
                    inbox(self._connection.default_channel).declare()
                self._publish(body, "", inbox.name, expires)
            self._settle()

    def listen(self, heard: Callable[[Reply], object], until: float) -> None:
        """Hand what arrives to ``heard``, returning after each event, or at the monotonic time ``until``."""
        if self._early:
            early, self._early[:] = list(self._early), []
            for reply in early:
                heard(reply)
            return
        left = until - self._clock.monotonic()
        if left <= 0:
            return
        self._heard = heard
        try:
            self._listen(left)
        finally:
            self._heard = self._early.append

    def _listen(self, left: float) -> None:
        with broker_errors(self._connection, "waiting for replies"):
            self._limit_waits()
            if self._mail is not None:
                if self._mail.wait(min(left, SLICE)):
                    for _, body in self._mail.take():
                        self._hear(body)
                return
            if self._inbox is None:
                drain(self._connection, min(left, SLICE), clock=self._clock, garbage=self._on_garbage)
                return
            for text in self._inbox.wait(min(left, SLICE)):
                try:
                    self._hear(body_in(text))
                except ValueError as error:
                    self._on_garbage(error)

    def close(self, *, broken: bool = False) -> None:
        """Let the connection go, and the inbox with it; ``broken``: there is nobody to say goodbye to."""
        self._heard = lambda reply: None
        patience = _LAST_STEP if broken else None
        if self._inbox is not None:
            self._inbox.close()
        say = None if broken or self._inbox is not None else self._say_to_self
        hang_up(self._connection, say, clock=self._clock, patience=patience)

    def _say_to_self(self, body: bytes) -> None:
        self._publish(body, "", self.reply_to, 1.0)

    def _longest_wait(self) -> float:
        return min(_REPLY_TIMEOUT, max(_LEAST_WAIT, self.until - self._clock.monotonic()))

    def _limit_waits(self) -> None:
        left = self._longest_wait()
        if left <= self._limit <= left + _STEP:
            return
        self._limit = left
        if self._mail is not None:
            self._mail.limit(left)
        elif self.abilities.driver == "redis":
            limit_waits(self._connection.default_channel, left)

    def _settle(self) -> None:
        """Return once the broker has what was published."""
        if self._mail is not None:
            self._mail.settle()

    def _publish(self, body: bytes, exchange: Any, routing_key: str, expires: float) -> None:
        say(self._producer, self._mail, body, exchange, routing_key, expires)

    def _on_message(self, message: Any) -> None:
        if self._acks:
            message.ack()
        try:
            self._hear(body_of(message))
        except ValueError as error:
            self._complaints.drop("bad-message", str(error))

    def _hear(self, body: bytes) -> None:
        if looped_token(body) is not None:
            return
        try:
            if self._keyring is not None:
                unsealed(body, REPLY, self._keyring).require(Scope.WORK, "speak for a worker")
            reply = decode_reply(body)
        except Untrusted as error:
            self.untrusted[error.reason] = self.untrusted.get(error.reason, 0) + 1
            self._complaints.drop(error.reason, f"a reply: {error}")
        except BadMessage as error:
            self._complaints.drop("bad-message", str(error))
        else:
            self._heard(reply)

    def _on_decode_error(self, message: Any, error: Exception) -> None:
        if self._acks:
            message.ack()
        self._on_garbage(error)

    def _on_garbage(self, error: Exception) -> None:
        self._complaints.drop("envelope", repr(error))
