"""``stem store check``, ``repair`` and ``export``, and what ``health``, ``inspect`` and ``stats`` say of a damaged store."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.stores.registry import open_revoke_store
from tests.cli.program import Program

KINDS = pytest.mark.parametrize("store_url", ["redis", "file"], indirect=True)  # the others: tests/stores


@pytest.fixture
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param in ("redis", "postgres"):
        found: str = request.getfixturevalue(f"{request.param}_url")
        return found
    return f"{request.param}://{tmp_path}/revokes.{request.param}"


def damage(url: str, task: str) -> None:
    """Make the record of a task one that can't be read."""
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as client:
            client.hset("{stem}:control:revokes", task, '{"terminate":')
    elif url.startswith("postgres"):
        connection = psycopg2.connect(url)
        with connection, connection.cursor() as cursor:
            cursor.execute("UPDATE stem_revocations SET proofs = '{' WHERE task_id = %s", (task,))
        connection.close()
    elif url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite://")) as database:
            database.execute("UPDATE stem_revocations SET proofs = '{' WHERE task_id = ?", (task,))
        database.close()
    else:
        path = Path(url.removeprefix("file://"))
        path.write_text(path.read_text().replace(f'"task_id":"{task}"', f'"task_id":"{task}x"'))


def revoked(url: str, *ids: str) -> dict[str, str]:
    store = open_revoke_store(url)
    store.save("stem", [RevocationDraft(one) for one in ids])
    store.close()
    return {"STEM_REVOKE_STORE_URL": url}


@KINDS
def test_a_sound_store_is_exit_code_0(embedded: Program, store_url: str) -> None:
    env = revoked(store_url, "a", "b", "c")

    document = embedded.ok("store", "check", "--json", env=env).json

    assert document["schema"] == "stem.store/1"
    assert (document["command"], document["ok"], document["records"], document["live"]) == ("check", True, 3, 3)
    assert (document["problems"], document["set_aside"]) == ([], [])
    assert document["revision"] > 0
    repaired = embedded.ok("store", "repair", env=env)
    assert "3 records, 3 live" in repaired.out
    assert "nothing was wrong" in repaired.err


@KINDS
def test_g37_a_damaged_record_is_named_moved_aside_and_the_rest_goes_on(embedded: Program, store_url: str) -> None:
    env = revoked(store_url, "a", "b", "c")
    damage(store_url, "b")

    checked = embedded.run("store", "check", "--json", env=env)
    assert checked.code == 1, checked
    (aside,) = checked.json["set_aside"]
    assert aside["place"]
    assert "stem store repair" in checked.err
    health = embedded.ok("health", "--json", env=env).json
    (told,) = [check for check in health["checks"] if check["component"] == "revoke_store"]
    assert told["set_aside_count"] == 1
    assert told["set_aside"][0]["place"] == aside["place"]
    exported = embedded.run("store", "export", env=env)
    assert exported.code == 1, exported
    assert [json.loads(line)["task_id"] for line in exported.out.splitlines()] == ["a", "c"]
    assert aside["place"] in exported.err

    repaired = embedded.ok("store", "repair", "--json", env=env)

    assert repaired.json["ok"] is True
    assert "moved to" in repaired.json["done"][0]
    assert embedded.ok("store", "check", "--json", env=env).json["live"] == 2
    revoked(store_url, "b")
    assert embedded.ok("store", "check", "--json", env=env).json["live"] == 3


def test_g37_workers_start_beside_a_damaged_record_and_name_it(embedded: Program, tmp_path: Path) -> None:
    url = f"file://{tmp_path}/revokes.stem"
    env = revoked(url, "a", "b")
    damage(url, "a")
    worker = embedded.start_worker("--name", "w1", env=env)
    try:
        (reply,) = embedded.ok("worker", "inspect", "--revoked", "--json", env=env).json["replies"]
        assert [record["task_id"] for record in reply["payload"]["revoked"]] == ["b"]
        assert reply["payload"]["set_aside_count"] == 1
        assert reply["payload"]["set_aside"][0]["place"] == "line 2"
        assert reply["payload"]["store_set_back"] is None
        assert "line 2" in embedded.ok("worker", "inspect", env=env).out
        (reply,) = embedded.ok("worker", "stats", "--json", env=env).json["replies"]
        assert reply["payload"]["set_aside"] == {"revoke_store": 1}
        assert "1 can't be read and are set aside" in embedded.ok("worker", "stats", env=env).out
    finally:
        worker.terminate()


def test_an_index_of_redis_that_does_not_fit_is_told_and_made_anew(embedded: Program, redis_url: str) -> None:
    env = revoked(redis_url, "a", "b")
    with redis.Redis.from_url(redis_url) as client:
        client.delete("{stem}:control:versions")
        client.delete("{stem}:control:expiry")
        client.set("{stem}:control:expiry", "x")

        document = embedded.ok("store", "repair", "--json", env=env).json

        assert document["done"] == ["the indexes of {stem}:control:revokes were rebuilt"]
        assert document["live"] == 2
        client.delete("{stem}:control:revokes")
        client.rpush("{stem}:control:revokes", "another program's")
    assert embedded.run("store", "check", env=env).code == 74
    assert embedded.ok("store", "repair", "--json", env=env).json["live"] == 2  # from the index
    with redis.Redis.from_url(redis_url) as client:
        assert client.lrange("{stem}:control:revokes:list", 0, -1) == [b"another program's"]


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_what_is_exported_is_what_was_stored(embedded: Program, store_url: str) -> None:
    env = revoked(store_url, "näme/🦑", "b")

    document = embedded.ok("store", "export", "--json", env=env).json
    lines = embedded.ok("store", "export", env=env).out.splitlines()

    assert [Revocation.from_record(record).task_id for record in document["records"]] == ["näme/🦑", "b"]
    assert [json.loads(line) for line in lines] == document["records"]


@pytest.mark.parametrize("command", ["check", "repair", "export"])
def test_a_store_that_is_away_is_exit_code_74(embedded: Program, command: str, tmp_path: Path) -> None:
    (tmp_path / "other").write_text("hello world\n")
    for url in ("redis://127.0.0.1:1/0", f"file://{tmp_path}/other"):
        done = embedded.run("store", command, "--json", env={"STEM_REVOKE_STORE_URL": url})
        assert done.code == 74, done
        found: Any = done.json
        assert found["schema"] == "stem.error/1"
