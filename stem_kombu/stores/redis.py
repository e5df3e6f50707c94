"""Revocations in Redis."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from stem_kombu.clock import from_epoch_us
from stem_kombu.drivers.redis import RedisDatabase, RedisScript
from stem_kombu.errors import ConfigurationError, StoreCorrupt, StoreError
from stem_kombu.revocation import MOST_PROOFS, Revocation, RevocationDraft, checked_revocation
from stem_kombu.settings import TlsSettings
from stem_kombu.stores import redis_scripts
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.batch import folded, life_us

#: Records per read or delete: the server is busy for a few milliseconds at a time.
_PAGE = 1000
#: Longest batch. A script can't be interrupted, and this one keeps the server busy for about a second.
_LONGEST_BATCH = 50_000


class RedisRevokeStore(RevokeStore):
    """Revocations in one Redis, for any number of hosts. Times are by the server's clock.

    A batch is one script, so atomic; the server answers nobody else while it runs (0.1 s for 10,000 ids), and so at most
    50,000 tasks are taken at a time. It is as durable as the server is configured to be: use ``appendonly yes`` and
    ``maxmemory-policy noeviction``. Versions follow the server's clock (:func:`stem_kombu.stores.batch.next_version`),
    so that they go on rising after a restart or a fail-over that lost the latest writes.
    """

    def __init__(
        self, url: str, *, name: str = "URL", tls: TlsSettings | None = None, patience: float | None = None
    ) -> None:
        self._database = RedisDatabase(url, name=name, tls=tls, purpose="revoke store", patience=patience)
        self.url = self._database.url

    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        distinct = folded(drafts)
        if not distinct:
            return []
        if len(distinct) > _LONGEST_BATCH:
            raise ConfigurationError(
                f"revoke store {self.url}: {len(distinct)} tasks are too many for one batch; nothing was stored",
                hint=f"revoke at most {_LONGEST_BATCH} at a time: Redis answers nobody else while it stores a batch",
            )
        batch = [[d.task_id, d.terminate, d.reason, d.requested_by, life_us(d), *d.proofs] for d in distinct]
        stored = self._evaluate(redis_scripts.SAVE, namespace, [json.dumps(batch, ensure_ascii=False), MOST_PROOFS])
        records = self._decoded(namespace, stored)
        return [self._record(namespace, draft.task_id, found) for draft, found in zip(distinct, records, strict=True)]

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        return (record for _, record in self._pages(namespace, version))

    def load(self, namespace: str) -> Iterator[Revocation]:
        return (record for now, record in self._pages(namespace, 0) if not record.is_expired(now))

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        now_us, found = self._evaluate(redis_scripts.GET, namespace, [task_id])
        if found is None:
            return None
        record = self._record(namespace, task_id, self._decoded(namespace, found))
        return None if record.is_expired(from_epoch_us(int(now_us))) else record

    def revision(self, namespace: str) -> int:
        key = self._database.key(_keys(namespace)[3])
        found = self._database.run(lambda client: client.get(key))
        try:
            return int(found or 0)
        except ValueError as error:
            raise self._corrupt(key, found) from error

    def prune(self, namespace: str) -> int:
        pruned = 0
        while count := int(self._evaluate(redis_scripts.PRUNE, namespace, [_PAGE])):
            pruned += count
        return pruned

    def now(self) -> datetime:
        seconds, microseconds = self._database.run(lambda client: client.time())
        return from_epoch_us(seconds * 1_000_000 + microseconds)

    def ping(self) -> None:
        self._database.run(lambda client: client.ping())

    def close(self) -> None:
        self._database.close()

    def _pages(self, namespace: str, version: int) -> Iterator[tuple[datetime, Revocation]]:
        while True:
            now_us, page = self._evaluate(redis_scripts.PAGE, namespace, [version, _PAGE])
            now, found = from_epoch_us(int(now_us)), self._page_of(namespace, page)
            for task_id, fields in found:
                record = self._record(namespace, task_id, fields)
                version = record.version
                yield now, record
            if len(found) < _PAGE:
                return

    def _evaluate(self, script: RedisScript, namespace: str, arguments: Sequence[str | int]) -> Any:
        try:
            return self._database.evaluate(script, _keys(namespace), arguments)
        except StoreError as error:
            if "CORRUPT" in error.message or "WRONGTYPE" in error.message:
                raise StoreCorrupt(
                    error.message,
                    hint="somebody else wrote to these keys, or Redis evicted one (use maxmemory-policy noeviction)",
                ) from error
            raise

    def _decoded(self, namespace: str, text: bytes) -> Any:
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise self._corrupt(_keys(namespace)[0], text[:80]) from error

    def _page_of(self, namespace: str, page: bytes) -> list[tuple[str, Any]]:
        try:
            return [(task_id, fields) for task_id, fields in self._decoded(namespace, page)]
        except (TypeError, ValueError) as error:
            raise self._corrupt(_keys(namespace)[0], page[:80]) from error

    def _record(self, namespace: str, task_id: str, fields: Any) -> Revocation:
        try:
            expires_us = fields["expires_us"]
            return checked_revocation(
                Revocation(
                    namespace,
                    task_id,
                    fields["version"],
                    from_epoch_us(fields["issued_us"]),
                    fields["terminate"],
                    fields["reason"],
                    fields["requested_by"],
                    None if expires_us is None else from_epoch_us(expires_us),
                    tuple(_listed(fields.get("proofs", []))),
                )
            )
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            raise self._corrupt(f"{_keys(namespace)[0]} field {task_id}", fields) from error

    def _corrupt(self, place: str, found: object) -> StoreCorrupt:
        return StoreCorrupt(
            f"revoke store {self.url}: {place} holds {str(found)[:80]!r}, which is no revocation",
            hint="somebody else writes to this key; delete the field, or use another namespace",
        )


def _listed(proofs: Any) -> list[str]:
    if not isinstance(proofs, list):
        raise TypeError(f"proofs {str(proofs)[:40]!r} are no list")
    return proofs


def _keys(namespace: str) -> list[str]:
    # The braces put all four into one slot of a cluster, and keep clear of the key of other Stems, whose JSON differs.
    return [f"{{{namespace}}}:control:{name}" for name in ("revokes", "versions", "expiry", "revision")]
