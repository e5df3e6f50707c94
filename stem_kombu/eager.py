"""Running tasks at once in the process that sends them: for tests, and for a look at a handler without a worker."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Iterable, Mapping
from dataclasses import replace

from stem_kombu import chance
from stem_kombu.backends.memory import MemoryBackend
from stem_kombu.clock import SYSTEM
from stem_kombu.context import Signals
from stem_kombu.execution.handlers import call, call_async, context_of, refusal
from stem_kombu.execution.stop_reasons import PendingStop
from stem_kombu.messages.encoding import encode_task
from stem_kombu.outcome import Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.send_retries import SendRetries
from stem_kombu.task import Mode, Task, TaskMessage, TaskRegistry
from stem_kombu.worker.settlement import settle

#: The name of the worker in what is recorded of tasks that ran at once.
WORKER = "eager"


class EagerSignals:
    """The side of a context that no executor has: nothing stops the task, and what it reports is kept by no worker."""

    def __init__(self, task_id: str) -> None:
        self.pending = PendingStop(task_id)

    def check(self) -> None:
        """Raise what is pending."""
        if (error := self.pending.take()) is not None:
            raise error

    def revoked(self) -> Revocation | None:
        """The pending terminate."""
        return self.pending.revocation

    def heartbeat(self) -> None:
        """A checkpoint."""
        self.check()

    def progress(self, fraction: float | None, data: Mapping[str, object]) -> None:
        """Nothing reads it."""

    def extend_lease(self, seconds: float) -> None:
        """There is no lease."""


class EagerBroker:
    """Stands in the place of a producer: each message is run, with its retries but without waiting for them, before
    ``send_many`` returns. ``backend`` keeps what became of it."""

    def __init__(self, registry: TaskRegistry, default_max_retries: int) -> None:
        self._registry = registry
        self._default_max_retries = default_max_retries
        self.backend = MemoryBackend(f"eager-{chance.token_hex(16)}")

    def send_many(self, messages: Iterable[TaskMessage], retries: SendRetries | None = None) -> int:
        """How many were run; there is nothing to try again. Raises :class:`~stem_kombu.errors.ConfigurationError` for what
        could not be sent, and :class:`~stem_kombu.errors.TaskNotRegistered` for a task that the application does not have."""
        every = [as_received(message) for message in messages]
        tasks = [self._registry.get(message.name) for message in every]
        for task, message in zip(tasks, every, strict=True):
            self._run(task, message)
        return len(every)

    def _run(self, task: Task, message: TaskMessage) -> None:
        retries = message.max_retries if message.max_retries is not None else task.options.max_retries
        attempt: TaskMessage | None = message
        while attempt is not None:
            began = SYSTEM.utcnow()
            settled = settle(
                attempt,
                task.options,
                run_here(task, attempt, EagerSignals(attempt.task_id)),
                worker=WORKER,
                started_at=began,
                revocation=None,
                max_retries=self._default_max_retries if retries is None else retries,
                now=SYSTEM.utcnow(),
                jitter=0.0,
            )
            if settled.record is not None:
                self.backend.record([settled.record])
            attempt = settled.retry

    def close(self) -> None:
        """There is nothing to let go."""


def as_received(message: TaskMessage) -> TaskMessage:
    """The message as a worker gets it: its arguments went through JSON. Raises :class:`ConfigurationError` where they can't."""
    args, kwargs, _ = json.loads(encode_task(message).body)
    return replace(message, args=tuple(args), kwargs=kwargs)


def run_here(task: Task, message: TaskMessage, signals: Signals) -> Outcome:
    """How an attempt of the task ends that runs in this thread, or in one of its own where an event loop runs here."""
    if (refused := refusal(task, message)) is not None:
        return refused
    context = context_of(message, signals, is_isolate=task.mode is Mode.ISOLATE)
    if not task.is_async:
        return call(task, message, context)
    ended: list[Outcome] = []

    def attempt() -> None:
        ended.append(asyncio.run(call_async(task, message, context, _by_nothing)))

    try:
        asyncio.get_running_loop()
    except RuntimeError:
        attempt()
    else:  # a thread has one loop at most
        thread = threading.Thread(target=attempt, name="stem-eager")
        thread.start()
        thread.join()
    return ended[0]


def _by_nothing() -> None:
    """No order of ours cancels a coroutine here."""
