"""Messages as rows: put, lease, settle, give back, extend, count.

A message is leased by setting its owner and counting ``tries`` up. The pair (id, tries) names one delivery and no
other: every operation on a delivery asks for both, so that somebody whose lease ran out can't touch the next owner's
delivery.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, NamedTuple

from stem_kombu.transports.sqlite import topology
from stem_kombu.transports.sqlite.kombu_types import dumps, loads

MAX_PRIORITY = 9

#: Header with the time (epoch seconds) before which a message is not delivered.
ETA_HEADER = "stem-eta"
#: What reading a row that somebody scribbled on raises.
UNREADABLE = (ValueError, TypeError, KeyError, AttributeError)


@dataclass(frozen=True, slots=True)
class Envelope:
    """A message on its way in. ``ttl`` in seconds; ``eta`` in epoch seconds."""

    body: str | bytes
    text: str
    rank: int
    ttl: float | None
    eta: float | None

    @classmethod
    def decode(cls, message: dict[str, Any], exchange: str, routing_key: str) -> Envelope:
        """The message that Kombu's ``prepare_message`` made."""
        properties = dict(message["properties"])
        headers = message.get("headers") or {}
        properties["delivery_info"] = {
            **(properties.get("delivery_info") or {}),
            "exchange": exchange,
            "routing_key": routing_key,
        }
        body = message["body"]
        return cls(
            body=body if isinstance(body, (str, bytes)) else bytes(body),
            text=dumps([message.get("content-type"), message.get("content-encoding"), headers, properties]),
            rank=MAX_PRIORITY - _priority(properties.get("priority")),
            ttl=_ttl(headers, properties),
            eta=_number(headers.get(ETA_HEADER)),
        )


def _ttl(headers: Mapping[str, object], properties: Mapping[str, object]) -> float | None:
    """Seconds. A task that expires stays, for its worker to record that it did: Celery sets both."""
    if headers.get("task") is not None and headers.get("expires") is not None:
        return None
    expiration = _number(properties.get("expiration"))
    return None if expiration is None else max(0.0, expiration / 1000.0)


def _number(value: object) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # anything a stranger may have put there
    except (TypeError, ValueError):
        return None
    return number if abs(number) < 1e15 else None


def _priority(value: object) -> int:
    number = _number(value)
    return 0 if number is None else max(0, min(MAX_PRIORITY, int(number)))


class Delivery(NamedTuple):
    """One leased message: where it stands in the queue's order, which try this is, and what it says."""

    rank: int
    id: int
    tries: int
    envelope: str
    body: str | bytes

    @property
    def tag(self) -> str:
        return f"{self.id}.{self.tries}"

    def payload(self, consumer_tag: str | None) -> dict[str, object]:
        """The message as Kombu's virtual ``Message`` reads it; raises one of :data:`UNREADABLE` where the row holds none."""
        try:
            content_type, content_encoding, headers, properties = loads(self.envelope)
        except UNREADABLE:
            # A sender's header that only looks like a date or UUID of Kombu's JSON, or nothing of ours.
            content_type, content_encoding, headers, properties = json.loads(self.envelope)
        info = {**properties["delivery_info"], "redelivered": self.tries > 1, "delivery_count": self.tries - 1}
        if consumer_tag is not None:
            info["consumer_tag"] = consumer_tag
        properties.update(delivery_info=info, delivery_tag=self.tag)
        return {
            "body": self.body,
            "content-type": content_type,
            "content-encoding": content_encoding,
            "headers": headers,
            "properties": properties,
        }


def put(sql: sqlite3.Connection, exchange: str, routing_key: str, envelope: Envelope, now: float) -> int:
    """Add the message to every queue it is routed to; returns how many those are."""
    targets = topology.routes(sql, exchange, routing_key)
    due = envelope.eta if envelope.eta is not None and envelope.eta > now else None
    for queue_id, queue_ttl in targets:
        ttl = min((ttl for ttl in (envelope.ttl, queue_ttl) if ttl is not None), default=None)
        sql.execute(
            "INSERT INTO stem_broker_message (queue_id, rank, due, expires_at, envelope, body)"
            " VALUES (?, ?, ?, ?, ?, ?)",
            (queue_id, envelope.rank, due, None if ttl is None else now + ttl, envelope.text, envelope.body),
        )
    return len(targets)


_READY = "queue_id = ? AND owner_id IS NULL AND due IS NULL AND (expires_at IS NULL OR expires_at > ?)"


def any_ready(sql: sqlite3.Connection, queue_id: int, now: float) -> bool:
    """Whether a lease would get something."""
    return (
        sql.execute(f"SELECT 1 FROM stem_broker_message WHERE {_READY} LIMIT 1", (queue_id, now)).fetchone() is not None
    )


def lease(sql: sqlite3.Connection, queue_id: int, owner_id: int, limit: int, now: float) -> list[Delivery]:
    """At most ``limit`` ready messages, now this owner's: highest priority first, then first in, first out."""
    rows = sql.execute(
        "UPDATE stem_broker_message SET owner_id = ?, lease_until = NULL, tries = tries + 1 WHERE id IN"
        f" (SELECT id FROM stem_broker_message WHERE {_READY} ORDER BY rank, id LIMIT ?)"
        " RETURNING rank, id, tries, envelope, body",
        (owner_id, queue_id, now, limit),
    ).fetchall()
    rows.sort(key=itemgetter(0, 1))  # RETURNING promises no order
    return [Delivery._make(row) for row in rows]


