"""What a worker says of its own accord or after a while: deferred replies, and heartbeats on the stream.

A connection and a thread of its own, started when first needed: whoever has something to say hands it over and never
waits for the broker. What can't be sent is dropped after a while: the sender's deadline passes, the next beat comes.
"""

from __future__ import annotations

import json
import logging
import threading
from collections import OrderedDict, deque
from typing import TYPE_CHECKING, Any

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.clock import Clock
from stem_kombu.control.lines import CONTENT_TYPE, ENCODING, hang_up, line, say
from stem_kombu.errors import BrokerError
from stem_kombu.transports import names
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.amqp.control import AmqpMail, open_amqp_mail
from stem_kombu.transports.connections import connect, drop_idle, pulse
from stem_kombu.transports.errors import broker_errors, shown_url
from stem_kombu.transports.outages import Outage
from stem_kombu.transports.redis.control import ReplyWriter

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT = 2.0
#: Longest wait for one answer of the broker.
_REPLY_TIMEOUT = 5.0
#: Seconds after which a reply that could not be sent is no use to anybody.
_REPLY_LIFE = 15.0
_REPLY_EXPIRES = 60.0
#: Replies that wait to be sent; with more of them the oldest are dropped.
_MOST_REPLIES = 1000
#: Seconds for which :meth:`ReplyPublisher.close` waits for what is still to be said.
_LAST_WORDS = 2.0
#: Clients whose inboxes were declared; those who have gone are the oldest.
_MOST_DECLARED = 512


class Speaker:
    """Puts replies into clients' inboxes over one connection; used by one thread at a time. ``mail`` is of that connection.

    Where the transport wants it, the inbox is declared by whoever fills it, so that it expires; on AMQP that would bring
    the queue of a client back that has gone.
    """

    def __init__(self, connection: Any, mail: AmqpMail | None = None) -> None:
        from kombu import Producer

        self._mail = mail
        self._channel = connection.default_channel
        driver = connection.transport.driver_type
        self._post = ReplyWriter(connection) if driver == "redis" else None
        self._declares = driver != "amqp"
        self._declared: OrderedDict[str, None] = OrderedDict()
        self.producer = Producer(self._channel, auto_declare=False)

    def reply(self, reply_to: str, body: bytes) -> None:
        post = self._post
        if post is not None and post.put(
            reply_to, body, content_type=CONTENT_TYPE, encoding=ENCODING, expires=_REPLY_EXPIRES
        ):
            return
        if self._declares and reply_to not in self._declared:
            names.direct_queue(reply_to)(self._channel).declare()
            self._declared[reply_to] = None
            if len(self._declared) > _MOST_DECLARED:
                self._declared.popitem(last=False)
        self.say(body, "", reply_to, _REPLY_EXPIRES)

    def say(self, body: bytes, exchange: Any, routing_key: str, expires: float) -> None:
        say(self.producer, self._mail, body, exchange, routing_key, expires)


