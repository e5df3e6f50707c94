"""What every result backend promises of task states, as tests: derive from :class:`TaskStatesContract`.

    pytest.register_assert_rewrite("stem_kombu.testing.backend_contract")  # before the import, for readable failures

    class TestMyBackend(TaskStatesContract):
        @pytest.fixture
        def url(self, tmp_path):
            return f"mybackend://{tmp_path}"

The scheme must be known to :func:`stem_kombu.backends.registry.open_backend`; who overrides the fixture ``open_states``
may bring a backend of another making. Needs pytest and nothing else. A name with ``g10`` in it proves the guarantee of
that number. What a backend promises of its roster is in :mod:`stem_kombu.testing.roster_contract`.
"""

from __future__ import annotations

import multiprocessing
import os
import random
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest

from stem_kombu import timeouts
from stem_kombu.backends.base import TaskStates
from stem_kombu.backends.registry import open_backend
from stem_kombu.clock import SYSTEM
from stem_kombu.errors import StoreError
from stem_kombu.outcome import TaskError, TaskRecord, TaskState, admits, carried_over
from stem_kombu.revocation import Revocation
from stem_kombu.testing.parallel import PATIENCE, in_processes

NOW = datetime(2026, 1, 31, 12, 0, 0, 123456, tzinfo=timezone.utc)
ENDINGS = [TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED]
RESULTS: list[Any] = [
    *(None, False, 0, -1.5e-9, 2**53 + 1, 2**70, [], {}, [[], {}]),
    *("", "null", 'a\nb\t"\\/', "\x00", "\ud800", "Größe 🦆 ünï\u2028"),
    {"": None, "ä": [1, "2", {"3": None}]},
]


