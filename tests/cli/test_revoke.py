"""``stem worker revoke``: durable, then visible, and it says what happened to each task."""

from __future__ import annotations

import json
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from tests.cli.program import Program
from tests.servers.redis import RedisServer
from tests.waiting import eventually

FORMS = pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])


def test_g1_a_revoke_is_stored_then_broadcast_and_says_both(fleet: Program) -> None:
    document = fleet.ok(
        "worker", "revoke", "--task", "queued-1", "--reason", "INC-42", "--requester", "ops@desk",
        "--expires-in", "2h", "--json",
    ).json  # fmt: skip
    assert document["broadcast"] is True
    assert document["complete"] is True
    (record,) = document["stored"]
    assert record["task_id"] == "queued-1"
    assert (record["namespace"], record["terminate"]) == ("stem", False)
    assert (record["reason"], record["requested_by"]) == ("INC-42", "ops@desk")
    assert record["version"] > 0
    assert record["expires_at"] > record["issued_at"]
    for reply in document["replies"]:
        payload = reply["payload"]
        assert payload["applied"] == ["queued-1"]
        assert all(payload[name] == [] for name in ("stale", "expired", "in_flight", "terminated", "pending"))
    # and the store holds it
    store = open_revoke_store(fleet.variables["STEM_RESULT_BACKEND_URL"])
    assert store.get("stem", "queued-1") is not None
    store.close()


def test_a_worker_s_revision_is_the_version_that_it_has_just_applied(fleet: Program) -> None:
    document = fleet.ok("worker", "revoke", "-t", "seen-at-once", "--json").json
    (version,) = {record["version"] for record in document["stored"]}
    # no worker has looked into the store since: the broadcast is enough
    for reply in fleet.ok("worker", "inspect", "--json").json["replies"]:
        assert reply["payload"]["revision"] >= version


def test_the_requester_is_user_and_host_unless_named(fleet: Program) -> None:
    (record,) = fleet.ok("worker", "revoke", "-t", "queued-2", "--json").json["stored"]
    assert "@" in record["requested_by"]
    assert record["expires_at"] is None


def test_g7_a_running_render_stops_at_its_next_checkpoint(fleet: Program, tmp_path: Path) -> None:
    for name in ("shop.render", "shop.report"):
        gate = Gate(tmp_path / name)
        task = fleet.send(name, gate=gate.path)
        gate.wait_reached()
        done = fleet.ok("worker", "revoke", "-t", task, "--terminate", "--reason", "wrong picture")
        assert f"terminated: {task} on " in done.out
        record = fleet.ended(task)
        assert record["state"] == "cancelled"
        assert record["revocation"]["reason"] == "wrong picture"
        assert "wrong picture" in fleet.ok("task", "show", task).out


