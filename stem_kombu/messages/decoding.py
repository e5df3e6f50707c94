"""An incoming message as a :class:`~stem_kombu.task.TaskMessage`: a broker's bytes are decoded here, once.

Accepted are Celery's protocol 2 and Stem's own messages, which are the same (see :mod:`stem_kombu.messages.encoding`), in
JSON only: nothing here unpickles. What can't be read raises :class:`~stem_kombu.errors.BadMessage` with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from stem_kombu.durations import LONGEST
from stem_kombu.errors import BadMessage, ConfigurationError
from stem_kombu.fields import CONTROL_CHARACTER, FieldError, is_text, moment, number, optional, shown, whole
from stem_kombu.messages.celery_canvas import celery_origin
from stem_kombu.messages.encoding import (
    CONTENT_TYPE,
    DEEPEST_NESTING,
    HEADER_ENQUEUED_AT,
    HEADER_HEADERS,
    HEADER_MAX_RETRIES,
    HEADER_RETRIED_FROM,
    HEADER_SENT_AT,
    LARGEST_BODY,
    LONGEST_NAME,
    PROTOCOL_HEADERS,
    may_be_nested_too_deep,
    nesting,
)
from stem_kombu.messages.quick_json import load_typed
from stem_kombu.messages.resending import body_of, consumed_queue, original_of
from stem_kombu.revocation import TASK_ID_LIMIT, checked_task_id
from stem_kombu.task import MOST_RETRIES, TaskMessage

if TYPE_CHECKING:
    from kombu import Message

#: All that most messages have.
_USUAL_HEADERS = PROTOCOL_HEADERS | {HEADER_ENQUEUED_AT, HEADER_SENT_AT, HEADER_HEADERS, HEADER_MAX_RETRIES}


#: What stands for a task's name where only its id can be read.
UNKNOWN_NAME = "(unknown)"
#: Content types of Celery's serializers beside JSON.
_CELERYS_OTHERS = frozenset({"application/x-python-serialize", "application/x-yaml", "application/x-msgpack"})
_NOT_A_TASK = "only tasks of Stem or Celery belong into this queue"


class UnreadableTask(BadMessage):
    """A task whose id can be read and whose arguments, or another part, can't.

    ``task`` is as much of it as is known, since a client may wait for its end: it has no arguments.
    """

    def __init__(self, message: str, *, hint: str | None, task: TaskMessage) -> None:
        super().__init__(message, hint=hint)
        self.task = task


class ForeignMessage(UnreadableTask):
    """A Celery task in a form that is not read here: another serializer, another protocol."""


@dataclass(slots=True)  # never changed; frozen, it would cost three times as much, for each delivery
class DecodedTask:
    """A decoded delivery. ``redelivered``: the broker marks it as delivered before; ``priority``: 0 where unset."""

    message: TaskMessage
    redelivered: bool
    delivery_tag: object
    priority: int


def decode_delivery(raw: Message, *, queue: str | None = None, signed: bool = False) -> DecodedTask:
    """The task that a Kombu message carries, and how it was delivered.

    ``queue`` is the queue it was consumed from; without it that is asked of the message. ``signed``: its signature was
    verified, and so headers that it doesn't cover don't reach the handler. Raises :class:`UnreadableTask` for a task with
    a part that can't be read (not JSON, compressed beyond repair, too large, nested too deep, a header of another type),
    as :class:`ForeignMessage` where another serializer or protocol is the reason, and :class:`BadMessage` for what is no
    task, or names none. A task with a Celery canvas on it is decoded, so that a client that waits for its result learns why
    it did not run.
    """
    queue = queue or consumed_queue(raw)
    headers = _table(raw.headers)
    try:
        return _decoded(raw, headers, queue, signed=signed)
    except UnreadableTask:
        raise
    except (BadMessage, FieldError) as error:
        task, hint = _as_known(headers, queue), error.hint if isinstance(error, BadMessage) else None
        if task is None:
            raise BadMessage(str(error), hint=hint) from error
        raise UnreadableTask(str(error), hint=hint, task=task) from error


def _decoded(raw: Message, headers: Mapping[str, object], queue: str, *, signed: bool) -> DecodedTask:
    if raw.errors:
        raise BadMessage(f"the message can't be unpacked: {raw.errors[0][1]}")
    get, info, properties = headers.get, _table(raw.delivery_info), _table(raw.properties)
    args, kwargs, embed = _arguments(raw, headers, properties, queue)
    # A field that is not there costs no call: most are not, and this is the path of each task.
    eta, expires, limits, most = get("eta"), get("expires"), get("timelimit"), get(HEADER_MAX_RETRIES)
    sent = HEADER_ENQUEUED_AT if (is_stems := HEADER_ENQUEUED_AT in headers) else HEADER_SENT_AT
    hard, soft = (None, None) if limits is None else _time_limits(limits)
    message = TaskMessage(
        task_id=_task_id(get("id")),
        name=_name(get("task")),
        args=args,
        kwargs=kwargs,
        queue=queue,
        attempt=(_retries(headers, "retries") or 0) + 1,
        eta=None if eta is None else _time(headers, "eta"),
        expires_at=None if expires is None else _time(headers, "expires"),
        enqueued_at=_time(headers, sent),
        max_retries=None if most is None else _retries(headers, HEADER_MAX_RETRIES),
        soft_time_limit=soft,
        time_limit=hard,
        headers=own_headers(headers, signed=signed),
        celery=None if is_stems else celery_origin(headers, embed),
        original=original_of(raw, signed=signed),
        retried_from=_retried_from(headers) if HEADER_RETRIED_FROM in headers else None,
    )
    priority = properties.get("priority")
    return DecodedTask(
        message,
        redelivered=bool(info.get("redelivered") or get("redelivered")),
        delivery_tag=raw.delivery_tag,
        priority=priority if isinstance(priority, int) else 0,
    )


def _table(value: object) -> Mapping[str, object]:
    """A table of the message's, empty where it is none."""
    # First the class itself: to ask whether something is a Mapping takes as long as a look-up in ten of them.
    return value if type(value) is dict or isinstance(value, Mapping) else {}


