"""Today's code reads what Stem 0.1.0 left behind: stores, backends, rosters, control messages, and tasks in flight."""

from __future__ import annotations

import json
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.registry import open_backend
from stem_kombu.clock import SYSTEM
from stem_kombu.control.protocol.codec import decode_command, decode_reply
from stem_kombu.outcome import TaskRecord, TaskState
from stem_kombu.revocation import RevocationDraft
from stem_kombu.settings import Settings
from stem_kombu.signing.proofs import proven
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.worker.worker import Worker
from tests.compatibility import dumps
from tests.signing.keys import ring, shared
from tests.waiting import eventually

DATA = Path(__file__).parent / "data" / "0.1.0"
STORES = ["file", "sqlite", "redis", "postgresql"]
#: What 0.1.0 left at each broker: what its killed worker held, and what was sent afterwards.
DUE = {"m-hold", "m-waits", "m-limits", "m-expires", "m-signed"}
LATER = {"m-eta", "m-again"}


def kept(name: str) -> Any:
    return json.loads((DATA / name).read_text())


@pytest.fixture
def left_behind(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[str], str]:
    """``left_behind(kind)``: the URL of a place that holds what 0.1.0 wrote there."""

    def restored(kind: str) -> str:
        if kind == "file":
            shutil.copy(DATA / "revocations.journal", tmp_path)
            return f"file://{tmp_path / 'revocations.journal'}"
        if kind == "sqlite":
            shutil.copy(DATA / "state.sqlite", tmp_path / "state.db")
            connection = sqlite3.connect(tmp_path / "state.db")
            with connection:  # records that have aged out since they were written are to be read here
                connection.execute("UPDATE stem_tasks SET expires_us = expires_us + 3000000000000000")
            connection.close()
            return f"sqlite:///{tmp_path / 'state.db'}"
        url: str = request.getfixturevalue(f"{'redis' if kind == 'redis' else 'postgres'}_url")
        if kind == "redis":
            dumps.redis_restore(url, kept("state-redis.json"))
        else:
            statements = kept("state-postgres.json")
            ageless = [
                "UPDATE stem_tasks SET expires_at = 'infinity'",
                "UPDATE stem_roster SET expires_at = 'infinity'",
            ]
            dumps.postgres_restore(url, [*statements, *ageless])
        return url

    return restored


@pytest.mark.parametrize("kind", STORES)
def test_every_revocation_of_0_1_0_is_read_as_it_was_written(kind: str, left_behind: Callable[[str], str]) -> None:
    store = open_revoke_store(left_behind(kind))
    expected = kept(f"revocations-{kind}.json")
    for namespace, records in expected.items():
        found = {record.task_id: record.to_record() for record in store.load(namespace)}
        # The record that 0.1.0 gave an end of ten years counts until then.
        assert found.keys() >= {record["task_id"] for record in records if record["expires_at"] is None}
        for record in records:
            if record["task_id"] in found:
                assert {name: found[record["task_id"]][name] for name in record} == record
    store.close()


@pytest.mark.parametrize("kind", STORES)
def test_a_store_of_0_1_0_goes_on_after_its_highest_version(kind: str, left_behind: Callable[[str], str]) -> None:
    store = open_revoke_store(left_behind(kind))
    highest = max(record["version"] for record in kept(f"revocations-{kind}.json")["stem"])
    (new,) = store.save("stem", [RevocationDraft("told", reason="again")])
    assert new.version > highest
    assert new.terminate, "terminate once asked for stays asked for, by whichever version"
    assert [record.task_id for record in store.since("stem", highest)] == ["told"]
    store.close()


@pytest.mark.parametrize("kind", STORES)
def test_a_proof_of_0_1_0_still_proves(kind: str, left_behind: Callable[[str], str]) -> None:
    store = open_revoke_store(left_behind(kind))
    record = store.get("stem", "signed")
    assert record is not None
    assert proven(record, ring(shared("ops")), store.now()).terminate
    store.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgresql"])
def test_every_record_and_heartbeat_of_0_1_0_is_read_as_it_was_written(
    kind: str, left_behind: Callable[[str], str]
) -> None:
    backend = open_backend(left_behind(kind))
    expected = kept("records.json")
    for record in expected["tasks"]:
        found = backend.get(record["task_id"])
        assert found is not None
        written = found.to_record()
        assert {name: written[name] for name in record} == record
    view = backend.view("stem")
    assert view.unreadable == 0
    by_id = {beat.worker: beat.to_record() for beat in view.heartbeats}
    for beat in expected["beats"]:
        assert {name: by_id[beat["worker"]][name] for name in beat if name != "timestamp"} == {
            name: value for name, value in beat.items() if name != "timestamp"
        }
    backend.close()


