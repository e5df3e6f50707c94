"""The application of the soak: tasks that do next to nothing, in both modes, and some that fail."""

from __future__ import annotations

import gc
import sys
import time
from typing import Any

from stem_kombu import Stem, TaskContext

app = Stem("soak")


@app.task("soak.inline")
def inline(ctx: TaskContext, number: int) -> int:
    ctx.heartbeat()
    return number


@app.task("soak.isolate", isolate=True)
def isolate(ctx: TaskContext, number: int) -> int:
    ctx.progress(0.5, number=number)
    return number


@app.task("soak.pause")
def pause(ctx: TaskContext, number: int) -> int:
    """Holds its slot for a moment, so that all slots are had at once."""
    time.sleep(0.5)
    return number


@app.task("soak.fails", max_retries=1, retry_backoff=0.0, retry_jitter=0.0)
def fails(ctx: TaskContext, number: int) -> None:
    raise ValueError(number)


@app.control_command("blocks")
def blocks(view: Any) -> dict[str, int]:
    """What Python holds in this process, in memory blocks, garbage apart: the resident size has gaps between them as well."""
    gc.collect()
    return {"blocks": sys.getallocatedblocks()}
