"""What a worker knows of its namespace's revocations: a million of them in little memory, asked before every task.

A record is kept as 31 packed bytes under its task id; reasons and requesters, which repeat, are kept once; proofs, where a
fleet has keys, as they are, so that a store which lost a record can be given it back. The packed
records stand in one dict in ascending order of version. Neither strings nor bytes are watched by the garbage collector,
so a million records do not slow its passes.
"""

from __future__ import annotations

import struct
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import dropwhile, islice

from stem_kombu.clock import SYSTEM, Clock, epoch_us, from_epoch_us
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_texts import Texts
from stem_kombu.undone import Undone

#: version, issued_us, expires_us (0: never), then the number of the reason with terminate as its lowest bit; the
#: requester's number follows in three bytes. With 31 bytes the whole object takes 64; one more and it would take 80.
_PACKED = struct.Struct("<qqqI")
_VERSION = struct.Struct("<q")
_EXPIRES = struct.Struct("<q")
_EXPIRES_AT = 16
_NEVER = 0
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
        self._records: dict[str, bytes] = {}
        self._texts = Texts()
        # Only of records that have any: where a fleet has keys.
        self._proofs: dict[str, tuple[str, ...]] = {}
        self._undone = Undone()
        self._revision = 0
        self._highest = 0
        self._next_expiry_us: int | None = None
        # Odd while records are being moved, so that a look-up which missed one in that moment looks again.
        self._moves = 0
        self._offset_us: int | None = None

    def __len__(self) -> int:
        """How many records are held; those that expired since the last :meth:`prune` are still among them."""
        return len(self._records)

    def __contains__(self, task_id: object) -> bool:
        """Whether the task is revoked now."""
        moves = self._moves
        packed = self._records.get(task_id)  # type: ignore[call-overload]
        if packed is None:
            if not moves & 1 and moves == self._moves:
                return False
            packed = self._settled(task_id)
            if packed is None:
                return False
        expires_us: int = _EXPIRES.unpack_from(packed, _EXPIRES_AT)[0]
        return expires_us == _NEVER or expires_us > self._now_us()

    def get(self, task_id: str) -> Revocation | None:
        """The record that revokes the task now, or ``None``."""
        moves = self._moves
        if self._records.get(task_id) is None and not moves & 1 and moves == self._moves:
            return None  # as :meth:`__contains__` finds out: each task is looked up here several times
        if task_id not in self:
            return None
        with self._lock:  # what it names besides numbers may be given to others by the next change
            packed = self._records.get(task_id)
            record = None if packed is None else self._unpacked(task_id, packed)
        return None if record is None or record.is_expired(self.now()) else record

    def apply(self, records: Iterable[Revocation], now: datetime) -> Applied:
        """What the records changed; ``now`` is the store's.

        They may come in any order, from a broadcast or from the store, and more than once: the higher version wins.
        Records of another namespace count as stale. Takes the iterable in slices, so that a stream of a million neither
        stands in memory nor keeps the lock.
        """
        applied: list[str] = []
        stale: list[str] = []
        expired: list[str] = []
        source = iter(records)
        while batch := list(islice(source, _SLICE)):
            with self._lock:
                self._apply(batch, epoch_us(now), applied, stale, expired)
        return Applied(tuple(applied), tuple(stale), tuple(expired))

    def in_step(self, revocations: Sequence[Revocation], applied: Applied) -> Applied:
        """The same, but what is held in this very version counts as applied: it was read from the store a moment before
        the broadcast came, and an operator would wonder what is stale about it."""
        if not applied.stale:
            return applied
        versions = {revocation.task_id: revocation.version for revocation in revocations}
        known = [
            held.task_id
            for task_id in applied.stale
            if (held := self.get(task_id)) is not None and held.version == versions[task_id]
        ]
        stale = set(applied.stale).difference(known)
        return Applied((*applied.applied, *known), tuple(t for t in applied.stale if t in stale), applied.expired)

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
            for task_id, packed in self._records.items():
                self._records[task_id] = _VERSION.pack(_ANOTHER_HISTORY) + packed[_VERSION.size :]
            self._revision = self._highest = 0
            self._undone.restart()

    def left_over(self) -> list[Revocation]:
        """The live records from before :meth:`restart` that nothing has replaced since, in their old order."""
        now, found = self.now(), []
        with self._lock:
            for task_id, packed in self._records.items():
                if _VERSION.unpack_from(packed)[0] == _ANOTHER_HISTORY:
                    record = self._unpacked(task_id, packed)
                    if not record.is_expired(now):
                        found.append(record)
        return found

    def known(self, task_ids: Iterable[str]) -> dict[str, Revocation]:
        """What is held of these tasks, expired or not."""
        with self._lock:
            return {
                task_id: self._unpacked(task_id, packed)
                for task_id in task_ids
                if (packed := self._records.get(task_id)) is not None
            }

    def undos(self, most: int | None = None) -> list[Revocation]:
        """What undos have left of the tasks that are not revoked now, as far as it is remembered: the newest ``most``."""
        with self._lock:
            return [end for end in self._undone.undos(most) if end.task_id not in self._records]

    def set_store_time(self, now: datetime) -> None:
        """Say what the store's clock shows at this moment."""
        self._offset_us = epoch_us(now) - int(self._clock.monotonic() * 1_000_000)

    def now(self) -> datetime:
        """The store's time, as far as it is known here."""
        return from_epoch_us(self._now_us())

    def prune(self, now: datetime) -> int:
        """How many records were dropped because they had expired at ``now``, the store's; cheap when none had."""
        now_us = epoch_us(now)
        with self._lock:
            if self._next_expiry_us is None or self._next_expiry_us > now_us:
                return 0
            expired: list[str] = []
            due: int | None = None
            for task_id, packed in self._records.items():
                expires_us = _EXPIRES.unpack_from(packed, _EXPIRES_AT)[0]
                if expires_us == _NEVER:
                    continue
                if expires_us <= now_us:
                    expired.append(task_id)
                elif due is None or expires_us < due:
                    due = expires_us
            self._next_expiry_us = due
        pruned = 0
        for start in range(0, len(expired), _SLICE):
            with self._lock:  # let go of between slices: a revoke that arrives does not wait for a million deletions
                for task_id in expired[start : start + _SLICE]:
                    pruned += self._forget_expired(task_id, now_us)
        return pruned

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
        changed: dict[str, bytes] = {}
        for record in batch:
            task_id = record.task_id
            held = changed.get(task_id) or self._records.get(task_id)
            if held is None:
                is_stale = self._undone.covers(record)
            else:
                is_stale = record.version <= _VERSION.unpack_from(held)[0]
            if is_stale or record.namespace != self.namespace:
                self._undone.keep_proofs(record)
                stale.append(task_id)
                continue
            expires_us = _NEVER if record.expires_at is None else epoch_us(record.expires_at)
            if record.expires_at is not None and (expires_us <= now_us or record.expires_at < record.issued_at):
                expired.append(task_id)
                if (undone := changed.pop(task_id, None)) is not None:
                    self._drop_texts(undone)
                    applied.remove(task_id)
                self._forget(task_id)
                self._undone.add(record)
                continue
            if (earlier := changed.get(task_id)) is not None:
                self._drop_texts(earlier)
            else:
                applied.append(task_id)
            changed[task_id] = self._packed(record, expires_us)
            if record.proofs:
                self._proofs[task_id] = record.proofs
            else:
                self._proofs.pop(task_id, None)
            if expires_us != _NEVER and (self._next_expiry_us is None or expires_us < self._next_expiry_us):
                self._next_expiry_us = expires_us
        if changed:
            self._insert(changed)

    def _insert(self, changed: dict[str, bytes]) -> None:
        """Put the records where their versions belong: nearly always at the end, else what is newer is moved behind."""
        records = self._records
        fresh = sorted(changed.items(), key=_version_of)
        self._moves += 1
        try:
            for task_id in changed:
                if (replaced := records.pop(task_id, None)) is not None:
                    self._drop_texts(replaced)
            lowest = _version_of(fresh[0])
            while records:
                last = records.popitem()
                if _version_of(last) < lowest:
                    records[last[0]] = last[1]
                    break
                fresh.append(last)
            fresh.sort(key=_version_of)
            records.update(fresh)
            self._highest = max(self._highest, _version_of(fresh[-1]))
        finally:
            self._moves += 1

    def _forget_expired(self, task_id: str, now_us: int) -> bool:
        packed = self._records.get(task_id)
        if packed is None or not _NEVER < _EXPIRES.unpack_from(packed, _EXPIRES_AT)[0] <= now_us:
            return False  # replaced meanwhile
        self._forget(task_id)
        return True

    def _forget(self, task_id: str) -> None:
        packed = self._records.pop(task_id, None)
        self._proofs.pop(task_id, None)
        if packed is not None:
            self._drop_texts(packed)

    def _settled(self, task_id: object) -> bytes | None:
        with self._lock:
            return self._records.get(task_id)  # type: ignore[call-overload, no-any-return]

    def _newest_live(self, before: int | None) -> Iterator[Revocation]:
        now = self.now()
        records = reversed(self._records.items())
        if before is not None:
            records = dropwhile(lambda item: _version_of(item) >= before, records)
        for task_id, packed in records:
            record = self._unpacked(task_id, packed)
            if not record.is_expired(now):
                yield record

    def _now_us(self) -> int:
        if self._offset_us is None:
            return int(self._clock.now() * 1_000_000)
        return self._offset_us + int(self._clock.monotonic() * 1_000_000)

    def _packed(self, record: Revocation, expires_us: int) -> bytes:
        reason, requester = self._texts.add(record.reason), self._texts.add(record.requested_by)
        flagged = reason << 1 | record.terminate
        return _PACKED.pack(record.version, epoch_us(record.issued_at), expires_us, flagged) + requester.to_bytes(
            3, "little"
        )

    def _unpacked(self, task_id: str, packed: bytes) -> Revocation:
        version, issued_us, expires_us, flagged = _PACKED.unpack_from(packed)
        return Revocation(
            self.namespace,
            task_id,
            version,
            from_epoch_us(issued_us),
            bool(flagged & 1),
            self._texts.text(flagged >> 1),
            self._texts.text(int.from_bytes(packed[_PACKED.size :], "little")),
            None if expires_us == _NEVER else from_epoch_us(expires_us),
            self._proofs.get(task_id, ()),
        )

    def _drop_texts(self, packed: bytes) -> None:
        self._texts.drop(_PACKED.unpack_from(packed)[3] >> 1)
        self._texts.drop(int.from_bytes(packed[_PACKED.size :], "little"))


def _version_of(item: tuple[str, bytes]) -> int:
    version: int = _VERSION.unpack_from(item[1])[0]
    return version
