"""Celery's event protocol, as far as Flower and exporters read it.

One JSON object an event, or a list of them for the events of tasks, on the exchange ``celeryev``. Field names and types
are those that Celery 5.7's workers send; monitors take no others.
"""

from __future__ import annotations

import collections
import itertools
import platform
import reprlib
from datetime import datetime
from typing import Any

from stem_kombu import timeouts
from stem_kombu.clock import Clock, isoformat
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.task import TaskMessage
from stem_kombu.version import __version__

#: Events of tasks that are kept for a broker that is away; older ones are dropped, as Celery's are.
MOST_WAITING = 10_000
#: Characters of a result or an error.
_SHOWN = 1024

SOFTWARE = {"sw_ident": "stem-kombu", "sw_ver": __version__, "sw_sys": platform.system()}


def node_name(worker: str, hostname: str) -> str:
    """The worker's id as Celery's tools want it: ``name@host``."""
    return worker if "@" in worker else f"{worker}@{hostname}"


class Events:
    """Takes what happens to tasks from any thread, and hands it over as events; never blocks."""

    def __init__(self, node: str, pid: int, clock: Clock, *, closed: bool = False) -> None:
        #: The fleet has keys: what tasks are given is not shown to readers without one.
        self.closed = closed
        self._common = {"hostname": node, "pid": pid, "utcoffset": 0}
        self._clock = clock
        self._waiting: collections.deque[dict[str, object]] = collections.deque(maxlen=MOST_WAITING)
        self._numbers = itertools.count(1)
        short = reprlib.Repr()
        short.maxstring = short.maxother = _SHOWN
        short.maxlist = short.maxtuple = short.maxdict = 20
        self._shown = short.repr

    def received(self, message: TaskMessage, args: str) -> None:
        """A task has come; ``args`` are its arguments as people may see them."""
        fields = {
            "uuid": message.task_id,
            "name": message.name,
            "args": "(***)" if self.closed else f"({args})",
            "kwargs": "{}",
            "root_id": message.task_id,
            "parent_id": None,
            "retries": message.attempt - 1,
            "eta": _text(message.eta),
            "expires": _text(message.expires_at),
        }
        self._add("task-received", fields)

    def started(self, task_id: str) -> None:
        self._add("task-started", {"uuid": task_id})

    def settled(self, record: TaskRecord) -> None:
        """A task's attempt is over, as that record says."""
        uuid = record.task_id
        if record.state is TaskState.SUCCEEDED:
            runtime = 0.0
            if record.started_at is not None and record.ended_at is not None:
                runtime = (record.ended_at - record.started_at).total_seconds()
            self._add("task-succeeded", {"uuid": uuid, "result": self._shown(record.result), "runtime": runtime})
        elif record.state is TaskState.CANCELLED:
            was_running = record.started_at is not None
            self._add("task-revoked", {"uuid": uuid, "terminated": was_running, "signum": None, "expired": False})
        elif record.state in (TaskState.FAILED, TaskState.RETRYING) and record.error is not None:
            kind = "task-failed" if record.state is TaskState.FAILED else "task-retried"
            said = f"{record.error.type}({record.error.message[:_SHOWN]!r})"
            self._add(kind, {"uuid": uuid, "exception": said, "traceback": record.error.traceback or ""})

    def of_worker(self, kind: str, *, active: int, processed: int, load: float | None) -> dict[str, object]:
        """``worker-online``, ``worker-heartbeat`` or ``worker-offline``."""
        loads = [0.0 if load is None else load] * 3
        fields = {
            "freq": timeouts.CELERY_HEARTBEAT,
            "active": active,
            "processed": processed,
            "loadavg": loads,
            **SOFTWARE,
        }
        return self._event(kind, fields)

    def taken(self) -> list[dict[str, object]]:
        """The events of tasks since the last call, oldest first."""
        taken = []
        while self._waiting:
            taken.append(self._waiting.popleft())
        return taken

    def put_back(self, events: list[dict[str, object]]) -> None:
        """Keep events that could not be sent, as far as there is room."""
        for event in reversed(events[-(MOST_WAITING - len(self._waiting)) or None :]):
            self._waiting.appendleft(event)

    def _add(self, kind: str, fields: dict[str, Any]) -> None:
        self._waiting.append(self._event(kind, fields))

    def _event(self, kind: str, fields: dict[str, object]) -> dict[str, object]:
        return {"type": kind, "clock": next(self._numbers), "timestamp": self._clock.now(), **self._common, **fields}


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else isoformat(moment)
