"""Deliveries that the worker is done with, until the consumer's thread has told the broker so."""

from __future__ import annotations

import collections
from collections.abc import Callable, Sequence

from stem_kombu.concurrency.wakeup import WakePipe
from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.settlement import MessageDisposition


class AckQueue:
    """A row of deliveries and what is to be done about each. Any thread may :meth:`add`, which wakes the one that takes out."""

    def __init__(self) -> None:
        self._row: collections.deque[tuple[Delivery, MessageDisposition]] = collections.deque()
        #: Readable while there may be something to do.
        self.pipe = WakePipe()
        #: Wakes a transport that waits in a way of its own, set by the thread that uses it.
        self.wake_transport: Callable[[], object] | None = None

    def __bool__(self) -> bool:
        return bool(self._row)

    def add(self, delivery: Delivery, then: MessageDisposition) -> None:
        """Acknowledge, give back or let go of the delivery, soon."""
        self._row.append((delivery, then))
        self.wake()

    def wake(self) -> None:
        """Make the thread look at what there is to do, now."""
        if (wake := self.wake_transport) is not None:
            wake()
        self.pipe.wake()

    def first(self) -> tuple[Delivery, MessageDisposition] | None:
        """The one that has waited longest; it stays until :meth:`take`, so that a lost connection finds it here again."""
        return self._row[0] if self._row else None

    def take(self) -> Delivery:
        """Take the first one out."""
        return self._row.popleft()[0]

    def take_acknowledgements(self, most: int) -> list[Delivery]:
        """Take out what is to be acknowledged, up to something else: that waits for its turn."""
        done: list[Delivery] = []
        while self._row and len(done) < most and self._row[0][1] is MessageDisposition.ACKNOWLEDGE:
            done.append(self._row.popleft()[0])
        return done

    def put_back(self, acknowledged: Sequence[Delivery]) -> None:
        """To be acknowledged again, before all others, because whether they were can't be known; that is harmless."""
        self._row.extendleft((delivery, MessageDisposition.ACKNOWLEDGE) for delivery in reversed(acknowledged))
