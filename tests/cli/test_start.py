"""``stem worker start``: one ready line, an orderly end, and no start at all where it would run what was revoked."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from tests.cli.program import Program
from tests.waiting import eventually


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_g20_a_worker_says_that_it_is_ready_and_finishes_what_runs_when_it_is_told_to_stop(
    program_on: Callable[[str], Program], kind: str, tmp_path: Path
) -> None:
    program = program_on(kind)
    worker = program.start_worker("--name", "alpha", "-Q", "images,mail", "-c", "1")
    # one line, with all that a person wants to know
    (line,) = worker.out.splitlines()
    assert re.fullmatch(
        r"ready: worker alpha  namespace stem  queues images,mail  transport \S+ \S+  revoke store \S+"
        r"  control broker  revision \d+"
        rf"  concurrency \d+  pid {worker.process.pid}",
        line,
    ), line
    # when it is told to stop while a task runs
    gate = Gate(tmp_path / "gate")
    task = program.send("shop.render", "--queue", "mail", gate=gate.path)
    gate.wait_reached()
    worker.signal(signal.SIGTERM)
    eventually(lambda: _state(program, "alpha") == "draining")
    # then it takes nothing more, finishes, and leaves with 0
    waiting = program.send("shop.add", "--queue", "images", a=1)
    gate.open()
    assert worker.wait_code() == 0
    assert program.ended(task)["state"] == "succeeded"
    assert program.record(waiting)["state"] == "queued"
    assert program.ok("worker", "status", "--json").json["workers"] == []
    # and the next one takes what waits
    program.start_worker("-Q", "images", "-c", "1")
    assert program.ended(waiting)["result"] == 1


def _state(program: Program, worker: str) -> str | None:
    replies = program.run("worker", "ping", "-w", worker, "--json").json["replies"]
    return replies[0]["payload"]["state"] if replies else None


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "SIGTERM"])
def test_g20_the_second_signal_returns_what_runs_to_the_queue(
    program_on: Callable[[str], Program], kind: str, number: signal.Signals, tmp_path: Path
) -> None:
    program = program_on(kind)
    worker = program.start_worker("--name", "alpha", "-c", "1")
    gate = Gate(tmp_path / "gate")
    task = program.send("shop.render", gate=gate.path)
    gate.wait_reached()
    worker.signal(number)
    eventually(lambda: _state(program, "alpha") == "draining")
    # again and again, since within a second of the first one they are one order
    eventually(lambda: (worker.signal(number), worker.process.poll() is not None)[1], 60, interval=0.2)
    # it isn't cancelled, and runs again elsewhere
    assert program.run("task", "show", task, "--json").json["state"] != "cancelled"
    gate.open()
    program.start_worker("-c", "1")
    record = program.ended(task)
    assert (record["state"], record["result"]) == ("succeeded", "rendered")


def test_a_second_worker_of_a_name_that_lives_is_refused_and_the_first_goes_on(
    program_on: Callable[[str], Program],
) -> None:
    program = program_on("redis")
    program.start_worker("--name", "alpha", "-c", "1")
    second = program.begin_worker("--name", "alpha", "-c", "1")
    assert second.wait_code() == 2
    assert "alpha" in second.err
    assert "ready:" not in second.out
    assert program.ok("worker", "ping", "--json").json["expected"] == ["alpha"]


def test_a_name_is_made_from_namespace_host_and_pid(program_on: Callable[[str], Program]) -> None:
    worker = program_on("embedded").start_worker("-n", "nightly", "-c", "1")
    assert re.fullmatch(rf"nightly@\S+-{worker.process.pid}-[0-9a-f]+", worker.name)
    assert "queues nightly.default" in worker.out


def test_namespaces_do_not_hear_each_other(program_on: Callable[[str], Program]) -> None:
    program = program_on("redis")
    for name in ("one", "two"):
        program.begin_worker("--name", name, "-n", name, "-c", "1")
    for worker in program.workers:
        worker.wait_ready()
    for name in ("one", "two"):
        assert program.ok("worker", "ping", "-n", name, "--json").json["expected"] == [name]
        assert [w["worker"] for w in program.ok("worker", "status", "-n", name, "--json").json["workers"]] == [name]
    assert program.run("worker", "ping").code == 69
    # a revocation of one namespace is nothing to the other, and each has a default queue of its own
    program.ok("worker", "revoke", "-n", "one", "-t", "shared-id")
    task = program.send("shop.add", "-n", "two", "--id", "shared-id", a=2)
    assert program.ended(task)["state"] == "succeeded"
    assert program.send("shop.add", "-n", "one", "--id", "of-one", a=1) == "of-one"
    assert program.ended("of-one")["worker"] == "one"


def test_g2_a_worker_whose_store_can_not_be_read_does_not_start_unless_it_is_allowed_to(
    program_on: Callable[[str], Program],
) -> None:
    program = program_on("redis")
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    refused = program.begin_worker("--revoke-store", nowhere, "-c", "1")
    allowed = program.begin_worker("--revoke-store", nowhere, "--allow-unsynced", "--name", "brave", "-c", "1")
    allowed.wait_ready()
    (reply,) = program.ok("worker", "inspect", "-w", "brave", "--json").json["replies"]
    assert reply["payload"]["synced_s_ago"] is None
    assert refused.wait_code() == 74
    assert "ready:" not in refused.out
    assert "--allow-unsynced" in refused.err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "SIGTERM"])
def test_a_signal_ends_a_worker_that_waits_for_its_store(
    program_on: Callable[[str], Program], number: signal.Signals
) -> None:
    worker = program_on("embedded").begin_worker("--revoke-store", f"redis://127.0.0.1:{free_port()}/0", "-c", "1")
    eventually(lambda: "the revoke store can't be read" in worker.err)
    worker.signal(number)
    # 74 would say that it waited for half a minute more.
    assert worker.wait_code() == 0, worker.err
    assert "ends before it has started" in worker.err
    assert "ready:" not in worker.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-A", "shop"), "is not MODULE:ATTR"),
        (("-A", "nowhere:app"), "there is no module 'nowhere'"),
        (("-A", "shop:missing"), "has no attribute 'missing'"),
        (("-A", "shop:not_an_app"), "is a object, not a stem_kombu.Stem"),
        (("-A", "broken_app:app"), "ZeroDivisionError"),
        (("-c", "0"), "concurrency"),
        (("--name", "with space"), "with space"),
        (("--name", ""), "worker id ''"),
        (("-Q", " , "), "queue"),
        (("-Q", "mail,amq.mine"), "queue name 'amq.mine' begins with 'amq.'"),
        (("-Q", "\udcff"), "queue name '\\udcff' has a control character in it"),
        (("--heartbeat-interval", "0"), "--heartbeat-interval"),
        (("--prefetch-multiplier", "many"), "--prefetch-multiplier"),
        (("--inline-slots", "0"), "--inline-slots"),
        (("-l", "loud"), "--log-level"),
        (("--broker", "carrier-pigeon://loft"), "carrier-pigeon"),
        (("--revoke-store", "ftp://host/store"), "--revoke-store"),
        (("--backend", "ftp://host/states"), "--backend: 'ftp://host/states' can't hold task states"),
    ],
    ids=lambda value: ascii(" ".join(value)) if isinstance(value, tuple) else None,
)
def test_what_can_not_be_meant_is_exit_code_2(embedded: Program, arguments: tuple[str, ...], said: str) -> None:
    worker = embedded.begin_worker(*arguments)
    assert worker.wait_code() == 2, worker.err
    assert said in worker.err
    assert "Traceback" not in worker.err
    assert worker.out == ""


@pytest.mark.parametrize("way", ["flags", "variables"])
def test_as_many_inline_tasks_run_and_wait_as_it_is_told(embedded: Program, tmp_path: Path, way: str) -> None:
    flags, variables = (
        ("--inline-slots", "2", "--prefetch-multiplier", "2"),
        {
            "STEM_INLINE_SLOTS": "2",
            "STEM_PREFETCH_MULTIPLIER": "2",
        },
    )
    embedded.start_worker("-c", "1", *(flags if way == "flags" else ()), env=variables if way == "variables" else None)
    gates = [Gate(tmp_path / str(number)) for number in range(3)]
    tasks = [embedded.send("shop.report", gate=gate.path) for gate in gates]

    def standing() -> tuple[int, int]:
        (reply,) = embedded.ok("worker", "stats", "--json").json["replies"]
        return reply["payload"]["in_flight"], reply["payload"]["reserved"]

    eventually(lambda: standing() == (2, 1), 30)
    for gate in gates:
        gate.open()
    assert [embedded.ended(task)["state"] for task in tasks] == ["succeeded"] * 3


def test_without_an_application_it_says_how_to_name_one(embedded: Program) -> None:
    done = embedded.run("worker", "start")
    assert done.code == 2
    assert "STEM_APP" in done.err


def test_the_application_may_come_from_the_environment(embedded: Program) -> None:
    from tests.cli.program import PROJECT

    done = embedded.run("worker", "start", env={"STEM_APP": "shop:nothing", "PYTHONPATH": str(PROJECT)})
    assert "has no attribute 'nothing'" in done.err


def test_a_broker_that_is_not_there_is_exit_code_74(embedded: Program) -> None:
    worker = embedded.begin_worker("--broker", f"redis://:s3cret@127.0.0.1:{free_port()}/0", "-c", "1")
    assert worker.wait_code() == 74, worker.err
    assert "s3cret" not in worker.err


def test_children_are_replaced_when_they_have_grown_too_large_or_worked_enough(
    program_on: Callable[[str], Program],
) -> None:
    program = program_on("embedded")
    program.start_worker("--name", "large", "-c", "1", "-Q", "large", "--max-rss-per-child", "1")
    program.start_worker("--name", "often", "-c", "1", "-Q", "often", "--max-tasks-per-child", "2")
    for queue, distinct in (("large", 3), ("often", 2)):
        pids = set()
        for number in range(3):
            record = program.ended(program.send("shop.who", "--queue", queue))
            assert record["state"] == "succeeded", (number, record)
            pids.add(record["result"])
        assert len(pids) == distinct, queue


def test_g18_a_worker_that_could_lose_messages_of_a_redis_does_not_start_unless_that_is_accepted(
    program_on: Callable[[str], Program],
) -> None:
    program = program_on("redis")
    program.variables["STEM_TRANSPORT"] = "generic"
    refused = program.begin_worker("--name", "careful", "-c", "1")
    assert refused.wait_code() == 2
    assert "STEM_TRANSPORT is generic" in refused.err
    assert "--accept-loss" in refused.err
    program.start_worker("--name", "careless", "-c", "1", "--accept-loss")
    assert program.ok("worker", "ping", "--json").json["expected"] == ["careless"]
