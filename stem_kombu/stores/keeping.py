"""A revoke store that keeps control records: the same four readers over whatever keeps them."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Protocol

from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change, ControlRecord


class RecordReader(Protocol):
    """The control records of one store, as :class:`~stem_kombu.stores.base.RevokeStore` describes them."""

    def since(self, namespace: str, version: int, places: Collection[str] | None) -> Iterator[ControlRecord]: ...
    def newest(self, namespace: str, place: str, limit: int) -> list[ControlRecord]: ...
    def one(self, namespace: str, place: str, key: str) -> ControlRecord | None: ...
    def floor(self, namespace: str) -> int: ...
    def prune(self, namespace: str, before: datetime) -> int: ...


class RecordKeepingStore(RevokeStore):
    """Has to set ``_kept`` and to define ``change``."""

    keeps_records = True
    _kept: RecordReader

    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        return list(self.change(namespace, Change(drafts)).revocations)

    def records_since(
        self, namespace: str, version: int, places: Collection[str] | None = None
    ) -> Iterator[ControlRecord]:
        return self._kept.since(namespace, version, places)

    def newest_records(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        return self._kept.newest(namespace, place, limit)

    def record(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        return self._kept.one(namespace, place, key)

    def floor(self, namespace: str) -> int:
        return self._kept.floor(namespace)

    def prune_records(self, namespace: str, before: datetime) -> int:
        return self._kept.prune(namespace, before)
