"""The Redis store: the merge in Lua, keys that somebody else touched, and servers that refuse, restart and forget."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stem_kombu.drivers.redis import RedisDatabase
from stem_kombu.errors import ConfigurationError, StoreCorrupt, StoreError, StoreUnavailable
from stem_kombu.revocation import Revocation, merge
from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.batch import LONGEST_LIFE, folded
from stem_kombu.stores.redis import RedisRevokeStore
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.testing.ports import free_port
from tests.servers.process import Reaper, ServerProcess
from tests.servers.redis import RedisServer
from tests.waiting import eventually

NS = "shop"
HASH, VERSIONS, EXPIRY, REVISION = (
    f"{{{NS}}}:control:{name}" for name in ("revokes", "versions", "expiry", "revision")
)


@pytest.fixture
def store(redis_url: str) -> RevokeStore:
    return open_revoke_store(redis_url)


@pytest.fixture
def client(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url, decode_responses=True) as opened:
        yield opened


@pytest.fixture
def raw(redis_url: str) -> Any:
    with redis.Redis.from_url(redis_url) as opened:
        yield opened


texts = st.none() | st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40)
proofs = st.builds(
    lambda key, fingerprint, signed_us, expires_us, terminate: json.dumps(
        {
            "t": signed_us,
            "e": expires_us,
            "x": terminate,
            "r": None,
            "q": "ann",
            **fingerprint,
            "s": f"hmac-sha256:{key}:AA==",
        }
    ),
    fingerprint=st.sampled_from([{}, {"f": "aaaa"}, {"f": "bbbb"}, {"f": ""}, {"f": 7}, {"f": None}]),
    key=st.sampled_from(["ops", "root", "viewer", "a.b"]),
    signed_us=st.integers(0, 4) | st.integers(10**15, 2 * 10**15),
    expires_us=st.none() | st.integers(0, 4) | st.integers(10**15, 2 * 10**15),
    terminate=st.booleans(),
)
no_proofs = st.sampled_from(
    ["", "no json", "[]", '{"t":1}', '{"t":1,"e":null,"x":true,"s":"no key"}', "null", '{"s":7}']
)
drafts = st.builds(
    Draft,
    task_id=st.sampled_from(["t1", "t2", 'q"\\/{}é', "🦑"]),
    terminate=st.booleans(),
    reason=texts,
    requested_by=texts,
    expires_in=st.none() | st.sampled_from([1e-6, 1.5e-6, 60.0, LONGEST_LIFE]) | st.floats(1e-6, LONGEST_LIFE),
    proofs=st.lists(proofs | no_proofs, max_size=14).map(tuple),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(batches=st.lists(st.lists(drafts, min_size=1, max_size=5), min_size=1, max_size=4))
def test_g4_the_merge_in_lua_is_the_merge_in_python(
    store: RevokeStore, client: Any, batches: list[list[Draft]]
) -> None:
    client.flushdb()
    held: dict[str, Revocation] = {}
    for batch in batches:
        records = store.save(NS, batch)
        assert [record.task_id for record in records] == list(dict.fromkeys(draft.task_id for draft in batch))
        for draft, record in zip(folded(batch), records, strict=True):
            rule = merge(held.get(draft.task_id), draft, namespace=NS, version=record.version, now=record.issued_at)
            assert record == rule
            held[draft.task_id] = record

    expiring = {record.task_id for record in held.values() if record.expires_at is not None}
    assert set(client.zrange(EXPIRY, 0, -1)) == expiring
    assert list(store.since(NS, 0)) == sorted(held.values(), key=lambda record: record.version)


def test_a_record_is_json_that_people_can_read(store: RevokeStore, client: Any) -> None:
    (record,) = store.save(NS, [Draft("t1", terminate=True, reason="bad/deploy", expires_in=60)])

    fields = json.loads(client.hget(HASH, "t1"))

    assert fields["version"] == record.version == int(client.get(REVISION)) == int(client.zscore(VERSIONS, "t1"))
    assert (fields["terminate"], fields["reason"], fields["requested_by"]) == (True, "bad/deploy", None)
    assert fields["expires_us"] - fields["issued_us"] == 60_000_000


def test_pruning_leaves_nothing_behind(store: RevokeStore, client: Any) -> None:
    store.save(NS, [Draft(f"t{number}", expires_in=0.001) for number in range(5)])
    eventually(lambda: not list(store.load(NS)))

    assert store.prune(NS) == 5

    assert client.keys("*") == [REVISION]


@pytest.mark.parametrize("loss", ["FLUSHALL", "an older copy of the data"])
def test_g2_versions_go_on_rising_after_the_server_forgot_some(store: RevokeStore, client: Any, loss: str) -> None:
    (old,) = store.save(NS, [Draft("old")])
    copies = {key: client.dump(key) for key in client.keys("*")} if loss != "FLUSHALL" else {}
    forgotten = store.save(NS, [Draft(f"t{number}") for number in range(10)])[-1]
    client.flushdb()
    for key, copy in copies.items():
        client.restore(key, 0, copy)

    (new,) = store.save(NS, [Draft("new")])

    assert new.version > forgotten.version > old.version
    assert [record.task_id for record in store.since(NS, forgotten.version)] == ["new"]


NULL_FLAG = (
    '{"version":9,"issued_us":1,"terminate":userdata: (nil),"reason":null,"requested_by":null,"expires_us":null}'
)
FLOWERS_FLAG = '{"version":VERSION,"issued_us":1,"terminate":FLAG,"reason":null,"requested_by":null,"expires_us":null}'


@pytest.mark.parametrize("garbage", ["{", "[]", "7", '"text"', '{"version":1}', '{"terminate":1}', "null", "\xff", ""])
def test_g37_a_field_that_is_no_record_is_set_aside_and_all_others_are_obeyed(
    store: RevokeStore, raw: Any, garbage: str
) -> None:
    store.save(NS, [Draft("t1"), Draft("t2")])
    raw.hset(HASH, "t1", garbage.encode("latin-1"))

    assert [record.task_id for record in store.load(NS)] == ["t2"]
    assert [record.task_id for record in store.since(NS, 0)] == ["t2"]
    assert store.get(NS, "t1") is None
    (aside,) = store.quarantine.of(NS)
    assert (aside.place, aside.task_id) == (f"{HASH} field t1", "t1")
    assert raw.hget(HASH, "t1") == garbage.encode("latin-1")

    (other,) = store.save(NS, [Draft("t0")])
    assert [record.task_id for record in store.since(NS, other.version - 1)] == ["t0"]
    store.save(NS, [Draft("t1", reason="again")])  # which takes its place
    assert [record.task_id for record in store.load(NS)] == ["t2", "t0", "t1"]
    assert store.quarantine.of(NS) == ()
    assert raw.hget(f"{{{NS}}}:control:set-aside", "t1") == garbage.encode("latin-1")


@pytest.mark.parametrize(
    ("flag", "terminate"), [("0", False), ("null", False), ("userdata: (nil)", False), ("1", True)]
)
def test_g37_what_an_earlier_version_stored_for_flower_is_obeyed(
    store: RevokeStore, client: Any, flag: str, terminate: bool
) -> None:
    """Flower's API sends 0 and null for false, and stem-kombu 0.1.0 stored that as it came."""
    (record,) = store.save(NS, [Draft("t1")])
    client.hset(HASH, "t1", FLOWERS_FLAG.replace("VERSION", str(record.version)).replace("FLAG", flag))

    (held,) = store.load(NS)
    assert (held.task_id, held.terminate) == ("t1", terminate)
    (again,) = store.save(NS, [Draft("t1")])
    assert again.terminate is terminate
    assert store.quarantine.of(NS) == ()


