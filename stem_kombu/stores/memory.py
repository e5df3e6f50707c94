"""Revocations in this process's memory: for tests, demonstrations and programs that are their own only worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import takewhile

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.batch import folded, merged


@dataclass(slots=True)
class _Shelf:
    """One namespace. ``records`` is in ascending order of version, because a record that changes moves to the end."""

    records: dict[str, Revocation] = field(default_factory=dict)
    revision: int = 0


# One lock for all, so that a fork can hold it: a child must not inherit a shelf in the middle of a change.
_LOCK = threading.RLock()
_SHARED: dict[str, dict[str, _Shelf]] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class MemoryRevokeStore(RevokeStore):
    """A store that lives as long as its process; stores of the same name share what they hold.

    It keeps nothing on disk and is not seen by other processes; a forked child goes on with a copy.
    """

    def __init__(self, name: str = "", *, clock: Clock = SYSTEM) -> None:
        self.url = f"memory://{name}"
        self._name = name
        self._clock = clock

    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        distinct = folded(drafts)
        with _LOCK:
            shelf = self._shelf(namespace)
            records = merged(
                distinct, shelf.records, namespace=namespace, highest=shelf.revision, now=self._clock.utcnow()
            )
            for record in records:
                shelf.records.pop(record.task_id, None)
                shelf.records[record.task_id] = record
                shelf.revision = record.version
        return records

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        with _LOCK:
            newest_first = reversed(self._shelf(namespace).records.values())
            found = list(takewhile(lambda record: record.version > version, newest_first))
        return reversed(found)

    def load(self, namespace: str) -> Iterator[Revocation]:
        with _LOCK:
            now = self._clock.utcnow()
            found = list(self._shelf(namespace).records.values())
        return (record for record in found if not record.is_expired(now))

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        with _LOCK:
            record = self._shelf(namespace).records.get(task_id)
        return None if record is None or record.is_expired(self._clock.utcnow()) else record

    def revision(self, namespace: str) -> int:
        with _LOCK:
            return self._shelf(namespace).revision

    def prune(self, namespace: str) -> int:
        with _LOCK:
            records, now = self._shelf(namespace).records, self._clock.utcnow()
            expired = [task_id for task_id, record in records.items() if record.is_expired(now)]
            for task_id in expired:
                del records[task_id]
        return len(expired)

    def now(self) -> datetime:
        return self._clock.utcnow()

    def ping(self) -> None:
        """Return at once."""

    def close(self) -> None:
        """Nothing to let go; the shelves stay for other stores of the same name."""

    def _shelf(self, namespace: str) -> _Shelf:
        return _SHARED.setdefault(self._name, {}).setdefault(namespace, _Shelf())
