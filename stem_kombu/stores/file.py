"""Revocations in one plain file, a JSON record a line, shared by the processes of one host.

For fleets that have no server: any number of processes may write (the journal's lock serialises them), and people can
read it. A record that replaces another names the version that it ``supersedes``; a mark says that a namespace was
pruned, and keeps its highest version when the records are gone. What was superseded or pruned stays in the file until
it dominates; then the file is rewritten.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path

from stem_kombu.clock import SYSTEM, Clock, epoch_us
from stem_kombu.drivers.file_conditions import write_marker
from stem_kombu.revocation import Revocation
from stem_kombu.stores.base import Glance, RecordKeepingStore
from stem_kombu.stores.file_knowledge import Known, ReadTo, Shelf, dominates
from stem_kombu.stores.file_records import FileRecords
from stem_kombu.stores.journal import Extent, Journal, Replaced
from stem_kombu.stores.lines import Gone, Line, Unreadable, batch_of, encoded, escaped, mark
from stem_kombu.stores.records import Change, Changed, changed, checked, named, tasks_of


class FileRevokeStore(RecordKeepingStore):
    """Revocations in one file; times are by the host's clock.

    Memory: a stream holds one record at a time; a process that saves keeps an index of about 200 bytes per task.
    ``since`` with nothing new is one stat. A line that can't be read is set aside, with its number; a file that is none of
    revocations raises :class:`StoreCorrupt`.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM) -> None:
        self._journal = Journal(path)
        self._clock = clock
        self._lock = threading.RLock()
        self._extent = Extent()
        self._known = Known()
        self._read_to: dict[str, ReadTo] = {}
        self._writes = False
        self.url = self._journal.url
        self._kept: FileRecords = FileRecords(path, self._lock, self.revision, self._writing, self.quarantine)

    def change(self, namespace: str, change: Change) -> Changed:
        change = checked(change)
        while not change.is_empty:
            try:
                return self._change(namespace, change)
            except Replaced:  # the file was removed while it was written, and the batch with it
                continue
        return Changed()

    def _change(self, namespace: str, change: Change) -> Changed:
        with self._writing(index=True) as extent:
            shelf = self._known.shelf(escaped(namespace))
            held, revision, now = self._held(shelf, tasks_of(change)), shelf.revision, self._clock.utcnow()
            versions = self._kept.versions(namespace, named(change))
            done = changed(change, held, versions, namespace=namespace, highest=revision, now=now)
            lines = [encoded(record, held.get(record.task_id)) for record in (*done.revocations, *done.ended)]
            if done.records or change.forgotten:
                self._kept.write(namespace, done.records, change.forgotten)
            if done.records:
                lines.append(mark(escaped(namespace), done.version, pruned_us=0, pruned=0))
            if lines:
                known = self._learnt(self._journal.append(extent, batch_of(lines)), index=True)
                if dominates(known.useless, known.records):
                    self._rewrite(now)
        return done

    def since(self, namespace: str, version: int) -> Iterator[Revocation]:
        while True:
            try:
                for record in self._stream(namespace, version):
                    version = record.version
                    yield record
                return
            except Replaced:  # rewritten between two looks: go on in the new file from where we are
                continue

    def load(self, namespace: str) -> Iterator[Revocation]:
        now = self._clock.utcnow()
        return (record for record in self.since(namespace, 0) if not record.is_expired(now))

    def get(self, namespace: str, task_id: str) -> Revocation | None:
        while True:
            try:  # a search and no index: who asks for one task is about to end, and has no use for it
                record = next(self._stream(namespace, 0, only=escaped(task_id)), None)
                return None if record is None or record.is_expired(self._clock.utcnow()) else record
            except Replaced:
                continue

    def revision(self, namespace: str) -> int:
        return self._shelf(namespace).revision

    def glance(self, namespace: str, task_ids: Sequence[str]) -> Glance:
        """The file only grows and is known by its name for itself: the identity vouches for what was read of it before."""
        revision = self.revision(namespace)
        return Glance(f"{self._extent.header.decode(errors='replace').strip()}:{self._extent.history}", revision, None)

    def prune(self, namespace: str) -> int:
        return self.prune_after(namespace, 0.0)

    def prune_after(self, namespace: str, grace: float) -> int:
        now = self._clock.utcnow() - timedelta(seconds=grace)
        due = self._shelf(namespace).next_expiry_us
        if due is None or due > epoch_us(now):
            return 0
        with self._lock, self._journal.writing(self._extent) as extent:
            known = self._learnt(extent)
            gone = self._gone(extent).get(escaped(namespace), Gone())
            expired, next_expiry_us = 0, None
            for record in self._records(extent, escaped(namespace)):
                try:
                    expires_us = record.expires_us
                    if expires_us is None or record in gone:
                        continue
                except Unreadable:
                    continue  # it is set aside when the records are read
                if expires_us <= epoch_us(now):
                    expired += 1
                elif next_expiry_us is None or expires_us < next_expiry_us:
                    next_expiry_us = expires_us
            shelf = known.shelf(escaped(namespace))
            shelf.next_expiry_us = next_expiry_us
            if expired and dominates(known.useless + expired, known.records):
                self._rewrite(now)
            elif expired:
                done = mark(escaped(namespace), shelf.revision, pruned_us=epoch_us(now), pruned=expired)
                self._learnt(self._journal.append(extent, [done]))
        return expired

    def repair(self, namespace: str) -> list[str]:
        """See :meth:`RevokeStore.repair`. Lines that can't be read go to the file ``….set-aside`` beside this one."""
        with self._lock, self._journal.writing(self._extent) as extent:
            self._learnt(extent)
            lines = list(self._unreadable(extent))
            if not lines:
                return []
            aside = self._journal.keep(lines)
            self._rewrite(self._clock.utcnow(), keep=False)
        return [f"{len(lines)} lines that can't be read were moved to {aside}"]

    def now(self) -> datetime:
        return self._clock.utcnow()

    def check(self, namespace: str) -> list[str]:
        self.ping()
        write_marker(self._journal.path.parent, f"revoke store {self.url}")
        return []

    def ping(self) -> None:
        self._journal.ping()
        self._look()

    def close(self) -> None:
        """Forget what was learnt of the file; nothing is kept open between two calls."""
        with self._lock:
            self._extent, self._known, self._read_to = Extent(), Known(), {}
        self._kept.close()

    def _look(self) -> Extent:
        self._extent = self._journal.extent(self._extent)
        return self._extent

    @contextlib.contextmanager
    def _writing(self, *, index: bool = False) -> Iterator[Extent]:
        """The write lock; what is known is then the newest."""
        with self._lock, self._journal.writing(self._extent) as extent:
            self._learnt(extent, index=index)
            self._writes = True
            try:
                yield extent
            finally:
                self._writes = False

    def _shelf(self, namespace: str) -> Shelf:
        while True:
            try:
                with self._lock:
                    known = self._known if self._writes else self._learnt(self._look())
                    return known.shelf(escaped(namespace))
            except Replaced:
                continue

    def _stream(self, namespace: str, version: int, *, only: bytes | None = None) -> Iterator[Revocation]:
        """Records above the version in the order of the file, which within a namespace is that of versions."""
        extent, read_to = self._look(), self._read_to.get(namespace)
        start = last = 0
        if read_to is not None and read_to.header == extent.header and read_to.version <= version:
            start, last = read_to.offset, read_to.version
        if start == extent.end:
            return
        if whole := not start:
            self.quarantine.forget([namespace, None])
        wanted = escaped(namespace)
        gone = self._gone(extent, start).get(wanted, Gone())
        for record in self._in_order(self._records(extent, wanted, start), last):
            last = record.version
            try:
                if record.version > version and only in (None, record.task_id) and record not in gone:
                    yield record.decoded()
            except Unreadable as error:
                self._set_aside(record.offset, error)
        if whole or only is None:
            self._read_to[namespace] = ReadTo(extent.header, extent.end, last)

    def _in_order(self, records: Iterator[Line], last: int) -> Iterator[Line]:
        """The records in ascending order of version, all above ``last``: one that does not fit between its neighbours, as a
        copy of a line or one with a changed number, is set aside."""
        waiting: Line | None = None
        for record in records:
            if waiting is not None and record.version > waiting.version:
                last = waiting.version
                yield waiting
            elif record.version <= last or (waiting is not None and record.version == waiting.version):
                self._set_aside(record.offset, record.unreadable(f"version {record.version} stands behind {last}"))
                continue
            elif waiting is not None:
                ahead = f"version {waiting.version} stands before {record.version}"
                self._set_aside(waiting.offset, waiting.unreadable(ahead))
            waiting = record
        if waiting is not None:
            yield waiting

    def _learnt(self, extent: Extent, *, index: bool = False) -> Known:
        """What is known up to the extent's end; reads what is new, or all of it when an index is wanted first."""
        known = self._known
        if not extent.continues(known.extent) or (index and not known.indexed):
            known = Known(indexed=index or known.indexed)
        self._known = Known()  # should the reading fail, then nothing half-learnt stays behind
        for start, line in self._lines(extent, known.extent.end):
            shelf = known.shelf(line.namespace)
            if line.is_mark:
                shelf.revision = max(shelf.revision, line.revision)
                known.useless += line.pruned
                continue
            shelf.revision = max(shelf.revision, line.version)
            known.records += 1
            known.useless += line.supersedes is not None
            try:
                expires_us = line.expires_us
            except Unreadable:
                continue
            if expires_us is not None and (shelf.next_expiry_us is None or expires_us < shelf.next_expiry_us):
                shelf.next_expiry_us = expires_us
            if known.indexed:
                shelf.lines[line.task_id] = start
        known.extent = self._extent = extent
        self._known = known
        return known

    def _gone(self, extent: Extent, start: int = 0) -> dict[bytes, Gone]:
        gone: dict[bytes, Gone] = {}
        now_us = epoch_us(self._clock.utcnow())
        for offset, text in self._journal.lines(extent, start):
            if b',"supersedes":null,' in text:  # most lines; a text can't hold these quotes unescaped
                continue
            try:
                line = Line(offset, text)
            except Unreadable:
                continue  # _lines() sets it aside when the records are read
            found = gone.setdefault(line.namespace, Gone())
            if line.is_mark:
                # No later than now: what a clock that was ahead called expired is there again when the clock is right.
                found.marked_at, found.pruned_us = offset, max(found.pruned_us, min(line.pruned_us, now_us))
            elif line.supersedes is not None:
                found.superseded[line.supersedes] = line.task_id
        return gone

    def _records(self, extent: Extent, namespace: bytes, start: int = 0) -> Iterator[Line]:
        for _, line in self._lines(extent, start):
            if not line.is_mark and line.namespace == namespace:
                yield line

    def _lines(self, extent: Extent, start: int) -> Iterator[tuple[int, Line]]:
        """Where each line that can be read begins, and the line; the others are set aside."""
        for offset, text in self._journal.lines(extent, start):
            try:
                yield offset - len(text), Line(offset, text)
            except Unreadable as error:
                self._set_aside(offset, error)

    def _set_aside(self, offset: int, error: Unreadable) -> None:
        self.quarantine.add(error.namespace, f"line {self._journal.line_number(offset)}", error, error.task_id)

    def _rewrite(self, now: datetime, *, keep: bool = True) -> None:
        """Replace the file by one without what is expired or superseded, in any namespace; needs the write lock.

        ``keep``: with the lines that can't be read.
        """
        known, gone = self._known, self._gone(self._extent)

        def live() -> Iterator[bytes]:
            for namespace, shelf in known.shelves.items():
                for record in self._records(known.extent, namespace):
                    try:
                        expires_us = record.expires_us
                        over = expires_us is not None and expires_us <= epoch_us(now)
                        if over or record in gone.get(namespace, Gone()):
                            continue
                    except Unreadable:
                        pass
                    yield record.alone()
                yield mark(namespace, shelf.revision, pruned_us=0, pruned=0)
            if keep:
                yield from self._unreadable(known.extent)

        self._extent = self._journal.rewrite(live())
        self._known = Known()

    def _unreadable(self, extent: Extent) -> Iterator[bytes]:
        """The lines that were set aside: they are kept."""
        for offset, text in self._journal.lines(extent):
            try:
                Line(offset, text)
            except Unreadable:
                yield text if text.endswith(b"\n") else text + b"\n"

    def _held(self, shelf: Shelf, task_ids: Sequence[str]) -> dict[str, Revocation]:
        starts = [start for task_id in task_ids if (start := shelf.lines.get(escaped(task_id))) is not None]
        held: dict[str, Revocation] = {}
        for start, text in zip(starts, self._journal.lines_at(starts), strict=True):
            try:
                record = Line(start + len(text), text).decoded()
            except Unreadable as error:
                self._set_aside(start + len(text), error)
                continue
            held[record.task_id] = record
        return held
