"""What stem-kombu 0.1.0 has written is read, also what its own reader refused: Flower's 0 and null (G37)."""

from __future__ import annotations

import json
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores.postgres import PostgresRevokeStore
from stem_kombu.stores.registry import open_revoke_store

WRITTEN = Path(__file__).with_name("written_by_0_1_0")
#: Task and terminate, as far as each store took what Flower sent.
HELD = {"ending": False, "näme/🦑": True, "signed": True, "plain": True}
FLOWERS = {"flower-0": False, "flower-1": True}


@pytest.fixture(params=["file", "sqlite", "redis", "postgres"])
def written(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, dict[str, bool]]:
    """The URL of a store as 0.1.0 left it, and what it holds."""
    kind = request.param
    if kind == "file":
        shutil.copy(WRITTEN / "revokes.stem", tmp_path)
        return f"file://{tmp_path}/revokes.stem", {**HELD, **FLOWERS, "flower-None": False}
    if kind == "sqlite":
        with sqlite3.connect(tmp_path / "revokes.db") as database:
            database.executescript((WRITTEN / "revokes.sql").read_text())
        database.close()
        return f"sqlite://{tmp_path}/revokes.db", {**HELD, **FLOWERS}
    url: str = request.getfixturevalue(f"{kind}_url")
    found = json.loads((WRITTEN / f"revokes.{kind}.json").read_text())
    if kind == "redis":
        with redis.Redis.from_url(url) as client:
            for key, value in found.items():
                _restore(client, key, value)
        return url, {**HELD, **FLOWERS, "flower-None": False}
    PostgresRevokeStore(url).revision("shop")  # makes the tables
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        for table, rows in found.items():
            fill = f"INSERT INTO {table} SELECT * FROM json_populate_recordset(NULL::{table}, %s)"
            cursor.execute(fill, (json.dumps(rows),))
    connection.close()
    return url, {**HELD, "flower-True": True}


def _restore(client: Any, key: str, value: Any) -> None:
    if isinstance(value, dict):
        client.hset(key, mapping=value)
    elif isinstance(value, list):
        client.zadd(key, dict(value))
    else:
        client.set(key, value)


def test_g37_every_revocation_of_0_1_0_is_obeyed(written: tuple[str, dict[str, bool]]) -> None:
    url, expected = written
    store = open_revoke_store(url)

    held = {record.task_id: record for record in store.load("shop")}

    assert {task_id: record.terminate for task_id, record in held.items()} == expected
    assert store.quarantine.of("shop") == ()
    assert held["näme/🦑"].reason == 'wéil\n"q" \\'
    assert held["näme/🦑"].requested_by == "ann@host"
    assert len(held["signed"].proofs) == 1
    assert held["ending"].expires_at is not None
    assert [record.task_id for record in store.load("other")] == ["theirs"]
    revision = store.revision("shop")
    assert revision >= max(record.version for record in held.values())
    # And it goes on being written.
    records = store.save("shop", [Draft(task_id) for task_id in expected])
    assert [record.terminate for record in records] == list(expected.values())
    assert records[0].version > revision
    assert len(list(store.load("shop"))) == len(expected)
    store.close()
