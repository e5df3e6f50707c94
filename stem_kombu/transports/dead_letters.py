"""How a queue at RabbitMQ was declared: whether what is rejected from it is kept, and how long it outlives its consumers.

AMQP has no question for a queue's arguments. But a declaration that differs is refused with the first argument that does,
and its value: with each answer the next declaration differs later, until it differs in what was asked for, or in
nothing. A dead-letter exchange that a policy gives is not among a queue's arguments and can't be seen by a client.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING, Any

from stem_kombu.errors import BrokerError
from stem_kombu.transports.connections import connect, release
from stem_kombu.transports.errors import broker_errors

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

_EXCHANGE, _EXPIRES = "x-dead-letter-exchange", "x-expires"
_DIFFERS = re.compile(
    r"inequivalent arg '(?P<name>[^']+)' for queue .* but current is "
    r"(?:the value '(?P<value>.*)' of type '(?P<kind>[a-z]+)'|'(?P<plain>[^']*)'|none)",
    re.DOTALL,
)
#: More arguments than a queue can have.
_MOST_ANSWERS = 30


def has_dead_letters(template: Connection, queue: str) -> bool:
    """Whether that queue, which is there, was declared with a dead-letter exchange; ``False`` where that is unknown.

    ``template`` is cloned, not used. Takes some milliseconds at RabbitMQ, and none on other transports, whose queues have
    nothing of the kind.
    """
    if template.transport.driver_type != "amqp":
        return False
    connection = template.clone()
    try:
        connect(connection)
        try:
            with broker_errors(connection, "looking for a dead-letter exchange"):
                return _EXCHANGE in _declared_as(connection, queue, _EXCHANGE)[1]
        finally:
            release(connection)
    except BrokerError as error:
        logger.info("could not find out whether queue %s has a dead-letter exchange: %s", queue, error)
        return False


def unused_life(template: Connection, queue: str) -> float | None:
    """Seconds for which that queue outlives its last consumer: 0 where it is deleted at once, ``None`` where it stays, or where
    that is unknown. ``template`` is cloned, not used, and is RabbitMQ's."""
    connection = template.clone()
    try:
        connect(connection)
        try:
            with broker_errors(connection, "looking how a queue was declared"):
                declared, arguments = _declared_as(connection, queue, _EXPIRES)
        finally:
            release(connection)
    except BrokerError as error:
        logger.info("could not find out how long queue %s outlives its consumers: %s", queue, error)
        return None
    if declared["auto_delete"]:
        return 0.0
    expires = arguments.get(_EXPIRES)
    return expires / 1000.0 if isinstance(expires, int) else None


def _declared_as(connection: Connection, queue: str, until: str) -> tuple[dict[str, object], dict[str, object]]:
    """How the queue was declared, and its arguments up to that one."""
    # Whether it is there at all: none may be made by the questions that follow.
    connection.channel().queue_declare(queue, passive=True)
    declared: dict[str, object] = {"durable": True, "exclusive": False, "auto_delete": False}
    arguments: dict[str, object] = {}
    for _ in range(_MOST_ANSWERS):
        channel: Any = connection.channel()
        try:
            channel.queue_declare(queue, arguments=arguments, **declared)
            return declared, arguments
        except connection.channel_errors as error:
            found = _DIFFERS.search(str(error))
            if found is None:
                return declared, arguments
            name, value, kind, plain = found.group("name", "value", "kind", "plain")
            if name in declared:
                declared[name] = not declared[name]
            elif value is None:
                return declared, arguments  # "none": it has no such argument, which was not given either
            else:
                arguments[name] = _decoded(value if plain is None else plain, str(kind))
                if name == until:
                    return declared, arguments
        finally:
            connection.maybe_close_channel(channel)
    return declared, arguments


def _decoded(value: str, kind: str) -> object:
    if kind == "bool":
        return value == "true"
    return value if kind == "longstr" or not value.lstrip("-").isdigit() else int(value)
