"""A developer's module: both checkers find nothing in it, and see the types that it asserts."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import TYPE_CHECKING, Any

from stem_kombu import AsyncResult, Stem, TaskContext
from stem_kombu.keywords import RetryPolicy
from stem_kombu.task_handle import TaskHandle

if TYPE_CHECKING:
    from typing_extensions import assert_type
else:

    def assert_type(value: object, kind: object) -> None: ...


app = Stem("shop", broker="memory://", namespace="shop", timeout="5s")
configured = Stem("shop", settings={"broker": "memory://"})


@app.task("mail.send", max_retries=3, isolate=True)
def send(to: str, subject: str, *, urgent: bool = False) -> int:
    return len(to) + len(subject) + urgent


@app.task("shop.render")
def render(ctx: TaskContext, tiles: list[int], size: int = 256) -> str:
    ctx.progress(0.5, tile=size)
    return str(tiles)


@app.task
def bare(width: int) -> float:
    return width / 2


@app.task
def bare_with_context(ctx: TaskContext, width: int) -> float:
    return width / ctx.attempt


@app.task("shop.fetch")
async def fetch(ctx: TaskContext, url: str) -> bytes:
    return url.encode()


@app.task("shop.ask")
async def ask(url: str) -> dict[str, int]:
    return {url: 1}


@app.task("shop.log", context=False)
def log(what: object, level: int = 1) -> None: ...


@app.task("shop.any", context=True)
def with_any(job: Any, width: int) -> int:
    return width


def senders() -> None:
    assert_type(send.delay("a@shop.example", "hello", urgent=True), AsyncResult[int])
    assert_type(send.delay("a@shop.example", subject="hello").get(timeout=30), int)
    assert_type(render.delay([1, 2], size=512), AsyncResult[str])
    assert_type(render.delay(tiles=[1, 2]).get(), str)
    assert_type(bare.delay(3), AsyncResult[float])
    assert_type(bare_with_context.delay(width=3), AsyncResult[float])
    assert_type(fetch.delay("https://shop.example").get(), bytes)
    assert_type(ask.delay("https://shop.example"), AsyncResult[dict[str, int]])
    assert_type(log.delay("text", level=2), AsyncResult[None])
    assert_type(with_any.delay(3), AsyncResult[int])
    assert_type(send.apply_async(("a", "b"), queue="mail", countdown=5, task_id="t1"), AsyncResult[int])
    assert_type(send.send_many([("a", "b")], expires=60), list[AsyncResult[int]])
    policy: RetryPolicy = {"max_retries": None, "interval_start": 0, "interval_step": 0.5, "interval_max": 5}
    assert_type(send.apply_async(("a", "b"), retry=True, retry_policy=policy), AsyncResult[int])
    assert_type(send.send_many([("a", "b")], retry_policy={"max_retries": 8}), list[AsyncResult[int]])
    app.send_task("mail.send", ("a", "b"), retry=False)
    assert_type(app.send_task("mail.send", ("a", "b")), AsyncResult[Any])
    handle: TaskHandle[[int], float] = bare
    handle.delay(3)


async def coroutines() -> None:
    assert_type(await send.asend("a", "b"), AsyncResult[int])
    assert_type(await (await send.aapply_async(("a", "b"), task_id="t1", retry=True)), int)


def callers(ctx: TaskContext) -> None:
    assert_type(send("a", "b"), int)
    assert_type(render(ctx, [1]), str)
    coroutine: Coroutine[Any, Any, bytes] = fetch(ctx, "https://shop.example")
    coroutine.close()
