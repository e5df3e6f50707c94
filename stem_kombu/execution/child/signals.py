"""A context's other side in a child: checkpoints that look at the pipe, and reports that go up it.

A checkpoint looks at the pipe itself (no thread that would have to wait for the interpreter's lock first), at most once
in a millisecond, so that it may stand in the innermost loop.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from stem_kombu import timeouts
from stem_kombu.clock import monotonic
from stem_kombu.execution.base import Stop
from stem_kombu.execution.child.pipe import ChildPipe
from stem_kombu.execution.frames import ExtendLease, Report, StopJob
from stem_kombu.execution.stop_reasons import PendingStop
from stem_kombu.revocation import Revocation

#: Bytes of progress data as JSON.
PROGRESS_LIMIT = 16_384


class ChildSignals:
    """The executor's side of a context, in a child. See :class:`stem_kombu.context.Signals`."""

    def __init__(self, end: ChildPipe, token: int, task_id: str) -> None:
        self._end = end
        self._token = token
        self.pending = PendingStop(task_id)
        self._poll = end.has_news()
        self._next_look = 0.0
        self._next_report = 0.0
        self._unsent: Report | None = None

    @property
    def descriptor(self) -> int:
        return self._end.descriptor

    def check(self) -> None:
        now = monotonic()
        if now < self._next_look:
            return
        self._next_look = now + timeouts.CHECKPOINT_GATE
        if self._poll(0):
            self.look()
        if (error := self.pending.take()) is not None:
            # Once an order is pending each checkpoint has to see it, not only one in a millisecond.
            self._next_look = 0.0
            raise error

    def look(self) -> None:
        """Take the orders that have arrived; those of another token are of a job that has ended (G8)."""
        for order in self._end.orders_now():
            if isinstance(order, StopJob) and order.token == self._token:
                self.pending.set(order.why, order.revocation)
        if self._end.orphaned:
            self.pending.set(Stop.LEASE_LOST)

    def revoked(self) -> Revocation | None:
        self.look()
        return self.pending.revocation

    def heartbeat(self) -> None:
        now = monotonic()
        if now < self._next_look:
            return  # a checkpoint a moment ago has done both
        self.check()
        if now >= self._next_report:
            self._report(Report(self._token))

    def progress(self, fraction: float | None, data: Mapping[str, object]) -> None:
        self._report(Report(self._token, fraction, checked_progress(data)))

    def extend_lease(self, seconds: float) -> None:
        self._end.send(ExtendLease(self._token, seconds))

    def flush(self) -> None:
        """Send the last progress that was held back."""
        if self._unsent is not None:
            self._end.send(self._unsent)
            self._unsent = None

    def _report(self, report: Report) -> None:
        now = monotonic()
        if now < self._next_report:
            if report.data is not None:
                self._unsent = report
            return
        self._next_report = now + timeouts.PROGRESS_GATE
        if report.data is None and self._unsent is not None:
            report = self._unsent
        self._unsent = None
        self._end.send(report)


def checked_progress(data: Mapping[str, object]) -> dict[str, object]:
    """The data as JSON holds it; raises ``ValueError`` when it can't, or for more than 16 kB."""
    if not data:
        return {}
    try:
        text = json.dumps(data, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"progress data is no JSON: {error}") from None
    if len(text) > PROGRESS_LIMIT:
        raise ValueError(f"progress data has {len(text)} bytes; at most {PROGRESS_LIMIT} are sent")
    loaded: dict[str, object] = json.loads(text)
    return loaded
