"""Exchanges, queues, bindings and consumers, as rows.

Every function works inside the caller's transaction and raises the same exceptions of py-amqp that RabbitMQ's answers
become, so that callers find on the embedded broker what they will find there.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from stem_kombu.transports.sqlite.kombu_types import ChannelError, NotFound, PreconditionFailed, ResourceLocked
from stem_kombu.transports.topics import topic_matches

logger = logging.getLogger(__name__)

#: Arguments of queues that are acted on, or (the last two) make no difference here.
_HEEDED = frozenset({"x-expires", "x-message-ttl", "x-max-priority", "x-queue-type"})

EXCHANGE_TYPES = frozenset({"direct", "topic", "fanout"})


@dataclass(frozen=True, slots=True)
class QueueSpec:
    """A queue as declared; ``expires`` and ``message_ttl`` in seconds, ``arguments`` as canonical JSON."""

    name: str
    durable: bool = False
    auto_delete: bool = False
    exclusive: bool = False
    arguments: str = "{}"
    expires: float | None = None
    message_ttl: float | None = None

    @classmethod
    def decode(
        cls, name: str, durable: bool, auto_delete: bool, exclusive: bool, arguments: Mapping[str, object] | None
    ) -> QueueSpec:
        """The queue that AMQP's arguments describe; raises :class:`PreconditionFailed` for a value without meaning."""
        given = dict(arguments or {})
        return cls(
            name=name,
            durable=bool(durable),
            auto_delete=bool(auto_delete),
            exclusive=bool(exclusive),
            arguments=canonical(given),
            expires=_milliseconds(name, given, "x-expires", least=1),
            message_ttl=_milliseconds(name, given, "x-message-ttl", least=0),
        )


@dataclass(frozen=True, slots=True)
class QueueState:
    """A queue as it is: its id, ready messages and consumers anywhere."""

    id: int
    ready: int
    consumers: int


def canonical(arguments: Mapping[str, object]) -> str:
    """Arguments as text that is equal when they are."""
    return json.dumps(arguments, sort_keys=True, default=str)


def _milliseconds(queue: str, arguments: Mapping[str, object], name: str, *, least: int) -> float | None:
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value < least:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - invalid arg {name!r} for queue {queue!r}: {value!r}",
            (50, 10),
            "Channel.queue_declare",
        )
    return value / 1000.0


# -- exchanges


def declare_exchange(
    sql: sqlite3.Connection,
    name: str,
    kind: str,
    durable: bool,
    auto_delete: bool,
    arguments: Mapping[str, object] | None,
) -> None:
    """Make the exchange, or find it equivalent; :class:`PreconditionFailed` when it exists and differs."""
    if kind not in EXCHANGE_TYPES:
        raise ChannelError(
            f"COMMAND_INVALID - unknown exchange type {kind!r}; known are {', '.join(sorted(EXCHANGE_TYPES))}",
            (40, 10),
            "Channel.exchange_declare",
            503,
        )
    wanted = (kind, int(bool(durable)), int(bool(auto_delete)), canonical(arguments or {}))
    row = sql.execute(
        "SELECT type, durable, auto_delete, arguments FROM stem_broker_exchange WHERE name = ?", (name,)
    ).fetchone()
    if row is None:
        sql.execute("INSERT INTO stem_broker_exchange VALUES (?, ?, ?, ?, ?)", (name, *wanted))
    elif tuple(row) != wanted:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - exchange {name!r} exists with type, durable, auto_delete, arguments {tuple(row)},"
            f" not {wanted}",
            (40, 10),
            "Channel.exchange_declare",
        )


