"""Task queues of a place that leases messages, asked for in bursts: often while messages come, rarely while none do."""

from __future__ import annotations

import logging
import select
from collections.abc import Callable, Collection, Sequence
from functools import partial
from typing import TYPE_CHECKING

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.transports.base import ScheduledMessages
from stem_kombu.transports.leased.place import LeasedPlace, Taken
from stem_kombu.transports.leased.steadiness import Steadiness
from stem_kombu.transports.names import unreadable_queue_name
from stem_kombu.transports.payloads import NO_MESSAGE, message_of
from stem_kombu.transports.queues import forsake

if TYPE_CHECKING:
    from kombu import Connection

logger = logging.getLogger(__name__)

#: Messages of one burst.
_BURST = 128


class LeasedConsumer:
    """Implements :class:`~stem_kombu.transports.base.TaskConsumer`; closes the connection and the place.

    ``unreadable`` is told of each entry of a queue that is no message, which is put aside; without it the log is told.
    """

    pushes = False
    keeps_tags = True
    receives_in_wait = False
    gather, gather_stocked = 0.0, timeouts.GATHER
    is_cut = False
    scheduled: ScheduledMessages | None = None

    def __init__(
        self,
        connection: Connection,
        queues: Sequence[str],
        place: LeasedPlace,
        lease: float,
        *,
        clock: Clock = SYSTEM,
        unreadable: Callable[[Exception], None] | None = None,
    ) -> None:
        self._connection, self._channel = connection, connection.default_channel
        self._place = place
        self._all, self._queues = list(queues), list(queues)
        self._unreadable = unreadable or _tell
        self._steady = Steadiness(lease, clock)
        self.sweep_interval = max(0.1, min(timeouts.LEASED_SWEEP, lease / 6.0))
        self._look = timeouts.LEASED_FIRST_LOOK
        #: What this object has leased and neither acknowledged nor given back.
        self._held: dict[str, None] = {}

    def consume(self) -> None:
        """It takes what it asks for."""

    def pause(self, queues: Collection[str]) -> None:
        self._queues = [queue for queue in self._all if queue not in queues]

    def allow(self, allowance: int, here: int, *, consuming: bool) -> None:
        """The same."""

    def take(self, room: int, acknowledged: Sequence[str] = ()) -> list[object]:
        room = min(room, _BURST) if self._queues else 0
        if not room and not acknowledged:
            return []
        found = self._place.take(self._queues, room, acknowledged)
        self._steady.answered()
        for tag in acknowledged:
            self._held.pop(tag, None)
        if found:
            self._look = timeouts.LEASED_FIRST_LOOK
            self._held |= dict.fromkeys(taken.tag for taken in found)
        elif room:
            self._look = min(timeouts.LEASED_LONGEST_LOOK, self._look * 1.5)
        return [message for taken in found if (message := self._message(taken)) is not None]

    def wait(self, wake: int, timeout: float, *, more: bool) -> None:
        poller = select.poll()  # not select(), which knows no descriptors above 1023
        poller.register(wake, select.POLLIN)
        poller.poll(max(0.0, min(timeout, self._look) if more else timeout) * 1000)

    def wake(self) -> None:
        """It looks at the descriptor."""

    def reject(self, tag: str) -> None:
        self._place.remove(tag)
        self._held.pop(tag, None)

    def give_back(self, tag: str) -> None:
        self._place.give_back([tag])
        self._held.pop(tag, None)

    def settled(self, tag: str) -> None:
        """Kombu's message was rejected or acknowledged, of which its transport knows nothing here."""
        self.reject(tag)

    def rest(self) -> None:
        """Nothing was moved while waiting, so there is nothing to give back."""

    def sweep(self) -> None:
        """Take back what dead workers held, unless the broker was away a moment ago."""
        if not self._steady.is_long():
            self._place.ping()
        elif returned := self._place.take_back().returned:
            logger.info("%d messages that dead workers held are in their queues again", returned)
            self._look = timeouts.LEASED_FIRST_LOOK
        self._steady.answered()

    def close(self, *, keep: bool) -> None:
        forsake(self._connection, keep=keep, first=partial(self._let_go, keep))

    def _let_go(self, keep: bool) -> None:
        held, self._held = list(self._held), {}
        try:
            if held and not keep:
                self._place.give_back(held)
        finally:
            self._place.close()

    def _message(self, taken: Taken) -> object:
        try:
            return message_of(taken.text, taken.tag, taken.queue, self._channel, redelivered=taken.redelivered)
        except NO_MESSAGE as error:
            # No consumer of Kombu could do anything with it either; what put it there may want it back.
            name = unreadable_queue_name(taken.queue)
            self._place.set_aside(taken.tag, name)
            self._held.pop(taken.tag, None)
            size, kind = len(taken.text), type(error).__name__
            self._unreadable(
                ValueError(f"queue {taken.queue}: {size} characters that are no message ({kind}) go to queue {name}")
            )
            return None


def _tell(error: Exception) -> None:
    logger.error("%s", error)