@pytest.mark.parametrize("key", [VERSIONS, EXPIRY, REVISION])
@pytest.mark.parametrize("damage", ["deleted", "another type"])
def test_g37_an_index_that_is_gone_is_made_again_from_the_records(
    store: RevokeStore, client: Any, key: str, damage: str
) -> None:
    records = store.save(NS, [Draft("t1"), Draft("t2", expires_in=60), Draft("t3", expires_in=0.001)])
    eventually(lambda: len(list(store.load(NS))) == 2)
    client.delete(key)
    if damage == "another type":
        client.rpush(key, "somebody else's")

    assert store.glance(NS, ["t2"]).held == {"t2": records[1]}
    assert list(store.load(NS)) == records[:2]
    assert store.revision(NS) == records[-1].version
    (next_one,) = store.save(NS, [Draft("t4")])
    assert next_one.version > records[-1].version
    # An idle look repairs what readers and writers need; the index by expiry is needed by pruning alone.
    assert store.prune(NS) == (1 if (key, damage) != (EXPIRY, "deleted") else 0)


def test_g37_a_writer_makes_the_indexes_again_before_it_writes(store: RevokeStore, client: Any) -> None:
    """A counter that was ahead of the clock is gone with its index: the next version is higher all the same."""
    (first,) = store.save(NS, [Draft("t1")])
    client.set(REVISION, first.version + 10**13)
    (ahead,) = store.save(NS, [Draft("t2")])
    client.delete(VERSIONS, REVISION)

    (later,) = store.save(NS, [Draft("t3")])

    assert later.version > ahead.version > first.version + 10**12
    assert [record.task_id for record in store.load(NS)] == ["t1", "t2", "t3"]


