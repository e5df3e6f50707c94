"""Queues and exchanges that an application gave as Kombu's own declarations, declared as they say."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from stem_kombu.errors import BrokerError, ConfigurationError

if TYPE_CHECKING:
    from kombu import Connection

#: AMQP's code for something that is there already, with other arguments.
_DIFFERS = 406


def declare_all(connection: Connection, declarations: Iterable[object]) -> None:
    """:func:`declare` each of them."""
    for one in declarations:
        declare(connection, one)


def declare(connection: Connection, declaration: Any) -> None:
    """Have a ``kombu.Queue``, with its exchange and bindings, or a ``kombu.Exchange`` at the broker.

    Raises :class:`~stem_kombu.errors.ConfigurationError` where the broker has it with other arguments, or can't keep messages of
    its exchange, and what the driver raises.
    """
    from kombu.transport.virtual import NotEquivalentError

    what = f"{type(declaration).__name__.lower()} {declaration.name!r}"
    exchange = getattr(declaration, "exchange", declaration)
    if connection.transport.driver_type == "redis" and getattr(exchange, "type", None) == "fanout":
        raise ConfigurationError(
            f"{what} has a fanout exchange: Redis keeps none of its messages for a worker that is not connected",
            hint="use a topic or direct exchange, or send the task to each queue",
        )
    channel = connection.channel()  # of its own: on AMQP a refusal closes it
    try:
        declaration(channel).declare()
    except NotEquivalentError as error:
        raise _differs(what, error) from error
    except connection.channel_errors as error:
        if getattr(error, "reply_code", None) != _DIFFERS:
            raise
        raise _differs(what, error) from error
    finally:
        connection.maybe_close_channel(channel)


def refuse_unrouted(channel: object, exchange: str, routing_key: str) -> None:
    """Raise :class:`~stem_kombu.errors.BrokerError` where Kombu itself routes and no queue would get the message, which it
    drops or puts into a queue that no worker reads."""
    if hasattr(channel, "queues_of"):
        count = channel.queues_of(exchange, routing_key)
    elif hasattr(channel, "typeof"):
        count = _found(channel, exchange, routing_key)
    else:
        return  # a broker that routes, and says so itself
    if not count:
        raise BrokerError(
            f"no queue is bound to exchange {exchange!r} with routing key {routing_key!r}",
            hint="start a worker that consumes such a queue, or give the kombu.Queue as queue=",
        )


def _found(channel: Any, exchange: str, routing_key: str) -> int:
    try:
        queues = channel.typeof(exchange).lookup(channel.get_table(exchange), exchange, routing_key, None)
    except KeyError:
        return 0
    return sum(queue is not None for queue in queues)


def _differs(what: str, error: Exception) -> ConfigurationError:
    said = " ".join(str(error).split())
    return ConfigurationError(
        f"{what} exists at the broker with other arguments: {said}",
        hint="declare it as it is there, or delete it there first",
    )