@pytest.mark.parametrize("kind", ["sqlite", "redis", "postgresql"])
def test_g10_a_task_that_0_1_0_began_ends_in_the_same_record(kind: str, left_behind: Callable[[str], str]) -> None:
    backend = open_backend(left_behind(kind))
    running = backend.get("t-running")
    assert running is not None
    ended = TaskRecord(
        "t-running", "old.add", TaskState.SUCCEEDED, 2, "default", "new", result=3, ended_at=SYSTEM.utcnow()
    )
    (after,) = backend.record([ended])
    assert (after.state, after.result, after.started_at) == (TaskState.SUCCEEDED, 3, running.started_at)
    late = TaskRecord("t-succeeded", "old.add", TaskState.FAILED, 1, "default", "new")
    assert backend.record([late])[0].state is TaskState.SUCCEEDED
    backend.close()


def test_commands_and_replies_of_0_1_0_are_read() -> None:
    names = []
    for message in kept("control.json"):
        body = message["body"].encode()
        if message["kind"] == "command":
            command = decode_command(body, known=lambda name: name == "reload-model")
            assert (command.request_id, command.targets, command.sender) == ("cafe", ("old-*",), "ops@host")
            names.append(command.order.name)
        else:
            reply = decode_reply(body)
            assert (reply.worker, reply.boot) == ("old-worker", "b00t")
            names.append("ok" if reply.error is None else "error")
    assert names == ["ping", "inspect", "stats", "revoke", "reload-model", "ok", "error"] * 2


def test_a_heartbeat_of_0_1_0_has_no_fields_that_came_later() -> None:
    for beat in kept("records.json")["beats"]:
        assert Heartbeat.from_record(beat).version in {"0.1.0", ""}


@pytest.fixture
def broker_left_behind(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    kind = request.param
    if kind == "embedded":
        request.getfixturevalue("embedded_url")
        shutil.copy(DATA / "broker.sqlite", tmp_path / "broker.db")
        yield f"sqlite://{tmp_path / 'broker.db'}"
    elif kind == "redis":
        url = request.getfixturevalue("redis_url")
        dumps.redis_restore(url, kept("in-flight-redis.json"))
        yield url
    else:
        url = request.getfixturevalue("amqp_url")
        dumps.amqp_restore(url, "default", kept("in-flight-rabbitmq.json"))
        yield url


@pytest.mark.parametrize("broker_left_behind", ["embedded", "redis", "rabbitmq"], indirect=True)
def test_g18_every_task_that_0_1_0_left_at_the_broker_runs(broker_left_behind: str, tmp_path: Path) -> None:
    app = Stem(
        "new",
        settings=Settings.from_env({}, broker=broker_left_behind, backend=f"sqlite:///{tmp_path / 'new.db'}"),
    )
    attempts: dict[str, int] = {}

    @app.task("old.add")
    def add(ctx: Any, a: int, b: Any = 0) -> list[Any]:
        attempts[ctx.task_id] = ctx.attempt
        return [a, b, dict(ctx.headers)]

    @app.task("old.hold")
    def hold(ctx: Any) -> str:
        attempts[ctx.task_id] = ctx.attempt
        return "held"

    @app.task("old.again")
    def again(ctx: Any) -> str:
        attempts[ctx.task_id] = ctx.attempt
        return "again"

    backend = app.backend
    assert backend is not None
    worker = Worker(app, name="old-worker", concurrency=1)
    with worker:
        eventually(lambda: all(_succeeded(backend.get(task_id)) for task_id in DUE), 30)
        # What waits for its eta is held here or, years after this was written, has run.
        eventually(lambda: waiting(worker) + len(attempts.keys() & LATER) == len(LATER))
    waits, limits = backend.get("m-waits"), backend.get("m-limits")
    assert waits is not None
    assert waits.result == [1, 2, {"shop": "berlin", "n": 1}]
    assert limits is not None
    assert limits.result == [1, {"deep": ["Ж", None]}, {}]
    assert all(attempts[task_id] == 1 for task_id in DUE)
    assert attempts.get("m-again", 2) == 2
    app.close()


def waiting(worker: Worker) -> int:
    """How many tasks wait for their eta: in the worker or, with the embedded broker, in its file."""
    if worker.transport != "sqlite":
        return len(worker.inflight)
    connection = sqlite3.connect(worker.broker_url.removeprefix("sqlite://"))
    ((count,),) = connection.execute(
        "SELECT COUNT(*) FROM stem_broker_message JOIN stem_broker_queue AS queue ON queue.id = queue_id"
        " WHERE queue.name = 'default'"
    ).fetchall()
    connection.close()
    return int(count)


def _succeeded(record: TaskRecord | None) -> bool:
    return record is not None and record.state is TaskState.SUCCEEDED


def test_the_past_lies_behind_us() -> None:
    """The fixtures were written with ends that are years away; this fails when they come near."""
    (ends,) = [record for record in kept("revocations-file.json")["stem"] if record["task_id"] == "ends"]
    assert ends["expires_at"] > (SYSTEM.utcnow() + timedelta(days=90)).isoformat()
