"""How a task's message is published beside the name of its queue: Kombu's own options, checked where they are given."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import CONTROL_CHARACTER, shown
from stem_kombu.spelling import nearest

#: What workers read. Nothing is unpickled (G17).
SERIALIZERS = ("json", "application/json")
#: What workers unpack within a bound; names and aliases are Kombu's.
COMPRESSIONS = ("gzip", "zlib", "bzip2", "bzip", "lzma", "xz", "zstd", "zstandard")
#: AMQP's; Redis and the embedded broker know 0 to 9.
HIGHEST_PRIORITY = 255
#: Bytes of a routing key or of an exchange's name: a short string of AMQP.
_LONGEST = 255
#: Types of exchanges that deliver by a queue's name as well as by a binding.
_DIRECT = ("direct", "", None)


class DeclaredExchange(Protocol):
    """What is used of a ``kombu.Exchange``."""

    @property
    def name(self) -> str: ...
    @property
    def type(self) -> object: ...


class DeclaredQueue(Protocol):
    """What is used of a ``kombu.Queue``."""

    @property
    def name(self) -> str: ...
    @property
    def exchange(self) -> Any: ...
    @property
    def routing_key(self) -> object: ...


@dataclass(frozen=True, slots=True)
class Publishing:
    """``exchange`` is a name, empty for the default exchange, which delivers to the queue that the routing key names.
    ``declared`` are Kombu's declarations that have to be at the broker first."""

    priority: int | None = None
    compression: str | None = None
    exchange: str = ""
    routing_key: str | None = None
    declared: tuple[DeclaredQueue | DeclaredExchange, ...] = ()


#: Of the options of a call, those that are published otherwise than as the task's own fields.
PUBLISHING_OPTIONS = ("priority", "exchange", "routing_key", "serializer", "compression")
#: What :func:`destination` is about.
DESTINATION_OPTIONS = ("queue", *PUBLISHING_OPTIONS)
_LIMITS = ("max_priority", "expires", "message_ttl", "max_length", "max_length_bytes")
_PLACE = frozenset({"queue", "exchange", "routing_key"})


def queue_name(queue: object, where: str) -> str:
    """The name of a queue that is given by name or as a ``kombu.Queue``; raises :class:`ConfigurationError`."""
    name = queue if isinstance(queue, str) else getattr(queue, "name", None) if is_queue(queue) else None
    if not isinstance(name, str):
        raise ConfigurationError(
            f"queue of {where} is {shown(queue)} ({type(queue).__name__}), not a name", hint="or give a kombu.Queue"
        )
    if not name.strip():
        raise ConfigurationError(f"queue {name!r} of {where} is blank", hint="leave it out, or give it a name")
    return name


def is_queue(value: object) -> bool:
    """Whether that is a declaration of a queue as Kombu has them."""
    return all(hasattr(value, name) for name in ("name", "exchange", "routing_key", "queue_arguments"))


def differing(one: DeclaredQueue, other: DeclaredQueue) -> tuple[str, str] | None:
    """How two declarations of a queue differ, ``None`` where they don't. Kombu's own comparison passes over limits."""
    if one is other:
        return None
    for name in _LIMITS:
        if (first := getattr(one, name, None)) != (second := getattr(other, name, None)):
            return f"{name}={first!r}", f"{name}={second!r}"
    return None if one == other else (repr(one), repr(other))


