"""An application with the three kinds of handlers."""

from __future__ import annotations

import asyncio

from stem_kombu import Stem, TaskContext

app = Stem("shop")


@app.task("shop.render", isolate=True, max_retries=0)
def render(ctx: TaskContext, tiles: int) -> int:
    """CPU-bound: a child process runs it, and a terminate stops it at its next checkpoint."""
    for tile in range(tiles):
        sum(n * n for n in range(20_000))
        ctx.progress(tile / tiles, tile=tile)
    return tiles


@app.task("shop.report")
def report(ctx: TaskContext, chunks: list[str]) -> str:
    """Waits for others, so a thread of the worker will do."""
    lines = []
    for chunk in chunks:
        lines.append(chunk.upper())
        ctx.heartbeat()
    return "\n".join(lines)


@app.task("shop.notify")
async def notify(ctx: TaskContext, address: str, delay: float = 0.0) -> str:
    """A coroutine on the worker's loop: cancelled at its next await."""
    await asyncio.sleep(delay)
    return f"told {address}"
