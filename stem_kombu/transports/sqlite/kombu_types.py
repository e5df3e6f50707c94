"""The names of Kombu and py-amqp that this package builds on, and their types, as far as they are used here.

Both libraries are untyped where it matters; this is the one place that says what is expected of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:

    class AMQPError(Exception):
        reply_code: int

        def __init__(
            self, reply_text: str, method_sig: tuple[int, int] = ..., method_name: str = ..., reply_code: int = ...
        ) -> None: ...

    class AMQPConnectionError(AMQPError): ...

    class RecoverableConnectionError(AMQPConnectionError): ...

    class ConsumerCancelled(RecoverableConnectionError): ...

    class NotAllowed(AMQPConnectionError): ...

    class ChannelError(AMQPError): ...

    class NotFound(ChannelError): ...

    class ResourceLocked(ChannelError): ...

    class PreconditionFailed(ChannelError): ...

    class queue_declare_ok_t(NamedTuple):
        queue: str
        message_count: int
        consumer_count: int

    class VirtualMessage:
        def __init__(self, payload: dict[str, object], channel: object = None, **kwargs: object) -> None: ...

    class VirtualChannel:
        connection: Any
        channel_id: int
        closed: bool
        exchange_types: object
        no_ack_consumers: object
        body_encoding: object
        from_transport_options: tuple[str, ...]
        Message: type[VirtualMessage]

        def __init__(self, connection: object, **kwargs: object) -> None: ...

    class VirtualTransport:
        Channel: object
        client: object
        channels: list[Any]
        polling_interval: float
        connection_errors: tuple[type[BaseException], ...]
        implements: Any

        def __init__(self, client: object, **kwargs: object) -> None: ...

        def establish_connection(self) -> object: ...

        def close_connection(self, connection: object) -> None: ...

    def dumps(value: object) -> str: ...

    def loads(text: str) -> Any: ...

    def to_rabbitmq_queue_arguments(arguments: dict[str, object], **options: object) -> dict[str, object]: ...

    def uuid() -> str: ...

else:
    from amqp.exceptions import (
        AMQPError,
        ChannelError,
        ConsumerCancelled,
        NotAllowed,
        NotFound,
        PreconditionFailed,
        RecoverableConnectionError,
        ResourceLocked,
    )
    from amqp.exceptions import ConnectionError as AMQPConnectionError
    from amqp.protocol import queue_declare_ok_t
    from kombu.transport.base import to_rabbitmq_queue_arguments
    from kombu.transport.virtual import Channel as VirtualChannel
    from kombu.transport.virtual import Message as VirtualMessage
    from kombu.transport.virtual import Transport as VirtualTransport
    from kombu.utils.json import dumps, loads
    from kombu.utils.uuid import uuid

__all__ = [
    "AMQPConnectionError",
    "AMQPError",
    "ChannelError",
    "ConsumerCancelled",
    "NotAllowed",
    "NotFound",
    "PreconditionFailed",
    "RecoverableConnectionError",
    "ResourceLocked",
    "VirtualChannel",
    "VirtualMessage",
    "VirtualTransport",
    "dumps",
    "loads",
    "queue_declare_ok_t",
    "to_rabbitmq_queue_arguments",
    "uuid",
]
