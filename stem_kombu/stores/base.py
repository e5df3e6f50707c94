"""The port of a revoke store: what every store promises, whatever it is made of (G1 to G6).

The contract suite ``stem_kombu.testing.store_contract`` tests the same; a third party's store proves itself
with it and is found by the entry-point group ``stem_kombu.revoke_stores`` under its URL scheme.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Protocol

from stem_kombu.errors import ConfigurationError, RecordConflict
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import Change, Changed, ControlRecord, RecordDraft, Removal

#: Records of a part of what is read.
_PAGE = 1000


@dataclass(frozen=True, slots=True)
class Glance:
    """What one tiny query tells about a store.

    ``identity`` changes when another server, or another copy of the data, answers than before; it is empty where a store
    can't tell. ``revision`` is that of :meth:`RevokeStore.revision`. ``held`` has those of the tasks that were asked for
    of which there is a record, expired ones included; ``None``: all that was read is
    still held while the identity stays the same.
    """

    identity: str
    revision: int
    held: Mapping[str, Revocation] | None


class RevokeStore(ABC):
    """A durable set of revocations, shared by any number of processes.

    Safe to use from several threads. Opening is cheap and does not connect; the first call does, and creates whatever
    schema is missing, safely when many start at once. A connection that was lost is opened again by the next call, and
    so is one that was inherited over a fork. Every method raises
    :class:`~stem_kombu.errors.StoreUnavailable` when the store can't be reached within a bounded time, and
    :class:`~stem_kombu.errors.StoreCorrupt` when the store as a whole can't be read. A single record that can't be read is
    set aside (:attr:`quarantine`): it stays where it is, and readers and writers go on as if it was not there (G37).
    """

    #: The URL with its password masked, for people.
    url: str
    #: Whether it takes :meth:`change`, and keeps what :mod:`stem_kombu.stores.records` describes. A store that was written
    #: before there were any says no: it holds revocations, and neither directives nor rules, undos and audit.
    keeps_records = False

    @abstractmethod
    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        """What the store holds after the drafts, one record per distinct task id, in the order of first mention.

        Atomic: all of the batch or none. Durable when it returns. Versions are assigned here, strictly increasing per
        namespace in commit order, one per record; times are by the store's clock; a held record is merged by
        :func:`stem_kombu.revocation.merge`.
        """

    @abstractmethod
    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        """Every record with a higher version, expired ones included, in ascending order of version; streamed.

        Never skips a record: one that commits later has a higher version than every record that could be seen before.
        Costs one tiny query when there is nothing new, however many records are held.
        """

    @abstractmethod
    def load(self, namespace: str) -> Iterator[Revocation]:
        """Every live record, in ascending order of version, as a stream: a million need not fit in memory twice."""

    def pages(self, namespace: str, version: int | None = None) -> Iterator[Sequence[Revocation]]:
        """What :meth:`since` yields, without a version what :meth:`load` yields, in parts of at most a few thousand records.

        No part is empty. Workers read by it. A store whose reader can check whole columns yields each part as a
        :class:`~stem_kombu.revocation_page.RevocationPage`.
        """
        records = self.load(namespace) if version is None else self.since(namespace, version)
        while page := list(islice(records, _PAGE)):
            yield page

    @abstractmethod
    def get(self, namespace: str, task_id: str) -> Revocation | None:
        """The live record of one task, or ``None``."""

    @abstractmethod
    def revision(self, namespace: str) -> int:
        """The highest version ever assigned in the namespace, 0 when none was; never goes back, pruning included."""

    @abstractmethod
    def prune(self, namespace: str) -> int:
        """How many records were deleted because they had expired by the store's clock; atomic against ``save`` (G5)."""

    def prune_after(self, namespace: str, grace: float) -> int:
        """:meth:`prune` for records that expired more than ``grace`` seconds ago: a clock that was ahead for a while then
        deletes nothing for good. A store that knows no grace prunes at once."""
        return self.prune(namespace)

    def glance(self, namespace: str, task_ids: Sequence[str]) -> Glance:
        """Which store answers, how far it is, and what it holds of a few tasks. Costs one tiny query where a store can."""
        found = ((task_id, self.get(namespace, task_id)) for task_id in task_ids)
        return Glance("", self.revision(namespace), {task_id: held for task_id, held in found if held is not None})

    def change(self, namespace: str, change: Change) -> Changed:
        """What the store holds after the change: all of it, or nothing. Durable when it returns.

        Revocations are taken as by :meth:`save`; versions are of the same counter, in commit order. Raises
        :class:`~stem_kombu.errors.RecordConflict` when it holds another version than the one that the change replaces, and
        :class:`~stem_kombu.errors.ConfigurationError` for what no store takes, or where :attr:`keeps_records` is false.
        """
        raise ConfigurationError(
            f"revoke store {self.url} keeps revocations only: no directives, rules, undos and audit",
            hint="use Redis, PostgreSQL, SQLite or a file as the revoke store",
        )

    def records_since(
        self, namespace: str, version: int, places: Collection[str] | None = None
    ) -> Iterator[ControlRecord]:
        """Every record with a higher version in these places (``None``: all), expired ones included, ascending; streamed.

        It skips none, as :meth:`since`.
        """
        return iter(())

    def newest_records(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        """The records of a place with the highest versions, newest first, expired ones included; at most ``limit``."""
        return []

    def record(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        """The record under this key, expired or not, or ``None``."""
        return None

    def floor(self, namespace: str) -> int:
        """The highest version of a record that was pruned, 0 for none. A reader that has read less far may have missed it, and
        reads all records again."""
        return 0

    def prune_records(self, namespace: str, before: datetime) -> int:
        """How many records were deleted because they had expired by ``before``, a time by the store's clock that is not later
        than its now. Raises :meth:`floor`."""
        return 0

    def put_back(self, namespace: str, records: Sequence[Revocation]) -> list[Revocation]:
        """What the store holds after it was given back records that it had lost: their texts, their expiry and their proofs,
        under versions of the store's own, in the order given."""
        now = self.now()
        return self.save(namespace, [RevocationDraft.again(record, now) for record in records])

    def undo_again(self, namespace: str, record: Revocation, end: Revocation) -> list[Revocation]:
        """What the store holds after ``record`` of it was taken back with the texts and proofs of ``end``, an undo that it had
        lost; nothing where it holds another record meanwhile."""
        removal = Removal(end.task_id, record.version, end.reason, end.requested_by, end.proofs)
        try:
            return list(self.change(namespace, Change(removals=[removal])).ended)
        except RecordConflict:
            return []

    def put_record_back(self, namespace: str, record: ControlRecord, replaces: int) -> ControlRecord | None:
        """What the store holds after it was given back a control record that it had lost, under a version of its own; ``None``
        where it holds another version of it than ``replaces`` (0: none) meanwhile."""
        draft = RecordDraft(record.place, record.key, record.body, expires_at=record.expires_at, replaces=replaces)
        try:
            return self.change(namespace, Change(records=[draft])).records[0]
        except RecordConflict:
            return None

    def problems(self, namespace: str) -> list[str]:
        """What is wrong beside single records, a sentence each: indexes, counters, spoiled pages. Changes nothing."""
        return []

    def repair(self, namespace: str) -> list[str]:
        """Mend what can be mended, and move what can't be read out of the way; returns what was done, a sentence each.

        Nothing is deleted: each store names where it keeps what was moved.
        """
        return []

    @property
    def quarantine(self) -> Quarantine:
        """The records that could not be read."""
        held: Quarantine = self.__dict__.setdefault("_quarantine", Quarantine(self.url))
        return held

    @abstractmethod
    def now(self) -> datetime:
        """The store's clock, aware UTC."""

    @abstractmethod
    def ping(self) -> None:
        """Return when the store answers; raises :class:`~stem_kombu.errors.StoreUnavailable`."""

    def check(self, namespace: str) -> list[str]:
        """Make sure that the store takes writes, and say what threatens what it holds, a sentence each.

        A marker is written and removed. Raises what :meth:`save` raises when the store does not take it.
        """
        self.ping()
        return []

    @abstractmethod
    def close(self) -> None:
        """Let connections go. May be called twice, and the store may be used again afterwards."""


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
