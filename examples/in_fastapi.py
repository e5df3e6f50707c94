"""FastAPI under uvicorn: requests send tasks and wait for results in the event loop; a worker runs inside the process.

uvicorn examples.in_fastapi:web
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

from fastapi import FastAPI

from stem_kombu import Stem, Worker

stem = Stem("shop")


@stem.task("shop.double")
def double(n: int) -> int:
    return 2 * n


@asynccontextmanager
async def worker_inside(_: FastAPI) -> AsyncGenerator[None, None]:
    """Leave this out, and start workers beside the web process:  stem worker start -A examples.in_fastapi:stem"""
    from fastapi.concurrency import run_in_threadpool

    worker = Worker(stem, concurrency=1)
    await run_in_threadpool(worker.start)
    try:
        yield
    finally:
        await run_in_threadpool(worker.stop)


web = FastAPI(lifespan=worker_inside)


@web.get("/double/{n}")
async def doubled(n: int) -> int:
    return await (await double.asend(n))
