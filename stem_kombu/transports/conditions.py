"""Whether a broker takes messages, and what threatens those that it keeps."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from stem_kombu import chance, timeouts
from stem_kombu.drivers import redis_conditions
from stem_kombu.transports.alarms import takes_messages
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import broker_errors, described, shown_url

if TYPE_CHECKING:
    from kombu import Connection


def conditions(connection: Connection) -> list[str]:
    """Make sure that the broker takes a message, and say what threatens those that it keeps, a sentence each.

    ``connection`` is connected. A queue of a random name is made, filled and deleted on RabbitMQ and the embedded broker, a
    key on Redis; on other transports nothing is written here, as a queue may cost money or a minute there (SQLAlchemy and the
    filesystem write a marker of their own kind). Raises
    :class:`~stem_kombu.errors.BrokerUnavailable` when the broker does not take it, and
    :class:`~stem_kombu.errors.ConfigurationError` for a Redis Cluster.
    """
    driver = connection.transport.driver_type
    if driver == "redis":
        channel: Any = connection.default_channel
        with broker_errors(connection, "writing a marker"), channel.conn_or_acquire() as client:
            return redis_conditions.warnings(
                redis_conditions.look(client, "stem-health-", f"broker {shown_url(connection)}"), "queued tasks"
            )
    if driver == "amqp":
        with broker_errors(connection):
            if not takes_messages(connection, timeouts.ALARM_CHECK):
                raise described(TimeoutError(), connection)
    if driver in ("amqp", "sqlite"):
        with broker_errors(connection, "writing a marker"):
            _write_marker(connection)
    return []


def forgets_held(driver: str) -> str:
    """What is to be said of a transport that forgets what a killed process held."""
    lost = "such a task is lost, and its record stays as it was"
    return f"transport {driver!r} does not deliver again what a killed worker held: {lost}"


def conditions_at(template: Connection) -> list[str]:
    """:func:`conditions` of the broker that a template names, over a connection of its own."""
    connection = template.clone()
    try:
        connect(connection)
        return conditions(connection)
    finally:
        release(connection)


def _write_marker(connection: Connection) -> None:
    """On a channel of its own, since a refusal closes it."""
    from kombu.entity import Queue
    from kombu.messaging import Producer

    name = f"stem-health-{chance.token_hex(8)}"
    channel: Any = connection.channel()
    try:
        queue = Queue(name, durable=True, auto_delete=True, expires=timeouts.MARKER_EXPIRES)(channel)
        queue.declare()
        Producer(channel, auto_declare=False).publish(b"", exchange="", routing_key=name, retry=False)
        queue.get(no_ack=True)
        queue.delete()
    finally:
        connection.maybe_close_channel(channel)
