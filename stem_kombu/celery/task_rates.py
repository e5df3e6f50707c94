"""Rate limits of tasks by name, as Celery has them: a bucket of tokens for each task, in its consumer (G25).

The limit is the task's ``rate_limit``, as after Celery's own ``control rate_limit``, until its directive ends. Buckets are
changed in any thread, so that the next message finds them. What waits in them is handed on by Celery's loop, which owns them.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from celery.utils.time import rate as tokens_per_second

from stem_kombu.control.server.worker_view import Setting
from stem_kombu.directive import TASK, Directive, Kind
from stem_kombu.fields import FieldError
from stem_kombu.rate import SECONDS, Rate, RateLimit
from stem_kombu.worker.active_directives import ActiveDirectives

if TYPE_CHECKING:
    from celery.worker import WorkController

logger = logging.getLogger(__name__)

#: Tokens in a second of a bucket whose limit is over: what waits in it, or comes to it from an eta, goes on at once.
_AT_ONCE = 1e9


@dataclass(frozen=True, slots=True)
class _Limited:
    """A task that is limited now. ``given`` is the limit as Celery writes it, ``own`` is what the application, or Celery's own
    command, gave the task before."""

    directive: Directive
    rate: Rate
    given: str | float
    own: object


class TaskRates:
    """Of one worker: ``worker`` is Celery's ``WorkController``, ``held`` says which limits count. Changed by one thread
    at a time."""

    def __init__(self, worker: WorkController, held: ActiveDirectives) -> None:
        self._worker, self._held = worker, held
        self._limited: dict[str, _Limited] = {}

    def obeys(self, directive: Directive) -> bool:
        """Whether the worker can do what it asks for, or to be free of it."""
        if directive.kind is not Kind.RATE_LIMIT or directive.cleared:
            return directive.kind is Kind.RATE_LIMIT
        limited = str(directive.subject or "").startswith(TASK) and not self._worker.disable_rate_limits
        return limited and (limit := _limit_of(directive)) is not None and limit.each

    def update(self) -> None:
        """Let the limits count that directives ask for now."""
        _, found = self._held.rate_limits()
        self._set({name: one for name, one in found.items() if self.obeys(one)})

    def lift(self) -> None:
        """Give each task the limit again that it had, for another worker of this process. What waits here goes on waiting."""
        while self._limited:
            self._give_back(self._limited.popitem())

    def settings(self) -> dict[str | None, Setting]:
        """What counts, by subject, as :meth:`~stem_kombu.worker.limit_service.LimitService.settings` has it."""
        return {
            TASK + name: Setting(self._shown(name, one.rate), one.own, directive=one.directive)
            for name, one in list(self._limited.items())
        }

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _set(self, wanted: Mapping[str, Directive]) -> None:
        tasks = self._worker.app.tasks
        for name in [name for name in self._limited if name not in wanted]:
            if self._give_back((name, self._limited.pop(name))):
                self._change(name, "as before")
        for name, directive in wanted.items():
            held = self._limited.get(name)
            limit = _limit_of(directive)
            if limit is None or (held is not None and held.directive.version == directive.version):
                continue
            rate, own = limit.rate, tasks[name].rate_limit if held is None else held.own
            given = str(rate) if rate.seconds in SECONDS.values() else rate.tasks / rate.seconds
            self._limited[name] = _Limited(directive, rate, given, own)
            tasks[name].rate_limit = given
            self._change(name, f"{rate} at this worker")

    def _give_back(self, ended: tuple[str, _Limited]) -> bool:
        """Give the task its own limit, unless Celery's own command gave it another one meanwhile; whether it has it now."""
        name, limited = ended
        task = self._worker.app.tasks.get(name)
        if task is None or task.rate_limit != limited.given:
            return False
        task.rate_limit = limited.own
        return True

    def _change(self, name: str, how: str) -> None:
        logger.warning("rate limit of task %s: %s", name, how, extra={"worker": self._held.worker})
        consumer = getattr(self._worker, "consumer", None)
        if consumer is None:
            return  # which gives each task the bucket of its limit when it is made
        task = self._worker.app.tasks[name]
        # Not a new bucket where there is one: what waits in it, or comes to it from an eta, would keep the old rate.
        bucket = consumer.task_buckets.get(name)
        if bucket is None:
            consumer.task_buckets[name] = consumer.bucket_for_task(task)
            return
        bucket.can_consume(0)  # counts what it has until now by the old rate
        bucket.fill_rate = float(tokens_per_second(task.rate_limit) or _AT_ONCE)
        if not task.rate_limit:
            consumer.task_buckets[name] = None
        consumer.call_soon(consumer._schedule_bucket_request, bucket)

    def _shown(self, name: str, rate: Rate) -> dict[str, object]:
        bucket = getattr(self._worker.consumer, "task_buckets", {}).get(name)
        return {
            "rate": str(rate),
            "each": True,
            "workers": 1,
            "share_per_s": round(1 / rate.interval, 6),
            "held": 0 if bucket is None else len(bucket.contents),
        }


def _limit_of(directive: Directive) -> RateLimit | None:
    try:
        return RateLimit.of_value(directive.value if isinstance(directive.value, Mapping) else {})
    except FieldError:
        return None
