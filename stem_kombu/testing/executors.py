"""What tests of executors need: an observer that remembers, and a maker of jobs."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Mapping
from typing import Any

from stem_kombu.execution.base import Job
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.task import TaskMessage, TaskRegistry


class Recording:
    """An observer that remembers what it was told and lets a test wait for it."""

    def __init__(self) -> None:
        self._cond = threading.Condition()
        self.calls: list[tuple[str, int, Any]] = []
        self.outcomes: dict[int, list[Outcome]] = {}
        self.revoked: dict[str, Revocation] = {}

    def may_start(self, job: Job) -> Outcome | None:
        revocation = self.revoked.get(job.message.task_id)
        return None if revocation is None else Outcome(Ending.CANCELLED, revocation=revocation)

    def started(self, job: Job, pid: int) -> None:
        self._note("started", job, pid)

    def heartbeat(self, job: Job) -> None:
        self._note("heartbeat", job, None)

    def progress(self, job: Job, fraction: float | None, data: Mapping[str, Any]) -> None:
        self._note("progress", job, (fraction, dict(data)))

    def extend_lease(self, job: Job, seconds: float) -> None:
        self._note("extend_lease", job, seconds)

    def ended(self, job: Job, outcome: Outcome) -> None:
        with self._cond:
            self.outcomes.setdefault(job.token, []).append(outcome)
            self._cond.notify_all()

    def outcome(self, job: Job, timeout: float = 60.0) -> Outcome:
        """How the job ended; raises ``TimeoutError`` when it doesn't."""
        with self._cond:
            if not self._cond.wait_for(lambda: job.token in self.outcomes, timeout):
                raise TimeoutError(f"job {job.token} ({job.message.name}) did not end within {timeout:g} s")
            return self.outcomes[job.token][0]

    def wait_for(self, what: str, job: Job, timeout: float = 60.0) -> Any:
        """What came with the first call of that kind for the job."""
        with self._cond:
            found: list[Any] = []

            def look() -> bool:
                found[:] = [detail for kind, token, detail in self.calls if kind == what and token == job.token]
                return bool(found)

            if not self._cond.wait_for(look, timeout):
                raise TimeoutError(f"no {what} of job {job.token} within {timeout:g} s")
            return found[0]

    def _note(self, kind: str, job: Job, detail: Any) -> None:
        with self._cond:
            self.calls.append((kind, job.token, detail))
            self._cond.notify_all()


class JobMaker:
    """Jobs with tokens of their own, for the tasks of a registry whose names begin with ``prefix``."""

    _tokens = itertools.count(1)

    def __init__(self, registry: TaskRegistry, prefix: str) -> None:
        self._registry = registry
        self._prefix = prefix

    def __call__(
        self,
        name: str,
        *args: Any,
        task_id: str | None = None,
        limits: Mapping[str, float] | None = None,
        **kwargs: Any,
    ) -> Job:
        token = next(self._tokens)
        task = self._registry.get(f"{self._prefix}.{name}")
        given = dict(limits or {})
        message = TaskMessage(task_id or f"task-{token}", task.name, args, kwargs, "q")
        return Job(
            token,
            task,
            message,
            soft_time_limit=given.get("soft", task.options.soft_time_limit),
            time_limit=given.get("hard", task.options.time_limit),
        )
