"""The thread that makes outcomes last: publish the retry, record the state, then let the consumer acknowledge.

One thread and one order for everything that is recorded, so that ``running`` can't overtake ``succeeded``. What comes
while a write is under way is written together. While the backend or the broker is down nothing is acknowledged and
nothing is given up: prefetch bounds what waits here.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from stem_kombu.backends.base import TaskStates
from stem_kombu.backends.celery_results import CeleryResults
from stem_kombu.background import Background
from stem_kombu.broker.connections import backoff
from stem_kombu.clock import Clock
from stem_kombu.errors import BrokerError, ConfigurationError, StoreError, StoreUnavailable
from stem_kombu.outcome import TaskRecord
from stem_kombu.task import TaskMessage
from stem_kombu.worker.inflight import Delivery, InFlight
from stem_kombu.worker.settlement import Settlement, Then, unsendable

logger = logging.getLogger(__name__)

_BATCH = 256
#: Seconds for which a worker that is told twice to stop still tries to record what ended.
_PATIENCE = 5.0


@dataclass(frozen=True, slots=True)
class _Entry:
    delivery: Delivery
    settlement: Settlement | None = None
    running: TaskRecord | None = None


class _HopelessError(Exception):
    """What was tried fails in a way that will not go away by itself."""


class Recorder:
    """Takes settlements from any thread and carries them out in order.

    ``finish(delivery, then)`` is called once an outcome is recorded; ``send`` publishes a retry and raises
    :class:`~stem_kombu.errors.BrokerError` when it can't. ``celery`` is where clients of Celery look for their results.
    ``still_held(delivery)``: whether the broker has not given the message to anybody else, as far as is known here.
    """

    def __init__(
        self,
        states: TaskStates | None,
        inflight: InFlight,
        *,
        send: Callable[[TaskMessage], None],
        finish: Callable[[Delivery, Then], None],
        clock: Clock,
        worker: str,
        celery: CeleryResults | None = None,
        still_held: Callable[[Delivery], bool] = lambda _: True,
    ) -> None:
        self._still_held = still_held
        self._states = states
        self._celery = celery
        self._inflight = inflight
        self._send = send
        self._finish = finish
        self._clock = clock
        self._worker = worker
        self._queue: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._abandon = threading.Event()
        self._background = Background(
            self._run,
            "stem-recorder",
            begin=self._abandon.clear,
            wake=lambda: self._queue.put(None),
            end=lambda: None if self._celery is None else self._celery.close(),
        )
        #: The last failure while the backend is down, else ``None``; shown by ``stats``.
        self.trouble: str | None = None

    def start(self) -> None:
        self._background.start()

    def tells_of_starts(self, delivery: Delivery) -> bool:
        """Whether anybody can see that the task runs."""
        return self._states is not None or self._tells(delivery)

    def running(self, delivery: Delivery, record: TaskRecord) -> None:
        """Record that the task runs, if :meth:`tells_of_starts`; dropped when its end is known before that is written."""
        self._queue.put(_Entry(delivery, running=record))

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        """Carry the settlement out."""
        if self._states is None and settlement.retry is None and not self._tells(delivery):
            # Nothing has to last before the message is acknowledged, so there is nothing to wait for in a row.
            self._over(delivery, settlement)
        else:
            self._queue.put(_Entry(delivery, settlement))

    def _tells(self, delivery: Delivery) -> bool:
        return self._celery is not None and delivery.message.celery is not None

    def stop(self, timeout: float | None = None) -> None:
        """Return when everything taken so far is carried out, or after ``timeout`` seconds: what is left then stays
        unacknowledged and is redelivered elsewhere."""
        self._background.stop(timeout, hurry=self._abandon.set)

    def hurry(self) -> None:
        """Give up what can't be recorded soon, however long :meth:`stop` may wait; what can be, still is."""
        giving_up = threading.Timer(_PATIENCE, self._abandon.set)
        giving_up.daemon = True
        giving_up.start()

    # -- the thread -------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        stopping = False
        while not stopping:
            batch = [self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            entries = [entry for entry in batch if entry is not None]
            stopping = len(entries) < len(batch)
            if entries:
                self._carry_out(entries)

    def _carry_out(self, taken: Sequence[_Entry]) -> None:
        entries: list[_Entry] = []
        for entry in taken:
            settlement = entry.settlement
            if settlement is not None and settlement.retry is not None:
                try:
                    if not self._insist(partial(self._send, settlement.retry), "publish the next attempt"):
                        return
                except _HopelessError as hopeless:
                    if isinstance(hopeless.__cause__, ConfigurationError):
                        # It can never be sent, so to give this attempt back would run it again for ever.
                        entry = replace(entry, settlement=unsendable(settlement, hopeless.__cause__))
                    else:
                        # Not lost: the broker delivers this attempt again.
                        entry = replace(entry, settlement=Settlement(None, Then.REQUEUE))
            entries.append(entry)
        over = {entry.delivery.token for entry in entries if entry.settlement is not None}
        told: list[tuple[Delivery, TaskRecord]] = []

        def record() -> None:
            # Looked at with each try: what waits here may have been given to somebody else meanwhile.
            entries[:] = [self._left(entry) if self._is_elsewhere(entry) else entry for entry in entries]
            told[:] = [(entry.delivery, found) for entry in entries if (found := self._record_of(entry, over))]
            if told:
                self._record([found for _, found in told])

        if not self._write(record, "record task states"):
            return
        if self._celery is not None:
            write = self._celery.record
            waited = [(delivery.message, found) for delivery, found in told if delivery.message.celery is not None]
            if waited and not self._write(lambda: write(waited), "write results for Celery's clients"):
                return
        for entry in entries:
            if entry.settlement is not None:
                self._over(entry.delivery, entry.settlement)

    def _over(self, delivery: Delivery, settlement: Settlement) -> None:
        then = settlement.then
        followers = self._inflight.settled(delivery.token, settlement.ending)
        self._finish(delivery, then)
        for follower in followers:
            self._finish(follower, Then.REQUEUE if then is Then.LEAVE else then)

    def _is_elsewhere(self, entry: _Entry) -> bool:
        """Whether the message was refused here, and is another worker's by now: that one decides about it anew, and may let
        it run, for a revocation can expire."""
        if entry.settlement is None or entry.delivery.started_at is not None:
            return False
        return entry.delivery.lease_lost or not self._still_held(entry.delivery)

    @staticmethod
    def _left(entry: _Entry) -> _Entry:
        # Given back, which says nothing of a connection that is gone. But should the message come here again meanwhile, and
        # take this one's place, it would be held for ever: nobody else has it, unless its lease is lost.
        then = Then.LEAVE if entry.delivery.lease_lost else Then.REQUEUE
        return replace(entry, settlement=Settlement(None, then))

    def _write(self, act: Callable[[], None], what: str) -> bool:
        """Whether to go on: ``False`` only when the worker gives up because it is stopping."""
        try:
            return self._insist(act, what)
        except _HopelessError:
            return True  # it has been logged; holding every later task up for it would not record it either

    @staticmethod
    def _record_of(entry: _Entry, over: set[int]) -> TaskRecord | None:
        if entry.settlement is not None:
            return entry.settlement.record
        return None if entry.delivery.token in over else entry.running

    def _record(self, records: Sequence[TaskRecord]) -> None:
        if self._states is None:
            return
        try:
            self._states.record(records)
        except StoreUnavailable:
            raise
        except StoreError:
            if len(records) == 1:
                # One record that can never be written must not hold up every other task of this worker.
                logger.exception(
                    "state of task %s can't be recorded", records[0].task_id, extra={"task_id": records[0].task_id}
                )
                return
            for record in records:
                self._record([record])

    def _insist(self, act: Callable[[], None], what: str) -> bool:
        """Whether ``act`` succeeded at last; ``False`` only when the worker gives up because it is stopping.

        Raises :class:`_HopelessError` when trying again makes no sense.
        """
        attempt = 0
        while True:
            try:
                act()
            except (StoreError, BrokerError) as error:
                attempt += 1
                self.trouble = str(error)
                log = logger.warning if attempt in (1, 10) or attempt % 100 == 0 else logger.debug
                log(
                    "worker %s can't %s (try %d): %s",
                    self._worker,
                    what,
                    attempt,
                    error,
                    extra={"worker": self._worker},
                )
                if self._abandon.wait(backoff(attempt)):
                    return False
            except Exception as error:
                # The boundary of the thread on which every acknowledgement depends. This will not go away by itself.
                logger.exception("worker %s can't %s", self._worker, what, extra={"worker": self._worker})
                raise _HopelessError from error
            else:
                self.trouble = None
                return True
