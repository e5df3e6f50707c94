"""What this worker holds: one entry for each unacknowledged delivery, from receipt to acknowledgement.

Entries are keyed by a token that is never used twice, not by task id: the same task may be delivered twice, and a
late report must never hit its successor (G8).
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from operator import attrgetter, itemgetter
from typing import Any

from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.outcome import EndedBy, TaskRecord
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_page import ids_of
from stem_kombu.task import Task, TaskMessage
from stem_kombu.worker.past_deliveries import PutBacks, RecentEndings
from stem_kombu.worker.phase import Phase
from stem_kombu.worker.prefetch_policy import Load
from stem_kombu.worker.settlement import Waiting

#: How many outcomes may wait while the work goes on, and how many may be on their way to their record.
_MOST_SET_ASIDE, _MOST_SETTLING = 5000, 64
#: Places of the phases.
_, _HELD, _DEFERRED, _RESERVED, _RUNNING, _STOPPING, _SETTLING, _ = (phase.place for phase in Phase)
_RUNS = (Phase.RUNNING, Phase.STOPPING)


@dataclass(slots=True, eq=False)
class Delivery:
    """One message that this worker has and has not acknowledged. Mutable; changed under the lock of :class:`InFlight`.

    ``handle`` is the broker's message of connection number ``generation``. Monotonic times end in ``_mono``.
    """

    token: int
    message: TaskMessage
    task: Task
    handle: Any
    generation: int
    redelivered: bool
    phase: Phase = Phase.RESERVED
    lease: object = None
    lease_lost: bool = False
    started_at: datetime | None = None
    started_mono: float = 0.0
    pid: int = 0
    progress: float | None = None
    progress_data: Mapping[str, object] | None = None
    checkpoint_mono: float | None = None
    terminate: Revocation | None = None
    terminate_mono: float | None = None
    #: Other messages of this attempt that are not to run here and wait for how this run ends.
    followers: list[Delivery] = field(default_factory=list)
    is_settled: bool = False
    #: Set while its outcome can't be carried out and others go on meanwhile.
    waiting: Waiting | None = None
    #: When the backend was asked for what came of the task before (monotonic); ``None`` where it need not be asked.
    history_checked_at: float | None = None
    lost: dict[str, datetime | None] = field(default_factory=dict)  # workers that it may have ended: see lost_workers
    recorded_end: TaskRecord | None = None  # its answer, if that makes a run needless
    #: The rate limits that it has passed, and the one that it waits for (:mod:`stem_kombu.worker.active_limits`).
    paced: tuple[str, ...] = ()
    waits_at: str | None = None

    @property
    def task_id(self) -> str:
        return self.message.task_id


class InFlight:
    """The table of deliveries. Every method is safe from any thread and quick."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self._tokens = itertools.count(1)
        self._lock = threads.Lock()
        self._changed, self._waiters = threads.Condition(self._lock), 0  # threads that wait for an ending
        self._by_token: dict[int, Delivery] = {}
        self._by_id: dict[str, list[Delivery]] = {}
        # Counted, since they are asked for with each message: how many are in a phase, and how many isolates of these.
        self._in_phase = [0] * len(Phase)
        self._isolates_in = [0] * len(Phase)
        self._set_aside = 0
        self.put_backs = PutBacks()
        self._endings = RecentEndings()

    def add(
        self, message: TaskMessage, task: Task, handle: object, generation: int, redelivered: bool, phase: Phase
    ) -> Delivery:
        """A new entry with a token of its own."""
        with self._lock:
            delivery = Delivery(next(self._tokens), message, task, handle, generation, redelivered, phase)
            self._by_token[delivery.token] = delivery
            self._count(delivery, 1)
            self._by_id.setdefault(message.task_id, []).append(delivery)
            return delivery

    def get(self, token: int) -> Delivery | None:
        return self._by_token.get(token)

    def same_attempt(self, message: TaskMessage, generation: int, *, leased: bool) -> Delivery | None:
        """The entry that a message which connection ``generation`` delivered again belongs to, or ``None``.

        It is of the same task and attempt, its lease still stands, and of several it is the one of the oldest connection.
        Without leases the broker delivers again what a lost connection held and nothing else: an entry of this very
        connection is another message then (the id was sent twice), whose handle is still needed.
        """
        with self._lock:
            same = [
                delivery
                for delivery in self._by_id.get(message.task_id, ())
                if delivery.message.is_same_attempt(message)
                and not delivery.lease_lost
                and (leased or delivery.generation < generation)
            ]
        return min(same, key=attrgetter("generation"), default=None)

    def adopt(self, delivery: Delivery, handle: object, generation: int) -> bool:
        """Let a redelivered message take the place of one whose connection was lost; ``False``: the entry has gone."""
        with self._lock:
            if delivery.token not in self._by_token:
                return False
            delivery.handle, delivery.generation = handle, generation
            return True

    def follow(self, delivery: Delivery) -> bool:
        """Let a delivery that is not to run wait for how another message of the same attempt ends, which runs here; ``False``
        when none does, or its end is recorded already. A run that has lost its lease counts: its code goes on (G26)."""
        with self._lock:
            for other in self._by_id.get(delivery.message.task_id, ()):
                same = other is not delivery and other.message.attempt == delivery.message.attempt
                if same and other.started_at is not None and not other.is_settled:
                    other.followers.append(delivery)
                    return True
        return False

    def waits(self, token: int, phase: Phase) -> bool:
        """Let the delivery wait: for a slot (``RESERVED``) or without one (``HELD``, ``DEFERRED``); ``False`` when it is not
        here any more or has ended."""
        with self._lock:
            delivery = self._by_token.get(token)
            if delivery is None or delivery.phase is Phase.SETTLING:
                return False
            self._enter(delivery, phase)
            return True

    def started(self, token: int, pid: int) -> tuple[Delivery, Phase] | None:
        """The delivery, which runs now, and its phase before; ``None`` when it is not here any more or has ended."""
        with self._lock:
            if (delivery := self._by_token.get(token)) is None or delivery.phase is Phase.SETTLING:
                return None
            self._endings.forget(delivery.message.task_id)
            delivery.pid = pid
            delivery.started_at = self.clock.utcnow()
            delivery.started_mono = self.clock.monotonic()
            return delivery, self._enter(delivery, Phase.RUNNING)

    def checkpoint(self, token: int, fraction: float | None = None, data: Mapping[str, object] | None = None) -> None:
        """The handler passed a checkpoint that reports; ``data`` is kept when it is given."""
        with self._lock:
            if (delivery := self._by_token.get(token)) is not None:
                delivery.checkpoint_mono = self.clock.monotonic()
                if data is not None:
                    delivery.progress, delivery.progress_data = fraction, dict(data)

    def stopping(self, token: int, revocation: Revocation | None = None) -> None:
        """A stop of the running task is requested, by that revocation or for another reason; the first is dated."""
        with self._lock:
            if (delivery := self._by_token.get(token)) is None:
                return
            if delivery.phase is Phase.RUNNING:
                self._enter(delivery, Phase.STOPPING)
            if revocation is not None:
                self._endings.stopped(delivery.message.task_id, revocation.version)
                if delivery.terminate is None:
                    delivery.terminate, delivery.terminate_mono = revocation, self.clock.monotonic()

    def ended(self, token: int) -> tuple[Delivery, Phase] | None:
        """The delivery, whose handler is out (or never went in), and its phase before; ``None`` if that was reported before."""
        with self._lock:
            if (delivery := self._by_token.get(token)) is None or delivery.phase is Phase.SETTLING:
                return None
            return delivery, self._enter(delivery, Phase.SETTLING)

    def set_aside(self, token: int, waiting: Waiting | None) -> None:
        """The outcome waits for the reason given, or does not wait any more (``None``)."""
        with self._lock:
            if (delivery := self._by_token.get(token)) is not None:
                self._set_aside += (waiting is not None) - (delivery.waiting is not None)
                delivery.waiting = waiting

    def settled(self, token: int, ending: str, ended_by: EndedBy | None = None) -> list[Delivery]:
        """The outcome is recorded as ``ending`` (a state's name, or ``released``): wakes the threads that wait for
        it, and returns the deliveries that follow this one."""
        with self._lock:
            if (delivery := self._by_token.get(token)) is None:
                return []
            delivery.is_settled = True
            self._endings.add(delivery.message.task_id, ending, ended_by)
            if self._waiters:
                self._changed.notify_all()
            return delivery.followers

    def remove(self, *tokens: int) -> None:
        """The messages are acknowledged, given back or lost: nothing is held of them any more."""
        with self._lock:
            for token in tokens:
                if (delivery := self._by_token.pop(token, None)) is None:
                    continue
                self._count(delivery, -1)
                delivery.phase = Phase.DONE
                self._set_aside -= delivery.waiting is not None
                (siblings := self._by_id[delivery.message.task_id]).remove(delivery)
                if not siblings:
                    del self._by_id[delivery.message.task_id]
            if self._waiters:
                self._changed.notify_all()

    def _enter(self, delivery: Delivery, phase: Phase) -> Phase:
        """The phase that it was in."""
        before, delivery.phase = delivery.phase, phase
        self._in_phase[before.place] -= 1
        self._in_phase[phase.place] += 1
        if delivery.task.options.isolate:
            self._isolates_in[before.place] -= 1
            self._isolates_in[phase.place] += 1
        return before

    def _count(self, delivery: Delivery, by: int) -> None:
        self._in_phase[delivery.phase.place] += by
        if delivery.task.options.isolate:
            self._isolates_in[delivery.phase.place] += by

    # -- asking -----------------------------------------------------------------------------------------------------

    def of_tasks(self, task_ids: Iterable[str]) -> list[Delivery]:
        """Every entry of those tasks. Cheap for a million ids: only those held here cost more than a look-up."""
        with self._lock:
            if not self._by_id:
                return []
            return [delivery for task_id in task_ids if task_id in self._by_id for delivery in self._by_id[task_id]]

    def all(self) -> list[Delivery]:
        with self._lock:
            return list(self._by_token.values())

    def running(self) -> list[Delivery]:
        """What runs, those included whose stop is requested, oldest first."""
        with self._lock:
            running = (delivery for delivery in self._by_token.values() if delivery.phase in _RUNS)
            return sorted(running, key=attrgetter("started_mono"))

    def struck(self, revocations: Sequence[Revocation]) -> frozenset[str]:
        """The ids of those tasks that run, and of those whose stop was requested by this very version, here or not any more."""
        with self._lock:
            by_id, stopped_by = self._by_id, self._endings.stopped_by
            places = enumerate(ids_of(revocations))
            known = [revocations[at] for at, task_id in places if task_id in by_id or task_id in stopped_by]
            return frozenset(
                [one.task_id for one in known if self._runs(one.task_id) or stopped_by.get(one.task_id) == one.version]
            )

    def _runs(self, task_id: str) -> bool:
        return any(delivery.phase in _RUNS for delivery in self._by_id.get(task_id, ()))

    def endings(self, task_ids: Iterable[str]) -> dict[str, tuple[str, EndedBy | None]]:
        """How those of the tasks ended that ended here lately and are recorded: the ending, and what is known of it."""
        with self._lock:
            return {task_id: ending for task_id in task_ids if (ending := self._endings.get(task_id)) is not None}

    @property
    def running_count(self) -> int:
        return self._in_phase[_RUNNING] + self._in_phase[_STOPPING]

    def running_isolates(self) -> int:
        return self._isolates_in[_RUNNING] + self._isolates_in[_STOPPING]

    def load(self) -> Load:
        """What runs or waits for a slot, by mode."""
        with self._lock:
            isolates, both = self._isolates_in, self._in_phase
            of_isolates = isolates[_RESERVED] + isolates[_RUNNING] + isolates[_STOPPING]
            return Load(of_isolates, both[_RESERVED] + both[_RUNNING] + both[_STOPPING] - of_isolates)

    @property
    def waiting_count(self) -> int:
        """Deliveries that have not started: reserved for a slot, or held."""
        with self._lock:
            return self._in_phase[_HELD] + self._in_phase[_DEFERRED] + self._in_phase[_RESERVED]

    @property
    def settling_count(self) -> int:
        return self._in_phase[_SETTLING]

    @property
    def set_aside_count(self) -> int:
        """Deliveries whose outcome waits while others go on, up to the number with which the work waits too."""
        return min(self._set_aside, _MOST_SET_ASIDE)

    def waiting(self) -> list[Delivery]:
        """Those deliveries, the one that has waited longest first."""
        with self._lock:
            found = [(each.waiting.since_mono, each) for each in self._by_token.values() if each.waiting is not None]
        return [delivery for _, delivery in sorted(found, key=itemgetter(0))]

    def room(self, prefetch: int) -> int:
        """How many messages may come. What is only being recorded takes no slot, so that recording overlaps with the next
        tasks; but while a backend is away it must not pile up."""
        with self._lock:
            settling = self._in_phase[_SETTLING]
            piles_up = settling - min(self._set_aside, _MOST_SET_ASIDE) > prefetch + _MOST_SETTLING
            return 0 if piles_up else max(0, prefetch - len(self._by_token) + settling)

    def is_stocked(self, prefetch: int) -> bool:
        """Whether no slot lacks work soon: half of what may be here waits, and that is more than twice what runs."""
        waiting = self.waiting_count
        return 2 * waiting >= prefetch and waiting > 2 * self.running_count

    def __len__(self) -> int:
        return len(self._by_token)

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait_ended(self, task_ids: Collection[str], timeout: float) -> dict[str, str]:
        """How each of the ids ended that was recorded, or is at least out of its handler (``settling``), within ``timeout``
        seconds. Blocks until all are recorded."""
        wanted = missing = list(task_ids)
        deadline = self.clock.monotonic() + timeout
        with self._lock:
            self._waiters += 1
            while missing := [each for each in missing if each in self._by_id and each not in self._endings]:
                left = deadline - self.clock.monotonic()
                if left <= 0 or not self._changed.wait(left):
                    break
            self._waiters -= 1
            ended: dict[str, str] = {}
            for task_id in wanted:
                if (ending := self._endings.get(task_id)) is not None:
                    ended[task_id] = ending[0]
                elif not self._runs(task_id):
                    ended[task_id] = "settling"
            return ended
