"""Queues that an operator declared in a way of their own, and several at once."""

from __future__ import annotations

import pytest
from kombu import Queue

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.outcome import TaskState
from stem_kombu.testing.gates import Gate
from stem_kombu.transports.connections import open_connection
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker


@pytest.mark.parametrize("broker_url", ["amqp"], indirect=True)
def test_a_quorum_queue_which_refuses_a_global_prefetch_is_consumed_all_the_same(
    app: Stem, make_worker: WorkerMaker, broker_url: str, tmp_path: object
) -> None:
    with open_connection(broker_url) as connection:
        Queue("default", queue_arguments={"x-queue-type": "quorum"}, durable=True)(connection).declare()
    worker = make_worker(concurrency=1, inline_slots=2)
    gates = [Gate(f"{tmp_path}/{n}") for n in range(2)]
    renders = [app.send_task("isolate.gated", [gate.path]) for gate in gates]
    gates[0].wait_reached()
    # The prefetch count moves: an inline task behind an isolate that has no child is found.
    assert app.send_task("inline.add", [1]).get(timeout=60) == 1
    assert gates[1].reached() is None
    for gate in gates:
        gate.open()
    assert [result.get(timeout=60) for result in renders] == ["opened", "opened"]
    eventually(lambda: len(worker.inflight) == 0)
    assert worker.ownership.generation == 2


def test_a_worker_of_several_queues_holds_no_more_than_it_can_run_of_all_of_them_together(
    app: Stem, make_worker: WorkerMaker, tmp_path: object
) -> None:
    queues = ["urgent", "default", "slow"]
    worker = make_worker(queues=queues, concurrency=2, inline_slots=1)
    gates = {queue: Gate(f"{tmp_path}/{queue}") for queue in queues}
    results = [app.send_task("isolate.gated", [gate.path], queue=queue) for queue, gate in gates.items()]
    eventually(lambda: sum(gate.reached() is not None for gate in gates.values()) == 2)
    assert app.send_task("inline.add", [1], queue="slow").get(timeout=60) == 1
    assert worker.inflight.running_count == 2
    for gate in gates.values():
        gate.open()
    assert [result.get(timeout=60) for result in results] == ["opened"] * 3


def test_g3_more_inline_tasks_may_be_held_than_run_and_one_that_waits_is_withdrawn_when_it_is_revoked(
    app: Stem, make_worker: WorkerMaker, control: ControlClient, tmp_path: object
) -> None:
    worker = make_worker(concurrency=1, inline_slots=2, prefetch_multiplier=2)
    gates = [Gate(f"{tmp_path}/{number}") for number in range(4)]
    results = [app.send_task("inline.gated", [gate.path]) for gate in gates]
    eventually(lambda: (worker.inflight.running_count, worker.inflight.waiting_count) == (2, 2))
    running = {task.id for task in worker.view.in_flight()}
    waiting = [result for result in results if result.id not in running]
    control.revoke([waiting[0].id])
    record = waiting[0].wait(timeout=30)
    assert record is not None and (record.state, record.started_at) == (TaskState.CANCELLED, None)
    for gate in gates:
        gate.open()
    assert [result.get(timeout=60) for result in results if result is not waiting[0]] == ["opened"] * 3
    assert gates[results.index(waiting[0])].reached() is None


def test_children_are_recycled_after_a_number_of_tasks_and_no_task_is_lost(app: Stem, make_worker: WorkerMaker) -> None:
    make_worker(concurrency=1, max_tasks_per_child=2)
    pids = [app.send_task("isolate.who").get(timeout=60) for _ in range(5)]
    assert len(set(pids)) == 3
    assert pids[0] == pids[1] != pids[2] == pids[3] != pids[4]
