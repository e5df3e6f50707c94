"""Looking into queues of the embedded broker: reads of its file, which lease nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from stem_kombu.messages.resending import mark_consumed
from stem_kombu.transports.browsing import PAGE, BrowsingConnection, NoMessage
from stem_kombu.transports.names import is_control_name
from stem_kombu.transports.sqlite.messages import UNREADABLE, Delivery

if TYPE_CHECKING:
    from kombu import Connection

_WAITS = (
    "SELECT m.rank, m.id, m.tries, m.envelope, m.body FROM stem_broker_message m"
    " JOIN stem_broker_queue q ON q.id = m.queue_id WHERE q.name = ? AND m.owner_id IS NULL"
)
_FIRST = f"{_WAITS} AND m.due IS NULL ORDER BY m.rank, m.id LIMIT ?"
_NEXT = f"{_WAITS} AND m.id > ? ORDER BY m.id LIMIT ?"


class EmbeddedBrowser:
    """See :class:`~stem_kombu.transports.base.QueueBrowser`."""

    def __init__(self, template: Connection) -> None:
        self._browsing = BrowsingConnection(template)

    def queues(self) -> list[str]:
        with self._browsing.channel() as channel:
            rows = _read(channel, "SELECT name FROM stem_broker_queue ORDER BY name", ())
        return [str(name) for (name,) in rows if not is_control_name(str(name))]

    def unused_life(self, queue: str) -> float | None:
        """See :class:`~stem_kombu.transports.base.Transport`."""
        with self._browsing.channel() as channel:
            rows = _read(channel, "SELECT auto_delete, expires FROM stem_broker_queue WHERE name = ?", (queue,))
        return next((0.0 if auto_delete else expires for auto_delete, expires in rows), None)

    def first(self, queue: str, limit: int) -> list[object]:
        with self._browsing.channel() as channel:
            return list(_entries(channel, queue, _read(channel, _FIRST, (queue, limit))))

    def search(self, queue: str) -> Iterator[object]:
        # What is given back keeps its number: none that waits throughout is passed over.
        after = 0
        with self._browsing.channel() as channel:
            while rows := _read(channel, _NEXT, (queue, after, PAGE)):
                yield from (one for one in _entries(channel, queue, rows) if not isinstance(one, NoMessage))
                after = rows[-1][1]

    def close(self) -> None:
        self._browsing.close()


def _read(channel: Any, statement: str, values: tuple[object, ...]) -> list[tuple[Any, ...]]:
    found: list[tuple[object, ...]] = channel.open_session().query(
        lambda sql: sql.execute(statement, values).fetchall()
    )
    return found


def _entries(channel: Any, queue: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[object]:
    for row in rows:
        try:
            entry = mark_consumed(channel.Message(Delivery(*row).payload(None), channel=channel), queue)
        except (*UNREADABLE, RecursionError) as error:
            entry = NoMessage.of(error)
        yield entry
