"""``stem worker status``: who is live, draining, stale or dead, as a snapshot and as a stream."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.servers.redis import RedisServer
from tests.waiting import eventually


def test_a_snapshot_has_every_field_of_the_contract(fleet: Program) -> None:
    for arguments in (("--json",), ("--once", "-o", "json")):
        document = fleet.ok("worker", "status", *arguments).json
        assert (document["schema"], document["namespace"]) == ("stem.control/1", "stem")
        assert [worker["worker"] for worker in document["workers"]] == ["alpha", "bravo"]
        for worker in document["workers"]:
            assert {
                "worker", "state", "age_s", "interval_s", "hostname", "pid", "version", "in_flight", "concurrency",
                "queues", "rss_bytes", "load_avg", "totals", "timestamp",
            } <= worker.keys()  # fmt: skip
            assert (worker["state"], worker["interval_s"]) == ("live", 10.0)
            assert 0 <= worker["age_s"] < 30


def test_a_snapshot_as_text_is_a_table(fleet: Program) -> None:
    out = fleet.ok("worker", "status").out
    assert out.splitlines()[0].split()[:3] == ["WORKER", "STATE", "AGE"]
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [["alpha", "live"], ["bravo", "live"]]
    assert [line.split()[0] for line in fleet.ok("worker", "status", "-w", "br*").out.splitlines()[1:]] == ["bravo"]


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_worker_of_no_such_name_is_exit_code_4(fleet: Program, form: tuple[str, ...]) -> None:
    done = fleet.run("worker", "status", "-w", "ghost", *form)
    assert done.code == 4, done
    assert "no worker of that name in namespace 'stem'" in done.err


def test_an_empty_namespace_is_no_error(fleet: Program) -> None:
    done = fleet.ok("worker", "status", "-n", "elsewhere", "--json")
    assert done.json["workers"] == []
    assert "no worker in namespace 'elsewhere'" in done.err


def test_following_prints_a_line_a_beat_until_ctrl_c(program_on: Callable[[str], Program]) -> None:
    program = program_on("amqp")
    program.start_worker("--name", "alpha", "--concurrency", "1", "--heartbeat-interval", "200ms")
    for form, code in ((("--json",), 130), ((), 130)):
        process = program.popen("worker", "status", "--follow", *form)
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == code
        if form:
            *_, last = [json.loads(line) for line in out.splitlines()]
            assert (last["schema"], last["code"]) == ("stem.error/1", 130)
            assert {json.loads(line)["schema"] for line in lines} == {"stem.control/1"}
            beats = [json.loads(line) for line in lines]
            assert {beat["worker"] for beat in beats} == {"alpha"}
            assert {beat["state"] for beat in beats} == {"live"}
            assert sorted(beat["timestamp"] for beat in beats) == [beat["timestamp"] for beat in beats]
        else:
            assert all("  alpha  live  INLINE 0/16  ISOLATE 0/1  " in line for line in lines), lines


def test_following_goes_on_after_the_broker_was_restarted(
    program_on: Callable[[str], Program], start_redis: Callable[..., RedisServer]
) -> None:
    program, broker = program_on("embedded"), start_redis()
    program.variables["STEM_BROKER_URL"] = broker.new_database()
    program.start_worker("--name", "alpha", "--concurrency", "1", "--heartbeat-interval", "200ms")
    process = program.popen("worker", "status", "--follow")
    assert process.stdout is not None
    assert process.stderr is not None
    assert "  alpha  live  " in process.stdout.readline()
    broker.kill()
    assert "trying again" in process.stderr.readline()
    broker.start()
    assert process.stderr.readline() == "note: the broker is back\n"
    assert any("  alpha  live  " in process.stdout.readline() for _ in range(20))
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


@pytest.mark.parametrize("kind", ["embedded", "redis"])
def test_following_ends_with_exit_code_1_when_no_beat_comes(program_on: Callable[[str], Program], kind: str) -> None:
    done = program_on(kind).run("worker", "status", "-f", "--timeout", "300ms")
    assert done.code == 1, done
    assert "no heartbeat within 300ms" in done.err


def test_once_and_follow_exclude_each_other(embedded: Program) -> None:
    assert embedded.run("worker", "status", "--once", "--follow").code == 2


def test_without_a_backend_it_listens_for_an_interval_and_says_so(program_on: Callable[[str], Program]) -> None:
    program = program_on("redis")
    del program.variables["STEM_RESULT_BACKEND_URL"]
    program.variables["STEM_HEARTBEAT_INTERVAL"] = "300ms"
    program.start_worker("--name", "alpha", "--concurrency", "1")
    done = program.ok("worker", "status", "--json")
    assert [worker["worker"] for worker in done.json["workers"]] == ["alpha"]
    assert "listen" in done.err


def test_g15_a_worker_leaves_the_roster_when_it_stops_and_grows_stale_and_dead_when_killed(
    program_on: Callable[[str], Program], tmp_path: Path
) -> None:
    program = program_on("redis")
    # Stale lasts for three intervals: long enough for a look on a busy machine, where a command takes a second.
    interval = ("--heartbeat-interval", "1s", "--concurrency", "1")
    leaving = program.begin_worker("--name", "leaving", *interval)
    killed = program.begin_worker("--name", "killed", *interval)
    leaving.wait_ready()
    killed.wait_ready()

    def states() -> dict[str, str]:
        document = program.ok("worker", "status", "--json").json
        return {worker["worker"]: worker["state"] for worker in document["workers"]}

    assert states() == {"leaving": "live", "killed": "live"}
    # when one is asked to stop while it works, and the other is killed
    gate = Gate(tmp_path / "gate")
    program.send("shop.report", gate=gate.path)
    gate.wait_reached()
    busy, other = (leaving, killed) if _runs(program, "leaving") else (killed, leaving)
    busy.signal(signal.SIGTERM)
    eventually(lambda: states()[busy.name] == "draining")
    gate.open()
    assert busy.wait_code() == 0
    assert states() == {other.name: "live"}
    other.process.kill()
    other.process.wait()
    # then one has left at once, and the other is shown as what its silence makes it
    eventually(lambda: states() == {other.name: "stale"})
    eventually(lambda: states() == {other.name: "dead"})
    assert program.run("worker", "ping").code == 69  # nobody waits for the dead


def _runs(program: Program, worker: str) -> bool:
    document = program.ok("worker", "inspect", "-w", worker, "--json").json
    return bool(document["replies"][0]["payload"]["in_flight"])
