"""What developers test their own tasks with: attempts that run here, senders whose tasks run at once."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest

from stem_kombu import Stem, TaskContext, TaskRevoked, current_context
from stem_kombu.errors import ConfigurationError, TaskCancelled, TaskFailed, TaskNotRegistered
from stem_kombu.outcome import TaskState
from stem_kombu.testing.environment import Progress, TaskEnvironment

app = Stem("tested", broker="redis://127.0.0.1:1/0", backend="redis://127.0.0.1:1/0")
done: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_done() -> None:
    done.clear()


@app.task("tested.render", max_retries=2)
def render(ctx: TaskContext, tiles: list[int]) -> tuple[int, int]:
    for tile in tiles:
        ctx.progress(tile / 10, tile=tile)
        done.append(tile)
    return len(tiles), ctx.attempt


@app.task("tested.fetch")
async def fetch(ctx: TaskContext, count: int) -> str:
    for number in range(count):
        await asyncio.sleep(0)
        ctx.heartbeat()
        done.append(number)
    return ctx.task_id


@app.task("tested.plain", isolate=True)
def plain(n: int) -> list[Any]:
    current_context().extend_lease(30)
    return [n, current_context().is_isolate]


@app.task("tested.fails", max_retries=2)
def fails(ctx: TaskContext, until: int = 99) -> str:
    done.append(ctx.attempt)
    if ctx.attempt < until:
        raise KeyError("no such picture")
    return "at last"


def asks(ctx: TaskContext) -> None:
    while ctx.revoked is None:
        ctx.heartbeat()
        done.append("asked")
    raise TaskRevoked(ctx.revoked)


def test_a_revoke_at_the_third_checkpoint_ends_the_attempt_there() -> None:
    run = TaskEnvironment().run(render, [1, 2, 3, 4], revoke_after=3, reason="wrong picture")
    assert (run.ending, run.checkpoints, done) == ("cancelled", 3, [1, 2])
    assert run.outcome is not None and run.outcome.revocation is not None
    assert run.outcome.revocation.reason == "wrong picture"
    with pytest.raises(TaskCancelled):
        run.get()


def test_such_a_test_needs_no_more_than_fifty_milliseconds_of_this_process() -> None:
    began = time.process_time()
    TaskEnvironment().run(render, [1, 2, 3, 4], revoke_after=3)
    assert time.process_time() - began < 0.05


def test_a_coroutine_is_stopped_at_its_checkpoint_as_well() -> None:
    assert TaskEnvironment().run(fetch, 5, revoke_after=3).ending == "cancelled"
    assert done == [0, 1]
    assert TaskEnvironment(task_id="mine").run(fetch, count=1).get() == "mine"


def test_a_coroutine_runs_from_a_test_that_is_one_itself() -> None:
    async def a_test() -> Any:
        return TaskEnvironment(task_id="mine").run(fetch, 1).get()

    assert asyncio.run(a_test()) == "mine"


def test_a_handler_may_ask_whether_it_is_revoked() -> None:
    assert TaskEnvironment().run(asks, revoke_after=3).ending == "cancelled"
    assert done == ["asked", "asked"]


def test_what_a_handler_reports_is_kept() -> None:
    run = TaskEnvironment(attempt=2).run(render, [1, 2])
    assert run.get() == [2, 2]  # JSON has no tuples
    assert run.progress == [Progress(0.1, {"tile": 1}), Progress(0.2, {"tile": 2})]
    lease = TaskEnvironment().run(plain, 1)
    assert (lease.result, lease.leases) == ([1, True], [30.0])


def test_a_failure_shows_where_it_was() -> None:
    run = TaskEnvironment().run(fails)
    assert run.ending == "failed" and run.error is not None and run.error.type == "KeyError"
    with pytest.raises(TaskFailed, match="no such picture") as told:
        run.get()
    assert "in fails" in str(told.value)


def test_time_limits_pass_as_the_test_says() -> None:
    def slow(ctx: TaskContext) -> str:
        environment.time.advance(11)
        ctx.heartbeat()
        return "done"

    environment = TaskEnvironment(soft_time_limit=10)
    run = environment.run(slow)
    assert run.error is not None and run.error.type == "SoftTimeLimitExceeded"
    assert TaskEnvironment(soft_time_limit=10, checkpoint_takes=5).run(render, [1, 2]).checkpoints == 2
    hard = TaskEnvironment(time_limit=10, checkpoint_takes=4).run(render, [1, 2, 3, 4])
    assert hard.error is not None and hard.error.type == "TimeLimitExceeded" and hard.checkpoints == 3
    assert TaskEnvironment(checkpoint_takes=4).run(render, [1, 2]).ending == "succeeded"


def test_a_worker_that_stops_gives_the_attempt_back() -> None:
    assert TaskEnvironment().run(render, [1, 2, 3], release_after=2).ending == "released"
    assert done == [1]


def test_a_retry_that_the_handler_asks_for_has_its_countdown() -> None:
    def busy(ctx: TaskContext) -> None:
        raise ctx.retry("busy", countdown=30)

    run = TaskEnvironment().run(busy)
    assert (run.ending, run.retry_in) == ("retry", 30)


@pytest.mark.parametrize("number", [0, -1])
def test_checkpoints_are_counted_from_one(number: int) -> None:
    with pytest.raises(ConfigurationError, match="must be at least 1"):
        TaskEnvironment().run(render, [1], revoke_after=number)


def test_what_could_not_be_sent_is_refused_here_as_well() -> None:
    with pytest.raises(TypeError, match="missing a required argument: 'tiles'"):
        TaskEnvironment().run(render)
    with pytest.raises(ConfigurationError, match="can't be sent as JSON"):
        TaskEnvironment().run(render, {1, 2})
    assert TaskEnvironment().run(lambda: {1}).ending == "rejected"


# -- eager ------------------------------------------------------------------------------------------------------------


def test_a_task_that_is_sent_runs_at_once_and_its_result_stays() -> None:
    with app.eager():
        result = render.delay([1, 2])
        assert done == [1, 2]
        assert app.result(result.id).get(timeout=0) == [2, 1]
    assert result.get(timeout=0) == [2, 1]
    assert result.record is not None and result.record.worker == "eager"


@pytest.mark.parametrize(
    ("until", "options", "state", "attempts"),
    [
        (3, {}, TaskState.SUCCEEDED, 3),
        (99, {}, TaskState.FAILED, 3),
        (99, {"max_retries": 0}, TaskState.FAILED, 1),
    ],
)
def test_retries_come_at_once(until: int, options: Any, state: TaskState, attempts: int) -> None:
    with app.eager():
        result = fails.apply_async((until,), **options)
    assert (result.state, len(done)) == (state, attempts)


def test_many_and_coroutines_and_names_run_as_well() -> None:
    async def sends() -> Any:
        return await (await fetch.asend(2))

    with app.eager():
        assert [one.get(0) for one in plain.send_many([(1,), {"n": 2}])] == [[1, True], [2, True]]
        assert asyncio.run(sends())
        assert app.send_task("tested.plain", (3,)).get(0) == [3, True]
        assert app.send_task("tested.plain").state is TaskState.FAILED


def test_a_task_that_the_application_does_not_have_is_told() -> None:
    with app.eager(), pytest.raises(TaskNotRegistered, match=r"'tested\.rendr' is not registered"):
        app.send_task("tested.rendr")


def test_hooks_run_around_a_task_that_runs_at_once() -> None:
    hooked = Stem("hooked")
    hooked.on_task_start(lambda ctx: done.append(ctx.name))
    hooked.on_task_end(lambda ctx, outcome: done.append(outcome.kind.value))
    with hooked.eager():
        hooked.task("hooked.double", context=False)(lambda n: 2 * n).delay(1)
    assert done == ["hooked.double", "succeeded"]


def test_after_the_block_tasks_are_sent_again() -> None:
    sender = Stem("after", broker="memory://after", backend="memory://after", revoke_store="memory://after")
    handle = sender.task("after.note", context=False)(done.append)
    with sender.eager():
        handle.delay(1)
    sent = handle.delay(2)
    assert (done, sent.state) == ([1], TaskState.QUEUED)
    sender.close()
