"""A task as bytes: Celery's message protocol 2 in JSON, with Stem's own facts in headers that begin with ``stem-``.

The same text is what a Celery worker executes and what :mod:`stem_kombu.messages.decoding` reads back. Values that JSON
lacks but Celery's JSON has (dates, times, decimals, UUIDs, bytes) travel in Celery's way. Source of the shape: Celery's
documentation, *Message Protocol, version 2*; ``timelimit`` is ``[hard, soft]`` on the wire.
"""

from __future__ import annotations

import math
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from stem_kombu.clock import isoformat
from stem_kombu.errors import ConfigurationError
from stem_kombu.messages.quick_json import load_typed, quick_encoder
from stem_kombu.redaction import ShortRepr
from stem_kombu.task import CeleryOrigin, TaskMessage

CONTENT_TYPE = "application/json"
CONTENT_ENCODING = "utf-8"

#: Bytes of a body that is sent or accepted; RabbitMQ 4 refuses larger messages by default.
LARGEST_BODY = 16 * 1024 * 1024
#: Levels of nesting in arguments. Deeper ones would exhaust the stack of whatever prints or encodes them later.
DEEPEST_NESTING = 100
#: Bytes of a text in which signs are counted faster than one is found after the other.
_SOON_COUNTED = 4096
#: Characters of a task's name.
LONGEST_NAME = 512

HEADER_ENQUEUED_AT = "stem-enqueued-at"
#: The same of Celery's tasks, where the application that sent them has Stem.
HEADER_SENT_AT = "stem-sent-at"
HEADER_MAX_RETRIES = "stem-max-retries"
HEADER_HEADERS = "stem-headers"
#: Seconds since the epoch; the embedded broker keeps the message until then, others leave that to the worker.
HEADER_ETA = "stem-eta"
#: The id of the failed task of which an operator made this one.
HEADER_RETRIED_FROM = "stem-retried-from"
#: What :mod:`stem_kombu.messages.signatures` writes.
HEADER_SIGNATURE_V1, HEADER_SIGNATURE_V2 = "stem-signature", "stem-signature-2"

#: Headers of the protocol; all others are the sender's own and reach the handler as ``ctx.headers``.
PROTOCOL_HEADERS = frozenset(
    {
        "lang",
        "task",
        "id",
        "shadow",
        "eta",
        "expires",
        "group",
        "group_index",
        "group_order",
        "retries",
        "timelimit",
        "root_id",
        "parent_id",
        "argsrepr",
        "kwargsrepr",
        "origin",
        "ignore_result",
        "replaced_task_nesting",
        "stamped_headers",
        "stamps",
        "compression",
        "reply_to",
        "correlation_id",
        "redelivered",
        "delivery_info",
        "x-death",
        "x-delivery-count",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
    }
)
#: Names that would do something as headers: RabbitMQ sends a copy to the queues in CC, and Celery's workers read the
#: others as parts of the call.
_MEAN_SOMETHING = PROTOCOL_HEADERS | {
    *("CC", "BCC", "args", "kwargs", "callbacks", "errbacks", "chain", "chord", "called_directly", "is_eager"),
    *("hostname", "properties", "headers", "utc", "taskset"),
}
#: Bytes of a name in a header table of AMQP are fewer.
_LONGEST_SHORT_TEXT = 256

#: In the text of what Celery's JSON would read as a date, a UUID …
_TYPED = b"__type__"
_LOOKS_TYPED = (
    "Celery's JSON would read its mapping of '__type__' and '__value__' as a date or the like, which it is not"
)
#: Own headers of more characters are not written as headers as well: RabbitMQ takes no more than 128 KiB of all of them.
_LONGEST_COPY = 16_384

_NO_CANVAS = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}
_NO_ORIGIN = CeleryOrigin()
_LONGEST_REPR = 256
#: Digits of a number that is shown whole (``reprlib.Repr.maxlong``).
_SHORT_NUMBER = 40


@dataclass(frozen=True, slots=True)
class Envelope:
    """What is published: the body, its headers and its AMQP properties."""

    body: bytes
    headers: dict[str, object]
    properties: dict[str, object]
    content_type: str = CONTENT_TYPE
    content_encoding: str = CONTENT_ENCODING


