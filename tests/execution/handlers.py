"""Handlers for the executors' tests: importable, so that children find them."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

from stem_kombu.app import Stem
from stem_kombu.context import Retry, TaskContext, TaskRevoked, current_context
from stem_kombu.errors import SoftTimeLimitExceeded
from stem_kombu.testing.gates import Gate

app = Stem("execution-tests")
CALLED_IN: list[int] = []


def handler(name: str, **options: Any):  # type: ignore[no-untyped-def]
    """Register under both modes: ``inline.NAME`` and ``isolate.NAME``."""

    def register(function):  # type: ignore[no-untyped-def]
        app.task(f"inline.{name}", **options)(function)
        app.task(f"isolate.{name}", isolate=True, **options)(function)
        return function

    return register


@handler("echo")
def echo(ctx: TaskContext, value: Any = None) -> Any:
    return value


@handler("who")
def who(ctx: TaskContext) -> dict[str, Any]:
    return {"pid": os.getpid(), "isolate": ctx.is_isolate, "current": current_context() is ctx, "attempt": ctx.attempt}


@handler("at_checkpoint")
def at_checkpoint(ctx: TaskContext, gate: str, how: str) -> str:
    """Wait at the gate by calling one kind of checkpoint over and over."""
    checkpoints = {
        "check": ctx.check,
        "heartbeat": ctx.heartbeat,
        "progress": lambda: ctx.progress(0.5, tile=3),
        "extend_lease": lambda: ctx.extend_lease(30),
    }
    Gate(gate).reach()
    try:
        Gate(gate).wait_open(checkpoint=checkpoints[how])
    finally:
        Gate(gate).reach("finally")
    return "opened"


@handler("without_checkpoint")
def without_checkpoint(ctx: TaskContext, gate: str) -> str:
    Gate(gate).reach()
    Gate(gate).wait_open()
    Gate(gate).reach("past")
    return "finished"


@handler("starts_a_program")
def starts_a_program(ctx: TaskContext, gate: str, deaf: bool = False) -> int:
    """Waits for a program without a checkpoint; ``deaf``: one that ignores SIGTERM. Returns how it ended."""
    trap = "trap '' TERM; " if deaf else ""
    program = subprocess.Popen(["sh", "-c", f"{trap}echo $$ > {gate}/program; exec sleep 600"])
    while not (Path(gate) / "program").exists() or not (Path(gate) / "program").read_text().strip():
        time.sleep(0.001)
    Gate(gate).reach()
    ended = program.wait()
    ctx.check()
    return ended


@handler("naps")
def naps(ctx: TaskContext, seconds: float) -> float:
    """Short, and without a checkpoint."""
    time.sleep(seconds)
    return seconds


@handler("check_after")
def check_after(ctx: TaskContext, gate: str) -> str:
    """Not interruptible until the gate opens; then one checkpoint."""
    Gate(gate).reach()
    Gate(gate).wait_open()
    ctx.check()
    return "not told"


@handler("swallows_exceptions")
def swallows_exceptions(ctx: TaskContext, gate: str) -> str:
    Gate(gate).reach()
    while True:
        try:
            ctx.check()
            time.sleep(0.001)
        except Exception:  # noqa: BLE001 - what the test is about
            Gate(gate).reach("swallowed")
        finally:
            Gate(gate).reach("finally")


@handler("swallows_everything")
def swallows_everything(ctx: TaskContext, gate: str) -> str:
    try:
        Gate(gate).reach()
        Gate(gate).wait_open(checkpoint=ctx.check)
    except TaskRevoked:
        return "finished all the same"
    return "opened"


@handler("asks")
def asks(ctx: TaskContext, gate: str) -> str | None:
    Gate(gate).reach()
    deadline = time.monotonic() + 30
    while ctx.revoked is None and time.monotonic() < deadline:
        time.sleep(0.001)
    return ctx.revoked.reason if ctx.revoked is not None else None


@handler("fails")
def fails(ctx: TaskContext, text: str = "no") -> None:
    raise ValueError(text)


@handler("retries")
def retries(ctx: TaskContext) -> None:
    raise Retry("later", countdown=7)


@handler("returns_no_json")
def returns_no_json(ctx: TaskContext) -> object:
    return {1, 2}


@handler("exits")
def exits(ctx: TaskContext) -> None:
    raise SystemExit(3)


@handler("leaves")
def leaves(ctx: TaskContext, status: int) -> None:
    os._exit(status)


@handler("cleans_up_after_soft_limit", soft_time_limit=0.05)
def cleans_up_after_soft_limit(ctx: TaskContext) -> str:
    try:
        while True:
            ctx.check()
            time.sleep(0.001)
    except SoftTimeLimitExceeded:
        ctx.check()  # raised once: cleaning up may pass checkpoints
        return "cleaned up"


@handler("never_ends")
def never_ends(ctx: TaskContext, gate: str) -> None:
    Gate(gate).reach()
    while True:
        time.sleep(0.01)


@handler("grows")
def grows(ctx: TaskContext, megabytes: int) -> int:
    GROWN.append(bytearray(megabytes * 1024 * 1024))
    return os.getpid()


GROWN: list[bytearray] = []


async def _waits(ctx: TaskContext, gate: str) -> str:
    Gate(gate).reach()
    try:
        await asyncio.sleep(60)
    finally:
        Gate(gate).reach("finally")
    return "slept"


async def _cancels_itself(ctx: TaskContext) -> None:
    raise asyncio.CancelledError("my own")


async def _adds(ctx: TaskContext, a: int, b: int) -> int:
    await asyncio.sleep(0)
    return a + b


for _function in (_waits, _cancels_itself, _adds):
    handler(_function.__name__.lstrip("_"))(_function)


@handler("guarded")
def guarded(ctx: TaskContext) -> int | None:
    """Hold a named semaphore of billiard's for a moment, and say by which pipe its tracker hears of it."""
    import billiard

    with billiard.get_context("spawn").Semaphore(1):
        return tracker_pipe()


def tracker_pipe() -> int | None:
    """The inode of the pipe to this process's tracker of semaphores, if there is one."""
    from billiard import semaphore_tracker

    pipe = semaphore_tracker._semaphore_tracker._fd
    return None if pipe is None else os.fstat(pipe).st_ino


@handler("sets_timers")
def sets_timers(ctx: TaskContext) -> int:
    """Set each interval timer to a minute from now, and leave it."""
    for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF):
        signal.setitimer(which, 60.0)
    return os.getpid()


@handler("timers")
def timers(ctx: TaskContext) -> list[float]:
    """Seconds that are left of each interval timer of the process."""
    return [signal.getitimer(which)[0] for which in (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)]
