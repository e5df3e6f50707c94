"""What makes outcomes last: publish the retry, record the state, then let the consumer acknowledge.

Each step has a thread and an order of its own, so that ``running`` can't overtake ``succeeded``, and an outcome that one
step can't carry out is set aside there while the others go on. While the backend is down nothing is acknowledged and
nothing is given up: prefetch bounds what waits here.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress

from stem_kombu import timeouts
from stem_kombu.concurrency import threads
from stem_kombu.errors import StoreError
from stem_kombu.outcome import TaskRecord
from stem_kombu.task import TaskMessage
from stem_kombu.transports.outages import Outage
from stem_kombu.worker.ack_queue import AckQueue
from stem_kombu.worker.deliveries import Delivery, InFlight
from stem_kombu.worker.delivery_events import Do, Event, Facts
from stem_kombu.worker.delivery_facts import DeliveryFacts
from stem_kombu.worker.notices import report_fault
from stem_kombu.worker.outcome_places import OutcomePlaces
from stem_kombu.worker.record_writer import RecordWriter
from stem_kombu.worker.retry_publisher import RetryPublisher
from stem_kombu.worker.set_aside import Entry
from stem_kombu.worker.settlement import MessageDisposition, Settlement, followers
from stem_kombu.worker.transitions import decide

logger = logging.getLogger(__name__)

#: Made once: one for each task would cost as much as the decision.
_RECORDED = {then: Facts(disposition=then) for then in MessageDisposition}


class Recorder:
    """Takes settlements from any thread and carries them out: ``retry`` is published, then ``record`` is written, then the
    delivery is left in ``acks``.

    ``send`` publishes a retry and raises :class:`~stem_kombu.errors.BrokerError` when it can't.
    """

    def __init__(
        self,
        places: OutcomePlaces,
        inflight: InFlight,
        acks: AckQueue,
        facts: DeliveryFacts,
        *,
        send: Callable[[TaskMessage], None],
        broker_url: str = "",
    ) -> None:
        self.acks = acks
        states, celery = self._states, self._celery = places.states, places.celery
        self._places, self._failed = places, places.failed
        self._inflight = inflight
        self._writers: list[RecordWriter] = []
        self._results = None
        #: What follows once a retry is published, and at once where there is none: where nothing has to last before the message
        #: is acknowledged, there is nothing to wait for in a row.
        self._published = self._recorded
        if states is not None:
            away = Outage(f"worker {facts.worker} can't record task states", states.url, inflight.clock)
            records = RecordWriter("record", self._write_states, states.ping, self._recorded, inflight, facts, away)
            self._published = records.put
            self._writers.append(records)
        if celery is not None:
            away = Outage(f"worker {facts.worker} can't write results for Celery", celery.url, inflight.clock)
            self._results = RecordWriter(
                "result", self._write_results, celery.ping, self._carried_out, inflight, facts, away
            )
            self._writers.append(self._results)
        away = Outage(f"worker {facts.worker} can't publish next attempts", broker_url, inflight.clock)
        self._retries = RetryPublisher(send, self._published, inflight, facts, away)

    @property
    def trouble(self) -> str | None:
        """The last failure of a step that fails just now, else ``None``."""
        return next(iter(self.troubles.values()), None)

    @property
    def troubles(self) -> dict[str, str]:
        """The last failure of each step that fails just now: ``publish``, ``record``, ``result``."""
        steps = [("publish", self._retries.trouble), *((each.step, each.trouble) for each in self._writers)]
        return {step: trouble for step, trouble in steps if trouble is not None}

    @property
    def not_storable(self) -> int:
        """How many outcomes could not be stored as they were."""
        return sum(writer.not_storable for writer in self._writers)

    def start(self) -> None:
        for writer in self._writers:
            writer.start()

    def tells_of_starts(self, delivery: Delivery) -> bool:
        """Whether anybody can see that the task runs."""
        return self._states is not None or self._tells(delivery)

    def running(self, delivery: Delivery, record: TaskRecord, *, at_once: bool = False) -> None:
        """Record that the task runs, if :meth:`tells_of_starts`; dropped when its end is known before that is written.

        ``at_once``: the backend has it on return, unless it can't take it now."""
        if at_once and self._states is not None:
            with suppress(StoreError):  # then it is tried again, as any other
                self._states.record([record])
        self._published(Entry(delivery, running=record))

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        """Carry the settlement out."""
        entry = Entry(delivery, settlement)
        if settlement.retry is not None:
            self._retries.put(entry)
        else:
            self._published(entry)

    def stop(self, timeout: float | None = None) -> None:
        """Return when everything taken so far is carried out, or after ``timeout`` seconds: what is left then stays
        unacknowledged and is redelivered elsewhere. A retry that can't be published within a few seconds, and an outcome
        that its backend refuses while it takes others, are given back."""
        self._retries.stop(timeouts.RECORD_PATIENCE if timeout is None else min(timeout, timeouts.RECORD_PATIENCE))
        for writer in self._writers:
            writer.stop(timeout)
        self._places.close()

    def hurry(self) -> None:
        """Give up what can't be recorded soon, however long :meth:`stop` may wait; what can be, still is."""
        for writer in self._writers:
            giving_up = threads.Timer(timeouts.RECORD_PATIENCE, writer.abandon)
            giving_up.daemon = True
            giving_up.start()

    # -- from step to step ------------------------------------------------------------------------------------------

    def _recorded(self, entry: Entry) -> None:
        if self._results is not None and self._tells(entry.delivery):
            self._results.put(entry)
        else:
            self._carried_out(entry)

    def _carried_out(self, entry: Entry) -> None:
        if entry.settlement is None:
            return
        action = decide(entry.delivery.phase, Event.RECORDED, _RECORDED[entry.settlement.then])
        if action.do is Do.FAULT:
            report_fault(entry.delivery.phase, Event.RECORDED, entry.delivery.task_id)
        if action.do is not Do.FINISH or action.disposition is None:
            return
        record = entry.settlement.record
        ended_by = None if record is None else record.ended_by
        followers = self._inflight.settled(entry.delivery.token, entry.settlement.ending, ended_by)
        self.acks.add(entry.delivery, action.disposition)
        for follower in followers:
            follows = decide(follower.phase, Event.FOLLOWED_ENDED, Facts(disposition=action.disposition))
            if follows.disposition is not None:
                self.acks.add(follower, follows.disposition)

    def _tells(self, delivery: Delivery) -> bool:
        return self._celery is not None and delivery.message.celery is not None

    # -- writing ----------------------------------------------------------------------------------------------------

    def _write_states(self, entries: Sequence[Entry]) -> None:
        assert self._states is not None
        told = [(delivery.message, record) for delivery, record in _told(entries)]
        if self._failed is not None:
            self._failed.keep(
                told
            )  # before the record, after which a message that comes again is not looked at any more
        if records := [each for message, record in told for each in (record, *followers(message, record))]:
            for held, record in zip(self._states.record(records), records, strict=False):
                if record.state.is_terminal and held.state is not record.state:
                    # Another message of the id ended otherwise, or was sent later: what was done here is nobody's result.
                    logger.warning(
                        "task %s ended as %s, but its record says %s and stays so",
                        record.task_id,
                        record.state.value,
                        held.state.value,
                        extra={"task_id": record.task_id},
                    )

    def _write_results(self, entries: Sequence[Entry]) -> None:
        assert self._celery is not None
        if told := [(delivery.message, record) for delivery, record in _told(entries)]:
            self._celery.record(told)


def _told(entries: Sequence[Entry]) -> Iterator[tuple[Delivery, TaskRecord]]:
    """What there is to write of each; that a task runs is left out where its end is known."""
    over = {entry.delivery.token for entry in entries if entry.settlement is not None}
    for entry in entries:
        if entry.settlement is not None:
            if entry.settlement.record is not None:
                yield entry.delivery, entry.settlement.record
        elif entry.running is not None and entry.delivery.token not in over:
            yield entry.delivery, entry.running
