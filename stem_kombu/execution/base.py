"""The port of an executor: what the worker asks of it, and what the executor reports.

A job is one attempt of one task, named by a ``token`` that is never used twice in a worker's life. Every order and
every report carries the token, so that a late terminate can't hit the task that runs next in the same slot (G8).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Protocol

from stem_kombu.ladder import Ladder
from stem_kombu.outcome import Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.slots import SlotView
from stem_kombu.task import Task, TaskMessage


@dataclass(slots=True)  # never changed; frozen, it would cost three times as much, for each delivery
class Job:
    """One attempt to run. Limits are already resolved (message before task), in seconds, ``None`` for no limit."""

    token: int
    task: Task
    message: TaskMessage
    soft_time_limit: float | None = None
    time_limit: float | None = None


class Stop(str, Enum):
    """Why a running handler is asked to stop at its next checkpoint."""

    REVOKED = "revoked"  # an operator's terminate: TaskRevoked
    SOFT_TIME_LIMIT = "soft-time-limit"  # SoftTimeLimitExceeded, which a handler may catch to clean up
    TIME_LIMIT = "time-limit"  # TimeLimitExceeded; an isolate that doesn't heed it is killed
    LEASE_LOST = "lease-lost"  # LeaseLost: the broker gave the message to another worker
    SHUTDOWN = "shutdown"  # WorkerStopping: the attempt goes back to the queue, it is not cancelled (G20)


class Observer(Protocol):
    """What an executor tells the worker. Called from the executor's own threads: be quick, never block on the network.

    For each submitted job there is exactly one :meth:`ended`, whatever happens, and nothing after it.
    """

    def may_start(self, job: Job) -> Outcome | None:
        """Asked right before a job gets a slot: what it ends as instead, for it must not start, or ``None``."""

    def started(self, job: Job, pid: int) -> None:
        """The handler is about to be called in that process."""

    def heartbeat(self, job: Job) -> None:
        """The handler passed a checkpoint that reports (at most a few times a second)."""

    def progress(self, job: Job, fraction: float | None, data: Mapping[str, object]) -> None:
        """The handler reported how far it is."""

    def extend_lease(self, job: Job, seconds: float) -> None:
        """The handler wants to keep its message for that long from now."""

    def ended(self, job: Job, outcome: Outcome) -> None:
        """The attempt is over."""


class Executor(Protocol):
    """Runs jobs in a bounded number of slots; further jobs wait in the order of submission.

    Lifecycle: ``start()`` returns once running and may be called twice; ``stop()`` returns once stopped and may be
    called before ``start()`` and twice.
    """

    @property
    def slots(self) -> int:
        """How many jobs can run at once."""

    def start(self) -> None:
        """Return once jobs can be submitted."""

    def submit(self, job: Job) -> None:
        """Run the job as soon as a slot is free."""

    def stop_job(
        self, token: int, why: Stop, revocation: Revocation | None = None, ladder: Ladder | None = None
    ) -> bool:
        """Make the job's next checkpoint raise; ``False`` when it isn't running here (not yet, or no more).

        A pending ``REVOKED`` is never replaced by a weaker reason; a repeated order is harmless. ``ladder``: signals to the
        job's process group, from now on, where it does not stop; an executor without processes passes over it.
        """

    def withdraw(self, token: int) -> bool:
        """Take back a job that has not started; it ends as ``RELEASED``. ``False`` when it has started or is unknown."""

    def view(self) -> Sequence[SlotView]:
        """Every slot as it stands."""

    def stop(self, timeout: float | None = None) -> None:
        """Start nothing more and wait for what runs: without bound, or for ``timeout`` seconds, after which running
        jobs are stopped by force where that is possible (isolates are killed). Jobs that did not start, and jobs
        stopped by force, end as ``RELEASED``."""
