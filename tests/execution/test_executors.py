"""What inline and isolate executors promise alike: one body, both kinds."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.clock import SYSTEM
from stem_kombu.errors import ConfigurationError
from stem_kombu.execution.base import Executor, Job, Stop
from stem_kombu.execution.inline import InlineExecutor
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.outcome import Ending, Outcome
from stem_kombu.revocation import Revocation
from stem_kombu.testing.executors import JobMaker, Recording
from stem_kombu.testing.gates import Gate
from tests.execution.handlers import app
from tests.execution.programs import run_program

REVOCATION = Revocation("stem", "t", 1, SYSTEM.utcnow(), terminate=True, reason="wrong picture", requested_by="ada@ops")


@pytest.fixture
def observer() -> Recording:
    return Recording()


@pytest.fixture(params=["inline", "isolate"])
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def executor(mode: str, observer: Recording) -> Iterator[Executor]:
    made: Any = (
        InlineExecutor(2, observer) if mode == "inline" else IsolatePool(2, "tests.execution.handlers:app", observer)
    )
    made.start()
    yield made
    made.stop(0.0)


@pytest.fixture
def job(mode: str) -> JobMaker:
    return JobMaker(app.registry, mode)


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    return Gate(tmp_path / "gate")


def test_a_result_comes_back_as_json_holds_it(executor: Executor, observer: Recording, job: JobMaker) -> None:
    first = job("echo", value={"a": (1, 2.5, None, "é")})
    executor.submit(first)
    outcome = observer.outcome(first)
    assert (outcome.kind, outcome.result) == (Ending.SUCCEEDED, {"a": [1, 2.5, None, "é"]})


def test_the_handler_knows_who_it_is(executor: Executor, observer: Recording, job: JobMaker, mode: str) -> None:
    first = job("who")
    executor.submit(first)
    result = observer.outcome(first).result
    assert result["isolate"] is (mode == "isolate")
    assert (result["pid"] == os.getpid()) is (mode == "inline")
    assert result["current"] is True
    assert observer.wait_for("started", first) == result["pid"]


@pytest.mark.parametrize("how", ["check", "heartbeat", "progress", "extend_lease"])
def test_g7_each_checkpoint_raises_in_the_handler_once_a_terminate_is_pending(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate, how: str
) -> None:
    running = job("at_checkpoint", gate.path, how)
    executor.submit(running)
    gate.wait_reached()
    observer.wait_for("started", running)
    assert executor.stop_job(running.token, Stop.REVOKED, REVOCATION)
    outcome = observer.outcome(running)
    assert (outcome.kind, outcome.revocation) == (Ending.CANCELLED, REVOCATION)
    assert gate.reached("finally") is not None


@pytest.mark.parametrize(
    ("how", "reported"),
    [("check", "heartbeat"), ("heartbeat", "heartbeat"), ("progress", "progress"), ("extend_lease", "extend_lease")],
)
def test_each_checkpoint_tells_the_worker_that_the_handler_has_checkpoints(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate, how: str, reported: str
) -> None:
    running = job("at_checkpoint", gate.path, how)
    executor.submit(running)
    # an operator would take a handler that is not heard of for one that a terminate can't stop
    observer.wait_for(reported, running)
    gate.open()
    assert observer.outcome(running).result == "opened"


def test_g7_a_handler_without_checkpoints_finishes_naturally(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    running = job("without_checkpoint", gate.path)
    executor.submit(running)
    gate.wait_reached()
    observer.wait_for("started", running)
    assert executor.stop_job(running.token, Stop.REVOKED, REVOCATION)
    gate.open()
    outcome = observer.outcome(running)
    assert (outcome.kind, outcome.result) == (Ending.SUCCEEDED, "finished")


def test_g7_a_coroutine_is_cancelled_at_its_next_await(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    running = job("waits", gate.path)
    executor.submit(running)
    gate.wait_reached()
    assert executor.stop_job(running.token, Stop.REVOKED, REVOCATION)
    assert observer.outcome(running).kind is Ending.CANCELLED
    assert gate.reached("finally") is not None


def test_a_coroutine_that_cancels_itself_was_not_revoked(
    executor: Executor, observer: Recording, job: JobMaker
) -> None:
    running = job("cancels_itself")
    executor.submit(running)
    outcome = observer.outcome(running)
    assert outcome.kind is Ending.FAILED
    assert outcome.error is not None and outcome.error.type == "CancelledError"


def test_a_coroutine_returns_its_result(executor: Executor, observer: Recording, job: JobMaker) -> None:
    adds = job("adds", 2, b=3)
    executor.submit(adds)
    assert observer.outcome(adds).result == 5


def test_g8_a_terminate_for_a_job_that_has_ended_never_hits_the_next_one(
    executor: Executor, observer: Recording, job: JobMaker, tmp_path: Path
) -> None:
    for round_ in range(20):
        gate = Gate(tmp_path / str(round_))
        ended, following = job("echo", task_id="same"), job("at_checkpoint", gate.path, "check", task_id="same")
        executor.submit(ended)
        observer.outcome(ended)
        executor.submit(following)
        gate.wait_reached()
        assert not executor.stop_job(ended.token, Stop.REVOKED, REVOCATION)
        gate.open()
        assert observer.outcome(following).result == "opened"


def test_g11_catching_exception_does_not_swallow_a_terminate_and_finally_runs(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    running = job("swallows_exceptions", gate.path)
    executor.submit(running)
    gate.wait_reached()
    observer.wait_for("started", running)
    executor.stop_job(running.token, Stop.REVOKED, REVOCATION)
    assert observer.outcome(running).kind is Ending.CANCELLED
    assert gate.reached("swallowed") is None
    assert gate.reached("finally") is not None


def test_g9_a_handler_that_finishes_though_it_was_told_to_stop_has_succeeded(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    running = job("swallows_everything", gate.path)
    executor.submit(running)
    gate.wait_reached()
    observer.wait_for("started", running)
    executor.stop_job(running.token, Stop.REVOKED, REVOCATION)
    outcome = observer.outcome(running)
    assert (outcome.kind, outcome.result) == (Ending.SUCCEEDED, "finished all the same")


def test_a_handler_may_ask_instead_of_being_interrupted(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    running = job("asks", gate.path)
    executor.submit(running)
    gate.wait_reached()
    observer.wait_for("started", running)
    executor.stop_job(running.token, Stop.REVOKED, REVOCATION)
    assert observer.outcome(running).result == "wrong picture"


def test_g3_a_job_that_is_revoked_while_it_waits_for_a_slot_never_starts(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    blockers = [job("without_checkpoint", gate.path) for _ in range(executor.slots)]
    waiting = job("echo", task_id="revoked")
    for blocker in blockers:
        executor.submit(blocker)
    for blocker in blockers:
        observer.wait_for("started", blocker)
    executor.submit(waiting)
    observer.revoked["revoked"] = REVOCATION
    gate.open()
    assert observer.outcome(waiting).kind is Ending.CANCELLED
    assert not [call for call in observer.calls if call[1] == waiting.token]


def test_a_job_that_waits_can_be_taken_back_and_one_that_runs_can_not(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    blockers = [job("without_checkpoint", gate.path) for _ in range(executor.slots)]
    waiting = job("echo")
    for blocker in blockers:
        executor.submit(blocker)
    for blocker in blockers:
        observer.wait_for("started", blocker)
    executor.submit(waiting)
    assert executor.withdraw(waiting.token)
    assert observer.outcome(waiting).kind is Ending.RELEASED
    assert not executor.withdraw(blockers[0].token)
    gate.open()


@pytest.mark.parametrize(
    ("name", "kind", "error"),
    [
        ("fails", Ending.FAILED, "ValueError"),
        ("retries", Ending.RETRY, "Retry"),
        ("returns_no_json", Ending.REJECTED, "ResultNotSerializable"),
        ("exits", Ending.FAILED, "SystemExit"),
    ],
)
def test_what_a_handler_raises_or_returns_is_told_and_the_slot_lives_on(
    executor: Executor, observer: Recording, job: JobMaker, name: str, kind: Ending, error: str
) -> None:
    running, following = job(name), job("echo", value=1)
    executor.submit(running)
    outcome = observer.outcome(running)
    assert outcome.kind is kind
    assert outcome.error is not None and outcome.error.type == error
    executor.submit(following)
    assert observer.outcome(following).result == 1


def test_a_failure_keeps_its_traceback_and_text_that_no_store_can_hold_is_made_harmless(
    executor: Executor, observer: Recording, job: JobMaker
) -> None:
    running = job("fails", text="bad \ud800 text")
    executor.submit(running)
    error = observer.outcome(running).error
    assert error is not None and error.traceback is not None
    assert "ValueError" in error.traceback
    assert error.message.encode() and error.traceback.encode()


def test_arguments_that_the_handler_does_not_take_are_rejected_before_it_is_called(
    executor: Executor, observer: Recording, job: JobMaker
) -> None:
    running = job("echo", 1, 2, 3, nonsense=True)
    executor.submit(running)
    outcome = observer.outcome(running)
    assert outcome.kind is Ending.REJECTED
    assert outcome.error is not None and outcome.error.type == "TypeError"


def test_the_soft_limit_is_raised_once_at_a_checkpoint(executor: Executor, observer: Recording, job: JobMaker) -> None:
    running = job("cleans_up_after_soft_limit")
    executor.submit(running)
    assert observer.outcome(running).result == "cleaned up"


def test_progress_reaches_the_worker_with_its_data(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    running = job("at_checkpoint", gate.path, "progress")
    executor.submit(running)
    assert observer.wait_for("progress", running) == (0.5, {"tile": 3})
    gate.open()


def test_the_view_shows_what_runs_where(executor: Executor, observer: Recording, job: JobMaker, gate: Gate) -> None:
    running = job("at_checkpoint", gate.path, "check", task_id="shown")
    executor.submit(running)
    observer.wait_for("started", running)
    (slot,) = [slot for slot in executor.view() if slot.task_id == "shown"]
    assert slot.state == "running"
    assert slot.pid == observer.wait_for("started", running)
    gate.open()


def test_g20_stopping_lets_what_runs_finish_and_gives_back_what_waits(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate
) -> None:
    blockers = [job("without_checkpoint", gate.path) for _ in range(executor.slots)]
    waiting = job("echo")
    for blocker in blockers:
        executor.submit(blocker)
    for blocker in blockers:
        observer.wait_for("started", blocker)
    executor.submit(waiting)
    gate.open()
    executor.stop()
    assert [observer.outcome(blocker).kind for blocker in blockers] == [Ending.SUCCEEDED] * executor.slots
    assert observer.outcome(waiting).kind in (Ending.RELEASED, Ending.SUCCEEDED)


def test_g20_a_stop_returns_only_when_the_end_of_what_ran_was_told(
    tmp_path: Path, mode: str, gate: Gate, job: JobMaker
) -> None:
    """What is told after the stop comes too late to be recorded: the task would be shown as running, and run again."""
    order: list[str] = []
    has_stopped = threading.Event()

    class Slow(Recording):
        def ended(self, job: Job, outcome: Outcome) -> None:
            has_stopped.wait(0.3)  # long enough for a stop that does not wait for this
            order.append("told")
            super().ended(job, outcome)

    executor: Any = (
        InlineExecutor(1, Slow()) if mode == "inline" else IsolatePool(1, "tests.execution.handlers:app", Slow())
    )
    executor.start()
    executor.submit(job("without_checkpoint", gate.path))
    gate.wait_reached()

    def stop() -> None:
        executor.stop()
        order.append("stopped")
        has_stopped.set()

    stopping = threading.Thread(target=stop, daemon=True)
    stopping.start()
    gate.open()
    stopping.join(60)
    assert order == ["told", "stopped"]


@pytest.mark.parametrize("name", ["at_checkpoint", "never_ends"])
def test_g20_what_still_runs_when_the_time_is_up_is_released_and_never_cancelled(
    executor: Executor, observer: Recording, job: JobMaker, gate: Gate, name: str
) -> None:
    running = job(name, gate.path, "check") if name == "at_checkpoint" else job(name, gate.path)
    executor.submit(running)
    observer.wait_for("started", running)
    executor.stop(0.0)
    assert [outcome.kind for outcome in observer.outcomes[running.token]] == [Ending.RELEASED]


def test_what_is_submitted_after_the_stop_is_given_back(executor: Executor, observer: Recording, job: JobMaker) -> None:
    executor.stop()
    late = job("echo")
    executor.submit(late)
    assert observer.outcome(late).kind is Ending.RELEASED


def test_starting_twice_and_stopping_twice_is_fine_and_it_can_start_again(
    executor: Executor, observer: Recording, job: JobMaker
) -> None:
    executor.start()
    executor.stop()
    executor.stop()
    executor.start()
    again = job("echo", value="again")
    executor.submit(again)
    assert observer.outcome(again).result == "again"


def test_g22_an_inline_job_is_about_to_begin_until_its_handler_is_called(tmp_path: Path) -> None:
    """Between its slot and its handler lies a thread that has to run first: a pause that comes then waits for it."""
    found: list[bool] = []

    class Watching(Recording):
        def started(self, job: Job, pid: int) -> None:
            found.append(executor.is_about_to_begin(job.token))
            super().started(job, pid)

    observer = Watching()
    executor = InlineExecutor(2, observer)
    executor.start()
    make = JobMaker(app.registry, "inline")
    for number, name in enumerate(("without_checkpoint", "waits")):  # a thread, and a coroutine
        gate = Gate(tmp_path / f"gate-{number}")
        job = make(name, gate.path)
        executor.submit(job)
        gate.wait_reached()
        assert found == [True] * (number + 1)
        assert not executor.is_about_to_begin(job.token)
        gate.open()
        executor.stop_job(job.token, Stop.REVOKED, REVOCATION)  # the coroutine waits for nothing else
        observer.outcome(job)
        assert not executor.is_about_to_begin(job.token)
    executor.stop(0.0)


def test_a_thread_that_has_ended_a_job_runs_the_next_one_that_waits(
    observer: Recording, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor, make = InlineExecutor(1, observer), JobMaker(app.registry, "inline")
    handed: list[object] = []
    run = executor._threads.run
    monkeypatch.setattr(executor._threads, "run", lambda work: (handed.append(work), run(work)))
    executor.start()
    first, others = make("without_checkpoint", gate.path), [make("echo", value=n) for n in range(20)]
    executor.submit(first)
    gate.wait_reached()
    for one in others:
        executor.submit(one)
    gate.open()
    assert [observer.outcome(one).result for one in (first, *others)] == ["finished", *range(20)]
    executor.stop()
    assert len(handed) == 1


def test_stopping_before_the_start_is_fine(observer: Recording) -> None:
    InlineExecutor(1, observer).stop()
    IsolatePool(1, "tests.execution.handlers:app", observer).stop()


def test_an_unknown_start_method_is_refused(observer: Recording) -> None:
    with pytest.raises(ConfigurationError, match="teleport"):
        IsolatePool(1, "tests.execution.handlers:app", observer, start_method="teleport")


WITHOUT_DESCRIPTORS = """
    import os, resource
    from pathlib import Path
    from stem_kombu.execution.inline import InlineExecutor
    from stem_kombu.testing.executors import JobMaker, Recording
    from tests.execution.handlers import app

    observer = Recording()
    executor = InlineExecutor(1, observer)
    executor.start()
    make = JobMaker(app.registry, "inline")
    refused, later = make("adds", 1, 1), make("adds", 1, 1)
    held = resource.getrlimit(resource.RLIMIT_NOFILE)
    spare = [os.open(os.devnull, os.O_RDONLY) for _ in range(64)]  # no hole is left below the limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 1, held[1]))
    executor.submit(refused)
    print(observer.outcome(refused, 20).kind.value)
    resource.setrlimit(resource.RLIMIT_NOFILE, held)
    executor.submit(later)
    print(observer.outcome(later, 20).result)
    executor.stop(0.0)
"""


def test_g18_a_job_that_can_not_be_started_for_lack_of_descriptors_is_given_back(tmp_path: Path) -> None:
    done = run_program(WITHOUT_DESCRIPTORS, tmp_path)
    assert done.stdout == "released\n2\n", done.stderr
