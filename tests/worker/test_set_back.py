"""A store that was set back is noticed, read anew, and given back what a worker holds and it has lost (G1 to G3)."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg2
import pytest
import redis

from stem_kombu.agent.hydration import Hydration
from stem_kombu.clock import SYSTEM
from stem_kombu.revocation import Revocation
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change, Removal
from stem_kombu.stores.registry import open_revoke_store
from tests.servers.redis import RedisServer
from tests.waiting import eventually

NS = "shop"
PROOF = '{"t":1,"e":null,"x":true,"r":null,"q":null,"s":"hmac-sha256:ops:AA=="}'


class Reader:
    """A worker as far as revocations go."""

    def __init__(self, url: str, name: str = "w1") -> None:
        self.store = open_revoke_store(url)
        self.cache = RevocationCache(NS)
        self.hydration = Hydration(
            self.store,
            NS,
            self.cache,
            lambda records: self.cache.apply(records, self.cache.now()),
            interval=3600.0,
            clock=SYSTEM,
            worker=name,
        )

    def sync(self) -> None:
        assert self.hydration.sync(), self.hydration.trouble

    def hear(self, records: list[Revocation]) -> None:
        """A broadcast."""
        self.cache.apply(records, self.cache.now())

    @property
    def ids(self) -> set[str]:
        return {task_id for task_id in ("a", "b", "c", "d", "e") if task_id in self.cache}


@pytest.fixture
def store_of(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[tuple[str, Callable[[], None], Callable[[], None]]]:
    """A store's URL, what takes a snapshot of it, and what sets it back to that."""
    kind = request.param
    copy = tmp_path / "copy"
    if kind == "redis":
        url = request.getfixturevalue("redis_url")
        client, held = redis.Redis.from_url(url), {}

        def save() -> None:
            held.update({key: client.dump(key) for key in client.keys("*")})

        def restore() -> None:
            client.flushdb()
            for key, value in held.items():
                client.restore(key, 0, value)

        yield url, save, restore
        client.close()
        return
    if kind == "postgres":
        url = request.getfixturevalue("postgres_url")
        tables = ("stem_revocations", "stem_revocation_versions", "stem_control_records")

        def save() -> None:
            execute(url, *[f"CREATE TABLE {table}_copy AS TABLE {table}" for table in tables])

        def restore() -> None:
            execute(url, *[f"DELETE FROM {table}; INSERT INTO {table} TABLE {table}_copy" for table in tables])

        yield url, save, restore
        return
    path = tmp_path / ("revokes.db" if kind == "sqlite" else "revokes.stem")

    def checkpoint() -> None:
        if kind == "sqlite":
            with sqlite3.connect(path) as other:
                other.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            other.close()

    def save() -> None:
        checkpoint()
        shutil.copy(path, copy)

    def restore() -> None:
        checkpoint()
        copy.replace(path)

    yield f"{kind}://{path}", save, restore


def execute(url: str, *statements: str) -> None:
    connection = psycopg2.connect(url)
    with connection, connection.cursor() as cursor:
        for statement in statements:
            cursor.execute(statement)
    connection.close()


every_store = pytest.mark.parametrize("store_of", ["redis", "postgres", "sqlite", "file"], indirect=True)


@pytest.mark.parametrize("written_since", [False, True], ids=["untouched", "written"])
@every_store
def test_g31_an_undo_that_a_store_has_lost_is_carried_out_again(store_of: Any, written_since: bool) -> None:
    url, save, restore = store_of
    client, first, second = open_revoke_store(url), Reader(url), Reader(url, "w2")
    wrong, _ = client.save(NS, [Draft("a", True), Draft("b")])
    first.sync()
    second.sync()
    save()
    client.change(NS, Change(removals=[Removal("a", wrong.version, "typo", "ann", (PROOF,))]))
    first.sync()
    assert first.ids == {"b"}

    restore()
    if written_since:
        client.save(NS, [Draft("c")])
    first.sync()
    second.sync()

    still = {"b", "c"} if written_since else {"b"}
    assert first.ids == second.ids == still
    newcomer = Reader(url, "w3")
    newcomer.sync()
    assert newcomer.ids == still
    (ended,) = [one for one in client.since(NS, 0) if one.task_id == "a"]
    assert (ended.reason, ended.requested_by, ended.proofs) == ("typo", "ann", (PROOF,))
    # What is revoked anew is revoked: an undo is of the past.
    client.save(NS, [Draft("a")])
    for reader in (first, second, newcomer):
        reader.sync()
        assert reader.ids == {"a", *still}
        reader.store.close()
    client.close()


@every_store
def test_g2_g3_what_a_store_has_lost_is_put_back_by_a_worker_that_holds_it(
    store_of: Any, caplog: pytest.LogCaptureFixture
) -> None:
    url, save, restore = store_of
    client, first, second = open_revoke_store(url), Reader(url), Reader(url, "w2")
    client.save(NS, [Draft("a", terminate=True), Draft("b", expires_in=3600.0)])
    second.sync()
    save()
    lost = client.save(NS, [Draft("c", True, "why", "ann", 1800.0, (PROOF,)), Draft("d"), Draft("b", True)])
    first.sync()
    assert first.ids == {"a", "b", "c", "d"}

    restore()
    client.save(NS, [Draft("e")])  # one write after the loss: the revision is higher than before
    first.sync()
    second.sync()

    assert first.ids == second.ids == {"a", "b", "c", "d", "e"}
    held = {record.task_id: record for record in open_revoke_store(url).load(NS)}
    assert held.keys() == {"a", "b", "c", "d", "e"}
    assert held["b"].terminate
    assert held["b"].expires_at is None
    assert (held["c"].terminate, held["c"].reason, held["c"].requested_by) == (True, "why", "ann")
    assert held["c"].proofs == (PROOF,)
    assert held["c"].expires_at is not None
    assert lost[0].expires_at is not None
    assert abs(held["c"].expires_at - lost[0].expires_at) < timedelta(seconds=30)
    facts = first.hydration.facts()
    assert facts.set_back is not None
    assert facts.set_back.put_back == 3
    assert set(facts.set_back.task_ids) == {"b", "c", "d"}
    assert "worker w1" in caplog.text
    assert second.hydration.facts().set_back is None
    # And all is well again.
    caplog.clear()
    first.sync()
    assert caplog.text == ""


