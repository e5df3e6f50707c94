"""The application of the demo: a Mandelbrot picture in bands, rendered in child processes, and two small helpers."""

from __future__ import annotations

import asyncio

from stem_kombu import Stem, TaskContext
from stem_kombu.clock import SYSTEM

app = Stem("demo")

WIDTH, HEIGHT = 480, 320
DEPTH = 160
LEFT, RIGHT, TOP, BOTTOM = -2.2, 0.8, -1.0, 1.0


@app.task("demo.render", isolate=True, max_retries=0)
def render(ctx: TaskContext, first: int, last: int, rounds: int = 1) -> str:
    """Rows ``first`` to ``last`` of the picture, as hexadecimal: one byte a pixel. CPU-bound, a checkpoint in each row."""
    rows: list[str] = []
    for turn in range(rounds):
        rows = []
        for y in range(first, last):
            rows.append(bytes(_escape(x, y) for x in range(WIDTH)).hex())
            ctx.progress((turn * (last - first) + y - first + 1) / (rounds * (last - first)), row=y)
    return "".join(rows)


@app.task("demo.caption")
def caption(ctx: TaskContext, title: str) -> str:
    """Inline: a thread of the worker."""
    ctx.heartbeat()
    return title.upper()


@app.task("demo.announce")
async def announce(ctx: TaskContext, to: str) -> str:
    """Inline, on the worker's event loop."""
    await asyncio.sleep(0)
    return f"told {to}"


@app.task("demo.stubborn", isolate=True, max_retries=0)
def stubborn(ctx: TaskContext, seconds: float) -> None:
    """Works in a child process without one checkpoint: only a signal ends it before its time."""
    until = SYSTEM.monotonic() + seconds
    while SYSTEM.monotonic() < until:
        SYSTEM.sleep(0.05)


def _escape(x: int, y: int) -> int:
    c = complex(LEFT + (RIGHT - LEFT) * x / WIDTH, TOP + (BOTTOM - TOP) * y / HEIGHT)
    z = 0j
    for step in range(DEPTH):
        if z.real * z.real + z.imag * z.imag > 4.0:
            return step
        z = z * z + c
    return DEPTH
