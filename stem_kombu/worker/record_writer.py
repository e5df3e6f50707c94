"""Threads that write what became of tasks to one place, so that one record that can't be written holds up no other.

What comes while a write is under way is written together. When that fails twice, or in a way that is no outage, it is
written one by one, and what fails alone is set aside: a second thread goes on with it, and with everything large. After a
few tries a small record in its place says why. What can't even be recorded like that stays unacknowledged.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial

from stem_kombu import timeouts
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service
from stem_kombu.errors import StoreUnavailable
from stem_kombu.outcome import TaskRecord
from stem_kombu.transports.connections import backoff
from stem_kombu.transports.outages import Outage
from stem_kombu.worker.deliveries import InFlight
from stem_kombu.worker.delivery_events import Event
from stem_kombu.worker.delivery_facts import DeliveryFacts
from stem_kombu.worker.set_aside import Entry, SetAside

logger = logging.getLogger(__name__)

_BATCH = 256
#: Bytes of a result, about, from which on it is written by itself, beside the others.
LARGE = 512 * 1024
#: Tries of a record alone while others are written: of one that the store did not take in time or refused for now, and
#: of one that it can't hold.
_MOST_TRIES, _MOST_REFUSALS = 6, 2
#: Tries of several that an answering place refuses, with nothing written between them.
_MOST_PASSES = 4


class RecordWriter:
    """Hands each entry to ``write``, alone or with others, until that succeeds, and then to ``done``.

    ``write`` may be offered the same again, raises :class:`~stem_kombu.errors.StoreUnavailable` while the place is away
    and anything else for what it can't hold. ``answers`` raises while the place is away. ``step`` is what ``inspect`` calls
    this: ``record`` or ``result``.
    """

    def __init__(
        self,
        step: str,
        write: Callable[[Sequence[Entry]], None],
        answers: Callable[[], None],
        done: Callable[[Entry], None],
        inflight: InFlight,
        facts: DeliveryFacts,
        outage: Outage,
    ) -> None:
        self._write, self._answers, self._done = write, answers, done
        self._inflight = inflight
        self._facts = facts
        self._queue: threads.SimpleQueue[Entry | None] = threads.SimpleQueue()
        self._alone: threads.SimpleQueue[Entry | None] = threads.SimpleQueue()
        self._aside = SetAside(step, inflight)
        self.step = step
        self._abandon = threads.Event()
        self._ended = threads.Event()
        self._stopping = False
        self._outage = outage
        self._bulk = Service(self._run, f"stem-{step}s", wake=partial(self._queue.put, None))
        self._single = Service(self._run_alone, f"stem-{step}s-alone", wake=partial(self._alone.put, None))
        self._alone_stops = 0
        #: Records that ended as ``ResultNotStorable``, or without the text that could not be stored.
        self.not_storable = 0

    @property
    def trouble(self) -> str | None:
        """The last failure while nothing can be written, else ``None``."""
        return self._outage.trouble

    def start(self) -> None:
        """Be ready: each thread begins with the first entry that it has to write."""
        if self._bulk.runs:
            return
        self._alone_stops = self._single.stops
        self._bulk.start_when_needed()
        self._abandon.clear()
        self._ended.clear()
        self._stopping = False
        if not self._queue.empty():
            self._bulk.needed()

    def put(self, entry: Entry) -> None:
        """Take an entry whose settlement or start is to be written."""
        settlement = entry.settlement
        if settlement is not None and settlement.record is not None and is_large(settlement.record):
            self._put_alone(entry)
        else:
            self._queue.put(entry)
            if self._bulk.is_deferred:  # asked here, as this is the path of every task
                self._bulk.needed()

    def stop(self, timeout: float | None) -> None:
        """Return when everything taken so far is written, or after ``timeout`` seconds; see :meth:`abandon`.

        What the place refuses while it takes others is tried once more and then given back.
        """
        self._bulk.stop(timeout, hurry=lambda: None if self._ended.is_set() else self.abandon())
        self._single.stop(timeout, hurry=self.abandon)

    def abandon(self) -> None:
        """Give up what fails from now on; it stays unacknowledged."""
        self._abandon.set()

    # -- together -------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping:
            first = self._queue.get()
            entries = self._more() if first is not None else []
            if first is None:
                self._stopping = True
            else:
                entries.insert(0, first)
            try:
                self._carry_out(entries)
            except Exception:
                # The boundary of the thread on which every acknowledgement depends. Not lost: never acknowledged.
                logger.exception("outcomes can't be carried out")
        self._ended.set()

    def _more(self) -> list[Entry]:
        """What has come meanwhile."""
        entries: list[Entry] = []
        while len(entries) < _BATCH and not self._queue.empty():
            if (entry := self._queue.get()) is None:
                self._stopping = True
            else:
                entries.append(entry)
        return entries

    def _carry_out(self, entries: list[Entry]) -> None:
        failures = 0
        while entries:
            wait = 0.0
            try:
                self._try(entries)
                return
            except Exception as error:  # noqa: BLE001 - the boundary to a backend, which may be anybody's
                failures += 1
                wait = self._outage.failed(error)
                alone = failures > 1 or not isinstance(error, StoreUnavailable)
            if alone:
                entries = self._one_by_one(entries, insists=failures <= _MOST_PASSES)
            if entries and self._abandon.wait(wait):
                return
            if entries:
                # Others may be taken although these are not, which tells them apart from an outage.
                entries += self._more()

    def _try(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            if entry.settlement is not None:
                entry.attempt(self._facts)
        self._write(entries)
        self._outage.worked()
        for entry in entries:
            self._finished(entry)

    def _one_by_one(self, entries: list[Entry], *, insists: bool) -> list[Entry]:
        """Write them one by one; returns those that wait because the place takes nothing just now. Unless it ``insists``, one of
        them is set aside all the same: they may be of a kind, with nothing else to be written."""
        refused: list[tuple[Entry, Exception]] = []
        any_written = False
        over = {entry.delivery.token for entry in entries if entry.settlement is not None}
        entries = [entry for entry in entries if entry.settlement is not None or entry.delivery.token not in over]
        for entry in entries:
            try:
                self._try([entry])
                any_written = True
            except StoreUnavailable as error:
                if not self._is_there():
                    return [*(one for one, _ in refused), *entries[entries.index(entry) :]]
                refused.append((entry, error))
            except Exception as error:  # noqa: BLE001 - as above
                self._single_out(entry, error)
        if any_written or (len(refused) == 1 and not len(self._aside)):
            for entry, why in refused:
                self._single_out(entry, why)
            return []
        if refused and not insists:
            self._single_out(*refused.pop(0))
        # It answers, and takes none of them: out of memory, read-only, without the right to write.
        return [entry for entry, _ in refused]

    def _is_there(self) -> bool:
        try:
            self._answers()
        except Exception as error:  # noqa: BLE001 - as above
            logger.debug("%r", error)
            return False
        return True

    def _single_out(self, entry: Entry, error: Exception) -> None:
        task_id = entry.delivery.task_id
        if entry.settlement is None:  # that it runs is of use only as long as it does
            logger.warning("that task %s runs can't be written (%s): %s", task_id, self.step, _said(error))
            return
        logger.warning(
            "the outcome of task %s can't be written (%s) and is tried again alone: %s",
            task_id,
            self.step,
            _said(error),
            extra={"task_id": task_id},
        )
        entry.tries = 1
        self._aside.mark(entry, _said(error))
        self._put_alone(entry)

    # -- alone ----------------------------------------------------------------------------------------------------------

    def _put_alone(self, entry: Entry) -> None:
        self._alone.put(entry)
        if not self._single.runs:
            self._single.start(self._alone_stops)

    def _run_alone(self) -> None:
        stopping = False
        while not stopping:
            try:
                entry = self._next()
                stopping = entry is None
                if entry is not None:
                    self._carry_out_alone(entry)
            except Exception:
                # The boundary of a thread; what it held stays unacknowledged.
                logger.exception("an outcome can't be carried out")
        self._try_a_last_time()

    def _next(self) -> Entry | None:
        """The entry to try now; ``None`` when it is time to end."""
        while True:
            if (due := self._aside.due()) is not None:
                return due
            try:
                return self._alone.get(timeout=self._aside.wait())
            except threads.Empty:
                continue

    def _carry_out_alone(self, entry: Entry) -> None:
        try:
            self._try([entry])
        except Exception as error:  # noqa: BLE001 - the boundary to a backend, which may be anybody's
            if isinstance(error, StoreUnavailable) and not self._is_there():
                self._aside.add(entry, _said(error), self._outage.failed(error), shown=entry.tries > 0)
                return
            entry.tries += 1
            most = _MOST_TRIES if isinstance(error, StoreUnavailable) else _MOST_REFUSALS
            if entry.tries % most or not self._is_told_in_short(entry, error):
                self._aside.add(entry, _said(error), backoff(entry.tries, longest=timeouts.RECORD_TRY_LONGEST))

    def _is_told_in_short(self, entry: Entry, error: Exception) -> bool:
        """Write a small record in the place of one that can't be written; whether that could be."""
        whole, task_id = entry.settlement, entry.delivery.task_id
        if whole is None or whole.record is None:
            return False
        tries = entry.tries
        entry.failed(Event.NOT_STORABLE, error)
        try:
            self._try([entry])
        except Exception as again:  # noqa: BLE001 - as above
            logger.debug("nor can a small record: %r", again)
            entry.settlement = whole
            return False
        self.not_storable += 1
        logger.error(
            "the outcome of task %s could not be written (%s) in %d tries: %s",
            task_id,
            self.step,
            tries,
            _said(error),
            extra={"task_id": task_id},
        )
        return True

    def _try_a_last_time(self) -> None:
        left = self._aside.take_all()
        while not self._alone.empty():
            if (entry := self._alone.get()) is not None:
                left.append(entry)
        while left and not self._abandon.is_set():
            entry = left[0]
            try:
                self._try([entry])
            except Exception as error:  # noqa: BLE001 - as above
                if isinstance(error, StoreUnavailable) and not self._is_there():
                    self._abandon.wait(self._outage.failed(error))
                    continue
                entry.failed(Event.GIVEN_UP)
                self._finished(entry)
            left.pop(0)
        self._outage.forget()

    def _finished(self, entry: Entry) -> None:
        if entry.delivery.waiting is not None:
            self._inflight.set_aside(entry.delivery.token, None)
        entry.tries = 0
        self._done(entry)


def is_large(record: TaskRecord) -> bool:
    """Whether the record has more than about :data:`LARGE` bytes."""
    error = record.error
    left, parts = LARGE, [record.result, *(() if error is None else (error.message, error.traceback))]
    while parts:
        part = parts.pop()
        if isinstance(part, (str, bytes)):
            left -= len(part)
        elif isinstance(part, Mapping):
            parts += part.keys()
            parts += part.values()
        elif isinstance(part, (list, tuple)):
            parts += part
        left -= 2
        if left - len(parts) < 0:
            return True
    return False


def _said(error: BaseException) -> str:
    return str(error) or type(error).__name__
