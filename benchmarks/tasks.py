"""The tasks that Stem's workers run here. ``time.monotonic`` is one clock for all processes of a machine (Linux)."""

from __future__ import annotations

import time
from pathlib import Path

from benchmarks.notes import note
from stem_kombu import Stem, TaskContext

app = Stem("benchmarks")


@app.task("bench.busy", isolate=True, max_retries=0)
def busy(ctx: TaskContext, path: str) -> None:
    """Checkpoints every millisecond, and notes when it was stopped."""
    note(path, "started")
    try:
        while True:
            time.sleep(0.001)
            ctx.check()
    finally:
        note(path, "stopped")


@app.task("bench.mark", isolate=True, max_retries=0)
def mark(ctx: TaskContext, path: str) -> None:
    """Notes when it began."""
    note(path, "marked")


@app.task("bench.isolate", isolate=True)
def isolate_no_op(ctx: TaskContext, payload: str = "") -> None:
    """Nothing, in a child."""


@app.task("bench.inline")
def inline_no_op(ctx: TaskContext, payload: str = "") -> None:
    """Nothing, in a thread."""


@app.task("bench.async")
async def async_no_op(ctx: TaskContext, payload: str = "") -> None:
    """Nothing, on the loop."""


@app.task("bench.checkpoints", isolate=True)
def checkpoints(ctx: TaskContext, path: str, rounds: int) -> None:
    """Measures checkpoints with nothing pending, in a child, and writes nanoseconds of one: bare, and heartbeat()."""
    found = []
    for checkpoint in (ctx.check, ctx.heartbeat):
        numbers = range(rounds)
        began = time.perf_counter_ns()
        for _ in numbers:
            checkpoint()
        took = time.perf_counter_ns() - began
        began = time.perf_counter_ns()
        for _ in numbers:
            pass
        found.append((took - (time.perf_counter_ns() - began)) / rounds)
    Path(path).write_text(" ".join(map(str, found)))


@app.task("bench.inline-checkpoints")
def inline_checkpoints(ctx: TaskContext, path: str, rounds: int) -> None:
    """The same in a thread."""
    checkpoints(ctx, path, rounds)


#: One application for each kind, so that a worker makes room for that kind alone.
inline_app, async_app, isolate_app = Stem("inline"), Stem("async"), Stem("isolate")


def _only_note(ctx: TaskContext, path: str) -> None:
    note(path, "marked")


async def _only_note_async(ctx: TaskContext, path: str) -> None:
    note(path, "marked")


inline_app.task("bench.inline")(inline_no_op)


@inline_app.task("bench.step")
def step(ctx: TaskContext, path: str, seconds: float = 0.02) -> None:
    """Notes when it began, and leaves the processors to others for so long."""
    note(path, "started")
    time.sleep(seconds)


inline_app.task("bench.inline-mark")(_only_note)
async_app.task("bench.async")(async_no_op)
async_app.task("bench.async-mark")(_only_note_async)
isolate_app.task("bench.isolate", isolate=True)(isolate_no_op)
isolate_app.task("bench.isolate-mark", isolate=True)(_only_note)