def _as_known(headers: Mapping[str, object], queue: str) -> TaskMessage | None:
    """As much of the task as its headers say, ``None`` where they name none."""
    try:
        task = TaskMessage(_task_id(headers.get("id")), _name(headers.get("task")), queue=queue)
    except BadMessage:
        return None
    with suppress(FieldError):  # of the first attempt, if its number can't be read either
        task = replace(task, attempt=(_retries(headers, "retries") or 0) + 1)
    return task if HEADER_ENQUEUED_AT in headers else replace(task, celery=celery_origin(headers, {}))


def _arguments(
    raw: Message, headers: Mapping[str, object], properties: Mapping[str, object], queue: str
) -> tuple[tuple[object, ...], dict[str, object], dict[str, object]]:
    """Arguments, keywords, and what else the body holds (Celery's ``embed``)."""
    body = _decoded_body(raw, headers, properties, queue)
    if "task" not in headers:
        if isinstance(body, dict) and "task" in body:
            raise _foreign(
                f"task {str(body['task'])[:80]!r} came in Celery's message protocol 1",
                "set task_protocol = 2 in the application that sends it",
                body,
                queue,
            )
        raise BadMessage("the message has no header 'task'", hint=_NOT_A_TASK)
    if not isinstance(body, list) or not 2 <= len(body) <= 3:
        raise BadMessage("the body is not [args, kwargs, embed]")
    args, kwargs = body[0], body[1]
    if not isinstance(args, list) or not isinstance(kwargs, dict):
        raise BadMessage("the body is not [args, kwargs, embed]: args must be a list and kwargs an object")
    embed = (body[2] if len(body) == 3 else None) or {}
    if not isinstance(embed, dict):
        raise BadMessage("the body is not [args, kwargs, embed]: embed must be an object")
    return tuple(args), kwargs, embed


def _foreign(message: str, hint: str, facts: Mapping[str, object], queue: str) -> BadMessage:
    """The refusal; ``facts`` say which task it was, as far as they can be read."""
    task = _as_known(facts, queue)
    return BadMessage(message, hint=hint) if task is None else ForeignMessage(message, hint=hint, task=task)


