"""Deliveries that the worker is done with, until the consumer's thread has told the broker so."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from stem_kombu.worker.deliveries import Delivery
from stem_kombu.worker.settlement import MessageDisposition


class AckQueue:
    """A row of deliveries and what is to be done about each. Any thread may :meth:`add`; one thread takes out."""

    def __init__(self) -> None:
        self._row: collections.deque[tuple[Delivery, MessageDisposition]] = collections.deque()

    def __bool__(self) -> bool:
        return bool(self._row)

    def add(self, delivery: Delivery, then: MessageDisposition) -> None:
        self._row.append((delivery, then))

    def first(self) -> tuple[Delivery, MessageDisposition]:
        """The one that has waited longest; it stays until :meth:`take`, so that a lost connection finds it here again."""
        return self._row[0]

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
