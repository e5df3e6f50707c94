"""Sending again on behalf of a delivered message: to the queue that was consumed, as it came.

Only ``retries``, the eta and Stem's own headers change. Everything else is the sender's: body, headers, priority,
``reply_to``, ``correlation_id``. Where it was published, an exchange and a routing key, may be another place, or several.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from stem_kombu.clock import isoformat
from stem_kombu.fields import CONTROL_CHARACTER, is_text, shown
from stem_kombu.messages.encoding import (
    CONTENT_ENCODING,
    CONTENT_TYPE,
    HEADER_ETA,
    HEADER_SIGNATURE_V1,
    HEADER_SIGNATURE_V2,
    Envelope,
)
from stem_kombu.revocation import TASK_ID_LIMIT
from stem_kombu.task import Original, TaskMessage
from stem_kombu.transports.names import unreadable_queue_name

if TYPE_CHECKING:
    from kombu import Message

T = TypeVar("T")

#: The attribute of a Kombu message that names the queue it was consumed from.
_CONSUMED_QUEUE = "stem_consumed_queue"

#: On what is put aside: the queue in which it lay, and why it is no task.
HEADER_FOUND_IN = "stem-found-in"
HEADER_UNREADABLE = "stem-unreadable"
_LONGEST_REASON = 500

#: Headers that a broker adds to a message, for what befell that one message, and those by which RabbitMQ would route a
#: copy of it to other queues as well. Celery leaves the ``x-death`` ones out of its retries too: RabbitMQ drops a message
#: whose deaths seem to go round in a circle.
_OF_THE_DELIVERY = frozenset(
    {
        "redelivered",
        "delivery_info",
        "x-death",
        *(f"x-{which}-death-{what}" for which in ("first", "last") for what in ("exchange", "queue", "reason")),
        "x-delivery-count",
        "x-acquired-count",
        "x-stream-offset",
        "CC",
        "BCC",
    }
)
#: Properties that the connection sets. ``user_id`` must be the name of the user who publishes, or RabbitMQ refuses it.
_OF_THE_CONNECTION = frozenset(
    {
        "delivery_info",
        "delivery_tag",
        "body_encoding",
        "content_type",
        "content_encoding",
        "application_headers",
        "headers",
        "user_id",
    }
)


def mark_consumed(raw: T, queue: str) -> T:
    """The same Kombu message, of which :func:`consumed_queue` now knows the queue."""
    setattr(raw, _CONSUMED_QUEUE, queue)
    return raw


def consumed_queue(raw: Any) -> str:
    """The queue that a Kombu message was consumed from. Where that was not marked, its routing key, which is the same for
    what came through the default exchange."""
    if (queue := getattr(raw, _CONSUMED_QUEUE, None)) is not None:
        return str(queue)
    info = raw.delivery_info if isinstance(raw.delivery_info, Mapping) else {}
    return str(info.get("routing_key") or "")


def body_of(raw: Any) -> Any:
    """The body of a Kombu message as bytes, as it is when it is neither text nor bytes."""
    body = raw.body
    if type(body) is bytes:
        return body
    if isinstance(body, memoryview):
        return body.tobytes()
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else body


def original_of(raw: Any, *, signed: bool = False) -> Original:
    """A Kombu message as it was published; ``signed``: its signature was verified."""
    headers, properties, body = raw.headers, raw.properties, body_of(raw)
    if type(headers) is not dict and not isinstance(headers, Mapping):
        headers = {}
    if type(properties) is not dict and not isinstance(properties, Mapping):
        properties = {}
    if (compressed := getattr(raw, "compressed", None)) is not None:
        body, headers = compressed[0], {**headers, "compression": compressed[1]}
    return Original(
        body if type(body) is bytes else b"",
        _text_or(raw.content_type, CONTENT_TYPE),
        _text_or(raw.content_encoding, CONTENT_ENCODING),
        headers,
        properties,
        signed,
    )


def put_aside(raw: Message, why: str) -> TaskMessage:
    """What is to be sent so that a message that is no task is kept, as it came, beside the queue in which it lay."""
    queue, original = consumed_queue(raw), original_of(raw)
    properties = {name: value for name, value in original.properties.items() if name != "expiration"}
    headers = {**original.headers, HEADER_FOUND_IN: queue, HEADER_UNREADABLE: why[:_LONGEST_REASON]}
    kept = replace(original, headers=headers, properties=properties, unreadable=why)
    return TaskMessage(said_id(raw) or "unreadable", "unreadable", queue=unreadable_queue_name(queue), original=kept)


def said_id(raw: Message) -> str | None:
    """By what its sender may know a message that is no task: ``message_id``, ``correlation_id`` or a header ``id``."""
    properties = raw.properties if isinstance(raw.properties, Mapping) else {}
    headers = raw.headers if isinstance(raw.headers, Mapping) else {}
    given = (properties.get("message_id"), properties.get("correlation_id"), headers.get("id"))
    return next((text for text in given if is_text(text, most=TASK_ID_LIMIT, without=CONTROL_CHARACTER)), None)


def resent(message: TaskMessage, original: Original) -> Envelope:
    """The message to publish for another delivery of that task: ``original`` with the attempt and eta of ``message``."""
    if original.unreadable is not None:
        headers, properties = dict(original.headers), _properties(original)
        return Envelope(original.body, headers, properties, original.content_type, original.content_encoding)
    headers = _kept(original.headers)
    headers["retries"] = message.attempt - 1
    if message.eta is None:
        headers.pop("eta", None)
        headers.pop(HEADER_ETA, None)
    else:
        headers["eta"] = isoformat(message.eta)
        headers[HEADER_ETA] = message.eta.timestamp()
    properties = _properties(original)
    if headers.get("expires") is not None:
        # Celery has the broker drop what expired, without a trace. The worker knows the time, and records the end.
        properties.pop("expiration", None)
    return Envelope(original.body, headers, properties, original.content_type, original.content_encoding)


def _kept(headers: Mapping[str, object]) -> dict[str, object]:
    own = {name: value for name, value in headers.items() if name not in _OF_THE_DELIVERY}
    for signature in (HEADER_SIGNATURE_V1, HEADER_SIGNATURE_V2):
        own.pop(signature, None)  # of the attempt before; the producer signs this one, if that one was signed
    return own


def _properties(original: Original) -> dict[str, object]:
    return {
        name: value
        for name, value in original.properties.items()
        if name not in _OF_THE_CONNECTION and value is not None
    }


def _text_or(value: object, usual: str) -> str:
    """A field of a message that has to be text: another application may put anything there, which no broker takes again.

    Not the usual one for it: a signature is over what was sent."""
    if not value:
        return usual
    return value if isinstance(value, str) else shown(value)
