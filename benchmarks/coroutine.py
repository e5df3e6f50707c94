"""One coroutine that sends and waits, in a process of its own: how long it keeps its event loop from going on.

``python -m benchmarks.coroutine BROKER BACKEND``, with a worker beside it and the broker behind a proxy: prints what the first
call took of the loop, what 200 further ones did, and, once a line came on standard input, what calls to a silent broker did.

The first call loads some 330 modules (Kombu, py-amqp, redis-py), and so Python's collector of reference cycles looks at all that
is loaded at some time soon after it: 50,000 objects, in which time no thread runs. When that is depends on how many objects were
made before, so it fell into any of the phases. It is done here right after the first call, and is a figure of its own.
"""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections.abc import Awaitable, Callable

from stem_kombu import Stem

WARM, SILENT = 200, 3.0


class Gaps:
    """The longest time in milliseconds between two passes of the loop, by a coroutine that asks for each of them."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._last = time.perf_counter()

    async def watch(self) -> None:
        while True:
            await asyncio.sleep(0.0005)
            now = time.perf_counter()
            self._longest = max(self._longest, now - self._last)
            self._last = now

    async def during(self, act: Callable[[], Awaitable[object]]) -> float:
        """The longest one while that is awaited, and of a pass after it."""
        await asyncio.sleep(0.01)
        self._longest = 0.0
        await act()
        await asyncio.sleep(0.01)
        return self._longest * 1000


async def main(app: Stem) -> None:
    loop, gaps = asyncio.get_running_loop(), Gaps()
    watching = loop.create_task(gaps.watch())
    found = {"nothing": await gaps.during(lambda: asyncio.sleep(0.2))}
    found["the first call"] = await gaps.during(lambda: one(app))
    found["the collector's first look at all that is loaded"] = await gaps.during(collected)
    found["further calls"] = await gaps.during(lambda: many(app))
    print("warm", flush=True)
    await loop.run_in_executor(None, sys.stdin.readline)

    async def silent() -> None:
        sending = [loop.create_task(app.asend_task("bench.inline", (n,))) for n in range(4)]
        await asyncio.sleep(SILENT)
        assert not any(task.done() for task in sending)
        for task in sending:
            task.cancel()

    found["a silent broker"] = await gaps.during(silent)
    watching.cancel()
    print(json.dumps(found), flush=True)


async def one(app: Stem) -> None:
    await (await app.asend_task("bench.inline", (1,)))


async def collected() -> None:
    gc.collect()


async def many(app: Stem) -> None:
    for _ in range(WARM):
        await one(app)


if __name__ == "__main__":
    asyncio.run(main(Stem("coroutine", broker=sys.argv[1], backend=sys.argv[2])))
