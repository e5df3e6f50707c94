"""A message of another format as the task that an application's adapter makes of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

from stem_kombu.adapter import Adapter, IncomingMessage, TaskCall
from stem_kombu.calls import message_of
from stem_kombu.errors import BadMessage, ConfigurationError
from stem_kombu.messages.decoding import DecodedTask
from stem_kombu.messages.encoding import encode_task
from stem_kombu.messages.resending import body_of, consumed_queue, original_of
from stem_kombu.task import Original

if TYPE_CHECKING:
    from kombu import Message


def adapted(raw: Message, adapters: Mapping[str, Adapter], now: datetime) -> DecodedTask | None:
    """The delivery as a task; ``None`` for what names a task itself, is of a queue without adapter, or is none by the adapter.

    From here on it is one of Stem's own: what is sent again for it, or kept of it, is in Stem's format. Raises
    :class:`BadMessage` naming the adapter where that fails or returns what is no call of a task.
    """
    queue = consumed_queue(raw)
    adapter, headers = adapters.get(queue), raw.headers if isinstance(raw.headers, Mapping) else {}
    if adapter is None or "task" in headers:
        return None
    found = _asked(adapter, raw, queue, headers)
    if found is None:
        return None
    properties = raw.properties if isinstance(raw.properties, Mapping) else {}
    task_id = found.task_id if found.task_id is not None else properties.get("message_id")
    try:
        message = message_of(found.name, found.args, found.kwargs, queue, now=now, task_id=task_id)
        # When it was sent is not known; as of Celery's messages, what comes for the first time is a new life of its id.
        message.enqueued_at = None
        envelope = encode_task(message)
    except ConfigurationError as error:
        raise BadMessage(
            f"adapter {_name(adapter)} of queue {queue!r} returned a value that is not a task: {error}"
        ) from error
    sent = original_of(raw)
    kept = {name: value for name, value in sent.properties.items() if name in ("priority", "delivery_mode")}
    message.original = Original(
        envelope.body,
        envelope.content_type,
        envelope.content_encoding,
        envelope.headers,
        {**envelope.properties, **kept},
    )
    info = raw.delivery_info if isinstance(raw.delivery_info, Mapping) else {}
    priority = properties.get("priority")
    return DecodedTask(
        message, bool(info.get("redelivered")), raw.delivery_tag, priority if isinstance(priority, int) else 0
    )


def _asked(adapter: Adapter, raw: Message, queue: str, headers: Mapping[str, object]) -> TaskCall | None:
    body = body_of(raw)
    message = IncomingMessage(
        queue,
        body if isinstance(body, bytes) else str(body).encode(),
        raw.content_type,
        headers,
        raw.properties if isinstance(raw.properties, Mapping) else {},
    )
    try:
        found = adapter(message)
    except Exception as error:
        raise BadMessage(
            f"adapter {_name(adapter)} of queue {queue!r} failed: {type(error).__name__}",
            hint="return None for a message that is not a task",
        ) from error
    if found is not None and not isinstance(found, TaskCall):
        raise BadMessage(
            f"adapter {_name(adapter)} of queue {queue!r} returned a {type(found).__name__}, not a TaskCall"
        )
    return found


def _name(adapter: Adapter) -> str:
    return str(getattr(adapter, "__qualname__", type(adapter).__name__))
