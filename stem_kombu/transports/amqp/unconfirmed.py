"""Sending to RabbitMQ without waiting for its confirms, where an application has asked for that (``confirm_publish=false``).

A message counts as sent once the system has it for the broker. It is lost when the connection or the broker fails before the
broker has it.
"""

from __future__ import annotations

import atexit
import logging
import os
import weakref
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerBlocked, BrokerRefused
from stem_kombu.transports.alarms import is_blocked
from stem_kombu.transports.amqp.publisher import AmqpPublisher
from stem_kombu.transports.errors import described, shown_url
from stem_kombu.transports.publisher import OutgoingMessage, SendDeadline

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: Messages that are written between two looks at what the broker has sent.
_TOGETHER = 50


class UnconfirmedConnection(AmqpPublisher):
    """AMQP: each message is written, and what the broker has sent meanwhile is read before the next one is."""

    outlives_alarms = True

    def __init__(self, connection: Connection, clock: Clock) -> None:
        super().__init__(connection, clock)
        self._written_at = float("-inf")
        #: What was written lies at the broker's socket until an alarm ends, however long that is.
        self._is_held = False
        self._is_broken = False
        _open.add(self)

    def publish(self, parcels: list[OutgoingMessage], patience: SendDeadline) -> None:
        """Return once all of them are written; those are taken out of ``parcels``.

        Raises :class:`~stem_kombu.errors.BrokerRefused` where the broker has refused an earlier message, and
        :class:`~stem_kombu.errors.BrokerBlocked` under a resource alarm, which the connection outlives: what was written over it
        before would be lost with it."""
        for parcel in parcels:
            self._check_headers(parcel)
        try:
            while parcels:
                self._look(patience)
                together = parcels[:_TOGETHER]
                self._declare(together)
                self._write(together, patience)
                self._written_at = self._clock.monotonic()
                del parcels[: len(together)]
                patience.taken(len(together))
        except BrokerBlocked:
            raise
        except BaseException as error:
            self._is_broken = True  # closed by the pool
            self._tell_of_loss(error)
            raise

    def close(self) -> None:
        """Let the connection go, once the broker has taken what was written."""
        _open.discard(self)
        try:
            if not self._is_broken:
                self._see_off(SendDeadline(timeouts.UNCONFIRMED_CLOSE, self._clock))
        except Exception as error:  # noqa: BLE001 - a broken connection may fail in any way while it is closed
            self._tell_of_loss(error)
            self.connection.collect()  # a goodbye would wait once more for a broker that does not answer
        super().close()

    def _see_off(self, patience: SendDeadline) -> None:
        """Return once the broker has taken what was written; raises what tells that it has not."""
        self._look(patience)
        self._channel.end(max(0.1, patience.left()))

    def _look(self, patience: SendDeadline) -> None:
        """Read what the broker has sent, and wait for the end of a resource alarm."""
        if self._channel.has_news():
            try:
                self._channel.take_in()
            except self.connection.channel_errors as error:
                self._tell_of_loss(error)
                raise _refused(self.connection, error) from error
            if self._returned:
                logger.error(
                    "broker %s: no queue took %d tasks that were sent without confirms, which are lost: %s",
                    shown_url(self.connection),
                    len(self._returned),
                    ", ".join(sorted(self._returned)[:10]),
                )
                self._returned.clear()
                self._forget_declared()
        if is_blocked(self.connection):
            self._is_held = self._is_held or self._has_just_written()
            self._sit_out(patience)
        if self._is_held:  # until now
            self._is_held, self._written_at = False, self._clock.monotonic()

    def _has_just_written(self) -> bool:
        return self._clock.monotonic() - self._written_at < timeouts.WRITTEN_LATELY

    def _tell_of_loss(self, error: BaseException) -> None:
        """Once, where something was written that the broker may not have read."""
        if self._is_held or self._has_just_written():
            told = described(error, self.connection, "tasks that were just sent, without confirms, may be lost")
            logger.error("%s", told)
        self._is_held, self._written_at = False, float("-inf")


def _refused(connection: Connection, error: BaseException) -> BrokerRefused:
    found = described(error, connection, "it refused a task that was sent before, without confirms")
    return BrokerRefused(str(found), hint=found.hint)


_open: weakref.WeakSet[UnconfirmedConnection] = weakref.WeakSet()


def _close_all() -> None:
    """At the end of the process, which may have written tasks just now and not closed its application."""
    for connection in list(_open):
        connection.close()


atexit.register(_close_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_open.clear)  # connections of the parent
