"""The application of these tests, in a folder that only the worker's current directory makes importable."""

from __future__ import annotations

import asyncio
import os
import uuid
from pathlib import Path
from typing import Any

from stem_kombu import Stem, TaskContext
from stem_kombu.testing.gates import Gate

app = Stem("shop")
not_an_app = object()


@app.task("shop.add", isolate=True)
def add(ctx: TaskContext, a: int, b: int = 0) -> int:
    return a + b


def gated(ctx: TaskContext, gate: str, deaf: bool = False, patience: float = 60.0) -> str:
    """Works at a gate, with a checkpoint at each look unless ``deaf``, until the test opens it."""
    Gate(gate).reach(f"attempt-{ctx.attempt}")
    Gate(gate).reach()
    Gate(gate).wait_open(patience, checkpoint=None if deaf else lambda: ctx.progress(0.25, tile=3))
    return "rendered"


app.task("shop.render", isolate=True, max_retries=0)(gated)
app.task("shop.report", max_retries=0)(gated)


def marked(ctx: TaskContext, folder: str) -> int:
    """Leaves a file for each time that it starts."""
    (Path(folder) / f"{ctx.task_id} {ctx.attempt} {uuid.uuid4().hex}").touch()
    return ctx.attempt


app.task("shop.mark", isolate=True)(marked)
app.task("shop.note")(marked)


@app.task("shop.again", isolate=True, max_retries=2)
def again(ctx: TaskContext, folder: str, gate: str) -> int:
    """Tries again once: when the gate is open."""
    marked(ctx, folder)
    if ctx.attempt == 1:
        Gate(gate).reach(ctx.task_id)
        Gate(gate).wait_open()
        raise ctx.retry(countdown=0.1)
    return ctx.attempt


@app.task("shop.fetch", max_retries=0)
async def fetch(ctx: TaskContext, gate: str) -> str:
    Gate(gate).reach()
    await asyncio.sleep(120)
    return "fetched"


@app.task("shop.fails", isolate=True, max_retries=0)
def fails(ctx: TaskContext) -> None:
    raise ValueError("two\nlines and \x1b[31mred")


@app.task("shop.needs", isolate=True, max_retries=0)
def needs(ctx: TaskContext, path: str) -> str:
    """Fails until there is a file at that path."""
    return Path(path).read_text()


@app.task("shop.no_json", isolate=True, max_retries=0)
def no_json(ctx: TaskContext) -> object:
    return object()


@app.control_command("double")
def double(view: Any, number: int) -> dict[str, int]:
    return {"doubled": number * 2}


@app.control_command("broken")
def broken(view: Any) -> dict[str, int]:
    raise ValueError("kaputt")


@app.task("shop.echo", max_retries=0)
def echo(ctx: TaskContext, *args: Any, **kwargs: Any) -> list[Any]:
    return [list(args), kwargs, ctx.attempt, dict(ctx.headers)]


@app.task("shop.stamp", isolate=True, max_retries=0)
def stamp(ctx: TaskContext, number: int, folder: str) -> None:
    with (Path(folder) / "stamps").open("a") as file:
        file.write(f"{number}\n")


@app.task("shop.who", isolate=True)
def who(ctx: TaskContext) -> int:
    return os.getpid()


@app.task("shop.holds", isolate=True, max_retries=0)
def holds(ctx: TaskContext, place: str, gate: str, **secrets: Any) -> None:
    """Holds secrets until the test opens the gate, and then fails without a word about them."""
    Gate(gate).reach()
    Gate(gate).wait_open(checkpoint=ctx.heartbeat)
    raise ValueError("something went wrong")