def encode_task(message: TaskMessage) -> Envelope:
    """The message as it is published.

    Raises :class:`ConfigurationError` naming the task and the argument that JSON can't hold.
    """
    task_id = message.task_id
    if len(message.name) > LONGEST_NAME:
        raise ConfigurationError(
            f"the name of task {message.name[:40]!r}… has {len(message.name)} characters",
            hint=f"at most {LONGEST_NAME} are accepted",
        )
    # The next attempt of what a Celery application sent stays one of its tasks.
    origin = message.celery or _NO_ORIGIN
    headers: dict[str, object] = {
        "lang": "py",
        "task": message.name,
        "id": task_id,
        "root_id": origin.root_id or task_id,
        "parent_id": origin.parent_id,
        "group": origin.group,
        "retries": message.attempt - 1,
        "argsrepr": _shown(message.args),
        "kwargsrepr": _shown(dict(message.kwargs)),
        "origin": _origin(os.getpid()),
    }
    # The protocol leaves out what is not so; each empty field costs the sender, the broker and the worker.
    if message.eta is not None:
        headers["eta"] = isoformat(message.eta)
        headers[HEADER_ETA] = message.eta.timestamp()
    if message.expires_at is not None:
        headers["expires"] = isoformat(message.expires_at)
    if message.time_limit is not None or message.soft_time_limit is not None:
        headers["timelimit"] = [message.time_limit, message.soft_time_limit]
    if origin.group_index is not None:
        headers["group_index"] = origin.group_index
    if origin.ignore_result:
        headers["ignore_result"] = True
    if message.celery is None:
        # Also when unknown: by its presence the message is told from one that a Celery application sent.
        headers[HEADER_ENQUEUED_AT] = None if message.enqueued_at is None else isoformat(message.enqueued_at)
    if message.max_retries is not None:
        headers[HEADER_MAX_RETRIES] = message.max_retries
    if message.headers:
        # As text, because AMQP's header tables hold fewer types than JSON does; and what these can hold as headers too,
        # where a Celery task looks for them.
        headers[HEADER_HEADERS] = text = headers_text(message)
        if len(text) <= _LONGEST_COPY:
            headers = {**as_headers(message.headers), **headers}
    body = _body(message)
    properties: dict[str, object] = {"correlation_id": task_id, "reply_to": ""}
    if (publishing := message.publishing) is not None:
        if publishing.priority is not None:
            properties["priority"] = publishing.priority
        if publishing.compression is not None:
            body, headers["compression"] = _compressed(body, publishing.compression, message.name)
    return Envelope(body, headers, properties)


def may_be_nested_too_deep(text: bytes) -> bool:
    """Whether a JSON text has so many brackets that its value has to be walked: each level has one of its own."""
    if len(text) <= _SOON_COUNTED:
        return len(text) > DEEPEST_NESTING and text.count(b"[") + text.count(b"{") > DEEPEST_NESTING
    return any(_has_many(text, bracket) for bracket in (b"[", b"{"))


def _has_many(text: bytes, bracket: bytes) -> bool:
    # To look for the next one takes less than a tenth of the time that counting takes.
    at = -1
    for _ in range(DEEPEST_NESTING // 2 + 1):
        at = text.find(bracket, at + 1)
        if at < 0:
            return False
    return True


def nesting(value: object) -> int:
    """How deep lists and objects are nested in a decoded JSON value; counts no further than one more than accepted."""
    level, layer = 0, [value]
    while layer and level <= DEEPEST_NESTING:
        inner: list[object] = []
        for item in layer:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, (list, tuple)):
                inner.extend(item)
        if not inner and not any(isinstance(item, (dict, list, tuple)) for item in layer):
            break
        level, layer = level + 1, inner
    return level


def _body(message: TaskMessage) -> bytes:
    args, kwargs = list(message.args), dict(message.kwargs)
    try:
        body = _json([args, kwargs, _NO_CANVAS])
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(message, error) from error
    if len(body) > LARGEST_BODY:
        raise ConfigurationError(
            f"the arguments of task {message.name!r} take {len(body)} bytes",
            hint=f"at most {LARGEST_BODY} are accepted; store large data elsewhere and send where it is",
        )
    if not _is_read_back(body):
        raise _refusal(message, ValueError(_LOOKS_TYPED))
    if may_be_nested_too_deep(body) and nesting([args, kwargs]) > DEEPEST_NESTING:
        raise _refusal(message, ValueError(f"nested deeper than {DEEPEST_NESTING} levels"))
    return body


def _compressed(body: bytes, compression: str, name: str) -> tuple[bytes, str]:
    """The body as Kombu compresses it, and the content type of that."""
    from kombu.compression import compress

    try:
        packed, kind = compress(body, compression)
    except KeyError:
        raise ConfigurationError(
            f"compression of task {name!r}: this Python has no library for {compression!r}", hint="use gzip"
        ) from None
    return bytes(packed), str(kind)