@pytest.mark.parametrize("counter", ["9007199254740991", "9007199254740990", "1e300", "nan", "-5", "1.5", "word", ""])
def test_g37_a_counter_that_no_store_can_have_given_is_made_again(
    store: RevokeStore, client: Any, counter: str
) -> None:
    store.save(NS, [Draft("t1")])
    client.set(REVISION, counter)

    (record,) = store.save(NS, [Draft("t2")])

    assert record.version < 2**52
    assert [held.task_id for held in store.load(NS)] == ["t1", "t2"]
    assert store.revision(NS) == record.version


def test_g37_records_that_an_earlier_version_numbered_out_of_range_get_new_versions(
    store: RevokeStore, client: Any
) -> None:
    (record,) = store.save(NS, [Draft("t1", reason="kept")])
    text = client.hget(HASH, "t1").replace(str(record.version), "9007199254740993", 1)
    client.hset(HASH, "t1", text)
    client.zadd(VERSIONS, {"t1": 9007199254740993})
    client.set(REVISION, "9007199254740993")

    (held,) = store.load(NS)

    assert (held.task_id, held.reason) == ("t1", "kept")
    assert held.version < 2**52
    assert store.save(NS, [Draft("t2")])[0].version > held.version


def test_g2_records_that_the_server_evicted_are_made_again_from_the_index(
    store: RevokeStore, client: Any, caplog: pytest.LogCaptureFixture
) -> None:
    records = store.save(NS, [Draft("t1", terminate=True), Draft("t2", expires_in=60)])
    client.delete(HASH)

    held = list(store.load(NS))

    assert [(r.task_id, r.version, r.terminate) for r in held] == [(r.task_id, r.version, False) for r in records]
    assert held[0].expires_at is None
    assert held[1].expires_at == records[1].expires_at
    assert "2 tasks stay revoked" in caplog.text


def test_a_field_that_somebody_deleted_is_undone(store: RevokeStore, client: Any) -> None:
    store.save(NS, [Draft("t1"), Draft("t2")])
    client.hdel(HASH, "t1")

    assert [record.task_id for record in store.load(NS)] == ["t2"]
    assert client.zrange(VERSIONS, 0, -1) == ["t2"]


def test_g5_an_entry_of_the_index_can_not_prune_a_record_that_does_not_expire(store: RevokeStore, client: Any) -> None:
    records = store.save(NS, [Draft("t1"), Draft("t2", expires_in=3600)])
    client.zadd(EXPIRY, {"t1": 1, "t2": 1})

    assert store.prune(NS) == 0
    assert list(store.load(NS)) == records


def test_records_of_another_type_are_told_and_nothing_is_stored(store: RevokeStore, client: Any) -> None:
    client.rpush(HASH, "somebody else's")

    with pytest.raises(StoreCorrupt, match="WRONGTYPE") as told:
        store.save(NS, [Draft("t1", expires_in=60)])

    assert "stem store repair" in str(told.value.hint)
    assert client.keys("*") == [HASH]


def test_a_server_that_forgot_the_scripts_is_sent_them_again(store: RevokeStore, client: Any) -> None:
    store.save(NS, [Draft("t1")])
    client.script_flush()

    store.save(NS, [Draft("t2")])

    assert len(list(store.load(NS))) == 2