@every_store
def test_g1_what_was_heard_and_never_read_is_put_back(store_of: Any) -> None:
    """A broadcast that arrived a moment before the store was set back."""
    url, save, restore = store_of
    client, reader = open_revoke_store(url), Reader(url)
    client.save(NS, [Draft("a")])
    reader.sync()
    save()
    reader.hear(client.save(NS, [Draft("b")]))

    restore()
    reader.sync()

    assert {record.task_id for record in client.load(NS)} == {"a", "b"}


@every_store
def test_g2_a_record_is_read_whose_version_is_below_what_was_read_before(store_of: Any) -> None:
    """A counter that was ahead once: what is revoked after it was set back has a lower version."""
    url, save, restore = store_of
    client, reader = open_revoke_store(url), Reader(url)
    client.save(NS, [Draft("a")])
    reader.sync()
    save()
    ahead = _saved_ahead(url, client)
    reader.sync()
    assert reader.cache.revision >= ahead

    restore()
    (later,) = client.save(NS, [Draft("c")])
    assert later.version < ahead
    reader.sync()

    assert "c" in reader.cache
    assert reader.cache.revision < ahead
    client.save(NS, [Draft("d")])
    reader.sync()
    assert "d" in reader.cache


@every_store
def test_g3_an_empty_store_is_filled_by_those_who_know(store_of: Any) -> None:
    url, _, _ = store_of
    client, reader = open_revoke_store(url), Reader(url)
    client.save(NS, [Draft("a", terminate=True), Draft("b"), Draft("c", expires_in=0.001)])
    reader.sync()
    emptied(url)

    reader.sync()

    assert {record.task_id for record in open_revoke_store(url).load(NS)} == {"a", "b"}


@every_store
def test_g2_an_idle_look_reads_nothing_but_a_glance(store_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    url, _, _ = store_of
    open_revoke_store(url).save(NS, [Draft("a"), Draft("b")])
    reader = Reader(url)
    reader.sync()

    def unwanted(*args: object) -> Iterator[Revocation]:
        raise AssertionError(f"read {args}")

    monkeypatch.setattr(type(reader.store), "since", unwanted)
    monkeypatch.setattr(type(reader.store), "load", unwanted)
    reader.sync()
    reader.sync()


def test_g2_a_promoted_replica_that_lagged_is_given_back_what_it_missed(
    start_redis: Callable[..., RedisServer], redis_server: RedisServer
) -> None:
    """Another server behind the same name, whose version after one more write is higher than all that was read."""
    primary, replica = start_redis(), start_redis()
    client = redis.Redis(port=replica.port)
    client.replicaof("127.0.0.1", str(primary.port))
    one = open_revoke_store(primary.url)
    one.save(NS, [Draft("a")])
    eventually(lambda: list(open_revoke_store(replica.url).load(NS)))
    reader = Reader(primary.url)
    client.replicaof("no", "one")  # from here on it lags
    one.save(NS, [Draft("b", terminate=True)])
    reader.sync()

    promoted = open_revoke_store(replica.url)
    (again,) = promoted.save(NS, [Draft("b")])  # even of the very task that was lost
    reader.hydration._store = promoted
    reader.sync()

    (held,) = [record for record in promoted.load(NS) if record.task_id == "b"]
    assert held.terminate
    assert held.version > again.version
    client.close()


def test_g2_a_server_that_restarted_with_all_it_had_is_no_loss(
    start_redis: Callable[..., RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_redis()
    reader = Reader(server.url)
    reader.store.save(NS, [Draft("a")])
    reader.sync()
    identity = reader.store.glance(NS, ()).identity
    server.restart()

    reader.sync()

    assert reader.store.glance(NS, ()).identity != identity
    assert reader.ids == {"a"}
    assert reader.hydration.facts().set_back is None
    assert "set back" not in caplog.text


def _saved_ahead(url: str, client: RevokeStore) -> int:
    """A record whose version is a day ahead of the clock."""
    (before,) = client.save(NS, [Draft("b")])
    ahead = before.version + 86_400 * 10**6
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as server:
            server.set(f"{{{NS}}}:control:revision", ahead)
    elif url.startswith("postgres"):
        execute(url, f"UPDATE stem_revocation_versions SET version = {ahead}")
    elif url.startswith("sqlite"):
        with sqlite3.connect(url.removeprefix("sqlite://")) as other:
            other.execute(f"UPDATE stem_revocation_versions SET version = {ahead}")
        other.close()
    else:
        with Path(url.removeprefix("file://")).open("a") as file:
            file.write(f'{{"namespace":"{NS}","revision":{ahead},"pruned_us":0,"pruned":0}}\n')
    return client.save(NS, [Draft("b")])[0].version


def emptied(url: str) -> None:
    if url.startswith("redis"):
        with redis.Redis.from_url(url) as server:
            server.flushall()
    elif url.startswith("postgres"):
        execute(url, "DROP TABLE stem_revocations, stem_revocation_versions")
    else:
        path = Path(url.partition("://")[2])
        for found in path.parent.glob(f"{path.name}*"):
            found.unlink()
