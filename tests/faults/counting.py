"""An application whose tasks leave a mark that they ran, and which needs no children."""

from __future__ import annotations

import os
import signal

from stem_kombu.app import Stem
from stem_kombu.clock import SYSTEM
from stem_kombu.context import TaskContext

app = Stem("counting", broker="memory://counting")


@app.task("count", max_retries=0)
def count(ctx: TaskContext, file: str) -> None:
    """Add the task's id to the file, in one write."""
    descriptor = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{ctx.task_id}\n".encode())
    finally:
        os.close(descriptor)


@app.task("linger", max_retries=0)
def linger(ctx: TaskContext, file: str, seconds: float) -> None:
    """The same, and take so long."""
    count.task.handler(ctx, file)
    end = SYSTEM.monotonic() + seconds
    while SYSTEM.monotonic() < end:
        SYSTEM.sleep(0.05)
        ctx.check()


@app.task("bomb")
def bomb(ctx: TaskContext, file: str) -> None:
    """The same, and end the worker at once."""
    count.task.handler(ctx, file)
    os.kill(os.getpid(), signal.SIGKILL)
