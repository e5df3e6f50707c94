"""Deliveries whose outcome can't be carried out yet, each with the time of its next try.

They stay unacknowledged and leased, take no slot, and are shown by ``inspect`` and ``stats``.
"""

from __future__ import annotations

import heapq
import itertools
from dataclasses import dataclass
from operator import itemgetter

from stem_kombu.outcome import TaskRecord
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.delivery_events import Action, Do, Event, Facts
from stem_kombu.worker.delivery_facts import DeliveryFacts
from stem_kombu.worker.notices import report_fault
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.settlement import Settlement, Waiting
from stem_kombu.worker.transitions import decide


@dataclass(slots=True, eq=False)
class Entry:
    """One thing to carry out: how a delivery ended (``settlement``), or that its task runs. ``tries`` have failed."""

    delivery: Delivery
    settlement: Settlement | None = None
    running: TaskRecord | None = None
    tries: int = 0

    def attempt(self, facts: DeliveryFacts) -> Action:
        """What becomes of it now that its next step is about to be tried."""
        assert self.settlement is not None
        return self._decide(Event.ATTEMPTED, facts.of_attempted(self.delivery, self.settlement))

    def failed(self, event: Event, why: Exception | None = None, *, is_explained: bool = True) -> Action:
        """What becomes of it now that the step has failed, for the time being or for good."""
        facts = Facts(settlement=self.settlement, why=why, tries=self.tries, is_explained=is_explained)
        return self._decide(event, facts)

    def _decide(self, event: Event, facts: Facts) -> Action:
        """A settlement that follows takes the place of the one here."""
        delivery = self.delivery
        action = decide(delivery.phase, event, facts)
        if action.do is Do.FAULT:
            report_fault(delivery.phase, event, delivery.task_id)
            action = decide(Phase.DONE, event, facts)
        if action.settlement is not None:
            self.settlement = action.settlement
        return action


class SetAside:
    """Entries by the time of their next try. Used by one thread; what it says of deliveries is read by any."""

    def __init__(self, step: str, inflight: InFlight) -> None:
        self._step = step
        self._inflight = inflight
        self._clock = inflight.clock
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Entry]] = []

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, entry: Entry, error: str, wait: float, *, shown: bool = True) -> None:
        """Try the entry again in ``wait`` seconds; ``error`` is what people are told, if it is ``shown``."""
        if shown:
            self.mark(entry, error)
        heapq.heappush(self._heap, (self._clock.monotonic() + wait, next(self._order), entry))

    def mark(self, entry: Entry, error: str) -> None:
        """Let people see that the entry waits, and why."""
        before = entry.delivery.waiting
        since = self._clock.monotonic() if before is None or before.step != self._step else before.since_mono
        self._inflight.set_aside(entry.delivery.token, Waiting(self._step, since, entry.tries, error))

    def wait(self) -> float | None:
        """Seconds until the next try is due, ``None`` when nothing is set aside."""
        return max(0.0, self._heap[0][0] - self._clock.monotonic()) if self._heap else None

    def due(self) -> Entry | None:
        """Take an entry out whose time has come."""
        return heapq.heappop(self._heap)[2] if self.wait() == 0.0 else None

    def take_all(self) -> list[Entry]:
        """Take every entry out, in the order of their next tries."""
        entries = [entry for _, _, entry in sorted(self._heap, key=itemgetter(0, 1))]
        self._heap.clear()
        return entries