def scheduled(
    sql: sqlite3.Connection, queue_ids: Iterable[int], after: int, wanted: Callable[[str], bool]
) -> tuple[list[tuple[int, int]], int]:
    """Messages of those queues that wait for their time and whose header ``id`` is wanted, as (queue, message), and the
    highest message that was looked at. Only those above ``after`` are."""
    found = []
    for queue_id in queue_ids:
        rows = sql.execute(
            "SELECT id, envelope FROM stem_broker_message"
            " WHERE due IS NOT NULL AND owner_id IS NULL AND queue_id = ? AND id > ?",
            (queue_id, after),
        )
        for message_id, envelope in rows:
            after = max(after, message_id)
            if (task_id := _task_id(envelope)) is not None and wanted(task_id):
                found.append((queue_id, message_id))
    return found, after


def _task_id(envelope: str) -> str | None:
    try:
        task_id = json.loads(envelope)[2]["id"]
    except (*UNREADABLE, IndexError, RecursionError):
        return None
    return task_id if isinstance(task_id, str) else None


def lease_scheduled(sql: sqlite3.Connection, message_id: int, owner_id: int) -> Delivery | None:
    """That message before its time, now this owner's; ``None`` when it does not wait any more."""
    row = sql.execute(
        "UPDATE stem_broker_message SET owner_id = ?, lease_until = NULL, due = NULL, tries = tries + 1"
        " WHERE id = ? AND owner_id IS NULL AND due IS NOT NULL RETURNING rank, id, tries, envelope, body",
        (owner_id, message_id),
    ).fetchone()
    return None if row is None else Delivery._make(row)


def promote(sql: sqlite3.Connection, now: float) -> None:
    """Make messages ready whose time has come."""
    sql.execute("UPDATE stem_broker_message SET due = NULL WHERE due IS NOT NULL AND due <= ?", (now,))


def next_due(sql: sqlite3.Connection) -> float | None:
    """When the next scheduled message becomes ready, in epoch seconds."""
    row = sql.execute("SELECT min(due) FROM stem_broker_message WHERE due IS NOT NULL").fetchone()
    return None if row[0] is None else float(row[0])


def settle(sql: sqlite3.Connection, message_id: int, tries: int) -> bool:
    """Remove an acknowledged message; ``False`` when this delivery is not the latest, or the message is gone."""
    done = sql.execute("DELETE FROM stem_broker_message WHERE id = ? AND tries = ?", (message_id, tries))
    return done.rowcount == 1


def put_aside(sql: sqlite3.Connection, message_id: int, tries: int, queue: str, now: float) -> None:
    """Move a delivered message that can't be read into that queue, which is made if need be."""
    held = topology.declare_queue(sql, topology.QueueSpec.decode(queue, True, False, False, None), None, now)
    sql.execute(
        "UPDATE stem_broker_message SET queue_id = ?, owner_id = NULL, lease_until = NULL, due = NULL, expires_at = NULL"
        " WHERE id = ? AND tries = ?",
        (held.id, message_id, tries),
    )


def exists(sql: sqlite3.Connection, message_id: int) -> bool:
    """Whether the message is there, in whatever state."""
    return sql.execute("SELECT 1 FROM stem_broker_message WHERE id = ?", (message_id,)).fetchone() is not None


def give_back(sql: sqlite3.Connection, message_id: int, tries: int) -> bool:
    """Make a delivered message ready again, at its old place in the order; ``False`` when the lease was lost."""
    done = sql.execute(
        "UPDATE stem_broker_message SET owner_id = NULL, lease_until = NULL WHERE id = ? AND tries = ?",
        (message_id, tries),
    )
    return done.rowcount == 1


def extend(sql: sqlite3.Connection, message_id: int, tries: int, owner_id: int, until: float) -> bool:
    """Keep a delivery leased until then at least, whatever becomes of the owner's renewals short of its death.

    A lease that ran out is taken again as long as nobody else has; ``False`` when somebody has, or the message is gone.
    """
    done = sql.execute(
        "UPDATE stem_broker_message SET owner_id = ?, lease_until = max(coalesce(lease_until, 0), ?)"
        " WHERE id = ? AND tries = ?",
        (owner_id, until, message_id, tries),
    )
    return done.rowcount == 1


# An owner without a row is one whose lock file was removed under it: nobody would ever renew or forget it.
LAPSED = """
    SELECT m.id FROM stem_broker_message m LEFT JOIN stem_broker_owner o ON o.id = m.owner_id
    WHERE m.owner_id IS NOT NULL AND (o.id IS NULL OR (o.lease_until <= :now AND coalesce(m.lease_until, 0) <= :now))
"""


def give_back_lapsed(sql: sqlite3.Connection, now: float) -> int:
    """Make ready what owners hold that live but have not renewed in time; returns the number."""
    done = sql.execute(
        f"UPDATE stem_broker_message SET owner_id = NULL, lease_until = NULL WHERE id IN ({LAPSED})", {"now": now}
    )
    return done.rowcount


EXPIRED_MESSAGES = (
    "SELECT id FROM stem_broker_message WHERE expires_at IS NOT NULL AND expires_at <= :now AND owner_id IS NULL"
)


def delete_expired(sql: sqlite3.Connection, now: float) -> None:
    """Remove waiting messages that nobody wants any more."""
    sql.execute(f"DELETE FROM stem_broker_message WHERE id IN ({EXPIRED_MESSAGES})", {"now": now})


def purge(sql: sqlite3.Connection, queue_id: int) -> int:
    """Remove the messages of the queue that nobody holds; returns the number."""
    done = sql.execute("DELETE FROM stem_broker_message WHERE queue_id = ? AND owner_id IS NULL", (queue_id,))
    return done.rowcount
