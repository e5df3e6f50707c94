"""What becomes of a delivery when it arrives: run it, hold it for its eta, refuse it, or recognise it.

Revoked here, the task never starts; it is recorded as cancelled before its message is acknowledged (G3, G9).
"""

from __future__ import annotations

import heapq
import itertools
import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any, Protocol

from stem_kombu.backends.base import TaskStates
from stem_kombu.background import Background
from stem_kombu.broker.delivery import ForeignMessage, decode_delivery
from stem_kombu.clock import Clock
from stem_kombu.control.complaints import Complaints
from stem_kombu.errors import ControlError, TaskNotRegistered
from stem_kombu.outcome import TaskError
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.signing.keyring import Untrusted
from stem_kombu.task import Mode, Task, TaskMessage, TaskRegistry
from stem_kombu.worker.inflight import Delivery, InFlight, Phase
from stem_kombu.worker.past import Past
from stem_kombu.worker.settlement import UNSUPPORTED_CANVAS, Settlement, Then, expiry, recorded_before, refused

logger = logging.getLogger(__name__)

#: Seconds since the consumer last fetched something, after which its connection may well have been lost meanwhile.
FETCHED_LATELY = 0.01
#: A task that can't be looked up still needs an entry until its refusal is recorded.
_UNKNOWN = Task("unknown", lambda *_: None)


class Desk(Protocol):
    """What intake asks of the rest of the worker."""

    def submit(self, delivery: Delivery) -> None:
        """Run the delivery as soon as a slot is free."""

    def settle(self, delivery: Delivery, settlement: Settlement) -> None:
        """Record and acknowledge."""

    def reject(self, message: Any) -> None:
        """Let a message go that can't be read: to the dead-letter exchange where there is one."""

    def leased(self, delivery: Delivery) -> None:
        """A delivery is held from now on: keep its lease alive."""

    def count(self, total: str) -> None:
        """One more of ``received``, ``redelivered`` …"""


