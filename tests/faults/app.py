"""The application of the fault suite: handlers that note what happens to them, each as a thread, a coroutine and a child."""

from __future__ import annotations

import asyncio
import itertools
import os
from functools import partial
from typing import Any

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.context import TaskContext, TaskReleased, TaskRevoked
from stem_kombu.errors import LeaseLost
from tests.faults import skew  # noqa: F401 - children have the wrong date of their worker
from tests.faults.notes import note

app = Stem("faults", broker="memory://faults")
_runs = itertools.count(1)
OPTIONS: dict[str, Any] = {"retry_backoff": 0.2, "retry_jitter": 0.0, "max_retries": 3}


class Run:
    """One call of a handler, as its events."""

    def __init__(self, ctx: TaskContext) -> None:
        self._facts: dict[str, Any] = {
            "task": ctx.task_id,
            "attempt": ctx.attempt,
            "run": f"{os.getpid()}-{next(_runs)}",
        }
        self.state = "failed"

    def note(self, kind: str, **facts: Any) -> None:
        note(kind, **self._facts, **facts)

    def stopped(self, error: BaseException, where: str) -> None:
        if isinstance(error, TaskRevoked):
            self.state = "cancelled"
            self.note("stopped", value=where, target=error.revocation.task_id)
        else:
            self.state = "released"
            self.note("stopped", value=where, state=type(error).__name__)

    def out(self) -> None:
        self.note("cleaned")
        self.note("ended", state=self.state)


def work(ctx: TaskContext, steps: int = 3, pause: float = 0.05, failures: int = 0, deaf: bool = False) -> str:
    """``steps`` pauses with a checkpoint after each; the first ``failures`` attempts fail."""
    run = Run(ctx)
    run.note("started", value="cleans")
    try:
        for step in range(steps):
            SYSTEM.sleep(pause)
            if not deaf:
                try:
                    (ctx.check, ctx.heartbeat, partial(ctx.progress, step / steps, step=step))[step % 3]()
                    run.note("checkpoint")
                except LeaseLost:
                    raise
                except Exception as error:
                    run.note("swallowed", value=repr(error))
                    raise
        if ctx.attempt <= failures:
            raise ValueError(f"attempt {ctx.attempt} fails")
        run.state = "succeeded"
        return "done"
    except (TaskRevoked, TaskReleased, LeaseLost) as error:
        run.stopped(error, "checkpoint")
        raise
    finally:
        run.out()


app.task("thread.work", **OPTIONS)(work)
app.task("child.work", isolate=True, **OPTIONS)(work)


@app.task("coroutine.work", **OPTIONS)
async def coroutine(
    ctx: TaskContext, steps: int = 3, pause: float = 0.05, failures: int = 0, deaf: bool = False
) -> str:
    run = Run(ctx)
    run.note("started", value="cleans")
    try:
        for _ in range(steps):
            await asyncio.sleep(pause)
        if ctx.attempt <= failures:
            raise ValueError(f"attempt {ctx.attempt} fails")
        run.state = "succeeded"
        return "done"
    except (TaskRevoked, TaskReleased, LeaseLost) as error:
        run.stopped(error, "await")
        raise
    finally:
        run.out()


@app.task("child.count", isolate=True, max_retries=3, retry_backoff=0.1, retry_jitter=0.0)
def count(ctx: TaskContext) -> None:
    """The shortest task there is that can be told to have run."""
    note("started", task=ctx.task_id, attempt=ctx.attempt, run=f"{os.getpid()}-{next(_runs)}")


@app.control_command("mark")
def mark(view: Any, token: str) -> dict[str, str]:
    note("obeyed", request=token)
    return {"token": token}