def _decoded_body(raw: Message, headers: Mapping[str, object], properties: Mapping[str, object], queue: str) -> object:
    content_type = raw.content_type or CONTENT_TYPE
    if content_type != CONTENT_TYPE:
        said = f"the message is {str(content_type)[:80]!r}, not {CONTENT_TYPE!r}"
        if "task" not in headers and isinstance(content_type, str) and content_type in _CELERYS_OTHERS:
            # Celery's message protocol 1 has all but the id in a body that is not read here.
            headers = {"id": properties.get("correlation_id"), "task": UNKNOWN_NAME}
        raise _foreign(said, "set task_serializer = 'json' in the sender", headers, queue)
    body = body_of(raw)
    if not isinstance(body, bytes):
        raise BadMessage(f"the body is a {type(body).__name__}, not text")
    if len(body) > LARGEST_BODY:
        raise BadMessage(f"the body has {len(body)} bytes; at most {LARGEST_BODY} are accepted")
    try:
        decoded = load_typed(body)
    except RecursionError as error:
        raise BadMessage(f"the body is nested deeper than {DEEPEST_NESTING} levels") from error
    except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError) as error:
        raise BadMessage(f"the body is not JSON: {_reason(error)}") from error
    if may_be_nested_too_deep(body) and nesting(decoded) > DEEPEST_NESTING:
        raise BadMessage(f"the body is nested deeper than {DEEPEST_NESTING} levels")
    return decoded


def _reason(error: Exception) -> str:
    """Why JSON can't be read, without anything of what it holds: those are a task's arguments."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} at {error.pos}"
    # A number of too many digits, or a value of Celery's typed JSON (date, UUID …) that its decoder does not take.
    return f"a value in it can't be read ({type(error).__name__})"


def _task_id(value: object) -> str:
    try:
        return checked_task_id(value)
    except ConfigurationError as error:
        raise BadMessage(f"header 'id': {error}") from error


def _name(value: object) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > LONGEST_NAME:
        raise BadMessage(f"header 'task': {shown(value)} is not the name of a task")
    return value


def _retries(headers: Mapping[str, object], name: str) -> int | None:
    value = headers.get(name)
    return None if value is None else whole(value, f"header {name!r}:", below=MOST_RETRIES)


def _time(headers: Mapping[str, object], name: str) -> datetime | None:
    # A Celery application with enable_utc off writes no offset; UTC is what its workers assume as well.
    value = headers.get(name)
    return None if value is None else moment(value, f"header {name!r}:", zone=timezone.utc)


def _retried_from(headers: Mapping[str, object]) -> str | None:
    # For people only: nothing depends on it, so an invalid one counts as none.
    value = headers.get(HEADER_RETRIED_FROM)
    return value if is_text(value, most=TASK_ID_LIMIT, without=CONTROL_CHARACTER) else None


def _time_limits(value: object) -> tuple[float | None, float | None]:
    """``[hard, soft]`` in seconds."""
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise FieldError(f"header 'timelimit': {shown(value)} is not [hard, soft] in seconds")
    hard, soft = (optional(number, limit, "header 'timelimit':", most=LONGEST) for limit in value)
    return hard or None, soft or None


def own_headers(headers: Mapping[str, Any], *, signed: bool) -> dict[str, object]:
    """The sender's own among the headers of a task; none that a verified signature does not cover. Raises :class:`BadMessage`."""
    own = {}
    if not signed and not headers.keys() <= _USUAL_HEADERS:
        own = {
            str(key): value
            for key, value in headers.items()
            if key not in PROTOCOL_HEADERS and not str(key).startswith("stem-")
        }
    text = headers.get(HEADER_HEADERS)
    if text is None:
        return own
    try:
        sent = load_typed(text)
    except (ValueError, TypeError, ArithmeticError, AttributeError, KeyError, RecursionError) as error:
        raise BadMessage(f"header {HEADER_HEADERS!r} is not JSON: {_reason(error)}") from error
    if not isinstance(sent, dict):
        raise BadMessage(f"header {HEADER_HEADERS!r} is not an object")
    return own | sent
