"""Shutting workers down: whom it strikes, whether they have left, and one after the other so that queues stay served."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass

from stem_kombu import chance, timeouts
from stem_kombu.backends.heartbeat import Liveness
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control.audit import Note
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.reports import Report, WorkerStatus
from stem_kombu.control.protocol.messages import Shutdown

_HERE = (Liveness.LIVE, Liveness.DRAINING)


@dataclass(frozen=True, slots=True)
class Departure:
    """What became of workers that were shut down: worker ids. ``left`` said so; ``vanished`` fell silent without a word;
    ``remaining`` were still there when the time was over."""

    left: tuple[str, ...] = ()
    vanished: tuple[str, ...] = ()
    remaining: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Roll:
    """How a rolling shutdown went: the ids that left, and the first that was not replaced in time, ``None`` when all were.
    ``reports`` are those of each step."""

    left: tuple[str, ...]
    not_replaced: str | None
    reports: tuple[Report, ...]


class ShutdownClient:
    """Orders over ``client``, which stays the caller's. ``on_wait(done, of)`` is called while workers are waited for."""

    def __init__(
        self, client: ControlClient, *, on_wait: Callable[[int, int], None] | None = None, clock: Clock = SYSTEM
    ) -> None:
        self._client, self._clock = client, clock
        self._on_wait = on_wait
        #: Whether each order has an entry in the audit: not where the store is down, or keeps none.
        self.is_audited = True

    def found(self, workers: Sequence[str] | None = None, *, timeout: float | None = None) -> list[WorkerStatus]:
        """The workers that would be struck: those that live, by the roster. Raises
        :class:`~stem_kombu.errors.StoreUnavailable`."""
        found = self._client.status(workers=workers, timeout=timeout).workers
        return [one for one in found if one.liveness in _HERE]

    def order(self, order: Shutdown, workers: Sequence[str] | None, timeout: float | None = None) -> Report:
        """Give the order, with an entry in the audit before. ``workers`` are ids and globs, ``None`` for everyone. Raises as each
        command of :class:`ControlClient` does."""
        target = {"workers": None if workers is None else list(workers)}
        after = {"mode": order.mode.value, "then": None if order.then is None else order.then.value}
        request_id, client = chance.token_hex(16), self._client
        client.auditor()  # raises where the key may not
        note = Note("shutdown", target, order.requested_by, order.reason, after=after, request_id=request_id)
        report = client.ask_audited(order, note, workers, timeout)
        self.is_audited = bool(report.audited) and self.is_audited
        return report

    def wait_gone(self, lives: Iterable[WorkerStatus], timeout: float | None) -> Departure:
        """Return when these have left the roster or fallen silent, at the latest after ``timeout`` seconds."""
        waited = {one.heartbeat.worker: one.heartbeat.boot for one in lives}
        left: list[str] = []
        vanished: list[str] = []
        until = None if timeout is None else self._clock.monotonic() + timeout
        of = len(waited)
        while waited:
            now = {one.heartbeat.worker: one for one in self._client.status(workers=list(waited)).workers}
            for worker, boot in list(waited.items()):
                one = now.get(worker)
                if one is None or one.heartbeat.boot != boot:
                    left.append(worker)
                elif one.liveness not in _HERE:
                    vanished.append(worker)
                else:
                    continue
                del waited[worker]
            if self._on_wait is not None:
                self._on_wait(of - len(waited), of)
            if not waited or (until is not None and self._clock.monotonic() >= until):
                break
            self._clock.sleep(timeouts.SHUTDOWN_LOOK)
        return Departure(tuple(sorted(left)), tuple(sorted(vanished)), tuple(sorted(waited)))

    def roll(self, order: Shutdown, lives: Sequence[WorkerStatus], *, at_once: int, replacement_timeout: float) -> Roll:
        """Shut these down, ``at_once`` at a time, and go on when as many live workers as before consume each of their queues.

        Stops at the first worker that has no replacement within ``replacement_timeout`` seconds after it left.
        """
        before = self._consumers()
        left: list[str] = []
        reports: list[Report] = []
        for at in range(0, len(lives), at_once):
            batch = lives[at : at + at_once]
            reports.append(self.order(order, [one.heartbeat.worker for one in batch]))
            obeying = {reply.worker for reply in reports[-1].replies if reply.error is None}
            if refusing := [one.heartbeat.worker for one in batch if one.heartbeat.worker not in obeying]:
                return Roll(tuple(left), refusing[0], tuple(reports))
            gone = self.wait_gone(batch, None)
            left += [*gone.left, *gone.vanished]
            queues = {queue for one in batch for queue in one.heartbeat.queues}
            if not self._are_served(queues, before, replacement_timeout):
                return Roll(tuple(left), batch[0].heartbeat.worker, tuple(reports))
        return Roll(tuple(left), None, tuple(reports))

    def _consumers(self) -> dict[str, int]:
        """How many live workers consume each queue; those that drain don't."""
        counts: dict[str, int] = {}
        for one in self._client.status().workers:
            if one.liveness is Liveness.LIVE:
                for queue in one.heartbeat.queues:
                    counts[queue] = counts.get(queue, 0) + 1
        return counts

    def _are_served(self, queues: Collection[str], before: dict[str, int], timeout: float) -> bool:
        until = self._clock.monotonic() + timeout
        while True:
            now = self._consumers()
            if all(now.get(queue, 0) >= before.get(queue, 0) for queue in queues):
                return True
            if self._clock.monotonic() >= until:
                return False
            self._clock.sleep(timeouts.SHUTDOWN_LOOK)
