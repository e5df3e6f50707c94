"""Control records where each store keeps them: damage (G37), crashes, and what a reader of 0.1.0 finds beside them."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from stem_kombu.errors import StoreCorrupt
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores import file_records
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.file import FileRevokeStore
from stem_kombu.stores.records import Change, RecordDraft, Removal
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.stores.sqlite import SqliteRevokeStore

NS = "shop"
#: What 0.1.0 takes for a line of its file: a record, or the mark of a namespace.
LINE_OF_0_1_0 = re.compile(
    rb'\{"stem_revocations":1,"file":"[0-9a-f]{16}"\}\n|'
    rb'\{"namespace":"(?:[^"\\]|\\.)*",(?:"task_id":"(?:[^"\\]|\\.)*","version":\d{1,16},"supersedes":(?:\d{1,16}|null),'
    rb'.*\}\n|"revision":\d{1,16},"pruned_us":\d{1,16},"pruned":\d{1,16}\}\n)'
)


def put(store: RevokeStore, *keys: str) -> None:
    for key in keys:
        store.change(NS, Change(records=[RecordDraft("rule", key, {"key": key})]))


def held(store: RevokeStore) -> list[str]:
    return [record.key for record in store.records_since(NS, 0)]


def check_that_all_else_is_read(store: RevokeStore) -> None:
    assert held(store) == ["a", "c"]
    assert store.record(NS, "rule", "b") is None
    assert {record.key for record in store.newest_records(NS, "rule", 9)} == {"a", "c"}
    assert len(store.quarantine.of(NS)) == 1
    put(store, "b")
    assert held(store) == ["a", "c", "b"]


@pytest.mark.parametrize(
    "damage", ["body = '{'", "body = '[]'", "stored_us = 'x'", "version = 'x'", "expires_us = 9e30"]
)
def test_g37_a_record_of_sqlite_that_can_not_be_read_is_set_aside(tmp_path: Path, damage: str) -> None:
    store = SqliteRevokeStore(tmp_path / "revokes.db")
    put(store, "a", "b", "c")
    with sqlite3.connect(tmp_path / "revokes.db") as other:
        other.execute(f"UPDATE stem_control_records SET {damage} WHERE key = 'b'")
    other.close()

    check_that_all_else_is_read(store)


def test_g37_a_record_of_postgresql_that_can_not_be_read_is_set_aside(postgres_url: str) -> None:
    store = open_revoke_store(postgres_url)
    put(store, "a", "b", "c")
    with psycopg2.connect(postgres_url) as other, other.cursor() as cursor:
        cursor.execute("UPDATE stem_control_records SET body = '{' WHERE key = 'b'")
    other.close()

    check_that_all_else_is_read(store)
    store.close()


@pytest.mark.parametrize("damage", ["{", '{"version":3}', "\udcff"])
def test_g37_a_record_of_redis_that_can_not_be_read_is_set_aside(redis_url: str, damage: str) -> None:
    store = open_revoke_store(redis_url)
    put(store, "a", "b", "c")
    with redis.Redis.from_url(redis_url) as client:
        client.hset("{shop}:control:records:rule", "b", damage.encode(errors="surrogateescape"))

    check_that_all_else_is_read(store)
    store.close()


@pytest.mark.parametrize("index", ["versions", "expiry"])
@pytest.mark.parametrize("how", ["deleted", "another type", "one entry less", "one entry more"])
def test_g37_redis_makes_the_indexes_of_records_anew(redis_url: str, index: str, how: str) -> None:
    store = open_revoke_store(redis_url)
    put(store, "a", "b")
    store.change(NS, Change(records=[RecordDraft("rule", "short", {}, expires_in=0.01)]))
    key = f"{{shop}}:control:records:rule:{index}"
    with redis.Redis.from_url(redis_url) as client:
        if how == "one entry less":
            client.zpopmin(key)
        elif how == "one entry more":
            client.zadd(key, {"ghost": 1})
        else:
            client.delete(key)
            if how == "another type":
                client.set(key, "x")

    if index == "versions":
        assert held(store) == ["a", "b", "short"]
    else:
        client.delete("{shop}:control:records:rule:versions")
        assert [record.key for record in store.newest_records(NS, "rule", 2)] == ["short", "b"]
    store.close()


def test_a_key_of_redis_that_another_program_wrote_is_named(redis_url: str) -> None:
    store = open_revoke_store(redis_url)
    with redis.Redis.from_url(redis_url) as client:
        client.set("{shop}:control:records:rule", "x")

    with pytest.raises(StoreCorrupt, match=r"\{shop\}:control:records:rule"):
        list(store.records_since(NS, 0, ["rule"]))
    store.close()


def test_g37_a_line_of_the_file_that_was_changed_is_set_aside(tmp_path: Path) -> None:
    store = FileRevokeStore(tmp_path / "revokes.stem")
    put(store, "a", "b", "c")
    control = tmp_path / "revokes.stem.control"
    control.write_bytes(control.read_bytes().replace(b'{"key":"b"}', b'{"key":"x"}'))

    check_that_all_else_is_read(FileRevokeStore(tmp_path / "revokes.stem"))


def test_what_a_killed_writer_left_of_a_change_never_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The records are in their file, the revocations are not: the change was not stored, and nothing of it is shown."""
    path = tmp_path / "revokes.stem"
    store = FileRevokeStore(path)
    put(store, "a")
    before = path.read_bytes()
    change = Change([RevocationDraft("t")], records=[RecordDraft("rule", k, {}) for k in ("a", "b")])
    store.change(NS, change)
    path.write_bytes(before)

    reader = FileRevokeStore(path)
    assert held(reader) == ["a"]
    assert reader.record(NS, "rule", "a") == FileRevokeStore(path).newest_records(NS, "rule", 1)[0]

    put(FileRevokeStore(path), "c")
    assert held(reader) == held(FileRevokeStore(path)) == ["a", "c"]
    assert list(FileRevokeStore(path).load(NS)) == []


