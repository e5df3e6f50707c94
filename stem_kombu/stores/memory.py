"""Revocations in this process's memory: for tests, demonstrations and programs that are their own only worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice, takewhile
from typing import TypeVar

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change, Changed, ControlRecord, changed, checked, named

T = TypeVar("T", Revocation, ControlRecord)


@dataclass(slots=True)
class _Shelf:
    """One namespace. What changes moves to the end, so that both are in ascending order of version."""

    revocations: dict[str, Revocation] = field(default_factory=dict)
    records: dict[tuple[str, str], ControlRecord] = field(default_factory=dict)
    revision: int = 0
    floor: int = 0


# One lock for all, so that a fork can hold it: a child must not inherit a shelf in the middle of a change.
_LOCK = threading.RLock()
_SHARED: dict[str, dict[str, _Shelf]] = {}

if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_LOCK.acquire, after_in_parent=_LOCK.release, after_in_child=_LOCK.release)


class MemoryRevokeStore(RevokeStore):
    """A store that lives as long as its process; stores of the same name share what they hold.

    It keeps nothing on disk and is not seen by other processes; a forked child goes on with a copy.
    """

    keeps_records = True

    def __init__(self, name: str = "", *, clock: Clock = SYSTEM) -> None:
        self.url = f"memory://{name}"
        self._name = name
        self._clock = clock

    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        return list(self.change(namespace, Change(drafts)).revocations)

    def change(self, namespace: str, change: Change) -> Changed:
        change = checked(change)
        with _LOCK:
            shelf = self._shelf(namespace)
            versions = {name: shelf.records[name].version for name in named(change) if name in shelf.records}
            done = changed(
                change,
                shelf.revocations,
                versions,
                namespace=namespace,
                highest=shelf.revision,
                now=self._clock.utcnow(),
            )
            for revocation in (*done.revocations, *done.ended):
                shelf.revocations.pop(revocation.task_id, None)
                shelf.revocations[revocation.task_id] = revocation
            for name in change.forgotten:
                shelf.records.pop(name, None)
            for record in done.records:
                shelf.records.pop((record.place, record.key), None)
                shelf.records[record.place, record.key] = record
            shelf.revision = max(shelf.revision, done.version)
        return done

    def records_since(
        self, namespace: str, version: int, places: Collection[str] | None = None
    ) -> Iterator[ControlRecord]:
        with _LOCK:
            newest_first = reversed(self._shelf(namespace).records.values())
            found = _newer(newest_first, version)
        return (record for record in reversed(found) if places is None or record.place in places)

    def newest_records(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        with _LOCK:
            newest_first = reversed(self._shelf(namespace).records.values())
            return list(islice((record for record in newest_first if record.place == place), limit))

    def record(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        with _LOCK:
            return self._shelf(namespace).records.get((place, key))

    def floor(self, namespace: str) -> int:
        with _LOCK:
            return self._shelf(namespace).floor

    def prune_records(self, namespace: str, before: datetime) -> int:
        with _LOCK:
            shelf = self._shelf(namespace)
            expired = [record for record in shelf.records.values() if record.is_expired(before)]
            for record in expired:
                del shelf.records[record.place, record.key]
                shelf.floor = max(shelf.floor, record.version)
        return len(expired)

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        with _LOCK:
            newest_first = reversed(self._shelf(namespace).revocations.values())
            found = _newer(newest_first, version)
        return reversed(found)

    def load(self, namespace: str) -> Iterator[Revocation]:
        with _LOCK:
            now = self._clock.utcnow()
            found = list(self._shelf(namespace).revocations.values())
        return (record for record in found if not record.is_expired(now))

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        with _LOCK:
            record = self._shelf(namespace).revocations.get(task_id)
        return None if record is None or record.is_expired(self._clock.utcnow()) else record

    def revision(self, namespace: str) -> int:
        with _LOCK:
            return self._shelf(namespace).revision

    def prune(self, namespace: str) -> int:
        return self.prune_after(namespace, 0.0)

    def prune_after(self, namespace: str, grace: float) -> int:
        with _LOCK:
            records, now = self._shelf(namespace).revocations, self._clock.utcnow() - timedelta(seconds=grace)
            # By its time alone: what an undo wrote never counted, and is kept until all workers have read it.
            ends = ((task_id, record.expires_at) for task_id, record in records.items())
            expired = [task_id for task_id, end in ends if end is not None and end <= now]
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


def _newer(newest_first: Iterable[T], version: int) -> list[T]:
    return list(takewhile(lambda record: record.version > version, newest_first))
