"""A failed task's message as text, and as a message again: what an operator has run once more is what its sender sent.

The retry is a task of its own, with an id, a time of sending and an attempt of its own. Where tasks are signed, the operator's
key signs it only if the message that was kept still has the valid signature of its sender: a backend may be written by others.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from stem_kombu.clock import isoformat
from stem_kombu.errors import BadMessage
from stem_kombu.fields import FieldError, any_text, mapping, optional
from stem_kombu.messages.encoding import HEADER_ENQUEUED_AT, HEADER_RETRIED_FROM
from stem_kombu.messages.quick_json import load_typed
from stem_kombu.messages.resending import mark_consumed
from stem_kombu.task import Original, TaskMessage

_VERSION = 1


@dataclass(eq=False)
class KeptRaw:
    """A kept message in the form in which a consumer gives one."""

    body: bytes
    content_type: str
    content_encoding: str
    headers: Mapping[str, object]
    properties: Mapping[str, object]
    delivery_info: Mapping[str, object] = field(default_factory=dict)
    delivery_tag: str = ""
    errors: tuple[object, ...] = ()


@dataclass(frozen=True, slots=True)
class KeptMessage:
    """A kept message, decoded. ``retried_as`` is the id of the task that was made of it: then there is no ``raw`` any more."""

    name: str
    queue: str
    raw: KeptRaw | None
    retried_as: str | None = None


def kept_text(message: TaskMessage, *, most: int) -> str | None:
    """The delivered message as JSON text of at most ``most`` bytes; ``None`` where it is larger, has what JSON can't hold, or
    could not be read."""
    from kombu.utils.json import dumps

    sent = message.original
    if sent is None or sent.unreadable is not None or len(sent.body) > most:
        return None
    try:
        text = dumps(
            {
                "v": _VERSION,
                "name": message.name,
                "queue": message.queue,
                "body": b64encode(sent.body).decode("ascii"),
                "content_type": sent.content_type,
                "content_encoding": sent.content_encoding,
                "headers": dict(sent.headers),
                "properties": {name: value for name, value in sent.properties.items() if name != "delivery_info"},
            }
        )
        return None if len(text.encode()) > most else text
    except (TypeError, ValueError, RecursionError):
        return None


def retried_text(name: str, queue: str, task_id: str) -> str:
    """What is kept in place of a message of which a task with that id was made: its arguments are not."""
    return json.dumps({"v": _VERSION, "name": name, "queue": queue, "retried_as": task_id})


def kept_message(text: str) -> KeptMessage:
    """The message of that text; raises :class:`BadMessage` when it is none."""
    try:
        fields = mapping(load_typed(text), "a kept message")
        if fields.get("v") != _VERSION:
            raise FieldError(f"version {str(fields.get('v'))[:20]!r} is not known")
        name, queue = (any_text(fields.get(one), one) for one in ("name", "queue"))
        if (retried_as := optional(any_text, fields.get("retried_as"), "retried_as")) is not None:
            return KeptMessage(name, queue, None, retried_as)
        raw = KeptRaw(
            b64decode(any_text(fields.get("body"), "body"), validate=True),
            any_text(fields.get("content_type"), "content_type"),
            any_text(fields.get("content_encoding"), "content_encoding"),
            mapping(fields.get("headers"), "headers"),
            mapping(fields.get("properties"), "properties"),
        )
    except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError, RecursionError) as error:
        raise BadMessage(f"the kept message of the task can't be read: {error}") from error
    mark_consumed(raw, queue)
    return KeptMessage(name, queue, raw)


def again(
    raw: KeptRaw, name: str, *, failed: str, task_id: str, queue: str, now: datetime, eta: datetime | None, signed: bool
) -> TaskMessage:
    """The message of a new task that does what the task ``failed`` did. ``signed``: the kept message's signature was verified.

    What belonged to the old task's life is left out: attempts, expiry, and where its sender waits for a reply.
    """
    headers = {key: value for key, value in raw.headers.items() if key not in _OF_THE_LIFE}
    headers["id"] = task_id
    headers[HEADER_RETRIED_FROM] = failed
    if headers.get("root_id") == failed:
        headers["root_id"] = task_id
    if HEADER_ENQUEUED_AT in headers:
        headers[HEADER_ENQUEUED_AT] = isoformat(now)
    properties = {key: value for key, value in raw.properties.items() if key not in ("reply_to", "expiration")}
    properties["correlation_id"] = task_id
    original = Original(raw.body, raw.content_type, raw.content_encoding, headers, properties, signed)
    return TaskMessage(task_id, name, queue=queue, eta=eta, enqueued_at=now, retried_from=failed, original=original)


_OF_THE_LIFE = frozenset({"expires", "eta", "retries", "redelivered"})