class TaskStatesContract:
    """The promises of :class:`stem_kombu.backends.base.TaskStates`, and G10."""

    #: False for a backend that other processes don't see; what needs them is skipped.
    shared_between_processes = True

    @pytest.fixture
    def url(self) -> str:
        """Where an empty backend is. Override it."""
        raise NotImplementedError("override the fixture url: it gives the URL of an empty backend")

    @pytest.fixture
    def open_states(self, url: str) -> Iterator[Callable[..., TaskStates]]:
        """Opens one more backend at the URL (``result_ttl=`` may be given), closed at the end of the test."""
        opened: list[TaskStates] = []

        def open_another(*, result_ttl: float = timeouts.RESULT_TTL) -> TaskStates:
            opened.append(open_backend(url, result_ttl=result_ttl))
            return opened[-1]

        yield open_another
        for states in opened:
            states.close()

    @pytest.fixture
    def states(self, open_states: Callable[..., TaskStates]) -> TaskStates:
        return open_states()

    # What is listed.

    def test_a_scan_finds_every_record_or_those_in_some_states(self, states: TaskStates) -> None:
        records = {
            f"t{number}": TaskRecord(f"t{number}", "shop.pay", list(TaskState)[number % 6]) for number in range(1200)
        }
        states.record(list(records.values()))
        assert {record.task_id: record.state for record in states.scan()} == {
            task_id: record.state for task_id, record in records.items()
        }
        wanted = {TaskState.FAILED, TaskState.RUNNING}
        found = [record.task_id for record in states.scan(wanted)]
        assert sorted(found) == sorted(task_id for task_id, record in records.items() if record.state in wanted)

    def test_a_scan_leaves_out_what_has_expired(self, open_states: Callable[..., TaskStates]) -> None:
        states = open_states(result_ttl=0.05)
        states.record(
            [TaskRecord("gone", "shop.pay", TaskState.FAILED), TaskRecord("waits", "shop.pay", TaskState.QUEUED)]
        )
        deadline = SYSTEM.monotonic() + PATIENCE
        while states.get("gone") is not None:
            assert SYSTEM.monotonic() < deadline
            SYSTEM.sleep(0.01)
        assert [record.task_id for record in states.scan()] == ["waits"]

    # What is held.

    def test_a_task_that_nobody_recorded_is_unknown(self, states: TaskStates) -> None:
        assert states.get("nobody") is None

    @pytest.mark.parametrize("task_id", ["", " ", "a\x00b", "\ud800", "x" * 5000])
    def test_an_id_that_no_task_can_have_is_unknown(self, states: TaskStates, task_id: str) -> None:
        assert states.get(task_id) is None

    def test_a_record_is_held_with_all_it_says(
        self, states: TaskStates, open_states: Callable[..., TaskStates]
    ) -> None:
        record = full_record()

        assert states.record([record]) == [record]

        assert states.get(record.task_id) == record
        assert open_states().get(record.task_id) == record

    def test_many_records_are_found_at_once(self, states: TaskStates) -> None:
        records = [task(f"many-{number}", TaskState.QUEUED) for number in range(1200)]
        states.record(records)

        found = states.find([*(record.task_id for record in records), "unknown", "a\x00b", "x" * 5000])

        assert found == {record.task_id: record for record in records}
        assert states.find([]) == {}

    @pytest.mark.parametrize("result", RESULTS, ids=ascii)
    def test_a_result_comes_back_as_it_was(self, states: TaskStates, result: Any) -> None:
        states.record([task("t", TaskState.SUCCEEDED, result=result)])

        held = states.get("t")

        assert held is not None
        assert held.result == result
        assert type(held.result) is type(result)

    def test_a_result_of_a_megabyte_comes_back(self, states: TaskStates) -> None:
        result = "ä" * 500_000 + "z" * 500_000
        before = task("t", TaskState.RUNNING, worker="w1", enqueued_at=NOW)

        states.record([before, task("t", TaskState.SUCCEEDED, result=result)])

        assert states.get("t") == replace(before, state=TaskState.SUCCEEDED, result=result)

    def test_a_result_that_changes_in_the_callers_hands_is_not_changed_here(self, states: TaskStates) -> None:
        result = {"tiles": [1]}
        states.record([task("t", TaskState.SUCCEEDED, result=result)])

        result["tiles"].append(2)

        held = states.get("t")
        assert held is not None
        assert held.result == {"tiles": [1]}

    @pytest.mark.parametrize("task_id", ["ünï-🦆", "{braces}", "a:b/c d'\"%s", "x" * 512])
    def test_any_id_that_a_task_may_have_is_held(self, states: TaskStates, task_id: str) -> None:
        states.record([task(task_id, TaskState.RUNNING), task("other", TaskState.FAILED)])

        held = states.get(task_id)

        assert held is not None
        assert (held.task_id, held.state) == (task_id, TaskState.RUNNING)

    @pytest.mark.parametrize(
        "bad",
        [
            {"result": object()},
            {"result": float("nan")},
            {"task_id": "a\x00b"},
            {"queue": "\x00"},
            {"worker": "\ud800"},
        ],
        ids=["object", "nan", "nul-in-id", "nul-in-queue", "surrogate"],
    )
    def test_a_record_that_cannot_be_stored_is_refused_by_name_and_the_others_can_be_offered(
        self, states: TaskStates, bad: dict[str, Any]
    ) -> None:
        good = task("good", TaskState.SUCCEEDED)

        with pytest.raises(StoreError, match="can't be stored"):
            states.record([good, replace(task("bad", TaskState.SUCCEEDED), **bad)])

        states.record([good])
        assert states.get("good") == good

    def test_an_empty_batch_is_nothing(self, states: TaskStates) -> None:
        assert states.record([]) == []

    def test_a_long_batch_is_answered_in_order(self, states: TaskStates) -> None:
        batch = [task(f"t{number:04}", TaskState.RUNNING, worker=f"w{number}") for number in range(1300)]
        random.Random(7).shuffle(batch)

        assert states.record(batch) == batch
        assert states.record([replace(record, state=TaskState.QUEUED) for record in batch]) == batch

    # The rule.

    @pytest.mark.parametrize("later", ENDINGS)
    @pytest.mark.parametrize("first", ENDINGS)
    def test_g10_an_ending_is_never_overwritten(self, states: TaskStates, first: TaskState, later: TaskState) -> None:
        (ended,) = states.record([task("t", first, result="first")])

        for attempt in (1, 2):
            assert states.record([task("t", later, attempt=attempt, result="later")]) == [ended]

        assert states.get("t") == ended

    @pytest.mark.parametrize("late", list(TaskState))
    def test_g9_g10_nothing_is_recorded_after_cancelled(self, states: TaskStates, late: TaskState) -> None:
        cancelled = replace(full_record(), state=TaskState.CANCELLED)
        states.record([cancelled])

        assert states.record([task(cancelled.task_id, late, attempt=9)]) == [cancelled]

        assert states.get(cancelled.task_id) == cancelled

    @pytest.mark.parametrize("later", list(TaskState))
    def test_g10_what_is_sent_again_after_its_end_is_a_new_life(self, states: TaskStates, later: TaskState) -> None:
        first = task("t", TaskState.CANCELLED, attempt=3, queue="a", worker="w1", enqueued_at=NOW, started_at=NOW)
        again = task("t", later, enqueued_at=NOW + timedelta(microseconds=1))
        assert states.record([first, again, first]) == [first, again, again]
        assert states.get("t") == again

    def test_g10_to_be_queued_again_changes_nothing_of_a_life_that_has_not_ended(self, states: TaskStates) -> None:
        first = task("t", TaskState.RETRYING, attempt=3, enqueued_at=NOW)
        again = task("t", TaskState.QUEUED, enqueued_at=NOW + timedelta(seconds=1))
        started = replace(again, state=TaskState.RUNNING)
        assert states.record([first, again, started]) == [first, first, started]

    def test_a_later_attempt_replaces_one_that_did_not_end(self, states: TaskStates) -> None:
        retrying = task("t", TaskState.RETRYING, attempt=1)
        states.record([retrying])

        assert states.record([task("t", TaskState.RUNNING, attempt=2)])[0].attempt == 2
        assert states.record([task("t", TaskState.SUCCEEDED, attempt=1)])[0].state is TaskState.RUNNING
        assert states.record([task("t", TaskState.SUCCEEDED, attempt=2)])[0].state is TaskState.SUCCEEDED

    def test_what_only_earlier_records_knew_is_carried_over(self, states: TaskStates) -> None:
        states.record([task("t", TaskState.QUEUED, queue="default", enqueued_at=NOW)])
        started_at = NOW + timedelta(seconds=1)
        states.record([task("t", TaskState.RUNNING, worker="w1", started_at=started_at)])

        ended = states.record([task("t", TaskState.SUCCEEDED, result=1)])

        expected = task(
            "t", TaskState.SUCCEEDED, result=1, queue="default", worker="w1", enqueued_at=NOW, started_at=started_at
        )
        assert ended == [expected]
        assert states.get("t") == expected

    @pytest.mark.parametrize("seed", range(12))
    def test_g10_batches_follow_the_rule_record_by_record(self, states: TaskStates, seed: int) -> None:
        dice = random.Random(seed)
        held: dict[str, TaskRecord] = {}

        for _ in range(25):
            batch = [any_record(dice) for _ in range(dice.choice([1, 1, 2, 9]))]
            expected = []
            for new in batch:
                before = held.get(new.task_id)
                if before is None or admits(before, new):
                    held[new.task_id] = carried_over(before, new)
                expected.append(held[new.task_id])

            assert states.record(batch) == expected

        assert {task_id: states.get(task_id) for task_id in held} == held

    # Many at once.

    def test_g10_processes_that_end_the_same_tasks_agree_on_one_ending(self, states: TaskStates, url: str) -> None:
        self._needs_processes()
        ids = [f"t{number}" for number in range(40)]
        states.record([task(task_id, TaskState.RUNNING) for task_id in ids])

        answers = in_processes(4, _end_all, url, ids)

        final = [states.get(task_id) for task_id in ids]
        assert all(answer == final for answer in answers)
        assert all(record is not None and record.state.is_terminal for record in final)

    def test_batches_in_any_order_do_not_block_each_other(self, url: str) -> None:
        self._needs_processes()

        rounds = in_processes(4, _record_shuffled, url)

        assert rounds == [12] * 4

    def test_many_processes_open_an_empty_backend_at_once(self, states: TaskStates, url: str) -> None:
        self._needs_processes()

        in_processes(8, _record_one, url)

        assert all(states.get(f"t{place}") is not None for place in range(8))

    def test_g10_threads_share_a_backend(self, states: TaskStates) -> None:
        answers: dict[int, list[TaskRecord]] = {}
        ids = [f"t{number}" for number in range(30)]

        def end(place: int) -> None:
            records = [task(task_id, ENDINGS[place % 3], result=place) for task_id in ids]
            random.Random(place).shuffle(records)
            held = [held for record in records for held in states.record([record])]
            answers[place] = sorted(held, key=lambda record: record.task_id)

        threads = [threading.Thread(target=end, args=(place,)) for place in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)

        final = sorted((held for task_id in ids if (held := states.get(task_id))), key=lambda record: record.task_id)
        assert len(final) == len(ids)
        assert [answers[place] for place in range(6)] == [final] * 6

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
    @pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
    def test_a_forked_child_and_its_parent_both_go_on(self, states: TaskStates) -> None:
        states.record([task("before", TaskState.RUNNING)])
        child = multiprocessing.get_context("fork").Process(target=_use_inherited, args=(states,))

        child.start()
        states.record([task("parent", TaskState.RUNNING)])
        child.join(PATIENCE)

        assert child.exitcode == 0
        assert states.get("parent") is not None
        assert (states.get("child") is not None) == self.shared_between_processes

    # Time.

    def test_the_record_of_an_ended_task_is_forgotten_after_its_time_and_its_id_is_free(
        self, open_states: Callable[..., TaskStates]
    ) -> None:
        states = open_states(result_ttl=0.05)
        states.record([task("t", TaskState.SUCCEEDED, queue="old", enqueued_at=NOW), task("u", TaskState.RUNNING)])

        _eventually(lambda: states.get("t") is None)

        again = task("t", TaskState.QUEUED)
        assert states.record([again]) == [again]
        assert states.get("u") is not None

    def test_wait_returns_the_record_as_soon_as_the_task_has_ended(self, states: TaskStates) -> None:
        states.record([task("t", TaskState.RUNNING)])
        found: list[TaskRecord | None] = []
        waiter = threading.Thread(target=lambda: found.append(states.wait("t", PATIENCE)))
        waiter.start()

        ended = states.record([task("t", TaskState.SUCCEEDED, result=4)])
        waiter.join(PATIENCE)

        assert found == ended

    def test_wait_gives_up_at_its_deadline_with_what_is_held(self, states: TaskStates) -> None:
        assert states.wait("t", 0.01) is None

        running = states.record([task("t", TaskState.RUNNING)])

        assert [states.wait("t", 0)] == running

    # Connections.

    def test_it_answers_a_ping_and_can_be_used_after_close(self, states: TaskStates) -> None:
        states.ping()
        states.record([task("t", TaskState.SUCCEEDED)])
        states.close()
        states.close()

        assert states.get("t") is not None
        states.ping()

    def _needs_processes(self) -> None:
        if not self.shared_between_processes:
            pytest.skip("other processes do not see this backend")


