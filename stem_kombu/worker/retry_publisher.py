"""The thread that sends next attempts, and messages with a far eta, before this copy of them is recorded and acknowledged.

A broker under a resource alarm takes no messages and still delivers them, and one queue may be full while the others
are not. So a message that can't be sent is set aside and tried again, and nothing else waits for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service
from stem_kombu.errors import BrokerError, ConfigurationError
from stem_kombu.task import TaskMessage
from stem_kombu.transports.connections import backoff
from stem_kombu.transports.outages import Outage
from stem_kombu.worker.deliveries import InFlight
from stem_kombu.worker.delivery_events import Do, Event
from stem_kombu.worker.delivery_facts import DeliveryFacts
from stem_kombu.worker.set_aside import Entry, SetAside

logger = logging.getLogger(__name__)


class RetryPublisher:
    """Sends ``settlement.retry`` of each entry, then hands the entry to ``done``.

    ``send`` raises :class:`~stem_kombu.errors.BrokerError` for what may be tried again and
    :class:`~stem_kombu.errors.ConfigurationError` for what can never be sent. Starts its thread with the first entry.
    """

    def __init__(
        self,
        send: Callable[[TaskMessage], None],
        done: Callable[[Entry], None],
        inflight: InFlight,
        facts: DeliveryFacts,
        outage: Outage,
    ) -> None:
        self._send = send
        self._done = done
        self._clock = inflight.clock
        self._inflight = inflight
        self._facts = facts
        self._aside = SetAside("publish", inflight)
        self._queue: threads.SimpleQueue[Entry | None] = threads.SimpleQueue()
        #: When a queue that refused a message is asked again (monotonic), and how often it has refused in a row.
        self._closed: dict[str, tuple[float, int]] = {}
        self._stopping = threads.Event()
        self._outage = outage
        self._background = Service(
            self._run, "stem-retries", begin=self._stopping.clear, wake=partial(self._queue.put, None)
        )

    @property
    def trouble(self) -> str | None:
        """The last failure while something can't be sent, else ``None``."""
        return self._outage.trouble

    def put(self, entry: Entry) -> None:
        if (trouble := self._outage.trouble) is not None:
            self._aside.mark(entry, trouble)  # at once: it must not stand in the way of work while others are tried
        self._queue.put(entry)
        if not self._background.runs and not self._stopping.is_set():
            self._background.start()

    def stop(self, timeout: float) -> None:
        """Try once more what is set aside; what can't be sent within ``timeout`` seconds is handed on to be given back."""
        self._background.stop(timeout, hurry=self._stopping.set)
        self._stopping.set()
        while not self._queue.empty():  # it came too late, or the thread never ran
            if (entry := self._queue.get()) is not None:
                self._give_back(entry)

    def _run(self) -> None:
        stopping = False
        while not stopping:
            try:
                entry = self._next()
                if entry is not None:
                    self._carry_out(entry)
                stopping = entry is None
            except Exception:
                # The boundary of the thread on which every next attempt depends.
                logger.exception("next attempts can't be published; trying again")
        for entry in self._aside.take_all():
            if self._stopping.is_set() or not self._is_sent(entry):
                self._give_back(entry)
        while not self._queue.empty():
            if (left := self._queue.get()) is not None:
                self._give_back(left)
        self._outage.forget()

    def _next(self) -> Entry | None:
        """The entry to try now; ``None`` when it is time to end."""
        while True:
            if (due := self._aside.due()) is not None:
                return due
            try:
                return self._queue.get(timeout=self._aside.wait())
            except threads.Empty:
                continue

    def _carry_out(self, entry: Entry) -> None:
        assert entry.settlement is not None and entry.settlement.retry is not None
        until, _ = self._closed.get(entry.settlement.retry.queue, (0.0, 0))
        if (wait := until - self._clock.monotonic()) > 0:
            self._aside.add(entry, self._outage.trouble or "the queue takes no messages", wait)
        else:
            self._is_sent(entry)

    def _is_sent(self, entry: Entry) -> bool:
        """Try the entry; whether it is out of this thread's hands."""
        settlement = entry.settlement
        assert settlement is not None and settlement.retry is not None
        name = settlement.retry.queue
        if entry.attempt(self._facts).do is not Do.PROCEED:
            self._done(entry)
            return True
        try:
            self._send(settlement.retry)
        except ConfigurationError as error:
            entry.failed(Event.UNSENDABLE, error)
        except BrokerError as error:
            return self._is_given_up(entry, name, error, is_explained=True)
        except Exception as error:
            # The boundary to a driver: what it raises here may be its own fault, or the message's.
            logger.exception("the next attempt of task %s can't be published", entry.delivery.task_id)
            return self._is_given_up(entry, name, error, is_explained=False)
        else:
            entry.settlement = replace(settlement, retry=None)
        self._is_out(entry, name)
        return True

    def _is_out(self, entry: Entry, name: str) -> None:
        self._closed.pop(name, None)
        if not self._closed:
            self._outage.worked()
        if entry.delivery.waiting is not None:
            self._inflight.set_aside(entry.delivery.token, None)
        entry.tries = 0
        self._done(entry)

    def _is_given_up(self, entry: Entry, name: str, error: Exception, *, is_explained: bool) -> bool:
        entry.tries += 1
        if entry.failed(Event.REFUSED, error, is_explained=is_explained).do is not Do.WAIT:
            self._is_out(entry, name)
            return True
        _, refusals = self._closed.get(name, (0.0, 0))
        wait = backoff(refusals + 1)
        self._closed[name] = self._clock.monotonic() + wait, refusals + 1
        self._outage.failed(error)
        self._aside.add(entry, str(error) or type(error).__name__, max(wait, backoff(entry.tries)))
        return False

    def _give_back(self, entry: Entry) -> None:
        """The broker delivers this attempt again, and it is tried anew."""
        entry.failed(Event.GIVEN_UP)
        self._done(entry)
