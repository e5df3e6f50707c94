"""Callers in an event loop: a stalled broker or backend holds up those that wait for it, and nothing else (I12)."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from stem_kombu import AsyncResult, Stem
from stem_kombu.aio import THREADS
from stem_kombu.errors import ConfigurationError
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.worker.worker import Worker

TICKS = 200


@pytest.fixture
def proxy(redis_url: str) -> Iterator[TcpProxy]:
    there = urlsplit(redis_url)
    with TcpProxy(there.hostname or "", there.port or 0) as proxy:
        yield proxy


@pytest.fixture
def app(redis_url: str, proxy: TcpProxy) -> Iterator[Stem]:
    url = f"redis://{proxy.host}:{proxy.port}{urlsplit(redis_url).path}"
    app = Stem("async", broker=url, backend=url, timeout=2.0)
    app.task("async.double")(double)
    app.task("async.fails")(fails)
    yield app
    app.close()


def double(n: int) -> int:
    return 2 * n


def fails() -> None:
    raise ValueError("no such picture")


async def ticks(count: int) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


def test_a_coroutine_sends_and_gets_its_result(app: Stem) -> None:
    async def caller() -> list[Any]:
        handle = app.task("async.double")(double)
        sent = [await handle.asend(n) for n in range(3)] + [await app.asend_task("async.double", (3,))]
        sent.append(await handle.aapply_async((4,), task_id="mine", expires=60, retry=True))
        assert sent[-1].id == "mine"
        return list(await asyncio.wait_for(asyncio.gather(*sent), 60))

    with Worker(app, concurrency=1):
        assert asyncio.run(caller()) == [0, 2, 4, 6, 8]


def test_the_loop_goes_on_while_the_broker_is_silent(app: Stem, proxy: TcpProxy) -> None:
    async def caller() -> str:
        handle = app.task("async.double")(double)
        first = await handle.asend(1)
        proxy.stall()
        stalled = [asyncio.ensure_future(handle.asend(n)) for n in range(THREADS + 4)]
        asked = asyncio.ensure_future(result_of(first))
        await ticks(
            TICKS
        )  # each of them a pass of the loop, which the test would wait for ever for if a sender held it
        assert not any(one.done() for one in (*stalled, asked))
        proxy.resume()
        sent = await asyncio.wait_for(asyncio.gather(*stalled), 60)
        assert len({one.id for one in sent}) == THREADS + 4
        asked.cancel()
        return first.id

    async def result_of(result: AsyncResult[Any]) -> Any:
        return await result

    assert asyncio.run(caller())


def test_nothing_that_speaks_to_a_server_runs_in_the_loop_s_thread(app: Stem, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: set[int] = set()
    backend, producer = app.backend, app.producer
    assert backend is not None
    for holder, name in ((backend, "get"), (backend, "record"), (producer, "send_many")):
        monkeypatch.setattr(holder, name, noting(seen, getattr(holder, name)))

    async def caller() -> int:
        return int(await asyncio.wait_for(await_it(await app.asend_task("async.double", (4,))), 60))

    async def await_it(result: AsyncResult[Any]) -> Any:
        return await result

    with Worker(app, concurrency=1):
        assert asyncio.run(caller()) == 8
    assert seen and threading.get_ident() not in seen


#: What a coroutine may import in its loop's thread: how it gets at the threads, and the class of what it awaits.
_LIGHT = {
    "aio",
    "concurrency",
    "concurrency.threads",
    "queue",
    "_queue",
    "concurrency.thread_pool",
    "timeouts",
    "result",
    "outcome",
}
_COLD = """
import asyncio, sys, threading
from stem_kombu import Stem

app = Stem("cold", broker=sys.argv[1], backend=sys.argv[1])

@app.task("cold.double")
def double(n: int) -> int:
    return 2 * n

class Imports:
    def find_spec(self, name, path=None, target=None):
        (here if threading.current_thread() is threading.main_thread() else elsewhere).append(name)

async def sends():
    await double.asend(4)
    await app.asend_task("cold.double", (4,))

async def waits():
    try:
        await asyncio.wait_for(app.result("unknown"), 0.5)
    except asyncio.TimeoutError:
        pass

here, elsewhere = [], []
sys.meta_path.insert(0, Imports())
asyncio.run({"sends": sends, "waits": waits}[sys.argv[2]]())
print(" ".join(here))
print(" ".join(elsewhere))
"""


@pytest.mark.parametrize("cold", ["sends", "waits"])
def test_the_first_call_imports_no_driver_in_the_loop_s_thread(redis_url: str, cold: str) -> None:
    """The loop is held up by no import, nor by opening a backend, which takes tenths of a second."""
    done = subprocess.run([sys.executable, "-c", _COLD, redis_url, cold], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    here, elsewhere = (line.split() for line in done.stdout.split("\n")[:2])
    assert {name.removeprefix("stem_kombu.") for name in here} <= _LIGHT
    assert "redis" in elsewhere


def noting(seen: set[int], function: Any) -> Any:
    def noted(*args: Any, **kwargs: Any) -> Any:
        seen.add(threading.get_ident())
        return function(*args, **kwargs)

    return noted


def test_what_is_wrong_is_raised_to_the_coroutine(app: Stem) -> None:
    async def caller() -> None:
        with pytest.raises(TypeError, match="missing a required argument: 'n'"):
            await app.task("async.double")(double).asend()  # type: ignore[call-arg]
        with pytest.raises(TypeError, match="missing a required argument: 'n'"):
            await app.task("async.double")(double).aapply_async()
        with pytest.raises(ConfigurationError, match="knows no option 'countdwn'"):
            await app.task("async.double")(double).aapply_async((1,), countdwn=5)  # type: ignore[call-arg]

    asyncio.run(caller())


def test_a_forked_child_of_a_caller_sends_as_well(app: Stem) -> None:
    async def send() -> str:
        return (await app.asend_task("async.double", (1,))).id

    asyncio.run(send())
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            status = 0 if asyncio.run(send()) else 1
        finally:
            os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
