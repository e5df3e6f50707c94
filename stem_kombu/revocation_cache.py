"""What a worker knows of its namespace's revocations: a million of them in little memory, asked before every task.

A record is kept as a packed row, in ascending order of version (:mod:`stem_kombu.packed_rows`); reasons and requesters, which
repeat, are kept once; proofs, where a fleet has keys, as they are, so that a store which lost a record can be given it back.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import islice, takewhile
from operator import attrgetter

from stem_kombu.clock import SYSTEM, Clock, epoch_us, from_epoch_us
from stem_kombu.packed_rows import PackedRows
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_page import RevocationPage, ids_of, versions_of
from stem_kombu.revocation_texts import Texts
from stem_kombu.row_block import NEVER, Columns, Row, is_same
from stem_kombu.undone import Undone

#: The version of a record that is held from a history which the store does not have any more.
_ANOTHER_HISTORY = 0
#: Records taken from an iterable at a time: the lock is free between two slices.
_SLICE = 1000


@dataclass(frozen=True, slots=True)
class Applied:
    """What :meth:`RevocationCache.apply` did, as task ids in the order given.

    ``applied`` are in force now by these records, ``stale`` were known in this or a newer version, and ``expired`` were
    over when they arrived (so that an older record of the same task, if one was held, is held no more).
    """

    applied: tuple[str, ...] = ()
    stale: tuple[str, ...] = ()
    expired: tuple[str, ...] = ()


class RevocationCache:
    """The live revocations of one namespace. Safe to use from several threads; look-ups take no lock.

    ``revision`` is the version up to which the store was read without a gap. It is moved by :meth:`advance` alone,
    never by :meth:`apply`: a broadcast that arrives may follow one that was lost, and to sync from its version would
    skip the lost one for good.

    Whether a record is live is judged by the store's clock as it was last read (:meth:`set_store_time`) plus the
    time that has passed here since; until then by this machine's clock.
    """

    def __init__(self, namespace: str, *, clock: Clock = SYSTEM) -> None:
        self.namespace = namespace
        self._clock = clock
        self._lock = threading.Lock()
        self._rows = PackedRows()
        self._texts = Texts()
        # Only of records that have any: where a fleet has keys.
        self._proofs: dict[str, tuple[str, ...]] = {}
        self._undone = Undone()
        self._revision = 0
        self._highest = 0
        #: Microseconds from this process's monotonic clock to the store's clock as last read; ``None`` before.
        self.offset_us: int | None = None

    def __len__(self) -> int:
        """How many records are held; those that expired since the last :meth:`prune` are still among them."""
        return len(self._rows)

    def __contains__(self, task_id: object) -> bool:
        """Whether the task is revoked now."""
        expires_us = self._rows.expiry(task_id)
        return expires_us == NEVER or (expires_us != 0 and expires_us > self._now_us())

    def get(self, task_id: str) -> Revocation | None:
        """The record that revokes the task now, or ``None``."""
        if not self._rows.may_hold(task_id):
            return None  # each task is looked up here several times
        with self._lock:  # what it names besides numbers may be given to others by the next change
            row = self._rows.get(task_id)
            record = None if row is None else self._unpacked(row)
        if record is None or record.expires_at is None:
            return record
        return None if record.is_expired(self.now()) else record

    def apply(self, records: Iterable[Revocation], now: datetime | None = None) -> Applied:
        """What the records changed; ``now`` is the store's, by default as far as it is known here.

        They may come in any order, from a broadcast or from the store, and more than once: the higher version wins.
        Records of another namespace count as stale. Takes the iterable in slices, so that a stream of a million neither
        stands in memory nor keeps the lock. A :class:`RevocationPage` of records that are all newer than what is held is
        taken by columns.
        """
        now_us = self._now_us() if now is None else epoch_us(now)
        if isinstance(records, RevocationPage) and self._take_page(records, now_us):
            return Applied(tuple(records.task_ids))
        applied: list[str] = []
        stale: list[str] = []
        expired: list[str] = []
        source = iter(records)
        while batch := list(islice(source, _SLICE)):
            with self._lock:
                self._apply(batch, now_us, applied, stale, expired)
        return Applied(tuple(applied), tuple(stale), tuple(expired))

    def in_step(self, revocations: Sequence[Revocation], applied: Applied) -> Applied:
        """The same, but what is held in this very version counts as applied: it was read from the store a moment before
        the broadcast came, and an operator would wonder what is stale about it."""
        if not applied.stale:
            return applied
        versions = dict(zip(ids_of(revocations), versions_of(revocations), strict=True))
        with self._lock:
            known = {one for one in applied.stale if self._rows.version(one) == versions[one] and one in self}
        in_force = (*applied.applied, *(one for one in applied.stale if one in known))
        return Applied(in_force, tuple(one for one in applied.stale if one not in known), applied.expired)

    @property
    def revision(self) -> int:
        """The version up to which the store was read without a gap: what to give to the store's ``since``."""
        return self._revision

    @property
    def highest(self) -> int:
        """The highest version that was applied, by whatever way it came; at least :attr:`revision`."""
        return max(self._highest, self._revision)

    def advance(self, version: int) -> None:
        """Say that everything up to this version was read from the store and applied. Never goes back."""
        with self._lock:
            self._revision = max(self._revision, version)

    def restart(self) -> None:
        """Say that the store's versions are those of another history: it was set back, or is another one.

        What is held stays in force and counts as older than whatever the store holds (:meth:`left_over`), and the store
        has to be read anew.
        """
        with self._lock:
            self._rows.set_versions(_ANOTHER_HISTORY)
            self._revision = self._highest = 0
            self._undone.restart()

    def left_over(self) -> list[Revocation]:
        """The live records from before :meth:`restart` that nothing has replaced since, in their old order."""
        now = self.now()
        with self._lock:
            held = map(self._unpacked, self._rows.of_version(_ANOTHER_HISTORY))
            return [record for record in held if not record.is_expired(now)]

    def known(self, task_ids: Iterable[str]) -> dict[str, Revocation]:
        """What is held of these tasks, expired or not."""
        with self._lock:
            rows = map(self._rows.get, task_ids)
            return {row.task_id: self._unpacked(row) for row in rows if row is not None}

    def undos(self, most: int | None = None) -> list[Revocation]:
        """What undos have left of the tasks that are not revoked now, as far as it is remembered: the newest ``most``."""
        with self._lock:
            return [end for end in self._undone.undos(most) if not self._rows.expiry(end.task_id)]

    def set_store_time(self, now: datetime) -> None:
        """Say what the store's clock shows at this moment."""
        self.offset_us = epoch_us(now) - int(self._clock.monotonic() * 1_000_000)

    def now(self) -> datetime:
        """The store's time, as far as it is known here."""
        return from_epoch_us(self._now_us())

    def prune(self, now: datetime) -> int:
        """How many records were dropped because they had expired at ``now``, the store's; cheap when none had."""
        now_us, pruned = epoch_us(now), 0
        while True:
            with self._lock:  # let go of between slices: a revoke that arrives does not wait for a million deletions
                if not (expired := self._rows.expired(now_us)):
                    return pruned
                for task_id in expired:
                    self._forget(task_id)
                self._rows.tidy()
            pruned += len(expired)

    def newest(self, limit: int, before: int | None = None) -> tuple[list[Revocation], bool]:
        """The live records with the highest versions (below ``before``), newest first, and whether there are more than
        ``limit``."""
        with self._lock:
            live = self._newest_live(before)
            found = list(islice(live, limit))
            return found, next(live, None) is not None

    def _apply(
        self, batch: list[Revocation], now_us: int, applied: list[str], stale: list[str], expired: list[str]
    ) -> None:
        changed: dict[str, Revocation] = {}
        for record in batch:
            task_id = record.task_id
            earlier = changed.get(task_id)
            held = self._rows.version(task_id) if earlier is None else earlier.version
            is_stale = self._undone.covers(record) if held is None else record.version <= held
            if is_stale or record.namespace != self.namespace:
                self._undone.keep_proofs(record)
                stale.append(task_id)
                continue
            if record.expires_at is not None and (
                epoch_us(record.expires_at) <= now_us or record.expires_at < record.issued_at
            ):
                expired.append(task_id)
                if changed.pop(task_id, None) is not None:
                    applied.remove(task_id)
                self._forget(task_id)
                self._undone.add(record)
                continue
            if earlier is None:
                applied.append(task_id)
            changed[task_id] = record
            if record.proofs:
                self._proofs[task_id] = record.proofs
            else:
                self._proofs.pop(task_id, None)
        if changed:
            self._insert(changed)

    def _take_page(self, page: RevocationPage, now_us: int) -> bool:
        """Whether the page was taken as a whole: its records are live, and newer than all that is held."""
        with self._lock:
            if (
                page.namespace != self.namespace
                or page.versions[0] <= self._highest
                or not page.are_live(now_us)
                or self._undone.knows(page.task_ids)
            ):
                return False
            reasons, requesters = self._texts.add_all(page.reasons), self._texts.add_all(page.requesters)
            if is_same(reasons) and is_same(page.terminate):
                flags = [reasons[0] << 1 | page.terminate[0]] * len(page)
            else:
                flags = [reason << 1 | ends for reason, ends in zip(reasons, page.terminate, strict=True)]
            columns = Columns.of(page.task_ids, page.versions, page.issued_us, page.expires_us, flags, requesters)
            for earlier in self._rows.extend(columns):
                self._drop_texts(*earlier)
            if self._proofs:
                for task_id in page.task_ids:
                    self._proofs.pop(task_id, None)
            self._rows.tidy()
            self._highest = page.versions[-1]
        return True

    def _insert(self, changed: Mapping[str, Revocation]) -> None:
        """Put the records where their versions belong: nearly always at the end, else what is newer is put there again."""
        fresh = list(map(self._packed, changed.values()))
        lowest = min([row.version for row in fresh])
        newer = takewhile(lambda row: row.version > lowest, self._rows.newest()) if lowest < self._highest else ()
        for row in newer:
            if row.task_id not in changed:
                self._texts.keep(row.flags >> 1)
                self._texts.keep(row.requester)
                fresh.append(row)
        fresh.sort(key=attrgetter("version"))
        for flags, requester in self._rows.extend(Columns.of_rows(fresh)):
            self._drop_texts(flags, requester)
        self._rows.tidy()
        self._highest = max(self._highest, fresh[-1].version)

    def _forget(self, task_id: str) -> None:
        row = self._rows.remove(task_id)
        self._proofs.pop(task_id, None)
        if row is not None:
            self._drop_texts(row.flags, row.requester)

    def _newest_live(self, before: int | None) -> Iterator[Revocation]:
        now = self.now()
        for row in self._rows.newest():
            if before is None or row.version < before:
                record = self._unpacked(row)
                if not record.is_expired(now):
                    yield record

    def _now_us(self) -> int:
        if self.offset_us is None:
            return int(self._clock.now() * 1_000_000)
        return self.offset_us + int(self._clock.monotonic() * 1_000_000)

    def _packed(self, record: Revocation) -> Row:
        reason, requester = self._texts.add(record.reason), self._texts.add(record.requested_by)
        expires_us = NEVER if record.expires_at is None else epoch_us(record.expires_at)
        flags = reason << 1 | record.terminate
        return Row(record.task_id, record.version, epoch_us(record.issued_at), expires_us, flags, requester)

    def _unpacked(self, row: Row) -> Revocation:
        texts = self._texts.by_number
        return Revocation(
            self.namespace,
            row.task_id,
            row.version,
            from_epoch_us(row.issued_us),
            bool(row.flags & 1),
            texts[row.flags >> 1],
            texts[row.requester],
            None if row.expires_us == NEVER else from_epoch_us(row.expires_us),
            self._proofs.get(row.task_id, ()),
        )

    def _drop_texts(self, flags: int, requester: int) -> None:
        self._texts.drop(flags >> 1)
        self._texts.drop(requester)