def task(task_id: str, state: TaskState, **fields: Any) -> TaskRecord:
    return TaskRecord(task_id, "tasks.render", state, **fields)


def full_record() -> TaskRecord:
    """A record with every field set."""
    return TaskRecord(
        task_id=str(uuid.uuid4()),
        name="tasks.rendér",
        state=TaskState.FAILED,
        attempt=3,
        queue="prïority",
        worker="shop@höst-1",
        result={"tiles": [1, 2.5, None, "ß"]},
        error=TaskError("ValueError", "no \x00 such tile", "Traceback…"),
        revocation=Revocation("shop", "t", 2**52, NOW, True, "wrong dåta", "ada@ops", NOW + timedelta(days=900)),
        enqueued_at=NOW,
        started_at=NOW + timedelta(microseconds=1),
        ended_at=NOW + timedelta(seconds=2),
        retry_at=NOW + timedelta(days=1),
    )


def any_record(dice: random.Random) -> TaskRecord:
    """A record of one of a few tasks, such that the rule has much to decide; endings are rare."""
    moments = [None, None, NOW, NOW + timedelta(microseconds=dice.randrange(10**9))]
    return TaskRecord(
        task_id=f"t{dice.randint(1, 6)}",
        name=dice.choice(["tasks.a", "tåsks.b"]),
        state=dice.choice([*TaskState, TaskState.QUEUED, TaskState.RUNNING, TaskState.RETRYING, TaskState.RUNNING]),
        attempt=dice.choice([0, 1, 1, 2, 2, 10, 2**52]),
        queue=dice.choice([None, None, "", "default", 'q"\n,\\']),
        worker=dice.choice([None, None, "", "wørker", "null"]),
        result=dice.choice(RESULTS),
        enqueued_at=dice.choice(moments),
        started_at=dice.choice(moments),
        ended_at=dice.choice(moments),
    )