def _refusal(message: TaskMessage, error: Exception) -> ConfigurationError:
    named = [(f"argument {index + 1}", value) for index, value in enumerate(message.args)]
    named += [(f"argument {key!r}", value) for key, value in message.kwargs.items()]
    for label, value in named:
        reason = _not_sent_because(value)
        if reason is None:
            continue
        return ConfigurationError(
            f"{label} of task {message.name!r} ({type(value).__name__}) can't be sent as JSON: {reason}",
            hint="send numbers, text, lists and mappings with text as keys",
        )
    return ConfigurationError(f"the arguments of task {message.name!r} can't be sent as JSON: {error}")


def _not_sent_because(value: object) -> str | None:
    try:
        text = _json(value)
    except RecursionError:
        return "nested too deep"
    except (TypeError, ValueError) as error:
        return str(error)
    if not _is_read_back(text):
        return _LOOKS_TYPED
    return None if nesting(value) < DEEPEST_NESTING - 1 else f"nested deeper than {DEEPEST_NESTING} levels"


def _is_read_back(text: bytes) -> bool:
    """Whether Celery's JSON reads what it encoded: a mapping of its own form may stand for a date that is none."""
    if b"_" in text and _TYPED in text:  # to look for one sign takes a thirtieth of the time
        try:
            load_typed(text)
        except (ValueError, TypeError, ArithmeticError, LookupError, AttributeError):
            return False
    return True


def as_headers(own: Mapping[Any, object]) -> dict[str, object]:
    """Those of a sender's own headers that every broker can carry as headers, and that mean nothing to the protocol."""
    return {
        name: value
        for name, value in own.items()
        if isinstance(name, str)
        and name not in _MEAN_SOMETHING
        and not name.startswith("stem-")
        and _in_a_table({name: value})
    }


def _in_a_table(value: object) -> bool:
    """Whether a header table of AMQP holds the value, and JSON the same."""
    if isinstance(value, dict):
        return all(
            isinstance(name, str) and len(name.encode()) < _LONGEST_SHORT_TEXT and _in_a_table(inner)
            for name, inner in value.items()
        )
    if isinstance(value, (list, tuple)):
        return all(map(_in_a_table, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return -(2**63) <= value < 2**63
    return value is None or isinstance(value, (bool, str)) or (isinstance(value, float) and math.isfinite(value))


def headers_text(message: TaskMessage) -> str:
    """The sender's own headers as JSON; raises :class:`ConfigurationError` for what JSON can't hold, or wouldn't read back."""
    try:
        text = _json(dict(message.headers))
        if nesting(message.headers) > DEEPEST_NESTING:
            raise ValueError(f"nested deeper than {DEEPEST_NESTING} levels")
        if not _is_read_back(text):
            raise ValueError(_LOOKS_TYPED)
    except (TypeError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"the headers of task {message.name!r} can't be sent as JSON: {error}") from error
    return text.decode()


def _json(value: object) -> bytes:
    return _encode()(value).encode()


@lru_cache(maxsize=1)
def _encode() -> Callable[[object], str]:
    from kombu.utils.json import JSONEncoder

    # Compact, and NaN refused: it is no JSON, and other languages' consumers stop at it.
    return quick_encoder(JSONEncoder(allow_nan=False, separators=(",", ":"), ensure_ascii=False))


@lru_cache(maxsize=8)
def _origin(pid: int) -> str:
    return f"{pid}@{socket.gethostname()}"


_TEXT, _ITEMS = 60, 6
_repr = ShortRepr(text=_TEXT, items=_ITEMS)
_PLAIN = frozenset({int, float, bool, type(None)})


def _shown(value: object) -> str:
    """A short text for people who watch the queue (Flower shows it); never the whole of something large,
    nor what a name says is secret."""
    if not value:
        return "{}" if isinstance(value, dict) else "()"
    if type(value) is tuple and len(value) <= _ITEMS and all(type(item) in _PLAIN for item in value):
        text = repr(value)
        if len(text) <= _SHORT_NUMBER:
            return text  # what the long way makes of it as well, at an eighth of its price
    try:
        return _repr.repr(value)[:_LONGEST_REPR]
    except Exception as error:  # noqa: BLE001 - a user's __repr__ may raise anything, and nothing depends on this text
        return f"<{type(value).__name__}: {type(error).__name__}>"