def checked(where: str, given: Mapping[str, object]) -> Mapping[str, object]:
    """The options themselves; raises :class:`ConfigurationError` naming the first that is wrong. ``None`` is not given."""
    priority, compression = given.get("priority"), given.get("compression")
    if priority is not None and (isinstance(priority, bool) or not isinstance(priority, int)):
        raise ConfigurationError(
            f"priority of {where}: {shown(priority)} ({type(priority).__name__}) is no whole number"
        )
    if priority is not None and not 0 <= priority <= HIGHEST_PRIORITY:
        raise ConfigurationError(f"priority of {where}: {shown(priority)} is not between 0 and {HIGHEST_PRIORITY}")
    serializer = given.get("serializer")
    if serializer is not None and serializer not in SERIALIZERS:
        raise ConfigurationError(
            f"serializer of {where}: {shown(serializer)} is not 'json', which is all that workers read",
            hint="leave it out, and send numbers, text, lists and mappings",
        )
    if compression is not None and compression not in COMPRESSIONS:
        near = nearest(str(compression), COMPRESSIONS)
        raise ConfigurationError(
            f"compression of {where}: {shown(compression)} is unknown to workers",
            hint=f"did you mean {near!r}?" if near else f"known are {', '.join(COMPRESSIONS)}",
        )
    _exchange(given.get("exchange"), where)
    _short(given.get("routing_key"), f"routing_key of {where}")
    return given


def destination(
    where: str,
    call: Mapping[str, Any],
    task_queue: str | None,
    task: Mapping[str, object],
    default: str,
    declared: Mapping[str, DeclaredQueue],
) -> tuple[str, Publishing | None]:
    """The name of the queue that a message is for, and how it is published; ``None`` as by default.

    Options of the ``call`` count before those of the ``task``; where it says where to, the task's place counts for nothing.
    ``declared`` are queues that are named only. Where an exchange is given and no queue, the broker decides which queues those
    are, and the name is the routing key's or the exchange's. A queue with a topic, fanout or headers exchange gets its messages
    by that; any other straight, by its name. Raises :class:`ConfigurationError` for an option that is wrong.
    """
    given = {name: value for name in DESTINATION_OPTIONS if (value := call.get(name)) is not None} if call else {}
    if not given and not task and not declared:
        return task_queue or default, None
    if len(given) == 1 and "queue" in given and not task and not declared and isinstance(given["queue"], str):
        return queue_name(given["queue"], where), None  # what most calls say
    checked(where, given)
    if given.keys().isdisjoint(_PLACE):
        given = {"queue": task_queue, **task, **given} if task_queue else {**task, **given}
    else:
        given = {**{name: value for name, value in task.items() if name not in _PLACE}, **given}
    exchange, key, queue = _exchange(given.get("exchange"), where), given.get("routing_key"), given.get("queue")
    first: tuple[Any, ...] = () if isinstance(exchange, str) or exchange is None else (exchange,)
    to = exchange if isinstance(exchange, str) else getattr(exchange, "name", "")
    if queue is None and (to or key is not None):
        name = str(key or to)
    else:
        name = queue_name(default if queue is None else queue, where)
        held = declared.get(name) if queue is None or isinstance(queue, str) else queue
        if held is not None:
            first = (*first, held)
            if not to and getattr(held.exchange, "type", None) not in _DIRECT:
                to, key = held.exchange.name, held.routing_key if key is None else key
    if not to and key is not None and key != name:
        raise ConfigurationError(
            f"routing_key {key!r} of {where} is not queue {name!r}, and the default exchange knows queues by their names only",
            hint="give exchange= as well, or leave one of the two out",
        )
    priority, compression = given.get("priority"), given.get("compression")
    if to or first or priority is not None or compression is not None:
        return name, Publishing(priority, compression, to, (key if key is not None else name) if to else None, first)
    return name, None


def _exchange(value: object, where: str) -> DeclaredExchange | str | None:
    if value is None or isinstance(value, str):
        return _short(value, f"exchange of {where}")
    if not (hasattr(value, "name") and hasattr(value, "type")):
        raise ConfigurationError(
            f"exchange of {where} is {shown(value)} ({type(value).__name__}), not a name",
            hint="or give a kombu.Exchange",
        )
    exchange: Any = value
    return exchange  # type: ignore[no-any-return]


def _short(value: object, what: str) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"{what}: {shown(value)} ({type(value).__name__}) is no text")
    if CONTROL_CHARACTER.search(value) or len(value.encode("utf-8", "surrogatepass")) > _LONGEST:
        raise ConfigurationError(f"{what}: {shown(value)} has a control character or more than {_LONGEST} bytes")
    return value
