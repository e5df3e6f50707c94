"""Tasks that end their workers: an inline handler that takes all memory or crashes the interpreter takes the worker with it,
and the broker gives its message to the next one.

The ``running`` record of an attempt names its worker, and is marked again when that worker begins to stop. So of an attempt
that comes again with an unmarked record it is known who had it; whether that worker has ended is asked of the roster before
the task is given up (G18). What a worker put back, and a broker's own count of deliveries, play no part.
"""

from __future__ import annotations

import logging

from stem_kombu import machine, timeouts
from stem_kombu.backends.base import Roster
from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.backends.processes import Presence, Process, presence
from stem_kombu.errors import StoreError
from stem_kombu.outcome import TaskError, TaskRecord, TaskState, sent_later
from stem_kombu.task import TaskMessage
from stem_kombu.worker.deliveries import Delivery

logger = logging.getLogger(__name__)

WORKER_LOST = "WorkerLost"
#: A task without retries gets a second worker all the same: that the first one ended may have had another reason.
_LEAST = 2


def holder(worker: str, boot: str) -> str:
    """One life of a worker, as records name it."""
    return f"{worker} {boot}"


def lost_with(message: TaskMessage, record: TaskRecord | None) -> tuple[str, ...]:
    """The workers that had an attempt of the task and never said how it ended, by what is recorded; some may live."""
    if record is None or sent_later(message.enqueued_at, record.enqueued_at):
        return ()
    if record.state is not TaskState.RUNNING or record.worker is None or record.boot is None:
        return record.lost_workers
    last = holder(record.worker, record.boot)
    return record.lost_workers if last in record.lost_workers else (*record.lost_workers, last)


def running(delivery: Delivery, worker: str, boot: str | None) -> TaskRecord:
    """The record that the attempt runs; ``boot`` is that of a worker that answers for it."""
    message = delivery.message
    return TaskRecord(
        task_id=message.task_id,
        name=message.name,
        state=TaskState.RUNNING,
        attempt=message.attempt,
        queue=message.queue,
        worker=worker,
        enqueued_at=message.enqueued_at,
        started_at=delivery.started_at,
        boot=boot,
        lost_workers=tuple(delivery.lost),
        retried_from=message.retried_from,
    )


class LostWorkers:
    """Says when a task is given up: after ``most`` workers were lost with it, or as many as its retries allow attempts.

    ``boot`` is the life of this worker.
    """

    def __init__(self, roster: Roster, namespace: str, boot: str, *, most: int, default_max_retries: int) -> None:
        self._roster = roster
        self._namespace = namespace
        self._own = boot
        #: The life of this worker that answers for what it starts, ``None`` once it is stopping.
        self.boot: str | None = boot
        self._most = most
        self._default_max_retries = default_max_retries
        self._process, self._hostname = Process.here(), machine.gethostname()

    def is_suspect(self, delivery: Delivery) -> bool:
        """Whether the task has to be judged before it may start."""
        return bool(delivery.lost) and len(delivery.lost) >= self._limit(delivery)

    def judge(self, delivery: Delivery) -> float | TaskError | None:
        """``None``: it may start. Seconds: ask again then. An error: it is given up. Reads the roster; raises nothing."""
        limit = self._limit(delivery)
        if len(delivery.lost) < limit:
            return None
        try:
            view = self._roster.view(self._namespace)
        except StoreError as error:
            logger.warning("could not find out whether task %s ended its workers: %s", delivery.task_id, error)
            return timeouts.LOST_WORKER_ASK
        beats = {beat.worker: beat for beat in view.heartbeats}
        ended, unknown = [], []
        for suspect in list(delivery.lost):
            worker, _, boot = suspect.rpartition(" ")
            beat = beats.get(worker)
            if beat is None or beat.boot != boot:
                ended.append(suspect)
            elif boot == self._own or beat.state == "draining":
                continue  # it lives, or was stopping anyway
            elif beat.liveness(view.now) in (Liveness.STALE, Liveness.DEAD) or self._is_gone(beat):
                ended.append(suspect)
            elif delivery.lost[suspect] in (None, beat.timestamp):
                unknown.append(suspect)  # its next heartbeat will tell, or that none comes
                delivery.lost[suspect] = beat.timestamp
        if len(ended) >= limit:
            names = ", ".join(suspect.rpartition(" ")[0] for suspect in ended)
            return TaskError(WORKER_LOST, f"{len(ended)} workers ended while they ran this task: {names}")
        if len(ended) + len(unknown) >= limit:
            return timeouts.LOST_WORKER_ASK
        delivery.lost = dict.fromkeys((*ended, *unknown))  # the others live, and have nothing to do with it
        return None

    def _limit(self, delivery: Delivery) -> int:
        retries = delivery.message.max_retries
        if retries is None:
            retries = delivery.task.options.max_retries
        if retries is None:
            retries = self._default_max_retries
        return min(self._most, max(_LEAST, retries + 1))

    def _is_gone(self, beat: Heartbeat) -> bool:
        """Whether it can be seen from here that the process has ended."""
        found = presence(beat.process, beat.hostname, beat.pid, self._process, self._hostname)
        return found is Presence.GONE
