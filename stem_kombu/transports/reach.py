"""What a transport can really do: known of those that this project is tested on, else found out by trying.

Kombu's ``supports_exchange_type("fanout")`` is wrong both ways: it says no for SQS with SNS, and yes for transports
whose fanout ends at the process. So a transport that isn't known is made to send us a message. The answer is kept for
the life of the process, by URL.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stem_kombu import chance, timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.errors import BroadcastUnsupported
from stem_kombu.transports.connections import connect, pump, release
from stem_kombu.transports.errors import broker_errors, shown_url

if TYPE_CHECKING:
    from kombu import Connection, Message


@dataclass(frozen=True, slots=True)
class Reach:
    """What was found out.

    ``driver``: Kombu's driver type. ``fanout``: a broadcast reaches other connections. ``inbox``: a message addressed
    to a queue by name through the default exchange reaches other connections.
    ``needs_declare_before_reply``: whoever publishes into an expiring queue must declare it first, as the expiry is set
    by the sender; on AMQP that must not be done, as it would bring a queue back whose owner has gone.
    """

    driver: str
    fanout: bool
    inbox: bool
    needs_declare_before_reply: bool

    def require_control(self, url: str) -> None:
        """Raises :class:`~stem_kombu.errors.BroadcastUnsupported` when no command could reach a worker."""
        if not self.fanout and not self.inbox:
            raise BroadcastUnsupported(
                f"broker {url}: transport {self.driver!r} delivers neither broadcasts nor messages to a named queue",
                hint="use Redis, RabbitMQ or the embedded broker for control",
            )


#: By driver; a test probes each of them and finds the same.
KNOWN = {
    "redis": Reach("redis", True, True, True),
    "amqp": Reach("amqp", True, True, False),
    "sqlite": Reach("sqlite", True, True, True),
}

_known: dict[str, Reach] = {}


def reach_of(connection: Connection, *, clock: Clock = SYSTEM, timeout: float = timeouts.BROKER_PROBE) -> Reach:
    """What the transport of this connection can do; the first call for a URL of an unknown one probes it.

    ``connection`` is a template: it is cloned, not used. Raises :class:`~stem_kombu.errors.BrokerUnavailable`.
    """
    if (tested := KNOWN.get(str(connection.transport.driver_type))) is not None:
        return tested
    key = f"{shown_url(connection)} {sorted((connection.transport_options or {}).items(), key=str)!r}"
    if (known := _known.get(key)) is not None:
        return known
    # Without a lock, which a forked child could inherit from a thread that it does not have.
    return _known.setdefault(key, probe(connection, clock=clock, timeout=timeout))


def probe(connection: Connection, *, clock: Clock = SYSTEM, timeout: float = timeouts.BROKER_PROBE) -> Reach:
    """What the transport of this connection can do, by trying; takes some 20 ms."""
    driver = str(connection.transport.driver_type)
    hearer, speaker = connection.clone(), connection.clone()
    try:
        connect(hearer)
        connect(speaker)
        said = bool(connection.supports_exchange_type("fanout"))
        with broker_errors(hearer, "finding out what it can do"):
            fanout = _arrives(hearer, speaker, "fanout", clock, timeout if said else timeout / 4)
            inbox = _arrives(hearer, speaker, "direct", clock, timeout)
    finally:
        release(hearer)
        release(speaker)
    return Reach(driver, fanout, inbox, needs_declare_before_reply=driver != "amqp")


def _arrives(hearer: Connection, speaker: Connection, kind: str, clock: Clock, timeout: float) -> bool:
    """Whether a message from one connection reaches a queue of the other, through a fanout or the default exchange."""
    from kombu.entity import Exchange, Queue
    from kombu.messaging import Consumer, Producer

    token = chance.token_hex(8)
    name = f"stem-probe-{token}"
    # An exchange of its own, gone with its only queue: nothing of the probe stays at the broker.
    exchange = Exchange(name if kind == "fanout" else "", type=kind, durable=True, auto_delete=True)
    queue = Queue(
        name,
        exchange if kind == "fanout" else None,
        durable=True,
        auto_delete=True,
        expires=timeouts.BROKER_PROBE_EXPIRES,
    )
    heard: list[object] = []

    def hear(message: Message) -> None:
        message.ack()
        heard.append(message)

    channel = hearer.channel()
    try:
        with Consumer(channel, [queue], on_message=hear, accept=["json"]):
            # A sender that has not declared the exchange takes it for a direct one (Kombu's virtual transports).
            producer = Producer(speaker.default_channel, exchange, auto_declare=True)
            deadline, send_at = clock.monotonic() + timeout, 0.0
            while not heard and clock.monotonic() < deadline:
                # Again and again: Kombu subscribes at the first drain, not before, and Redis keeps no broadcast.
                if clock.monotonic() >= send_at:
                    producer.publish({"token": token}, routing_key="" if kind == "fanout" else name)
                    send_at = clock.monotonic() + timeouts.BROKER_PROBE_AGAIN
                pump(hearer, min(0.02, timeout), clock=clock)
        queue(channel).delete()
    finally:
        hearer.maybe_close_channel(channel)
    return bool(heard)