def test_a_connection_that_was_cut_is_opened_again(store: RevokeStore, client: Any) -> None:
    store.save(NS, [Draft("t1")])
    client.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")

    store.save(NS, [Draft("t2")])

    assert len(list(store.load(NS))) == 2


def test_g1_a_server_that_was_killed_and_came_back_holds_what_it_had(
    store: RevokeStore, redis_server: RedisServer
) -> None:
    (before,) = store.save(NS, [Draft("t1")])
    redis_server.kill()

    with pytest.raises(StoreUnavailable, match="refused") as down:
        store.save(NS, [Draft("lost")])
    assert down.value.hint == "check that the server runs at that host and port"

    redis_server.start()
    (after,) = store.save(NS, [Draft("t2")])
    assert list(store.load(NS)) == [before, after]


def test_a_server_that_hangs_is_given_up(redis_server: RedisServer, redis_url: str) -> None:
    database = RedisDatabase(redis_url, timeout=0.2)
    database.run(lambda client: client.ping())
    redis_server.pause()
    try:
        for attempt in (database, RedisDatabase(redis_url, timeout=0.2)):
            with pytest.raises(StoreUnavailable, match="no answer in time"):
                attempt.run(lambda client: client.ping())
    finally:
        redis_server.resume()
    database.run(lambda client: client.ping())


