"""Redis, over Kombu's connection pools and in Kombu's form of queues, but read and settled by scripts.

What only a worker or one command needs is imported where it is made: a ping is to start at once.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.drivers.redis_conditions import refuse_cluster
from stem_kombu.errors import BrokerError, ConfigurationError
from stem_kombu.transports.base import Capabilities, Depths, GivenBack, Housekeeping, Leases, QueueBrowser, TaskConsumer
from stem_kombu.transports.connections import connect
from stem_kombu.transports.control_link import ControlLink
from stem_kombu.transports.errors import broker_errors
from stem_kombu.transports.generic.port import GenericTransport
from stem_kombu.transports.internals import REDIS_READS, REDIS_SENDS, missing
from stem_kombu.transports.redis.by_kombu import ByKombuLink
from stem_kombu.transports.redis.control import RedisControlLink
from stem_kombu.transports.redis.idle import poll_later

if TYPE_CHECKING:
    from kombu import Connection

    from stem_kombu.transports.publisher import PublisherConnection

logger = logging.getLogger(__name__)


class RedisTransport(GenericTransport):
    """See :class:`~stem_kombu.transports.base.Transport`."""

    def __init__(self, template: Connection, *, generic: bool = False, accept_loss: bool = False) -> None:
        super().__init__(template, generic=generic, accept_loss=accept_loss)
        poll_later(template)

    def _capabilities(self) -> Capabilities:
        return Capabilities(counts=True, low_priority_first=True, monitor_exchange="fanout", carries_control=True)

    def _consumer_of(
        self,
        connection: Connection,
        queues: Sequence[str],
        clock: Clock,
        unreadable: Callable[[Exception], None] | None,
    ) -> TaskConsumer:
        from stem_kombu.transports.redis.consumer import open_redis_consumer

        lacking = missing(REDIS_READS, _inside(connection))
        why = f"the driver lacks {', '.join(lacking)}" if lacking else "STEM_TRANSPORT is generic"
        if not self._generic and not lacking:
            found = open_redis_consumer(connection, queues, clock=clock, unreadable=unreadable)
            if found is not None:
                return found
            why = "the server lacks what scripts need (Redis 6.2, and the rights to EVAL and RPOP)"
        if not self._accept_loss:
            raise ConfigurationError(
                f"broker {self.url}: {why}, so Kombu itself would read the task queues, and lose a message when a worker is"
                " killed between its BRPOP and its HSET",
                hint="mend that, or accept the loss: --accept-loss, STEM_ACCEPT_LOSS=true",
            )
        from stem_kombu.transports.redis.one_by_one import OneByOneConsumer

        self._steps_back(lacking, "Kombu reads task queues message by message, and a kill can lose one")
        return OneByOneConsumer(connection, queues, clock=clock)

    def control(self, *, clock: Clock = SYSTEM) -> ControlLink:
        return (ByKombuLink if self._generic else RedisControlLink)(self.template, clock=clock)

    def _publisher_of(self, connection: Connection, clock: Clock) -> PublisherConnection:
        if self._steps_back(missing(REDIS_SENDS, _inside(connection)), "Kombu sends message by message"):
            return super()._publisher_of(connection, clock)
        from stem_kombu.transports.redis.publisher import RedisLine

        return RedisLine(connection, clock)

    def refuse_unfit(self) -> None:
        connection = self.template.clone()
        try:
            connect(connection)
            channel = connection.default_channel
            with broker_errors(connection), channel.conn_or_acquire() as client:
                refuse_cluster(client, f"broker {self.url}")
        except BrokerError as error:
            logger.debug("could not find out whether the broker is a Redis Cluster: %s", error)
        finally:
            from stem_kombu.transports.queues import forsake

            forsake(connection, keep=True)

    def _checked(self, connection: Connection, queues: Callable[[], Sequence[str]]) -> list[str]:
        from stem_kombu.transports.redis.siblings import unread_lists_of

        with broker_errors(connection, "looking for lists without a reader"):
            told = super()._checked(connection, queues)
            return told if missing(REDIS_READS, _inside(connection)) else told + unread_lists_of(connection, queues())

    def _given_back(self, connection: Any, wait: float, clock: Clock) -> GivenBack:
        from stem_kombu.transports.giving_back import swept
        from stem_kombu.transports.redis.control_queues import raw_client
        from stem_kombu.transports.redis.recovery import Sweeper

        if lacking := missing(REDIS_READS, _inside(connection)):
            raise ConfigurationError(
                f"broker {self.url}: the driver lacks {', '.join(lacking)}, so what dead workers held can't be given back here",
                hint="install the release of kombu and redis that this release of stem-kombu names",
            )
        with broker_errors(connection, "giving back what dead workers held"):
            channel = connection.default_channel
            client = raw_client(channel)
            try:
                sweep = Sweeper(channel, client).sweep_all
                return swept(self.name, sweep, float(channel.visibility_timeout), wait, clock)
            finally:
                client.close()

    def purge(self, queue: str) -> int:
        from stem_kombu.transports.redis.browser import RedisBrowser

        # Kombu deletes the keys in the same transaction in which it counts: another program's key as well.
        browser = RedisBrowser(self.template)
        try:
            browser.refuse_other_keys(queue)
        finally:
            browser.close()
        return super().purge(queue)

    def depths(self) -> Depths:
        from stem_kombu.transports.queue_depths import QueueDepths

        return QueueDepths(self.template, declares=True)

    def browser(self) -> QueueBrowser | None:
        from stem_kombu.transports.redis.browser import RedisBrowser

        return RedisBrowser(self.template)

    def leases(self) -> Leases | None:
        from stem_kombu.transports.redis.leases import RedisLeases

        return RedisLeases(self.template)

    def housekeeping(self, namespace: str, worker: str) -> Housekeeping:
        from stem_kombu.transports.redis.janitor import Janitor

        return Janitor(self.template, namespace, worker)


def _inside(connection: Connection) -> dict[str, object]:
    import redis

    plain: Any = redis.Connection
    return {"channel": type(connection.default_channel), "connection": plain()}