class Intake:
    """Decides about deliveries, in the consumer's thread. ``leased``: messages stay with a worker for a while, not with a
    connection.

    ``signed(raw)`` says whether a message is signed, and raises :class:`Untrusted` for one that must not run; without it
    nobody asks. ``still_held(raw, generation, looked)``: whether what that connection brought is still this worker's;
    ``looked``: a store or backend has been asked, which may have taken its time.
    """

    def __init__(
        self,
        registry: TaskRegistry,
        inflight: InFlight,
        cache: RevocationCache,
        states: TaskStates | None,
        holds: Holds,
        desk: Desk,
        *,
        ensure_fresh: Callable[[], bool],
        still_held: Callable[[Any, int, bool], bool],
        leased: bool,
        worker: str,
        clock: Clock,
        signed: Callable[[Any], bool] | None = None,
    ) -> None:
        self._signed = signed
        self._registry = registry
        self._inflight = inflight
        self._cache = cache
        #: What the backend tells, to whom it matters.
        self.past = Past(states, clock)
        self._holds = holds
        self._desk = desk
        self._ensure_fresh = ensure_fresh
        self._still_held = still_held
        self._leased = leased
        self._worker = worker
        self._clock = clock
        self._complaints = Complaints(f"messages of the task queues of worker {worker}", clock)

    @property
    def dropped(self) -> dict[str, int]:
        """How many messages could not be read or were not believed, by reason."""
        return self._complaints.dropped

    def garbage(self, error: Exception) -> None:
        """Count what lay in a queue and was no message."""
        self._complaints.drop("envelope", repr(error))

    def receive(self, raw: Any, generation: int) -> None:
        """Take one message of connection ``generation`` in."""
        try:
            # Before anything is read of it: a forged message with a real task's id must leave no trace on that task.
            signed = self._signed is not None and self._signed(raw)
            arrived = decode_delivery(raw, signed=signed)
        except Untrusted as error:
            self._complaints.drop(error.reason, str(error))
            self._desk.reject(raw)
            return
        except ControlError as error:
            self._complaints.drop(error.code, str(error))
            if isinstance(error, ForeignMessage):
                self._refuse_foreign(error, raw, generation)
            else:
                self._desk.reject(raw)
            return
        message, redelivered = arrived.message, arrived.redelivered
        self._desk.count("received")
        if redelivered:
            self._desk.count("redelivered")
            if self._runs_here(message, raw, generation):
                return
        # A next attempt is published again when its confirmation was lost, or by a worker that was suspended for so long that
        # another one had the task meanwhile; a first attempt is spared the look.
        told_at = self._clock.monotonic() if redelivered or message.attempt > 1 else None
        if told_at is not None and self._was_recorded(message, raw, generation):
            return
        looked = self._ensure_fresh() or told_at is not None
        if not self._still_held(raw, generation, looked):
            return  # the broker has it again, and this thread is about to find that out
        now = self._clock.utcnow()
        held_for_eta = message.eta is not None and message.eta > now
        phase = Phase.HELD if held_for_eta else Phase.RESERVED
        task = self._registry.get(message.name) if message.name in self._registry else _UNKNOWN
        delivery = self._inflight.add(message, task, raw, generation, redelivered, phase)
        delivery.told_at = told_at
        refusal = self._refusal(message)
        if refusal is not None:
            self._inflight.ended(delivery.token)
            self._desk.settle(delivery, refusal)
            return
        self._desk.leased(delivery)
        if held_for_eta:
            self._holds.hold(delivery)
        else:
            self._desk.submit(delivery)

    def _refuse_foreign(self, error: ForeignMessage, raw: Any, generation: int) -> None:
        """Have whoever waits for it told; with a dead-letter exchange its message can still be sent to a Celery worker."""
        delivery = self._inflight.add(error.task, _UNKNOWN, raw, generation, True, Phase.RESERVED)
        self._inflight.ended(delivery.token)
        said = TaskError(type(error).__name__, f"{error}; {error.hint}")
        self._desk.settle(
            delivery,
            refused(error.task, worker=self._worker, now=self._clock.utcnow(), error=said, then=Then.REJECT),
        )

    def _runs_here(self, message: TaskMessage, raw: Any, generation: int) -> bool:
        """Whether a redelivery has taken the place of a delivery that is here already."""
        running = self._inflight.same_attempt(message, generation, leased=self._leased)
        return running is not None and self._inflight.adopt(running, raw, generation)

    def _was_recorded(self, message: TaskMessage, raw: Any, generation: int) -> bool:
        """Whether the attempt needs no further run, because what came of it is recorded; then it is acknowledged."""
        record = self.past.over(message)
        if record is None:
            return False
        delivery = self._inflight.add(message, _UNKNOWN, raw, generation, True, Phase.RESERVED)
        self._inflight.ended(delivery.token)
        self._desk.settle(delivery, recorded_before(message, record))
        return True

    def _refusal(self, message: TaskMessage) -> Settlement | None:
        now = self._clock.utcnow()
        revocation = self._cache.get(message.task_id)
        if revocation is not None:
            logger.info("task %s is revoked and does not start", message.task_id, extra={"task_id": message.task_id})
            return refused(message, worker=self._worker, now=now, revocation=revocation)
        expired = expiry(message, now)
        if expired is not None:
            return refused(message, worker=self._worker, now=now, error=expired)
        if message.celery is not None and message.celery.canvas:
            parts = ", ".join(message.celery.canvas)
            error = TaskError(
                UNSUPPORTED_CANVAS,
                f"task {message.name!r} was sent with a canvas ({parts}), which Stem can't run; send it without links, "
                "chains and chords, or to a queue that a Celery worker consumes",
            )
            logger.error("task %s is refused: %s", message.task_id, error.message, extra={"task_id": message.task_id})
            # Rejected, not acknowledged: with a dead-letter exchange it can still be sent to a worker that can.
            return refused(message, worker=self._worker, now=now, error=error, then=Then.REJECT)
        try:
            self._registry.get(message.name)
        except TaskNotRegistered as missing:
            logger.error("%s (task %s): %s", missing, message.task_id, missing.hint, extra={"task_id": message.task_id})
            return refused(message, worker=self._worker, now=now, error=TaskError("TaskNotRegistered", str(missing)))
        return None


