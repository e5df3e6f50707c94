"""SQLAlchemy's databases, as a worker sees them: on SQLite and PostgreSQL with leases, on others as Kombu reads them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy.engine import make_url
from sqlalchemy.exc import IntegrityError, ProgrammingError, SQLAlchemyError

from stem_kombu import chance
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.base import Capabilities, GivenBack, Leases, TaskConsumer
from stem_kombu.transports.connections import connect
from stem_kombu.transports.errors import described
from stem_kombu.transports.generic.port import GenericTransport
from stem_kombu.transports.giving_back import swept
from stem_kombu.transports.internals import SQL_READS, missing, warn_once
from stem_kombu.transports.leased.consumer import LeasedConsumer
from stem_kombu.transports.leased.leases import PlaceLeases
from stem_kombu.transports.leased.option import lease_of
from stem_kombu.transports.queues import declared_task_queue, forsake
from stem_kombu.transports.sql.channel import with_short_transactions
from stem_kombu.transports.sql.rows import DATABASES, LeasedRows

if TYPE_CHECKING:
    from kombu import Connection

#: Tries to make the tables and the queues, which other processes may make at the same moment.
_TRIES = 5


class SqlTransport(GenericTransport):
    """See :class:`~stem_kombu.transports.base.Transport`."""

    def __init__(self, connection: Connection, *, generic: bool = False, accept_loss: bool = False) -> None:
        super().__init__(with_short_transactions(connection), generic=generic, accept_loss=accept_loss)
        self.errors = (*self.errors, SQLAlchemyError)

    def _capabilities(self) -> Capabilities:
        return Capabilities(counts=True, forgets_held=not self._has_leases)

    @property
    def _has_leases(self) -> bool:
        """Whether rows are leased here: else Kombu reads them, and forgets what a killed worker held."""
        if self._generic or make_url(self.template.hostname).get_backend_name() not in DATABASES:
            return False
        if lacking := missing(SQL_READS, {"channel": self.template.transport.Channel}):
            warn_once("SQLAlchemy", lacking, "Kombu reads task queues")
        return not lacking

    def consumer(
        self, queues: Sequence[str], *, clock: Clock = SYSTEM, unreadable: Callable[[Exception], None] | None = None
    ) -> TaskConsumer:
        try:
            return super().consumer(queues, clock=clock, unreadable=unreadable)
        except SQLAlchemyError as error:
            raise described(error, self.template) from error

    def _consumer_of(
        self, connection: Any, queues: Sequence[str], clock: Clock, unreadable: Callable[[Exception], None] | None
    ) -> TaskConsumer:
        for left in reversed(range(_TRIES)):
            try:
                if self._has_leases:
                    for queue in queues:
                        declared_task_queue(connection, queue)
                    place, lease = self._place(connection), lease_of(self.template)
                    return LeasedConsumer(connection, queues, place, lease, clock=clock, unreadable=unreadable)
                return super()._consumer_of(connection, queues, clock, unreadable)
            except (IntegrityError, ProgrammingError):
                # Another process made the same table or queue; a right that is missing is missing at each try.
                connection.default_channel.session.rollback()
                if not left:
                    raise
        raise AssertionError("unreachable")

    def leases(self) -> Leases | None:
        if not self._has_leases:
            return None
        return PlaceLeases(self.template, self._place, self.errors)

    def purge(self, queue: str) -> int:
        if not self._has_leases:
            return super().purge(queue)  # which removes what is held as well, as Kombu does
        connection = connect(self.template.clone())
        try:
            return self._place(connection).purge(queue)
        except SQLAlchemyError as error:
            raise described(error, connection, f"emptying queue {queue}") from error
        finally:
            forsake(connection, keep=True)

    def _given_back(self, connection: Connection, wait: float, clock: Clock) -> GivenBack:
        if not self._has_leases:
            return super()._given_back(connection, wait, clock)
        try:
            return swept(self.name, self._place(connection).take_back, lease_of(self.template), wait, clock)
        except SQLAlchemyError as error:
            raise described(error, connection, "giving back what dead workers held") from error

    def _checked(self, connection: Connection, queues: Callable[[], Sequence[str]]) -> list[str]:
        try:
            _write_marker(connection.default_channel)
        except SQLAlchemyError as error:
            raise described(error, connection, "writing a marker") from error
        return super()._checked(connection, queues)

    def _place(self, connection: Connection) -> LeasedRows:
        return LeasedRows(connection.default_channel, lease_of(self.template))


def _write_marker(channel: Any) -> None:
    """A queue of a random name, made and deleted in one transaction. Kombu connects, and makes its tables, only here."""
    session = channel.session
    try:
        marker = channel.queue_cls(f"stem-health-{chance.token_hex(8)}")
        session.add(marker)
        session.flush()
        session.delete(marker)
        session.commit()
    finally:
        session.rollback()
