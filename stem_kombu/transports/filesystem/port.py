"""A folder of messages, as a worker sees it: with leases where files can be locked, elsewhere as Kombu reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.drivers.file_conditions import write_marker
from stem_kombu.errors import BrokerUnavailable, StoreUnavailable
from stem_kombu.transports.base import Capabilities, GivenBack, Leases, TaskConsumer
from stem_kombu.transports.errors import described
from stem_kombu.transports.generic.port import GenericTransport
from stem_kombu.transports.giving_back import swept
from stem_kombu.transports.internals import FILE_READS, missing, warn_once
from stem_kombu.transports.leased.consumer import LeasedConsumer
from stem_kombu.transports.leased.leases import PlaceLeases
from stem_kombu.transports.leased.option import lease_of
from stem_kombu.transports.queues import declared_task_queue

if TYPE_CHECKING:
    from kombu import Connection

    from stem_kombu.transports.filesystem.files import LeasedFiles


class FilesystemTransport(GenericTransport):
    """See :class:`~stem_kombu.transports.base.Transport`."""

    def __init__(self, connection: Connection, *, generic: bool = False, accept_loss: bool = False) -> None:
        super().__init__(connection, generic=generic, accept_loss=accept_loss)
        self.errors = (*self.errors, OSError)

    def _capabilities(self) -> Capabilities:
        return Capabilities(counts=True, forgets_held=not self._has_leases)

    @property
    def _has_leases(self) -> bool:
        """Whether messages are leased here: else Kombu reads them, and forgets what a killed worker held."""
        if self._generic or os.name != "posix":
            return False
        if lacking := missing(FILE_READS, {"channel": self.template.transport.Channel}):
            warn_once("filesystem", lacking, "Kombu reads task queues")
        return not lacking

    def consumer(
        self, queues: Sequence[str], *, clock: Clock = SYSTEM, unreadable: Callable[[Exception], None] | None = None
    ) -> TaskConsumer:
        try:
            return super().consumer(queues, clock=clock, unreadable=unreadable)
        except OSError as error:
            raise described(error, self.template) from error

    def _consumer_of(
        self,
        connection: Connection,
        queues: Sequence[str],
        clock: Clock,
        unreadable: Callable[[Exception], None] | None,
    ) -> TaskConsumer:
        if not self._has_leases:
            return super()._consumer_of(connection, queues, clock, unreadable)
        for queue in queues:
            declared_task_queue(connection, queue)
        place, lease = self._place(connection, clock), lease_of(self.template)
        return LeasedConsumer(connection, queues, place, lease, clock=clock, unreadable=unreadable)

    def leases(self) -> Leases | None:
        return PlaceLeases(self.template, self._place, (OSError,)) if self._has_leases else None

    def _given_back(self, connection: Connection, wait: float, clock: Clock) -> GivenBack:
        if not self._has_leases:
            return super()._given_back(connection, wait, clock)
        try:
            return swept(self.name, self._place(connection).take_back, lease_of(self.template), wait, clock)
        except OSError as error:
            raise described(error, connection, "giving back what dead workers held") from error

    def _checked(self, connection: Any, queues: Callable[[], Sequence[str]]) -> list[str]:
        channel = connection.default_channel
        for folder in sorted({channel.data_folder_in, channel.data_folder_out}):
            try:
                write_marker(Path(folder), f"broker {self.url}")
            except StoreUnavailable as error:
                raise BrokerUnavailable(str(error), hint=error.hint) from error
        return super()._checked(connection, queues)

    def _place(self, connection: Connection, clock: Clock = SYSTEM) -> LeasedFiles:
        from stem_kombu.transports.filesystem.files import LeasedFiles  # which locks files as POSIX does

        return LeasedFiles(connection.default_channel, lease_of(self.template), clock)