class Holds:
    """Deliveries that wait here without a slot, in a thread of its own.

    ``due(delivery)`` is called when the time of an eta has come. A hold longer than ``longest`` seconds is handed to
    ``repark(delivery)`` instead, which puts the message back at the broker: RabbitMQ cuts a consumer off that keeps a
    message for half an hour. What was set aside for a moment is handed to ``give_back(delivery)``. ``changed()`` is
    called whenever :attr:`count` has changed.
    """

    def __init__(
        self,
        *,
        due: Callable[[Delivery], None],
        repark: Callable[[Delivery], None],
        give_back: Callable[[Delivery], None],
        changed: Callable[[], None],
        longest: float | None,
        clock: Clock,
    ) -> None:
        self._due = due
        self._repark = repark
        self._give_back = give_back
        self._changed = changed
        self._longest = longest
        self._clock = clock
        self._order = itertools.count()
        self._heap: list[tuple[float, int, Callable[[Delivery], None], Delivery]] = []
        self._cond = threading.Condition()
        self._stopped = False
        self._background = Background(self._run, "stem-holds", begin=self._begin, wake=self._end_soon)
        #: How many are held, and how many of them were set aside.
        self.count = self.aside = 0

    def start(self) -> None:
        self._background.start()

    def hold(self, delivery: Delivery) -> None:
        """Keep the delivery until its eta."""
        assert delivery.message.eta is not None
        wait = (delivery.message.eta - self._clock.utcnow()) / timedelta(seconds=1)
        if self._longest is not None and wait > self._longest:
            self._keep(delivery, self._longest, self._repark)
        else:
            self._keep(delivery, wait, self._due)

    def set_aside(self, delivery: Delivery, seconds: float) -> None:
        """Keep the delivery for a moment, then give it back."""
        self._keep(delivery, seconds, self._give_back)

    def take_aside(self, mode: Mode) -> Delivery | None:
        """Take the first out that was set aside and needs a slot of that kind."""
        if not self.aside:
            return None
        with self._cond:
            waiting = [entry for entry in self._heap if entry[2] is self._give_back and entry[3].task.mode is mode]
            first = min(waiting, key=lambda entry: entry[1], default=None)
        return None if first is None else self.release(first[3].token)

    def release(self, token: int) -> Delivery | None:
        """Take one delivery out again, ``None`` when it isn't held any more."""
        with self._cond:
            found = next((entry for entry in self._heap if entry[3].token == token), None)
            if found is None:
                return None
            self._heap.remove(found)
            heapq.heapify(self._heap)
            self._count(found[2], -1)
        self._changed()
        return found[3]

    def release_all(self) -> list[Delivery]:
        """Take every delivery out."""
        with self._cond:
            held, self._heap = [entry[3] for entry in self._heap], []
            self.count = self.aside = 0
        return held

    def stop(self) -> None:
        self._background.stop()

    def _begin(self) -> None:
        self._stopped = False

    def _end_soon(self) -> None:
        with self._cond:
            self._stopped = True
            self._cond.notify()

    def _keep(self, delivery: Delivery, seconds: float, then: Callable[[Delivery], None]) -> None:
        with self._cond:
            heapq.heappush(self._heap, (self._clock.monotonic() + seconds, next(self._order), then, delivery))
            self._count(then, 1)
            self._cond.notify()
        self._changed()

    def _count(self, then: Callable[[Delivery], None], by: int) -> None:
        self.count += by
        if then is self._give_back:
            self.aside += by

    def _run(self) -> None:
        while True:
            with self._cond:
                while not self._stopped and not self._heap:
                    self._cond.wait()
                if self._stopped:
                    return
                wait = self._heap[0][0] - self._clock.monotonic()
                if wait > 0:
                    self._cond.wait(min(wait, 60.0))
                    continue
                _, _, then, delivery = heapq.heappop(self._heap)
                self._count(then, -1)
            self._changed()
            try:
                then(delivery)
            except Exception:
                # The boundary of a thread on which every other eta depends.
                logger.exception("task %s, which was held, can't be let go", delivery.task_id)


def parked_again(delivery: Delivery) -> Settlement:
    """The settlement that puts a held message back at the broker, as it was, and acknowledges this copy of it."""
    return Settlement(None, Then.ACKNOWLEDGE, retry=replace(delivery.message))
