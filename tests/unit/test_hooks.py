"""Hooks around attempts, and what may be one."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext, current_context
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.handlers import call, call_async
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.task import TaskMessage
from stem_kombu.worker.worker import Worker


class Quiet:
    """Signals of a context that nobody stops."""

    def check(self) -> None: ...

    heartbeat = check


def run(app: Stem, name: str) -> Outcome:
    task, message = app.registry.get(name), TaskMessage("t", name)
    context = TaskContext(Quiet(), task_id="t", name=name)  # type: ignore[arg-type]
    if task.is_async:
        return asyncio.run(call_async(task, message, context, lambda: None))
    return call(task, message, context)


@pytest.fixture
def app() -> Stem:
    return Stem("hooks", broker="memory://hooks")


def test_hooks_run_around_each_attempt_and_see_its_context_and_outcome(app: Stem) -> None:
    seen: list[Any] = []

    @app.on_task_start
    def started(ctx: TaskContext) -> None:
        seen.append(("start", ctx.name, current_context() is ctx))

    @app.on_task_end
    def ended(ctx: TaskContext, outcome: Outcome) -> None:
        seen.append(("end", ctx.name, outcome.kind))

    @app.on_task_start
    @app.on_task_end
    def both() -> None:
        seen.append("both")

    @app.on_task_start
    async def in_loop(ctx: TaskContext) -> None:
        seen.append(asyncio.get_running_loop().is_running())

    @app.task("plain")
    def plain(ctx: TaskContext) -> None:
        raise ValueError("no")

    @app.task("coroutine")
    async def coroutine(ctx: TaskContext) -> int:
        return 1

    assert run(app, "plain").kind is Ending.FAILED
    assert seen == [("start", "plain", True), "both", ("end", "plain", Ending.FAILED), "both"]
    seen.clear()
    assert run(app, "coroutine").result == 1
    assert seen == [("start", "coroutine", True), "both", True, ("end", "coroutine", Ending.SUCCEEDED), "both"]


def test_a_start_hook_that_fails_is_the_attempts_failure_and_the_handler_is_not_called(app: Stem) -> None:
    called = []

    @app.on_task_start
    def refuses() -> None:
        raise LookupError("no tenant")

    @app.task("plain")
    def plain(ctx: TaskContext) -> None:
        called.append(1)

    outcome = run(app, "plain")
    assert outcome.kind is Ending.FAILED
    assert outcome.error is not None
    assert (outcome.error.type, called) == ("LookupError", [])


def test_an_end_hook_that_fails_is_logged_and_the_outcome_stands(app: Stem, caplog: pytest.LogCaptureFixture) -> None:
    @app.on_task_end
    def breaks() -> None:
        raise SystemExit(3)

    @app.task("plain")
    def plain(ctx: TaskContext) -> int:
        return 7

    assert run(app, "plain").result == 7
    assert "breaks failed: SystemExit(3)" in caplog.text


def test_what_can_not_be_called_as_a_hook_is_refused_where_it_is_registered(app: Stem) -> None:
    with pytest.raises(ConfigurationError, match="at most 1 positional"):
        app.on_task_start(lambda ctx, more: None)
    with pytest.raises(ConfigurationError, match="coroutine function"):

        @app.on_child_start
        async def connect() -> None: ...


def test_hooks_of_a_worker_get_it_and_a_start_that_fails_by_one_leaves_nothing(app: Stem) -> None:
    seen: list[tuple[str, str]] = []

    @app.task("plain")
    def plain(ctx: TaskContext) -> None: ...

    app.on_worker_start(lambda worker: seen.append(("start", worker.identity.worker)))
    app.on_worker_stop(lambda worker: seen.append(("stop", worker.state)))
    with Worker(app, name="alpha"):
        assert seen == [("start", "alpha")]
    assert seen == [("start", "alpha"), ("stop", "draining")]

    @app.on_worker_start
    def refuses() -> None:
        raise LookupError("not today")

    with pytest.raises(LookupError, match="not today"):
        Worker(app, name="alpha").start()
