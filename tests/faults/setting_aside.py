"""Outcomes that can't be carried out, among others: how many of the others wait, and how many of these end wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.errors import BrokerUnavailable, StoreUnavailable
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from stem_kombu.worker.settlement import RESULT_NOT_STORABLE
from stem_kombu.worker.worker import Worker
from tests.faults.report import Target
from tests.waiting import eventually

#: Tasks of a round whose outcome fails, and others.
TOGETHER, OTHERS = 10, 20
WHAT = {
    "publish": "next attempts that the broker refused for a while",
    "encode": "records that the backend can't encode",
    "time": "records that the backend does not take in time",
}


@dataclass
class Refusals:
    """Stands between a worker and its broker and backend, and refuses what concerns some tasks."""

    how: str
    send: Callable[[TaskMessage], None]
    backend: Any
    tasks: set[str] = field(default_factory=set)

    def publish(self, message: TaskMessage) -> None:
        if self.how == "publish" and message.task_id in self.tasks:
            raise BrokerUnavailable("it takes no messages")
        self.send(message)

    def record(self, records: Sequence[TaskRecord]) -> list[TaskRecord]:
        for record in records:
            if record.task_id in self.tasks and record.result is not None:
                if self.how == "encode":
                    raise UnicodeEncodeError("ascii", "\u00e4", 0, 1, "ordinal not in range")
                if self.how == "time":
                    raise StoreUnavailable("no answer in time")
        held: list[TaskRecord] = self.backend.record(records)
        return held

    def __getattr__(self, name: str) -> Any:
        return getattr(self.backend, name)


def set_aside(how: str, here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials`` tasks whose outcome is refused, those that end otherwise than they should, or while whose refusal others
    were not recorded."""
    app = Stem("setting-aside")
    app.configure(Settings.from_env({"STEM_CELERY_EVENTS": "off"}, **here.urls))

    @app.task("fails_once", max_retries=3, retry_backoff=0.01)
    def fails_once(ctx: TaskContext, fails: bool) -> int:
        if fails and ctx.attempt == 1:
            raise ValueError("the first attempt")
        return ctx.attempt

    worker = Worker(app, name="alpha", inline_slots=4)
    recorder: Any = worker.recorder
    refusals = Refusals(how, recorder._retries._send, app.backend)
    recorder._retries._send, recorder._states = refusals.publish, refusals
    bad: set[str] = set()
    done = 0

    def ended(task_id: str) -> TaskRecord | None:
        assert app.backend is not None
        record = app.backend.get(task_id)
        return record if record is not None and record.state.is_terminal else None

    def within(task_ids: Sequence[str]) -> bool:
        try:
            eventually(lambda: all(map(ended, task_ids)), patience)
        except AssertionError:
            return False
        return True

    with worker:
        while done < trials:
            refused = [f"refused-{done + n}" for n in range(TOGETHER)]
            others = [f"other-{done}-{n}" for n in range(OTHERS)]
            refusals.tasks = set(refused)
            queue = app.settings.default_queue
            fails = how == "publish"
            messages = [TaskMessage(one, "fails_once", (fails,), queue=queue) for one in refused]
            app.producer.send_many(
                [*messages, *(TaskMessage(one, "fails_once", (False,), queue=queue) for one in others)]
            )
            if not within(others):
                bad |= set(refused)
            if how == "publish":
                bad |= {one for one in refused if ended(one)}  # before its next attempt could be published
                refusals.tasks = set()
            within(refused)
            bad |= {one for one in refused if not _is_right(how, ended(one))}
            done += TOGETHER
    app.close()
    return Target(f"{WHAT[how]} that ended otherwise or held up others, {broker}", len(bad), done, 200)


def _is_right(how: str, record: TaskRecord | None) -> bool:
    if record is None:
        return False
    if how == "publish":
        return record.state is TaskState.SUCCEEDED and record.attempt == 2
    return record.state is TaskState.FAILED and record.error is not None and record.error.type == RESULT_NOT_STORABLE


#: As in :mod:`tests.faults.embedded_workers`: what measures a row, and its share of the trials.
ROWS: dict[str, tuple[Callable[[Any, str, int, float], Target], float]] = {
    f"aside {how}": (partial(set_aside, how), 1.0) for how in WHAT
}
