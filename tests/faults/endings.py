"""Endings that took a slot, a task or a worker with them: how many still do (A4, A7, A9, A10)."""

from __future__ import annotations

from typing import Any

from stem_kombu.outcome import TaskState
from tests.faults.report import Target
from tests.waiting import eventually

APP = "tests.worker.zoo"
#: What is raised and done, by kind: waits that are none, exceptions that can't be looked at, copies of the process.
KINDS = {
    "waits": (
        "raises_retry_after_a_span",
        "raises_retry_after_nan",
        "raises_retry_after_ages",
        "raises_retry_after_longer",
        "asks_for_an_absurd_retry",
    ),
    "texts": (
        "raises_an_exception_without_text",
        "raises_a_base_exception_without_text",
        "raises_retry_without_text",
        "raises_no_class",
        "raises_a_circle",
    ),
    "forks": ("forks_and_returns", "forks_and_exits", "forks_and_fails", "forks_and_checkpoints", "forks_twice"),
}
MODES = ("inline", "isolate")
TOGETHER = 20
#: A task that kills its worker, and how often it may run by default.
BOMB, MOST = "bomb", 3


def taking_slots(here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials`` tasks of those kinds, those that did not end in a record, or after which no task ran in their slot."""
    worker = here.start_worker("alpha", app=APP, concurrency=1, inline_slots=1)
    names = [name for names in KINDS.values() for name in names]
    bad = done = 0
    while done < trials:
        sent = []
        for number in range(done, min(done + TOGETHER, trials)):
            mode = MODES[number % 2]
            sent.append(here.app.send_task(f"{mode}.{names[number % len(names)]}"))
            sent.append(here.app.send_task(f"{mode}.after"))
        done = min(done + TOGETHER, trials)
        records = [result.wait(timeout=patience) for result in sent]
        bad += sum(record is None or not record.state.is_terminal for record in records[::2])
        bad += sum(record is None or record.state is not TaskState.SUCCEEDED for record in records[1::2])
    assert worker.process.poll() is None
    return Target(f"tasks that did not end, or took their slot, {broker}", bad, done, 200)


def ending_workers(here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials`` tasks that kill their worker, those that did not end as failed, or ran more often than is allowed."""
    bad = 0
    for number in range(trials):
        result = here.app.send_task(BOMB, [str(here.marks)], task_id=f"bomb-{number}")
        for _ in range(MOST + 2):
            worker = here.begin_worker(f"w{number % 3}", app="tests.faults.counting")

            def over(worker: Any = worker, result: Any = result) -> bool:
                return worker.process.poll() is not None or result.state is TaskState.FAILED

            eventually(over, patience)
            if result.state is TaskState.FAILED:
                here.end(worker, 15)
                break
        record = result.record
        ended = record is not None and record.error is not None and record.error.type == "WorkerLost"
        bad += not ended or here.ran().count(f"bomb-{number}") > MOST
    return Target(f"tasks that kill their worker and were not given up, {broker}", bad, trials, 50)


#: By name, with the share of the usual trials: a worker is started three times for each task that kills it.
ROWS = {"endings": (taking_slots, 1.0), "poison": (ending_workers, 0.25)}