class ReplyPublisher:
    """Safe from any thread; never blocks and never raises for a broker that is away."""

    def __init__(self, template: Connection, *, clock: Clock) -> None:
        self._template = template
        self._clock = clock
        self._outage = Outage("replies and heartbeats are not sent", shown_url(template), clock)
        self._changed = threading.Condition()
        self._replies: deque[tuple[float, str, bytes]] = deque()
        self._beat: Heartbeat | None = None
        self._thread: threading.Thread | None = None

    def reply(self, reply_to: str, body: bytes) -> None:
        """Send the reply as soon as the broker takes it; after a while it is dropped."""
        with self._changed:
            self._replies.append((self._clock.monotonic() + _REPLY_LIFE, reply_to, body))
            if len(self._replies) > _MOST_REPLIES:
                self._replies.popleft()
            self._wake()

    def heartbeat(self, beat: Heartbeat) -> None:
        """Send the beat unless a newer one comes first."""
        with self._changed:
            self._beat = beat
            self._wake()

    def close(self) -> None:
        """Send what is still to be said, as long as that is quick, and let the connection go.

        May be called twice; the next word connects again.
        """
        with self._changed:
            thread, self._thread = self._thread, None
            self._changed.notify_all()
        if thread is not None:
            thread.join(_LAST_WORDS)

    def _wake(self) -> None:
        if self._thread is None:
            thread = threading.Thread(target=self._run, name="stem-control-outbox", daemon=True)
            thread.start()
            self._thread = thread  # before it looks, as it needs the lock for that
        self._changed.notify_all()

    def _run(self) -> None:
        me = threading.current_thread()
        voice: _ReplyConnection | None = None
        while True:
            with self._changed:
                if self._thread is me and not (self._replies or self._beat):
                    self._changed.wait(None if voice is None else voice.patience)
                if self._thread is not me and (self._outage.failures or not (self._replies or self._beat)):
                    break
                reply = self._replies[0] if self._replies else None
                beat = None if reply is not None else self._beat
            if voice is None and reply is None and beat is None:
                continue
            if voice is None and (wait := self._outage.turn()) > 0:
                self._wait_after(wait, me)
                continue
            try:
                with broker_errors(self._template, "sending a reply or a heartbeat"):
                    voice = voice or _ReplyConnection(self._template, self._clock)
                    voice.listen()
                    if reply is not None:
                        voice.speaker.reply(reply[1], reply[2])
                    elif beat is not None:
                        voice.beat(beat)
                    else:
                        continue
            except BrokerError as error:
                _silence(voice)
                voice = None
                # An idle connection may have been cut long ago, so the first failure says nothing yet.
                wait = self._outage.failed(error)
                self._wait_after(wait if self._outage.failures > 1 else 0.0, me)
                continue
            except Exception:
                # The boundary of a thread that nobody watches: what can't be said is dropped, and told here.
                logger.exception("a reply or a heartbeat can't be said at all")
                _silence(voice)
                voice = None
            self._outage.worked()
            self._said(reply, beat)
        self._outage.forget()
        _silence(voice)

    def _wait_after(self, seconds: float, me: threading.Thread) -> None:
        with self._changed:
            self._changed.wait_for(lambda: self._thread is not me, seconds)
            now = self._clock.monotonic()
            while self._replies and self._replies[0][0] <= now:
                self._replies.popleft()

    def _said(self, reply: tuple[float, str, bytes] | None, beat: Heartbeat | None) -> None:
        with self._changed:
            if reply is not None and self._replies and self._replies[0] is reply:
                self._replies.popleft()
            if beat is not None and self._beat is beat:
                self._beat = None


class _ReplyConnection:
    """The connection of an outbox's thread."""

    def __init__(self, template: Any, clock: Clock) -> None:
        self._clock = clock
        # No confirm is awaited here: that the broker has gone in silence shows by AMQP's heartbeats alone.
        self._connection = line(template, reply_timeout=_REPLY_TIMEOUT, confirms=False, heartbeats=True)
        connect(self._connection, _CONNECT_TIMEOUT)
        amqp = self._connection.transport.driver_type == "amqp"
        self.mail = open_amqp_mail(self._connection, timeout=_REPLY_TIMEOUT) if amqp else None
        self.speaker = Speaker(self._connection, self.mail)
        self._exchanges: set[str] = set()
        #: Seconds after which :meth:`listen` must be called again; ``None`` where it need not.
        self.patience: float | None = self._connection.heartbeat / 4 if amqp and self._connection.heartbeat else None

    def listen(self) -> None:
        """Notice that the broker has ended the connection or the channel, or fell silent, of which what is written would
        tell nothing; and send the heartbeat that is due."""
        if self.mail is not None:
            self.mail.take()
        pulse(self._connection, clock=self._clock)

    def beat(self, beat: Heartbeat) -> None:
        if is_blocked(self._connection):
            return  # it would only lie there, and come when it is old
        exchange = names.heartbeat_exchange(beat.namespace)
        if exchange.name not in self._exchanges:
            exchange(self._connection.default_channel).declare()
            self._exchanges.add(exchange.name)
        self.speaker.say(json.dumps(beat.to_record()).encode(), exchange, "", max(1.0, beat.interval))
        drop_idle(self._connection)  # until the next beat

    def close(self) -> None:
        hang_up(self._connection, clock=self._clock)


def _silence(voice: _ReplyConnection | None) -> None:
    if voice is not None:
        voice.close()