def test_a_wrong_password_is_told_without_showing_it(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(password="right-secret")
    right = open_revoke_store(server.url)
    right.save(NS, [Draft("t")])
    assert "right-secret" not in right.url

    for user in ("", ":wrong-secret@"):
        store = open_revoke_store(f"redis://{user}{server.host}:{server.port}/0")
        with pytest.raises(StoreUnavailable, match="password was not accepted") as refused:
            store.ping()
        assert "wrong-secret" not in str(refused.value)
        assert refused.value.hint == "check user and password"


def test_a_user_who_may_not_is_told_what_to_allow(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis()
    server.say("ACL", "SETUSER", "weak", "on", ">secret", "~*", "+ping", "+select")
    store = open_revoke_store(f"redis://weak:secret@{server.host}:{server.port}/0")
    store.ping()

    with pytest.raises(StoreUnavailable, match=r"(?i)no permission") as refused:
        store.save(NS, [Draft("t")])

    assert "EVALSHA" in (refused.value.hint or "")


def test_a_database_that_does_not_exist_is_told(redis_server: RedisServer, redis_url: str) -> None:
    with pytest.raises(StoreUnavailable, match="DB index is out of range") as refused:
        open_revoke_store(f"redis://{redis_server.host}:{redis_server.port}/99999").ping()

    assert "after the last slash" in (refused.value.hint or "")


def test_a_server_without_memory_is_told(start_redis: Callable[..., RedisServer]) -> None:
    server = start_redis(options=["--maxmemory", "1", "--maxmemory-policy", "noeviction"])

    with pytest.raises(StoreUnavailable, match="out of memory") as full:
        open_revoke_store(server.url).save(NS, [Draft("t")])

    assert "maxmemory" in (full.value.hint or "")


def test_a_replica_is_told_and_can_be_read(start_redis: Callable[..., RedisServer]) -> None:
    master = start_redis()
    (record,) = open_revoke_store(master.url).save(NS, [Draft("t")])
    replica = start_redis(options=["--replicaof", master.host, str(master.port)])
    store = open_revoke_store(replica.url)

    assert eventually(lambda: list(store.load(NS)), ignoring=StoreError) == [record]
    with pytest.raises(StoreUnavailable, match="read-only replica") as refused:
        store.save(NS, [Draft("u")])
    assert refused.value.hint == "give the URL of the master"


def test_g1_a_batch_is_stored_when_the_replicas_have_it_that_the_url_asks_for(
    start_redis: Callable[..., RedisServer],
) -> None:
    """What only a primary knows is lost with it: whoever wants more than a warning of that waits for a replica."""
    primary, replica = start_redis(), start_redis()
    store = open_revoke_store(f"{primary.url}?wait_replicas=1")

    with pytest.raises(StoreUnavailable, match="0 of 1 replicas have it") as told:
        store.save(NS, [Draft("alone")])
    assert "wait_replicas" in str(told.value.hint)

    with redis.Redis(port=replica.port) as follower:
        follower.replicaof("127.0.0.1", str(primary.port))
        eventually(lambda: follower.info("replication")["master_link_status"] == "up")
        store.save(NS, [Draft("followed")])
        follower.replicaof("no", "one")
    primary.kill()

    assert [record.task_id for record in open_revoke_store(replica.url).load(NS)] == ["alone", "followed"]


@pytest.mark.parametrize("count", ["-1", "x", "1.5", "1000"])
def test_a_number_of_replicas_that_is_none_is_refused(count: str) -> None:
    with pytest.raises(ConfigurationError, match="wait_replicas"):
        open_revoke_store(f"redis://localhost/0?wait_replicas={count}")


def test_nothing_and_something_else_at_that_port_are_told(postgres_server: ServerProcess) -> None:
    with pytest.raises(StoreUnavailable, match="refused"):
        open_revoke_store(f"redis://127.0.0.1:{free_port()}").ping()
    with pytest.raises(StoreUnavailable, match=r"no\.such\.host"):
        open_revoke_store("redis://no.such.host.invalid").ping()
    postgres_server.start()
    with pytest.raises(StoreUnavailable):
        open_revoke_store(f"redis://{postgres_server.host}:{postgres_server.port}").ping()


def test_a_socket_file_in_kombus_spelling(start_redis: Callable[..., RedisServer], tmp_path: Path) -> None:
    socket = tmp_path / "r.sock"
    server = start_redis(options=["--unixsocket", str(socket)])

    open_revoke_store(f"redis+socket://{socket}?virtual_host=3").save(NS, [Draft("t")])

    assert open_revoke_store(f"redis://{server.host}:{server.port}/3").get(NS, "t") is not None


class Sentinel(ServerProcess):
    name = "Sentinel"

    def __init__(self, reaper: Reaper, master: RedisServer) -> None:
        super().__init__(reaper)
        self._master = master

    @property
    def url(self) -> str:
        return f"redis+sentinel://{self.host}:{self.port}/main/2"

    def prepare(self) -> None:
        (self.directory / "sentinel.conf").write_text(
            f"port {self.port}\nbind {self.host}\nsentinel monitor main {self._master.host} {self._master.port} 1\n"
        )

    def command(self) -> list[str]:
        program = shutil.which("redis-server")
        assert program is not None
        return [program, str(self.directory / "sentinel.conf"), "--sentinel"]

    def answers(self) -> bool:
        found = subprocess.run(
            ["redis-cli", "-p", str(self.port), "sentinel", "get-master-addr-by-name", "main"],
            capture_output=True,
            text=True,
        )
        return str(self._master.port) in found.stdout


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli asks the sentinel whether it is ready")
def test_sentinel_leads_to_the_master(start_redis: Callable[..., RedisServer], server_reaper: Reaper) -> None:
    master = start_redis()
    sentinel = Sentinel(server_reaper, master)
    sentinel.start()
    try:
        store = open_revoke_store(sentinel.url)
        (record,) = store.save(NS, [Draft("t")])

        assert open_revoke_store(f"redis://{master.host}:{master.port}/2").get(NS, "t") == record
        with pytest.raises(StoreUnavailable, match="No master found for 'nobody'") as unknown:
            open_revoke_store(sentinel.url.replace("/main/", "/nobody/")).ping()
        assert "<" not in unknown.value.message
        store.close()
    finally:
        sentinel.close()


def test_a_million_are_pruned_in_slices(store: RevokeStore, client: Any) -> None:
    """Not a million here: enough that one command can't take them all, Lua's unpack() being limited to 8,000."""
    store.save(NS, [Draft(f"t{number}", expires_in=0.001) for number in range(20_000)])
    eventually(lambda: not list(store.load(NS)))

    assert store.prune(NS) == 20_000
    assert client.keys("*") == [REVISION]


def test_a_batch_that_would_keep_the_server_busy_for_too_long_is_refused(store: RevokeStore, client: Any) -> None:
    with pytest.raises(ConfigurationError, match="50001 tasks are too many for one batch; nothing was stored"):
        store.save(NS, [Draft(f"t{number}") for number in range(50_001)])

    assert client.keys("*") == []


def test_the_store_is_what_the_registry_opens(store: RevokeStore) -> None:
    assert isinstance(store, RedisRevokeStore)
