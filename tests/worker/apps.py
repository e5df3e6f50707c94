"""The application of the worker tests: importable, so that children find it."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.testing.gates import Gate

app = Stem("worker-tests", broker="memory://worker-tests")


def task(name: str, **options: Any):  # type: ignore[no-untyped-def]
    """Register under both modes: ``inline.NAME`` and ``isolate.NAME``."""

    def register(function):  # type: ignore[no-untyped-def]
        app.task(f"inline.{name}", **options)(function)
        app.task(f"isolate.{name}", isolate=True, **options)(function)
        return function

    return register


@task("add")
def add(ctx: TaskContext, a: int, b: int = 0) -> int:
    return a + b


@task("gated")
def gated(ctx: TaskContext, gate: str) -> str:
    """Checkpoints until the gate opens."""
    Gate(gate).reach(f"attempt-{ctx.attempt}")
    Gate(gate).reach()
    try:
        Gate(gate).wait_open(checkpoint=lambda: ctx.progress(0.25, step="waiting"))
    finally:
        Gate(gate).reach("finally")
    return "opened"


@task("leaves")
def leaves(ctx: TaskContext, gate: str) -> str:
    """Checkpoints until the gate opens, and tells by what it was made to leave."""
    Gate(gate).reach()
    try:
        Gate(gate).wait_open(checkpoint=ctx.check)
    except BaseException as error:
        Gate(gate).reach(f"{type(error).__name__}-{ctx.attempt}")
        raise
    return f"opened in attempt {ctx.attempt}"


@task("deaf")
def deaf(ctx: TaskContext, gate: str) -> str:
    """Never checkpoints."""
    Gate(gate).reach(f"attempt-{ctx.attempt}")
    Gate(gate).reach()
    Gate(gate).wait_open()
    return "finished"


@task("waits")
async def waits(ctx: TaskContext, gate: str) -> str:
    Gate(gate).reach()
    try:
        await asyncio.sleep(120)
    finally:
        Gate(gate).reach("finally")
    return "slept"


def end_once(ctx: TaskContext, way: str) -> dict[str, Any]:
    """The first attempt ends in that way, the second tells what it was given."""
    if ctx.attempt == 1:
        if way in ("retry", "far retry"):
            raise ctx.retry("once", countdown=0 if way == "retry" else 3600)
        if way == "lost child":
            os._exit(9)
        while way == "time limit":
            time.sleep(0.05)
        raise ValueError(way)
    return {"queue": ctx.queue, "tenant": ctx.headers.get("tenant"), "nested": ctx.headers.get("nested")}


task("ends_once", retry_backoff=0.0, retry_jitter=0.0)(end_once)


@app.task("coroutine.ends_once", retry_backoff=0.0, retry_jitter=0.0)
async def end_once_in_the_loop(ctx: TaskContext, way: str) -> dict[str, Any]:
    return end_once(ctx, way)


@task("fails", retry_backoff=0.0, retry_jitter=0.0)
def fails(ctx: TaskContext, gate: str) -> None:
    Gate(gate).reach(f"attempt-{ctx.attempt}")
    raise ValueError(f"attempt {ctx.attempt}")


@task("takes_anything", retry_backoff=0.0, retry_jitter=0.0)
def takes_anything(ctx: TaskContext, gate: str, extra: Any = None) -> None:
    Gate(gate).reach(f"attempt-{ctx.attempt}")
    raise ValueError("whatever it is")


@task("fails_when_open", retry_backoff=0.0, retry_jitter=0.0)
def fails_when_open(ctx: TaskContext, gate: str) -> None:
    Gate(gate).reach(f"attempt-{ctx.attempt}")
    Gate(gate).wait_open()
    raise ValueError("no")


@task("fails_then_waits", max_retries=0)
def fails_then_waits(ctx: TaskContext, first: str, again: str) -> str:
    """Fails when the first gate opens; run once more, it waits for the other one and succeeds."""
    fails = Gate(first).reached() is None
    gate = Gate(first if fails else again)
    gate.reach()
    gate.wait_open(checkpoint=ctx.check)
    if fails:
        raise ValueError("the first run")
    return "ran again"


@task("burns")
def burns(ctx: TaskContext, gate: str) -> int:
    """CPU-bound, with checkpoints, until the gate opens."""
    Gate(gate).reach()
    rounds = 0
    while not (Path(gate) / "open").exists():
        sum(n * n for n in range(1000))
        ctx.check()
        rounds += 1
    return rounds


@task("who")
def who(ctx: TaskContext) -> int:
    return os.getpid()


@app.task("inline.bomb")
def bomb(ctx: TaskContext, marks: str) -> None:
    """Ends its worker at once."""
    with Path(marks).open("a") as file:
        file.write("x")
    os.kill(os.getpid(), signal.SIGKILL)


@task("no_json")
def no_json(ctx: TaskContext) -> object:
    return object()


@app.control_command("double")
def double(view: Any, number: int) -> dict[str, int]:
    return {"doubled": number * 2}


@task("fails_once", max_retries=3, retry_backoff=0.05)
def fails_once(ctx: TaskContext, fails: bool) -> int:
    """Fails at its first attempt if it is told to."""
    if fails and ctx.attempt == 1:
        raise ValueError("the first attempt")
    return ctx.attempt


@task("returns_text", max_retries=0)
def returns_text(ctx: TaskContext, length: int) -> str:
    return "x" * length


@app.task("inline.retried_in")
def retried_in(ctx: TaskContext, seconds: float) -> int:
    """Asks for a second attempt in that many seconds."""
    if ctx.attempt == 1:
        raise ctx.retry(countdown=seconds)
    return ctx.attempt