def test_a_coroutine_stops_at_its_next_await(fleet: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = fleet.send("shop.fetch", gate=gate.path)
    gate.wait_reached()
    document = fleet.ok("worker", "revoke", "-t", task, "--terminate", "--json").json
    assert [reply["payload"]["terminated"] for reply in document["replies"]].count([task]) == 1
    assert fleet.ended(task)["state"] == "cancelled"


def test_a_task_without_checkpoints_is_pending_and_the_command_says_so(fleet: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = fleet.send("shop.render", gate=gate.path, deaf=True)
    gate.wait_reached()
    done = fleet.run("worker", "revoke", "-t", task, "--terminate", "--timeout", "1s", "--json")
    assert done.code == 3, done
    document = done.json
    (standing,) = document["tasks"]
    assert (standing["id"], standing["standing"], standing["asked_to_stop"]) == (task, "running", True)
    (running,) = [reply["payload"] for reply in document["replies"] if reply["payload"]["in_flight"]]
    assert running["in_flight"] == running["pending"] == [task]
    assert running["terminated"] == []
    inspected = fleet.ok("worker", "inspect", "--json").json
    (told,) = [t for r in inspected["replies"] for t in r["payload"]["in_flight"] if t["id"] == task]
    assert told["terminate_requested_s_ago"] > 0
    done = fleet.run("worker", "revoke", "-t", task, "--terminate", "--timeout", "1s")
    assert done.code == 3
    assert f"pending: {task} on " in done.out
    gate.open()
    assert fleet.ended(task)["state"] in ("succeeded", "cancelled")


def test_a_revoke_without_terminate_lets_a_running_task_finish(fleet: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = fleet.send("shop.render", gate=gate.path)
    gate.wait_reached()
    document = fleet.ok("worker", "revoke", "-t", task, "--json").json
    assert [reply["payload"]["in_flight"] for reply in document["replies"]].count([task]) == 1
    gate.open()
    assert fleet.ended(task)["state"] == "succeeded"


def test_g3_a_revoked_task_never_starts(fleet: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    fleet.ok("worker", "revoke", "-t", "never-started")
    assert fleet.send("shop.render", "--id", "never-started", gate=gate.path) == "never-started"
    assert fleet.ended("never-started")["state"] == "cancelled"
    assert gate.reached() is None


def test_ids_are_read_from_standard_input(fleet: Program) -> None:
    done = fleet.ok("worker", "revoke", "-t", "-", "-t", "named", "--json", input="in-1\n\nin-2\r\n in-1\n")
    assert [record["task_id"] for record in done.json["stored"]] == ["in-1", "in-2", "named"]


def test_ten_thousand_ids_in_one_call(fleet: Program) -> None:
    ids = [f"many-{n}" for n in range(10_000)]
    done = fleet.ok(
        "worker", "revoke", "-t", "-", "--expires-in", "1h", "--json", "--timeout", "30s", input="\n".join(ids)
    )
    assert len(done.json["stored"]) == 10_000
    for reply in done.json["replies"]:
        assert sorted(reply["payload"]["applied"]) == sorted(ids)


@FORMS
def test_g1_with_no_worker_alive_it_is_stored_and_the_exit_code_is_69(
    program_on: Callable[[str], Program], form: tuple[str, ...], tmp_path: Path
) -> None:
    program = program_on("redis")
    done = program.run("worker", "revoke", "-t", "later", "--terminate", *form)
    assert done.code == 69, done
    assert "stored: 1 revocation" in done.err
    assert "no live worker in namespace 'stem'" in done.err
    # and a worker that starts then honours it
    gate = Gate(tmp_path / "gate")
    program.send("shop.render", "--id", "later", gate=gate.path)
    program.start_worker("--concurrency", "1")
    assert program.ended("later")["state"] == "cancelled"
    assert gate.reached() is None


@FORMS
def test_g1_when_the_store_is_down_nothing_is_broadcast_and_the_exit_code_is_74(
    fleet: Program, form: tuple[str, ...]
) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    done = fleet.run("worker", "revoke", "-t", "unstored", "--revoke-store", nowhere, *form)
    assert done.code == 74, done
    assert "nothing was broadcast" in done.err
    if form:
        assert (done.json["schema"], done.json["code"], done.json["stored"]) == ("stem.error/1", 74, [])
    else:
        assert done.out == ""
    for reply in fleet.ok("worker", "inspect", "--revoked", "--json").json["replies"]:
        assert "unstored" not in {record["task_id"] for record in reply["payload"]["revoked"]}


@FORMS
def test_g1_when_the_broker_is_down_it_is_stored_and_the_exit_code_is_3(
    program_on: Callable[[str], Program],
    start_redis: Callable[..., RedisServer],
    form: tuple[str, ...],
    tmp_path: Path,
) -> None:
    # given a broker that is down, and a store that is not
    broker = start_redis()
    program = program_on("redis")
    url = broker.new_database()
    broker.kill()
    # when
    done = program.run("worker", "revoke", "-t", "stored-only", "--broker", url, "--timeout", "2s", *form)
    # then
    assert done.code == 3, done
    assert "stored, but not broadcast" in done.err
    assert "next sync" in done.err
    if form:
        assert done.json["broadcast"] is False
        assert [record["task_id"] for record in done.json["stored"]] == ["stored-only"]
    # and workers of a broker that is there honour it
    gate = Gate(tmp_path / "gate")
    program.send("shop.render", "--id", "stored-only", gate=gate.path)
    program.start_worker("--concurrency", "1")
    assert program.ended("stored-only")["state"] == "cancelled"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "--task"),
        (("-t", ""), "task id"),
        (("-t", "x" * 10_000), "task id"),
        (("-t", "a", "--expires-in", "soon"), "--expires-in"),
        (("-t", "a", "--expires-in", "0"), "--expires-in"),
        (("-t", "a", "--expires-in", "-1s"), "--expires-in"),
        (("-t", "a", "--reason", "x" * 100_000), "reason"),
        (("-t", "-"), "standard input"),
    ],
    ids=["no task", "empty id", "id of 10 kB", "no duration", "zero", "negative", "endless reason", "empty input"],
)
def test_what_can_not_be_meant_is_exit_code_2_and_nothing_is_stored(
    embedded: Program, arguments: tuple[str, ...], said: str
) -> None:
    done = embedded.run("worker", "revoke", *arguments)
    assert done.code == 2, done
    assert said in done.err
    assert done.out == ""
    assert not (embedded.folder / "state.db").exists() or embedded.run("worker", "inspect").code == 69


def test_a_line_that_is_not_utf_8_is_named(embedded: Program) -> None:
    done = embedded.run("worker", "revoke", "-t", "-", input=b"good\n\xff\xfe\n")
    assert done.code == 2
    assert "line 2 of standard input is not UTF-8" in done.err


def test_ctrl_c_while_it_waits_keeps_what_is_stored_and_says_so(program_on: Callable[[str], Program]) -> None:
    program = program_on("redis")
    worker = program.start_worker("--name", "mute", "--concurrency", "1")
    with worker.paused():
        waiting = _who_wait(program.variables["STEM_BROKER_URL"])
        process = program.popen("worker", "revoke", "-t", "kept", "--timeout", "60s")
        store = open_revoke_store(program.variables["STEM_RESULT_BACKEND_URL"])
        eventually(lambda: store.get("stem", "kept") is not None, 60)
        # once it waits for a reply there is one more who waits at the broker
        eventually(lambda: _who_wait(program.variables["STEM_BROKER_URL"]) > waiting, 60)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        store.close()
    assert process.returncode == 130, err
    assert "interrupted: 1 revocation stored, for good" in err


def test_ctrl_c_in_json_names_what_is_stored_and_until_when(program_on: Callable[[str], Program]) -> None:
    program = program_on("redis")
    worker = program.start_worker("--name", "mute", "--concurrency", "1")
    with worker.paused():
        process = program.popen(
            "worker", "revoke", "-t", "a", "-t", "b", "--expires-in", "2h", "--timeout", "60s", "--json"
        )
        store = open_revoke_store(program.variables["STEM_RESULT_BACKEND_URL"])
        eventually(lambda: store.get("stem", "b") is not None, 60)
        store.close()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    document = json.loads(out)
    assert (document["schema"], document["code"]) == ("stem.error/1", 130)
    assert [record["task_id"] for record in document["stored"]] == ["a", "b"]
    assert f"2 revocations stored, until {document['stored'][0]['expires_at'][:13]}" in err


def test_ctrl_c_while_the_store_writes_waits_until_it_is_known_what_holds(embedded: Program) -> None:
    # given a store in whose way somebody else's transaction stands
    store = open_revoke_store(embedded.variables["STEM_RESULT_BACKEND_URL"])
    store.save("stem", [RevocationDraft("first")])
    other = sqlite3.connect(embedded.folder / "state.db", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    process = embedded.popen("worker", "revoke", "-t", "kept", "--json")
    # when it is interrupted in the middle of its write, which then ends
    eventually(lambda: any(str(embedded.folder / "state.db") in path for path in _open_files(process.pid)), 60)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    while "the store is writing" not in (line := process.stderr.readline()):
        assert line, "it ended without waiting for its store"
    other.execute("ROLLBACK")
    other.close()
    out, _ = process.communicate(timeout=60)
    # then it says so truly
    assert process.returncode == 130
    assert [record["task_id"] for record in json.loads(out)["stored"]] == ["kept"]
    assert store.get("stem", "kept") is not None
    store.close()


def _open_files(pid: int) -> list[str]:
    try:
        return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except OSError:  # one that was closed meanwhile
        return []


@FORMS
def test_an_id_that_no_sender_recorded_is_named_and_a_terminate_of_it_is_exit_code_4(
    fleet: Program, form: tuple[str, ...]
) -> None:
    assert fleet.run("worker", "revoke", "-t", "typo-17", *form).code == 0
    done = fleet.run("worker", "revoke", "-t", "typo-17", "--terminate", *form)
    assert done.code == 4, done
    if form:
        (standing,) = done.json["tasks"]
        assert (standing["id"], standing["standing"], standing["seen"]) == ("typo-17", "unknown", False)
        assert [record["task_id"] for record in done.json["stored"]] == ["typo-17"]
    else:
        assert "unknown: typo-17, no sender recorded it" in done.out


def test_a_task_that_had_finished_is_said_to_and_the_exit_code_is_1(fleet: Program) -> None:
    task = fleet.send("shop.add", a=1)
    assert fleet.ended(task)["state"] == "succeeded"
    done = fleet.run("worker", "revoke", "-t", task)
    assert done.code == 1, done
    assert f"finished first: {task} on " in done.out


def test_a_revoke_for_one_worker_says_that_the_record_holds_for_all(fleet: Program) -> None:
    done = fleet.ok("worker", "revoke", "-t", "narrow", "-w", "alpha")
    assert "applies to every worker" in done.err
    assert "broadcast to alpha only" in done.err


@pytest.mark.parametrize("task_id", ["a,b", "x y z"])
def test_ids_that_look_like_several_get_a_hint(fleet: Program, task_id: str) -> None:
    done = fleet.ok("worker", "revoke", "-t", task_id)
    assert f"hint: {task_id!r} is stored as one id" in done.err


def _who_wait(url: str) -> int:
    with redis.Redis.from_url(url) as client:
        return sum(found["cmd"] == "brpop" for found in client.client_list())
