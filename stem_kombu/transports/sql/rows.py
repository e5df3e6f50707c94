"""Kombu's tables on SQLite and PostgreSQL, with leases in the columns that are there.

Kombu makes a row invisible when it delivers it, and leaves it so for ever. A row that a Stem worker holds is invisible as well,
its ``version`` is negative, and ``timestamp`` says when its lease ends (UTC, by the database's clock). Every delivery of a row
gets another version, so that a tag of an earlier lease means nothing (G19). An acknowledgement deletes the row. Celery's
workers, which ask for visible rows, go on beside.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sqlalchemy import DateTime, Integer, String, bindparam, delete, func, literal_column, select, text, update

from stem_kombu.transports.giving_back import Swept
from stem_kombu.transports.leased.place import BATCH, Taken

if TYPE_CHECKING:
    from sqlalchemy import Table
    from sqlalchemy.orm import Session

#: The database's time in UTC, by SQLAlchemy's name of the database.
_NOW: dict[str, Any] = {
    "sqlite": literal_column("strftime('%Y-%m-%d %H:%M:%f', 'now')", String()),
    "postgresql": literal_column("timezone('utc', clock_timestamp())", DateTime()),
}
DATABASES = frozenset(_NOW)
#: The largest number that the column of versions holds; after it comes that of a second delivery again.
_LAST_VERSION, _SECOND = 32767, 2


class LeasedRows:
    """Implements :class:`~stem_kombu.transports.leased.place.LeasedPlace` over a channel of Kombu's. ``lease`` is in seconds."""

    def __init__(self, channel: Any, lease: float) -> None:
        self._channel, self._lease = channel, lease
        self._session: Session = channel.session
        self._session.rollback()  # what Kombu began when it looked for the queues
        self._database = str(self._session.get_bind().dialect.name)
        self._queues: Table = channel.queue_cls.__table__
        table: Table = channel.message_cls.__table__
        self._messages = table
        row, version = bindparam("row", type_=Integer()), bindparam("held", type_=Integer())
        self._held = (table.c.id == row) & (table.c.version == -version) & table.c.visible.is_(False)
        self._names: dict[int, str] = {}

    def take(self, queues: Sequence[str], room: int, acknowledged: Sequence[str] = ()) -> list[Taken]:
        if room and not acknowledged and not self._is_any(queues):
            return []  # without a lock: this is what an idle worker asks
        with self._change() as session:
            if acknowledged:
                session.execute(delete(self._messages).where(self._held), [_leased(tag) for tag in acknowledged])
            if not room:
                return []
            table = self._messages
            waiting = select(table.c.id, table.c.version, table.c.payload, table.c.queue_id, _NOW[self._database])
            rows = session.execute(
                self._waiting(waiting, queues).order_by(table.c.id).limit(room).with_for_update(skip_locked=True)
            ).all()
            if rows:
                until = _moment(rows[0][4]) + timedelta(seconds=self._lease)
                taking = update(table).where(table.c.id == bindparam("row"))
                session.execute(
                    taking.values(visible=False, version=bindparam("next"), timestamp=until),
                    [{"row": row, "next": -abs(version)} for row, version, *_ in rows],
                )
            return [
                Taken(f"{row}.{abs(version)}", self._name_of(queue), payload, version > 1)
                for row, version, payload, queue, _ in rows
            ]

    def remove(self, tag: str) -> None:
        self.take((), 0, [tag])

    def give_back(self, tags: Sequence[str]) -> None:
        with self._change() as session:
            self._return(session, [_leased(tag) for tag in tags])

    def set_aside(self, tag: str, queue: str) -> None:
        self._channel.queue_declare(queue)
        with self._change() as session:
            place = select(self._queues.c.id).where(self._queues.c.name == queue).scalar_subquery()
            moved = update(self._messages).where(self._held)
            session.execute(moved.values(visible=True, version=1, timestamp=None, queue_id=place), [_leased(tag)])

    def purge(self, queue: str) -> int:
        """Remove what waits in the queue, and leave what is held; how many those were."""
        with self._change() as session:
            return int(session.execute(self._waiting(delete(self._messages), [queue])).rowcount)

    def renew(self, tags: Sequence[str], seconds: float) -> list[bool]:
        wanted = [_leased(tag) for tag in tags]
        table = self._messages
        with self._change() as session:
            found = session.execute(
                select(table.c.id, table.c.version, _NOW[self._database])
                .where(
                    table.c.id.in_([each["row"] for each in wanted]), table.c.visible.is_(False), table.c.version < 0
                )
                .order_by(table.c.id)
                .with_for_update()
            ).all()
            stands = {row: -version for row, version, _ in found}
            kept = [stands.get(each["row"]) == each["held"] for each in wanted]
            if any(kept):
                until = _moment(found[0][2]) + timedelta(seconds=seconds)
                ids = [each["row"] for each, is_kept in zip(wanted, kept, strict=True) if is_kept]
                session.execute(update(table).where(table.c.id.in_(ids)).values(timestamp=until))
            return kept

    def take_back(self) -> Swept:
        table, returned = self._messages, 0
        leased = table.c.visible.is_(False) & (table.c.version < 0)
        while True:
            with self._change() as session:
                now = _moment(session.execute(select(_NOW[self._database])).scalar_one())
                overdue = session.execute(
                    select(table.c.id, table.c.version)
                    .where(leased, table.c.timestamp < now)
                    .order_by(table.c.id)
                    .limit(BATCH)
                    .with_for_update(skip_locked=True)
                ).all()
                self._return(session, [{"row": row, "held": -version} for row, version in overdue])
                left = 0 if overdue else session.execute(select(func.count()).where(leased)).scalar_one()
            returned += len(overdue)
            if not overdue:
                return Swept(returned, left)

    def ping(self) -> None:
        with self._look() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self._session.close()

    def _return(self, session: Session, leased: list[dict[str, int]]) -> None:
        if leased:
            back = update(self._messages).where(self._held)
            session.execute(
                back.values(visible=True, version=bindparam("next"), timestamp=None),
                [{**each, "next": each["held"] + 1 if each["held"] < _LAST_VERSION else _SECOND} for each in leased],
            )

    def _is_any(self, queues: Sequence[str]) -> bool:
        with self._look() as session:
            return session.execute(self._waiting(select(self._messages.c.id), queues).limit(1)).first() is not None

    def _waiting(self, query: Any, queues: Sequence[str]) -> Any:
        table = self._messages
        ids = select(self._queues.c.id).where(self._queues.c.name.in_(queues))
        return query.where(table.c.queue_id.in_(ids), table.c.visible.is_(True))

    def _name_of(self, queue: int) -> str:
        if queue not in self._names:
            named = select(self._queues.c.name).where(self._queues.c.id == queue)
            self._names[queue] = str(self._session.execute(named).scalar_one())
        return self._names[queue]

    @contextmanager
    def _change(self) -> Iterator[Any]:
        """A transaction; on SQLite with its lock from the beginning, as one that only reads first may not write later."""
        session = self._session
        try:
            if self._database == "sqlite":
                session.execute(text("BEGIN IMMEDIATE"))
            yield session
            session.commit()
        except BaseException:
            session.rollback()
            raise

    @contextmanager
    def _look(self) -> Iterator[Any]:
        try:
            yield self._session
        finally:
            self._session.rollback()


def _leased(tag: str) -> dict[str, int]:
    row, _, version = tag.partition(".")
    return {"row": int(row), "held": int(version)}


def _moment(found: Any) -> datetime:
    return found if isinstance(found, datetime) else datetime.fromisoformat(found)
