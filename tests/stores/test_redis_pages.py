"""Pages of Redis: what records that stand together have in common travels once, and each comes back as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis

from stem_kombu.revocation import RevocationDraft as Draft
from stem_kombu.revocation_page import RevocationPage
from stem_kombu.stores import redis_pages, redis_scripts
from stem_kombu.stores.redis import RedisRevokeStore, keys_of

NS = "shop"
HASH = keys_of(NS)[0]


@pytest.fixture
def store(redis_url: str) -> RedisRevokeStore:
    return RedisRevokeStore(redis_url)


def answer(store: RedisRevokeStore) -> list[Any]:
    found: list[Any] = store._database.evaluate(redis_scripts.PAGE, keys_of(NS), ["-inf", redis_pages.PAGE, 0])
    return found


def test_what_a_batch_says_of_all_its_tasks_travels_once(store: RedisRevokeStore) -> None:
    saved = store.save(NS, [Draft(f"task-{number}", True, "a bad deploy", "ann") for number in range(300)])

    *_, task_ids, versions, rests, counts = answer(store)

    assert json.loads(task_ids) == [record.task_id for record in saved]
    assert json.loads(versions) == [record.version for record in saved]
    assert len(json.loads(rests)) == 1
    assert json.loads(counts) == [300]
    (page,) = store.pages(NS, 0)
    assert isinstance(page, RevocationPage)
    assert list(page) == saved


def test_batches_that_differ_come_back_as_they_were(store: RedisRevokeStore) -> None:
    saved = [
        record
        for reason, ends, task_ids in (
            ("one", None, ("a", "b")), ("two", 60, ("c",)), ("one", None, ("d", "é")), (None, 60, ("f", "g")),
        )
        for record in store.save(NS, [Draft(task_id, reason is None, reason, "ann", ends) for task_id in task_ids])
    ]  # fmt: skip

    assert json.loads(answer(store)[-1]) == [2, 1, 2, 2]
    assert [record for page in store.pages(NS) for record in page] == saved


def test_a_record_that_begins_otherwise_comes_whole(store: RedisRevokeStore, redis_url: str) -> None:
    """Of another program, or with a rest that is the beginning of the one before: each is read for itself."""
    first, second, third, last = store.save(NS, [Draft(f"task-{number}") for number in range(4)])
    with redis.Redis.from_url(redis_url) as client:
        fields = json.loads(client.hget(HASH, "task-1"))
        client.hset(HASH, "task-1", json.dumps({**dict(reversed(fields.items()))}))
        client.hset(HASH, "task-2", client.hget(HASH, "task-2") + b" ")

    assert json.loads(answer(store)[-1]) == [1, 1, 1, 1]
    assert json.loads(answer(store)[4])[1] is None
    assert list(store.since(NS, 0)) == [first, second, third, last]


def test_a_record_that_is_no_record_hides_no_other(store: RedisRevokeStore, redis_url: str) -> None:
    first, _, _, last = store.save(NS, [Draft(f"task-{number}") for number in range(4)])
    with redis.Redis.from_url(redis_url) as client:
        for broken in (b'{"version":7,"issued_us":1}', b'{"version":7,}', b"5", b'{"version":7,"a":1},{"b":2}', b" "):
            client.hset(HASH, "task-1", broken)
            client.hset(HASH, "task-2", broken)

            assert list(store.since(NS, 0)) == [first, last], broken
            assert {found.task_id for found in store.quarantine.of(NS)} == {"task-1", "task-2"}
