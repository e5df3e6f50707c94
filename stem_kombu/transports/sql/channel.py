"""Kombu's SQLAlchemy transport, whose channels hold a connection of the database only while they ask it something.

Kombu's own channel reads in a transaction that it never ends: after it has declared a queue or counted its messages, one
connection stays with it until its next write. Two such channels take all there is of a pool of two, that of an engine as well as
PgBouncer's, and on PostgreSQL an open transaction keeps VACUUM from removing rows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from kombu.connection import Connection
from sqlalchemy.exc import SQLAlchemyError

from stem_kombu import timeouts
from stem_kombu.errors import ConfigurationError
from stem_kombu.transports.sql.time_limit import limit_answers

if TYPE_CHECKING:
    from kombu.transport.sqlalchemy.models import Message, Queue
    from sqlalchemy.engine import Engine
    from sqlalchemy.orm import Session

    class SqlChannel:
        session: Session
        queue_cls: type[Queue]
        message_cls: type[Message]
        connection: object
        _session: Session | None

        def close(self) -> None: ...

        def _engine_from_config(self) -> Engine: ...

        def _new_queue(self, queue: str, **arguments: object) -> None: ...

        def _put(self, queue: str, payload: object, **arguments: object) -> None: ...

    class SqlTransport: ...

else:
    from kombu.transport.sqlalchemy import Channel as SqlChannel
    from kombu.transport.sqlalchemy import Transport as SqlTransport


class ShortChannel(SqlChannel):
    """A channel whose transactions end with the call that began them. A queue that is only asked for is not made."""

    def close(self) -> None:
        super().close()
        if self._session is not None:
            self._session.close()

    def _engine_from_config(self) -> Engine:
        try:
            engine = super()._engine_from_config()
        except (TypeError, ValueError) as error:
            raise ConfigurationError(
                f"a transport option of the broker is refused by SQLAlchemy: {error}",
                hint="correct it, or leave it out",
            ) from error
        limit_answers(engine)
        return engine

    def _new_queue(self, queue: str, **arguments: object) -> None:
        with self._asking():
            super()._new_queue(queue, **arguments)

    def _has_queue(self, queue: str, **arguments: object) -> bool:
        with self._asking():
            return self.session.query(self.queue_cls).filter_by(name=queue).first() is not None

    def _size(self, queue: str) -> int:
        """What waits. Before Kombu 5.7 its own channel counts what consumers hold as well."""
        with self._asking():
            found = self.session.query(self.queue_cls).filter_by(name=queue).first()
            waiting = self.session.query(self.message_cls).filter_by(visible=True)
            return 0 if found is None else waiting.filter_by(queue_id=found.id).count()

    def _put(self, queue: str, payload: object, **arguments: object) -> None:
        with self._asking():
            super()._put(queue, payload, **arguments)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        finally:
            if self._session is not None:
                self._session.rollback()  # what is to stay is committed


class ShortTransport(SqlTransport):
    """Kombu's transport with :class:`ShortChannel`. Whatever a database refuses is an error of the connection:
    also a right that is missing, or a file that is no database."""

    Channel = ShortChannel
    connection_errors = (SQLAlchemyError,)
    polling_interval = timeouts.SQL_POLL


class ShortConnection(Connection):
    """A connection by :class:`ShortTransport`, and so are its clones: Kombu takes their transport from the URL otherwise."""

    def get_transport_cls(self) -> type[ShortTransport]:
        return ShortTransport


def with_short_transactions(template: Connection) -> Connection:
    """A template of the same broker whose channels are :class:`ShortChannel`; the same where its transport is not Kombu's own."""
    made: Callable[..., Connection] = ShortConnection
    return made(**template.info()) if template.get_transport_cls() is SqlTransport else template