def require_exchange(sql: sqlite3.Connection, name: str, method: str) -> str:
    """The type of the exchange; :class:`NotFound` when there is none."""
    row = sql.execute("SELECT type FROM stem_broker_exchange WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFound(f"NOT_FOUND - no exchange {name!r}", (40, 10), method)
    return str(row[0])


def delete_exchange(sql: sqlite3.Connection, name: str, if_unused: bool) -> None:
    """Remove the exchange and its bindings; one that is not there is fine, as it is for RabbitMQ."""
    bound = sql.execute("SELECT 1 FROM stem_broker_binding WHERE exchange = ? LIMIT 1", (name,)).fetchone()
    if if_unused and bound:
        raise PreconditionFailed(f"PRECONDITION_FAILED - exchange {name!r} in use", (40, 20), "Channel.exchange_delete")
    sql.execute("DELETE FROM stem_broker_binding WHERE exchange = ?", (name,))
    sql.execute("DELETE FROM stem_broker_exchange WHERE name = ?", (name,))


# -- queues


def declare_queue(sql: sqlite3.Connection, spec: QueueSpec, owner_id: int | None, now: float) -> QueueState:
    """Make the queue, or find it equivalent and count this as use of it.

    Raises :class:`PreconditionFailed` when it exists and differs in what matters here (auto_delete, exclusive, expires,
    message TTL; durability and lengths change nothing, the first declaration stays), :class:`ResourceLocked` when it is
    another's exclusive one.
    """
    delete_expired_queues(sql, now, spec.name)
    wanted = (int(spec.auto_delete), int(spec.exclusive), spec.expires, spec.message_ttl)
    row = sql.execute(
        "SELECT auto_delete, exclusive, expires, message_ttl, id, exclusive_owner FROM stem_broker_queue"
        " WHERE name = ?",
        (spec.name,),
    ).fetchone()
    if row is None:
        row = sql.execute(
            "INSERT INTO stem_broker_queue (name, auto_delete, exclusive, expires, message_ttl, durable, arguments,"
            " touched_at, exclusive_owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id",
            (spec.name, *wanted, int(spec.durable), spec.arguments, now, owner_id if spec.exclusive else None),
        ).fetchone()
        _warn_of_what_is_ignored(spec)
        return QueueState(int(row[0]), 0, 0)
    if row[5] is not None and row[5] != owner_id:
        raise ResourceLocked(
            f"RESOURCE_LOCKED - queue {spec.name!r} is exclusive to another connection",
            (50, 10),
            "Channel.queue_declare",
        )
    if tuple(row[:4]) != wanted:
        raise PreconditionFailed(
            f"PRECONDITION_FAILED - queue {spec.name!r} exists with auto_delete, exclusive, expires, message_ttl"
            f" {tuple(row[:4])}, not {wanted}",
            (50, 10),
            "Channel.queue_declare",
        )
    sql.execute("UPDATE stem_broker_queue SET touched_at = ? WHERE id = ?", (now, row[4]))
    return state_of(sql, int(row[4]), now)


def _warn_of_what_is_ignored(spec: QueueSpec) -> None:
    ignored = sorted(json.loads(spec.arguments).keys() - _HEEDED)
    if ignored:
        logger.warning(
            "embedded broker: queue %r is made without %s, which need RabbitMQ", spec.name, ", ".join(ignored)
        )


def find_queue(sql: sqlite3.Connection, name: str, method: str, owner_id: int | None = None) -> int:
    """The id of the queue; :class:`NotFound` without one, :class:`ResourceLocked` when it is exclusive to another."""
    row = sql.execute("SELECT id, exclusive_owner FROM stem_broker_queue WHERE name = ?", (name,)).fetchone()
    if row is None:
        raise NotFound(f"NOT_FOUND - no queue {name!r}", (50, 10), method)
    if row[1] is not None and row[1] != owner_id:
        raise ResourceLocked(f"RESOURCE_LOCKED - queue {name!r} is exclusive to another connection", (50, 10), method)
    return int(row[0])


def state_of(sql: sqlite3.Connection, queue_id: int, now: float) -> QueueState:
    """Ready messages (not leased, due, not expired) and consumers of the queue."""
    # Two counts, because one partial index holds what is ready and another what was scheduled and has just come due.
    (ready,) = sql.execute(
        "SELECT (SELECT count(*) FROM stem_broker_message WHERE queue_id = ? AND owner_id IS NULL AND due IS NULL"
        " AND (expires_at IS NULL OR expires_at > ?)) + (SELECT count(*) FROM stem_broker_message WHERE queue_id = ?"
        " AND owner_id IS NULL AND due IS NOT NULL AND due <= ? AND (expires_at IS NULL OR expires_at > ?))",
        (queue_id, now, queue_id, now, now),
    ).fetchone()
    (consumers,) = sql.execute("SELECT count(*) FROM stem_broker_consumer WHERE queue_id = ?", (queue_id,)).fetchone()
    return QueueState(queue_id, int(ready), int(consumers))


def touch_queue(sql: sqlite3.Connection, queue_id: int, now: float) -> None:
    """Count this as use of the queue, which postpones ``x-expires``."""
    sql.execute("UPDATE stem_broker_queue SET touched_at = ? WHERE id = ? AND expires IS NOT NULL", (now, queue_id))


def wants_touching(sql: sqlite3.Connection, queue_id: int, now: float) -> bool:
    """Whether the queue expires and its last recorded use is so old that another write is worth it."""
    row = sql.execute(
        "SELECT 1 FROM stem_broker_queue WHERE id = ? AND expires IS NOT NULL AND touched_at + expires / 4 <= ?",
        (queue_id, now),
    ).fetchone()
    return row is not None


def queue_exists(sql: sqlite3.Connection, queue_id: int) -> bool:
    """Whether the queue is still there."""
    return sql.execute("SELECT 1 FROM stem_broker_queue WHERE id = ?", (queue_id,)).fetchone() is not None


def delete_queue(sql: sqlite3.Connection, queue_id: int) -> None:
    """Remove the queue, its messages, consumers and bindings, and the auto-delete exchanges that are then unbound."""
    sources = [
        r[0] for r in sql.execute("SELECT DISTINCT exchange FROM stem_broker_binding WHERE queue_id = ?", (queue_id,))
    ]
    for table in ("stem_broker_message", "stem_broker_consumer", "stem_broker_binding"):
        sql.execute(f"DELETE FROM {table} WHERE queue_id = ?", (queue_id,))
    sql.execute("DELETE FROM stem_broker_queue WHERE id = ?", (queue_id,))
    _delete_unbound(sql, sources)


EXPIRED_QUEUES = """
    SELECT q.id FROM stem_broker_queue q WHERE q.expires IS NOT NULL AND q.touched_at + q.expires <= :now
    AND NOT EXISTS (SELECT 1 FROM stem_broker_consumer c WHERE c.queue_id = q.id)
"""


def delete_expired_queues(sql: sqlite3.Connection, now: float, name: str | None = None) -> None:
    """Remove queues (or the one of that name) that nobody has used for as long as they were given."""
    only = "" if name is None else " AND q.name = :name"
    for (queue_id,) in sql.execute(EXPIRED_QUEUES + only, {"now": now, "name": name}).fetchall():
        delete_queue(sql, queue_id)


# -- bindings


def bind(sql: sqlite3.Connection, queue_id: int, exchange: str, routing_key: str) -> None:
    """Bind; twice is once."""
    sql.execute("INSERT OR IGNORE INTO stem_broker_binding VALUES (?, ?, ?)", (exchange, routing_key, queue_id))


def unbind(sql: sqlite3.Connection, queue_id: int, exchange: str, routing_key: str) -> None:
    """Unbind; what is not bound is fine."""
    sql.execute(
        "DELETE FROM stem_broker_binding WHERE exchange = ? AND routing_key = ? AND queue_id = ?",
        (exchange, routing_key, queue_id),
    )
    _delete_unbound(sql, [exchange])


def exchanges(sql: sqlite3.Connection) -> list[str]:
    """Names of all exchanges."""
    return [row[0] for row in sql.execute("SELECT name FROM stem_broker_exchange ORDER BY name")]


def bindings(sql: sqlite3.Connection) -> list[tuple[str, str, str]]:
    """Every binding as (queue, exchange, routing key)."""
    return sql.execute(
        "SELECT q.name, b.exchange, b.routing_key FROM stem_broker_binding b"
        " JOIN stem_broker_queue q ON q.id = b.queue_id"
        " ORDER BY 1, 2, 3"
    ).fetchall()


def _delete_unbound(sql: sqlite3.Connection, exchanges: Iterable[str]) -> None:
    for exchange in exchanges:
        sql.execute(
            "DELETE FROM stem_broker_exchange WHERE name = ? AND auto_delete"
            " AND NOT EXISTS (SELECT 1 FROM stem_broker_binding WHERE exchange = ?)",
            (exchange, exchange),
        )


def routes(sql: sqlite3.Connection, exchange: str, routing_key: str) -> list[tuple[int, float | None]]:
    """Queues (id, message TTL) that a message goes to, each once; none is an answer. Unknown exchange: ``NotFound``."""
    if not exchange:
        return sql.execute("SELECT id, message_ttl FROM stem_broker_queue WHERE name = ?", (routing_key,)).fetchall()
    kind = require_exchange(sql, exchange, "Channel.basic_publish")
    condition, key = {"direct": (" AND b.routing_key = ?", routing_key)}.get(kind, ("", None))
    rows = sql.execute(
        "SELECT q.id, q.message_ttl, b.routing_key FROM stem_broker_binding b"
        " JOIN stem_broker_queue q ON q.id = b.queue_id"
        f" WHERE b.exchange = ?{condition}",
        (exchange,) if key is None else (exchange, key),
    ).fetchall()
    if kind == "topic":
        rows = [row for row in rows if topic_matches(row[2], routing_key)]
    return list({row[0]: (row[0], row[1]) for row in rows}.values())


# -- consumers


def add_consumer(sql: sqlite3.Connection, queue_id: int, owner_id: int, channel: int, tag: str) -> None:
    """Count a consumer of the queue."""
    sql.execute("INSERT OR IGNORE INTO stem_broker_consumer VALUES (?, ?, ?, ?)", (queue_id, owner_id, channel, tag))


def remove_consumers(
    sql: sqlite3.Connection, owner_id: int, now: float, *, channel: int | None = None, tag: str | None = None
) -> None:
    """Take away the owner's consumers (of that channel, of that tag); an auto-delete queue goes with its last one."""
    rows = sql.execute(
        "DELETE FROM stem_broker_consumer"
        " WHERE owner_id = ? AND (? IS NULL OR channel = ?) AND (? IS NULL OR tag = ?) RETURNING queue_id",
        (owner_id, channel, channel, tag, tag),
    ).fetchall()
    for queue_id in {row[0] for row in rows}:
        if sql.execute("SELECT 1 FROM stem_broker_consumer WHERE queue_id = ? LIMIT 1", (queue_id,)).fetchone():
            continue
        row = sql.execute("SELECT auto_delete FROM stem_broker_queue WHERE id = ?", (queue_id,)).fetchone()
        if row is not None and row[0]:
            delete_queue(sql, queue_id)
        else:
            touch_queue(sql, queue_id, now)
