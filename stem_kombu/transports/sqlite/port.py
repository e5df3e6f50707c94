"""The embedded broker, as a worker sees it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from stem_kombu.clock import Clock
from stem_kombu.transports.base import Capabilities, Leases, QueueBrowser, TaskConsumer
from stem_kombu.transports.generic.port import GenericTransport
from stem_kombu.transports.sqlite.browser import EmbeddedBrowser
from stem_kombu.transports.sqlite.consumer import EmbeddedConsumer
from stem_kombu.transports.sqlite.leases import EmbeddedLeases

if TYPE_CHECKING:
    from kombu import Connection


class EmbeddedTransport(GenericTransport):
    """See :class:`~stem_kombu.transports.base.Transport`."""

    def _capabilities(self) -> Capabilities:
        return Capabilities(counts=True, carries_control=True, keeps_etas=True)

    def _consumer_of(
        self,
        connection: Connection,
        queues: Sequence[str],
        clock: Clock,
        unreadable: Callable[[Exception], None] | None,
    ) -> TaskConsumer:
        if self._generic:
            return super()._consumer_of(connection, queues, clock, unreadable)
        return EmbeddedConsumer(connection, queues, clock=clock)

    def browser(self) -> QueueBrowser | None:
        return EmbeddedBrowser(self.template)

    def unused_life(self, queue: str) -> float | None:
        browser = EmbeddedBrowser(self.template)
        try:
            return browser.unused_life(queue)
        finally:
            browser.close()

    def leases(self) -> Leases | None:
        return EmbeddedLeases(self.template)