def _eventually(condition: Callable[[], object]) -> None:
    deadline = SYSTEM.monotonic() + PATIENCE
    while not condition():
        assert SYSTEM.monotonic() < deadline, "it did not happen in time"
        SYSTEM.sleep(0.005)


def _end_all(place: int, url: str, ids: list[str]) -> list[TaskRecord]:
    states = open_backend(url)
    records = [task(task_id, ENDINGS[place % 3], worker=f"w{place}", result=place) for task_id in ids]
    half = len(records) // 2
    held = states.record(records[:half]) + [held for record in records[half:] for held in states.record([record])]
    states.close()
    return held


def _record_shuffled(place: int, url: str) -> int:
    states, dice, done = open_backend(url), random.Random(place), 0
    for attempt in range(12):
        batch = [task(f"t{number}", TaskState.RUNNING, attempt=attempt) for number in range(100)]
        dice.shuffle(batch)
        done += len(states.record(batch)) == len(batch)
    states.close()
    return done


def _record_one(place: int, url: str) -> None:
    states = open_backend(url)
    states.record([task(f"t{place}", TaskState.SUCCEEDED)])
    assert states.get(f"t{place}") is not None
    states.close()


def _use_inherited(states: TaskStates) -> None:
    assert states.get("before") is not None
    states.record([task("child", TaskState.RUNNING)])
    assert states.get("child") is not None
    states.close()
