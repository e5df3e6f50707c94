"""Revocations in Redis."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain
from typing import Any

from stem_kombu.clock import from_epoch_us
from stem_kombu.drivers import redis_conditions
from stem_kombu.drivers.redis import RedisDatabase, RedisScript
from stem_kombu.errors import ConfigurationError, StoreCorrupt, StoreError
from stem_kombu.fields import items, mapping
from stem_kombu.revocation import Revocation, as_flag
from stem_kombu.revocation_page import live, page_of
from stem_kombu.settings import TlsSettings
from stem_kombu.stores import redis_change, redis_records, redis_repair, redis_scripts
from stem_kombu.stores.base import Glance, RecordKeepingStore
from stem_kombu.stores.read_ahead import pages_from
from stem_kombu.stores.records import Change, Changed, checked
from stem_kombu.stores.redis_pages import PAGE, Answer, following, parsed

logger = logging.getLogger(__name__)

#: Longest batch. A script can't be interrupted, and this one keeps the server busy for about a second.
_LONGEST_BATCH = 50_000
#: How often indexes are made anew for one operation: another program may go on deleting keys.
_REBUILDS = 3
#: How stem-kombu 0.1.0 stored a flag that Flower sent as null: as Lua shows it, which is no JSON.
_NULL_FLAG = re.compile(rb'"terminate":userdata: [^,]*')
_LOST = "the record was lost, and made again from the index"


class RedisRevokeStore(RecordKeepingStore):
    """Revocations in one Redis, for any number of hosts. Times are by the server's clock.

    A change is one script, so atomic; the server answers no other client while it runs (0.1 s for 10,000 ids), and so at most
    50,000 tasks are taken at a time. It is as durable as the server is configured to be: use ``appendonly yes`` and
    ``maxmemory-policy noeviction``. Versions follow the server's clock (:func:`stem_kombu.stores.batch.next_version`),
    so that they go on rising after a restart or a fail-over that lost the latest writes. With ``?wait_replicas=N`` in its URL
    a batch counts as stored when that many replicas have it.
    """

    def __init__(
        self, url: str, *, name: str = "URL", tls: TlsSettings | None = None, patience: float | None = None
    ) -> None:
        self._database = RedisDatabase(url, name=name, tls=tls, purpose="revoke store", patience=patience)
        self.url = self._database.url
        self._kept = redis_records.RedisRecords(self._database, self.quarantine)

    def change(self, namespace: str, change: Change) -> Changed:
        change = checked(change)
        if change.is_empty:
            return Changed()
        if (tasks := len(change.revocations)) > _LONGEST_BATCH:
            raise ConfigurationError(
                f"revoke store {self.url}: {tasks} tasks are too many for one batch; nothing was stored",
                hint=f"revoke at most {_LONGEST_BATCH} at a time: Redis answers no other client while it stores a batch",
            )
        keys, arguments = redis_change.arguments_of(namespace, change)
        answer = self._evaluate(redis_change.CHANGE, namespace, arguments, True, keys)
        return redis_change.done_of(answer, change, namespace, record_of)

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        return chain.from_iterable(self.pages(namespace, version))

    def load(self, namespace: str) -> Iterator[Revocation]:
        return chain.from_iterable(self.pages(namespace))

    def pages(self, namespace: str, version: int | None = None) -> Iterator[Sequence[Revocation]]:
        start = f"({version}"
        if version is None or version <= 0:
            self.quarantine.forget([namespace])
            start = "-inf"
        for answer in pages_from(start, partial(self._answer, namespace), following):
            now, page = self._page(namespace, answer)
            if page := page if version is not None else live(page, now):
                yield page

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        now_us, found = self._evaluate(redis_scripts.GET, namespace, [task_id])
        record = None if found is None else self._readable(namespace, task_id, found)
        return None if record is None or record.is_expired(from_epoch_us(int(now_us))) else record

    def glance(self, namespace: str, task_ids: Sequence[str]) -> Glance:
        identity, revision, *found = self._evaluate(redis_scripts.GLANCE, namespace, task_ids)
        held = {
            task_id: record
            for task_id, text in zip(task_ids, found, strict=True)
            if text is not None and (record := self._readable(namespace, task_id, text)) is not None
        }
        return Glance(identity.decode(), int(revision), held)

    def revision(self, namespace: str) -> int:
        return self.glance(namespace, ()).revision

    def prune(self, namespace: str) -> int:
        return self.prune_after(namespace, 0.0)

    def prune_after(self, namespace: str, grace: float) -> int:
        pruned = 0
        while True:
            looked: int
            count: int
            looked, count = self._evaluate(redis_scripts.PRUNE, namespace, [PAGE, int(grace * 1_000_000)])
            pruned += count
            if not looked:
                return pruned

    def problems(self, namespace: str) -> list[str]:
        found = self._database.evaluate(redis_repair.CHECK, keys_of(namespace), [])
        return [one.decode(errors="replace") for one in found]

    def repair(self, namespace: str) -> list[str]:
        """See :meth:`RevokeStore.repair`. What can't be read goes to the key ``…:set-aside``, records of another type to
        one that ends in their type."""
        keys = keys_of(namespace)
        key = self._database.key(keys[0])
        done = []
        kind = self._database.command("type", key).decode()
        if kind not in ("hash", "none"):
            aside = f"{key}:{kind}"
            self._database.command("renamenx", key, aside, repeat=False)
            done.append(f"{key} was a {kind}: it is now {aside}")
        if self.problems(namespace):
            self.rebuild(namespace)
            done.append(f"the indexes of {key} were rebuilt")
        for _ in self.since(namespace, 0):
            pass
        if unreadable := [found.task_id for found in self.quarantine.of(namespace) if found.task_id is not None]:
            self._database.evaluate(redis_repair.MOVE, keys, unreadable)
            done.append(f"{len(unreadable)} records that can't be read were moved to {self._database.key(keys[4])}")
        return done

    def rebuild(self, namespace: str) -> None:
        """Make the indexes anew from the records, a page at a time; others may read and write meanwhile.

        Where the records as a whole are gone, and an index is not, the tasks that it names are revoked all the same.
        """
        keys = keys_of(namespace)
        if not self._database.command("hlen", self._database.key(keys[0])):
            lost = 0
            for ids in self._scanned("zscan", keys[1]):
                self._database.evaluate(redis_repair.RESTORE, keys, [json.dumps(_LOST), *ids])
                lost += len(ids)
            if lost:
                logger.error(
                    "revoke store %s: the records in %s were lost (evicted or deleted), and made again from the index: "
                    "%d tasks stay revoked, without terminate, reason and proofs",
                    self.url,
                    keys[0],
                    lost,
                )
        for ids in self._scanned("hscan", keys[0]):
            self._database.evaluate(redis_repair.INDEX, keys, ids)
        for index in keys[1:3]:
            for ids in self._scanned("zscan", index):
                self._database.evaluate(redis_repair.SWEEP, keys, ids)

    def _scanned(self, scan: str, key: str) -> Iterator[list[bytes]]:
        """The ids in a hash or a sorted set, in pages of at most so many as a script takes; at least one page."""
        cursor: int | None = None
        while cursor != 0:
            after, ids = self._scan(scan, key, cursor or 0)
            for start in range(0, len(ids), PAGE) if cursor is not None else range(0, max(1, len(ids)), PAGE):
                yield ids[start : start + PAGE]
            cursor = after

    def _scan(self, scan: str, key: str, cursor: int) -> tuple[int, list[bytes]]:
        try:
            after, found = self._database.command(scan, self._database.key(key), cursor, None, PAGE)
        except StoreError as error:
            if "WRONGTYPE" in error.message and scan == "zscan":
                return 0, []  # no index: it is made anew
            raise
        return int(after), [entry[0] for entry in found] if scan == "zscan" else list(found)

    def now(self) -> datetime:
        seconds, microseconds = self._database.command("time")
        return from_epoch_us(seconds * 1_000_000 + microseconds)

    def check(self, namespace: str) -> list[str]:
        marker = self._database.key(f"{{{namespace}}}:control:health-")
        facts = self._database.run(partial(redis_conditions.look, marker=marker, where=f"revoke store {self.url}"))
        return redis_conditions.warnings(facts, "revocations")

    def ping(self) -> None:
        self._database.command("ping")

    def close(self) -> None:
        self._database.close()

    def _answer(self, namespace: str, start: str) -> Answer:
        now_us, count, last, *lists = self._evaluate(redis_scripts.PAGE, namespace, [start, PAGE, 0])
        return Answer(start, int(now_us), count, int(last), *lists)

    def _page(self, namespace: str, answer: Answer) -> tuple[datetime, Sequence[Revocation]]:
        """The server's now, and the records that can be read."""
        now_us = answer.now_us
        task_ids: Sequence[str]
        records: Sequence[object]
        try:
            found = parsed(answer.task_ids, answer.versions, answer.rests, answer.counts)
        except (TypeError, ValueError, RecursionError):  # a record in it is no JSON: one by one
            said, *flat = self._evaluate(redis_scripts.PAGE, namespace, [answer.start, PAGE, 1])
            now_us, task_ids, records = int(said), [one.decode(errors="replace") for one in flat[::2]], flat[1::2]
        else:
            if (page := page_of(namespace, found.columns())) is not None:
                return from_epoch_us(now_us), page
            task_ids, records = found.task_ids, found.records()
        readable = (self._readable(namespace, *one) for one in zip(task_ids, records, strict=True))
        return from_epoch_us(now_us), [record for record in readable if record is not None]

    def _evaluate(
        self,
        script: RedisScript,
        namespace: str,
        arguments: Sequence[str | int],
        replicated: bool = False,
        more_keys: Sequence[str] = (),
    ) -> Any:
        keys = [*keys_of(namespace), *more_keys]
        for attempt in range(_REBUILDS + 1):
            try:
                return self._database.evaluate(script, keys, arguments, replicated=replicated)
            except StoreError as error:
                if "WRONGTYPE" in error.message:
                    raise StoreCorrupt(
                        f"{error.message} ({self._database.key(keys[0])})",
                        hint="another program wrote to this key: stem store repair sets it aside and starts an empty one",
                    ) from error
                if "REBUILD" not in error.message or attempt == _REBUILDS:
                    raise
            logger.warning(
                "revoke store %s: the indexes of %s do not fit its records (a key was deleted, evicted or changed, "
                "use maxmemory-policy noeviction): rebuilding them",
                self.url,
                self._database.key(keys[0]),
            )
            self.rebuild(namespace)
        raise AssertionError("unreachable")

    def _readable(self, namespace: str, task_id: str, found: object) -> Revocation | None:
        """The record of a field, parsed or as its text; ``None`` when it can't be read and was set aside."""
        try:
            fields = json.loads(_NULL_FLAG.sub(b'"terminate":false', found)) if isinstance(found, bytes) else found
            return record_of(namespace, task_id, fields)
        except UNREADABLE as error:
            place = f"{self._database.key(keys_of(namespace)[0])} field {task_id}"
            reason = f"{error}: {(found.decode(errors='replace') if isinstance(found, bytes) else str(found))[:120]}"
            self.quarantine.add(namespace, place, reason, task_id)
            return None


#: What reading something that is no record can raise.
UNREADABLE = (KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError)


def record_of(namespace: str, task_id: str, parsed: object) -> Revocation:
    """The record of parsed JSON; raises one of :data:`UNREADABLE` when it is none."""
    fields = mapping(parsed, "a record")
    expires_us = fields["expires_us"]
    return Revocation.checked(
        namespace=namespace,
        task_id=task_id,
        version=fields["version"],
        issued_at=from_epoch_us(fields["issued_us"]),
        terminate=as_flag(fields["terminate"]),
        texts=(fields["reason"], fields["requested_by"]),
        expires_at=None if expires_us is None else from_epoch_us(expires_us),
        proofs=items(fields["proofs"], "proofs") if "proofs" in fields else (),
    )


@lru_cache(maxsize=64)
def keys_of(namespace: str) -> tuple[str, ...]:
    """The keys of a namespace, in the order in which the scripts take them."""
    # The braces put all of them into one slot of a cluster, and keep clear of the key of other Stems, whose JSON differs.
    return tuple(
        [f"{{{namespace}}}:control:{name}" for name in ("revokes", "versions", "expiry", "revision", "set-aside")]
    )
