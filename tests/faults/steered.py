"""A fleet that is steered under load, counted: tasks of a paused queue that ran (G22), and tasks that scaling harmed (G25)."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.directive import ALL_WORKERS, Kind
from stem_kombu.outcome import TaskState
from stem_kombu.task import TaskMessage
from tests.faults.report import Target
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.targets import Lab

app = Stem("steered", broker="memory://steered")
#: Tasks of the paused queue, and others, that are sent in each round.
PAUSED, FREE = 8, 2
#: Children, few and many; tasks that are sent with each change, and seconds that one takes.
FEW, MANY = 2, 8
SENT, NAPS = 24, (0.01, 0.05, 0.2)


@app.task("doze", isolate=True, max_retries=0)
def doze(ctx: TaskContext, file: str, seconds: float) -> None:
    """Mark the beginning and the end of each run, and pass no checkpoint."""
    _mark(file, f"begun {ctx.task_id}")
    time.sleep(seconds)
    _mark(file, f"ended {ctx.task_id}")


def _mark(file: str, line: str) -> None:
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{line}\n".encode())
    finally:
        os.close(descriptor)


def paused(here: Lab, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials`` tasks of a paused queue, those that ran while it was paused, and those that did not run once after that.

    Round by round a worker is restarted, killed, or started in addition, and tasks of another queue must run on it.
    """
    queue, other = here.app.settings.default_queue, "other"
    options = {"app": "tests.faults.counting", "queues": [queue, other]}
    held: list[str] = []

    def send(ids: list[str], to: str) -> None:
        here.app.producer.send_many(TaskMessage(each, "count", (str(here.marks),), queue=to) for each in ids)

    with ControlClient(here.app) as control:
        directives = DirectiveClient(control)
        worker = here.start_worker("alpha", **options)
        assert directives.pause([queue], timeout=patience).complete
        added = None
        for number in range(-(-trials // PAUSED)):
            ids = [f"held-{number}-{each}" for each in range(PAUSED)]
            send(ids, queue)
            held += ids
            how = ("restart", "kill", "start")[number % 3]
            if how == "start":
                if added is not None:
                    here.end(added, signal.SIGTERM)
                added = here.start_worker("bravo", **options)
            else:
                here.end(worker, signal.SIGTERM if how == "restart" else signal.SIGKILL)
                worker = here.start_worker("alpha", **options)
            free = [f"free-{number}-{each}" for each in range(FREE)]
            send(free, other)
            eventually(lambda free=free: set(free) <= set(here.ran()), patience)  # type: ignore[misc]
        early = set(here.ran()) & set(held)
        assert directives.resume([queue], timeout=patience).complete
        eventually(lambda: set(held) <= set(here.ran()), patience, "a task of a queue that was paused does not run")
    runs = Counter(here.ran())
    bad = len(early | {each for each in held if runs[each] != 1})
    what = "tasks that ran while their queue was paused, over restarts, SIGKILL and new workers, or not once after that"
    return Target(f"{what}, {broker}", bad, len(held), 200)


def scaled(here: Lab, broker: str, trials: int, patience: float) -> tuple[Target, dict[str, int]]:
    """Of the tasks that run while a worker is scaled from 2 to 8 children and back ``trials`` times, those that were lost,
    stopped, tried again or run twice."""
    dice, marks = random.Random(trials), Path(here.folder / "dozes")
    marks.touch()
    sent: list[str] = []
    here.start_worker("alpha", app="tests.faults.steered", concurrency=FEW)

    def send() -> None:
        ids = [f"doze-{len(sent) + each}" for each in range(SENT)]
        queue = here.app.settings.default_queue
        here.app.producer.send_many(
            TaskMessage(each, "doze", (str(marks), dice.choice(NAPS)), queue=queue) for each in ids
        )
        sent.extend(ids)

    with ControlClient(here.app) as control:
        directives = DirectiveClient(control)

        def has(children: int) -> bool:
            (reply,) = control.stats(timeout=patience).replies
            pool = reply.payload["pool"]
            return len(pool) == children and all(slot["state"] in ("idle", "running") for slot in pool)

        for _ in range(trials):
            for children in (MANY, FEW):
                send()
                assert directives.set(Kind.CONCURRENCY, {ALL_WORKERS: children}, timeout=patience).complete
                eventually(lambda children=children: has(children), patience, f"{children} children")  # type: ignore[misc]
    backend = here.app.backend
    assert backend is not None
    records = {}
    for each in sent:
        records[each] = eventually(
            lambda each=each: (found := backend.get(each)) and found.state.is_terminal and found,  # type: ignore[misc]
            patience,
            f"{each} has not ended",
        )
    marked = Counter(marks.read_text().splitlines())
    bad = sum(
        (marked[f"begun {each}"], marked[f"ended {each}"], record.attempt, record.state)
        != (1, 1, 1, TaskState.SUCCEEDED)
        for each, record in records.items()
    )
    what = f"tasks lost, stopped or doubled while {FEW} children became {MANY} and {FEW} again {trials} times"
    facts = {f"Tasks that ran while children came and went, {broker}": len(sent)}
    return Target(f"{what}, {broker}", bad, len(sent), SENT * 2 * 100), facts


#: By name, with the share of the usual trials.
ROWS = {"paused": (paused, 1.0), "scaled": (scaled, 0.5)}