def test_a_file_of_records_is_rewritten_when_most_of_it_is_of_no_use(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_records, "_MOST_USELESS", 4)
    store, reader = (FileRevokeStore(tmp_path / "revokes.stem") for _ in range(2))
    put(store, "kept")
    other = store.change("other", Change(records=[RecordDraft("rule", "o", {})]))
    for _ in range(12):
        put(store, "a")
        assert held(reader) == ["kept", "a"]

    assert len((tmp_path / "revokes.stem.control").read_bytes().splitlines()) < 12
    assert held(store) == held(FileRevokeStore(tmp_path / "revokes.stem")) == ["kept", "a"]
    assert list(reader.records_since("other", 0)) == list(other.records)


def test_the_file_of_the_revocations_stays_readable_for_0_1_0(tmp_path: Path) -> None:
    path = tmp_path / "revokes.stem"
    store = FileRevokeStore(path)
    (revoked,) = store.save(NS, [RevocationDraft("t")])
    store.change(NS, Change(records=[RecordDraft("rule", "k", {})]))
    both = Change(
        [RevocationDraft("u")], [Removal("t", revoked.version)], [RecordDraft("undo", "t", {})], [("rule", "k")]
    )
    store.change(NS, both)

    assert all(LINE_OF_0_1_0.fullmatch(line) for line in path.read_bytes().splitlines(keepends=True))
    assert [record.task_id for record in FileRevokeStore(path).since(NS, 0)] == ["u", "t"]


def test_what_0_1_0_reads_of_redis_is_as_it_was(redis_url: str) -> None:
    store = open_revoke_store(redis_url)
    (revoked,) = store.save(NS, [RevocationDraft("t", True, "wrong")])
    change = Change(removals=[Removal("t", revoked.version, "typo")], records=[RecordDraft("undo", "t", {})])
    ended = store.change(NS, change).ended[0]

    with redis.Redis.from_url(redis_url) as client:
        found: dict[bytes, Any] = client.hgetall("{shop}:control:revokes")
        counter = client.get("{shop}:control:revision")
    fields = json.loads(found[b"t"])
    assert fields.keys() == {"version", "issued_us", "terminate", "reason", "requested_by", "expires_us"}
    assert fields["version"] == ended.version < int(counter) == store.revision(NS)
    assert fields["expires_us"] < fields["issued_us"]
    store.close()
