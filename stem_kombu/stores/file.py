"""Revocations in one plain file, a JSON record a line, shared by the processes of one host.

For fleets that have no server: any number of processes may write (the journal's lock serialises them), and people can
read it. A record that replaces another names the version that it ``supersedes``; a mark says that a namespace was
pruned, and keeps its highest version when the records are gone. What was superseded or pruned stays in the file until
it dominates; then the file is rewritten.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from stem_kombu.clock import SYSTEM, Clock, epoch_us, parse_isoformat
from stem_kombu.errors import StoreCorrupt
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.batch import folded, merged
from stem_kombu.stores.journal import MORE, Extent, Journal, Replaced

_TEXT = rb'"((?:[^"\\]|\\.)*)"'
#: The beginning of every line: a record, or the mark of a namespace. Enough to skip a line without decoding it.
_LINE = re.compile(
    rb'\{"namespace":' + _TEXT + rb',(?:"task_id":' + _TEXT + rb',"version":(\d{1,16}),"supersedes":(\d{1,16}|null),'
    rb'|"revision":(\d{1,16}),"pruned_us":(\d{1,16}),"pruned":(\d{1,16})\}$)'
)
_Corrupt = Callable[[int, object], StoreCorrupt]
#: The file is rewritten when this many of its records, and more than half of them, are of no use any more.
_GARBAGE = 1000


@dataclass(slots=True)
class _Shelf:
    """What is known of one namespace. ``lines`` (escaped task id to offset) is built by the first save or get."""

    revision: int = 0
    next_expiry_us: int | None = None
    lines: dict[bytes, int] = field(default_factory=dict)


@dataclass(slots=True)
class _Known:
    """What was learnt of the file up to the end of ``extent``, without holding its records."""

    extent: Extent = field(default_factory=Extent)
    indexed: bool = False
    records: int = 0
    garbage: int = 0
    shelves: dict[bytes, _Shelf] = field(default_factory=dict)

    def shelf(self, namespace: bytes) -> _Shelf:
        return self.shelves.setdefault(namespace, _Shelf())


@dataclass(slots=True)
class _Gone:
    """Which records of a namespace count no more: replaced ones by version, pruned ones by place and expiry."""

    superseded: set[int] = field(default_factory=set)
    marked_at: int = 0
    pruned_us: int = 0

    def __contains__(self, record: _Line) -> bool:
        if record.version in self.superseded:
            return True
        if record.offset > self.marked_at:
            return False
        return record.expires_us is not None and record.expires_us <= self.pruned_us


@dataclass(frozen=True, slots=True)
class _ReadTo:
    """A stream of one namespace came to ``offset`` of the file with this header, and had seen ``version``."""

    header: bytes
    offset: int
    version: int


class _Line:
    """One record's line and where it ends, decoded no further than needed; ``corrupt(offset, why)`` makes an exception."""

    __slots__ = ("_corrupt", "match", "offset", "text", "version")

    def __init__(self, offset: int, text: bytes, match: re.Match[bytes], corrupt: _Corrupt) -> None:
        self.offset, self.text, self.match, self._corrupt = offset, text, match, corrupt
        self.version = int(match[3])

    @property
    def expires_us(self) -> int | None:
        value = self.text.rpartition(b'"expires_at":')[2]
        if value.startswith(b"null"):
            return None
        try:
            return epoch_us(parse_isoformat(value.split(b'"')[1].decode()))
        except (ValueError, IndexError) as error:
            raise self._corrupt(self.offset, error) from error

    def decoded(self) -> Revocation:
        try:
            record = Revocation.from_record(json.loads(self.text.decode()))
        except (ValueError, RecursionError) as error:
            raise self._corrupt(self.offset, error) from error
        said = (_escaped(record.namespace), _escaped(record.task_id), record.version)
        if said != (self.match[1], self.match[2], self.version):  # a name stands in the line twice
            raise self._corrupt(self.offset, "it names two tasks")
        return record

    def alone(self) -> bytes:
        """The line as one that replaces nothing and is a batch of its own."""
        text = self.text[: self.match.start(4)] + b"null" + self.text[self.match.end(4) :]
        return text[: -len(MORE)] + b"}\n" if text.endswith(MORE) else text


class FileRevokeStore(RevokeStore):
    """Revocations in one file; times are by the host's clock.

    Memory: a stream holds one record at a time; a process that saves keeps an index of about 200 bytes per task.
    ``since`` with nothing new is one stat. Raises :class:`StoreCorrupt` naming file and line.
    """

    def __init__(self, path: Path, *, clock: Clock = SYSTEM) -> None:
        self._journal = Journal(path)
        self._clock = clock
        self._lock = threading.Lock()
        self._extent = Extent()
        self._known = _Known()
        self._read_to: dict[str, _ReadTo] = {}
        self.url = self._journal.url

    def save(self, namespace: str, drafts: Sequence[RevocationDraft]) -> list[Revocation]:
        distinct = folded(drafts)
        if not distinct:
            return []
        with self._lock, self._journal.writing() as extent:
            shelf = self._learnt(extent, index=True).shelf(_escaped(namespace))
            held = self._held(shelf, [draft.task_id for draft in distinct])
            now = self._clock.utcnow()
            records = merged(distinct, held, namespace=namespace, highest=shelf.revision, now=now)
            lines = [_encoded(record, held.get(record.task_id)) for record in records]
            batch = [line[: -len(b"}\n")] + MORE for line in lines[:-1]] + lines[-1:]
            known = self._learnt(self._journal.append(extent, batch), index=True)
            if _dominates(known.garbage, known.records):
                self._rewrite(now)
        return records

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
                record = next(self._stream(namespace, 0, only=_escaped(task_id)), None)
                return None if record is None or record.is_expired(self._clock.utcnow()) else record
            except Replaced:
                continue

    def revision(self, namespace: str) -> int:
        return self._shelf(namespace).revision

    def prune(self, namespace: str) -> int:
        now = self._clock.utcnow()
        due = self._shelf(namespace).next_expiry_us
        if due is None or due > epoch_us(now):
            return 0
        with self._lock, self._journal.writing() as extent:
            known = self._learnt(extent)
            gone = self._gone(extent).get(_escaped(namespace), _Gone())
            expired, next_expiry_us = 0, None
            for record in self._records(extent, _escaped(namespace)):
                expires_us = record.expires_us
                if expires_us is None or record in gone:
                    continue
                if expires_us <= epoch_us(now):
                    expired += 1
                elif next_expiry_us is None or expires_us < next_expiry_us:
                    next_expiry_us = expires_us
            shelf = known.shelf(_escaped(namespace))
            shelf.next_expiry_us = next_expiry_us
            if expired and _dominates(known.garbage + expired, known.records):
                self._rewrite(now)
            elif expired:
                mark = _mark(_escaped(namespace), shelf.revision, pruned_us=epoch_us(now), pruned=expired)
                self._learnt(self._journal.append(extent, [mark]))
        return expired

    def now(self) -> datetime:
        return self._clock.utcnow()

    def ping(self) -> None:
        self._journal.ping()
        self._look()

    def close(self) -> None:
        """Forget what was learnt of the file; nothing is kept open between two calls."""
        with self._lock:
            self._extent, self._known, self._read_to = Extent(), _Known(), {}

    def _look(self) -> Extent:
        self._extent = self._journal.extent(self._extent)
        return self._extent

    def _shelf(self, namespace: str) -> _Shelf:
        while True:
            try:
                with self._lock:
                    return self._learnt(self._look()).shelf(_escaped(namespace))
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
        wanted = _escaped(namespace)
        gone = self._gone(extent, start).get(wanted, _Gone())
        for record in self._records(extent, wanted, start):
            if record.version <= last:
                raise self._corrupt(record.offset, f"version {record.version} stands behind {last}")
            last = record.version
            if last > version and only in (None, record.match[2]) and record not in gone:
                yield record.decoded()
        self._read_to[namespace] = _ReadTo(extent.header, extent.end, last)

    def _learnt(self, extent: Extent, *, index: bool = False) -> _Known:
        """What is known up to the extent's end; reads what is new, or all of it when an index is wanted first."""
        known = self._known
        if known.extent.header != extent.header or (index and not known.indexed):
            known = _Known(indexed=index or known.indexed)
        self._known = _Known()  # should a line be corrupt, then nothing half-learnt stays behind
        for offset, line in self._journal.lines(extent, known.extent.end):
            match = self._matched(offset, line)
            shelf = known.shelf(match[1])
            if match[3] is None:
                shelf.revision = max(shelf.revision, int(match[5]))
                known.garbage += int(match[7])
                continue
            record = _Line(offset, line, match, self._corrupt)
            if record.version <= shelf.revision:
                raise self._corrupt(offset, f"version {record.version} stands behind {shelf.revision}")
            shelf.revision = record.version
            known.records += 1
            known.garbage += match[4] != b"null"
            expires_us = record.expires_us
            if expires_us is not None and (shelf.next_expiry_us is None or expires_us < shelf.next_expiry_us):
                shelf.next_expiry_us = expires_us
            if known.indexed:
                shelf.lines[match[2]] = offset - len(line)
        known.extent = self._extent = extent
        self._known = known
        return known

    def _gone(self, extent: Extent, start: int = 0) -> dict[bytes, _Gone]:
        gone: dict[bytes, _Gone] = {}
        for offset, line in self._journal.lines(extent, start):
            if b',"supersedes":null,' in line:  # most lines; a text can't hold these quotes unescaped
                continue
            match = self._matched(offset, line)
            if match[3] is None:
                found = gone.setdefault(match[1], _Gone())
                found.marked_at, found.pruned_us = offset, max(found.pruned_us, int(match[6]))
            elif match[4] != b"null":
                gone.setdefault(match[1], _Gone()).superseded.add(int(match[4]))
        return gone

    def _records(self, extent: Extent, namespace: bytes, start: int = 0) -> Iterator[_Line]:
        for offset, line in self._journal.lines(extent, start):
            match = self._matched(offset, line)
            if match[3] is not None and match[1] == namespace:
                yield _Line(offset, line, match, self._corrupt)

    def _rewrite(self, now: datetime) -> None:
        """Replace the file by one without what is expired or superseded, in any namespace; needs the write lock."""
        known, gone = self._known, self._gone(self._extent)

        def live() -> Iterator[bytes]:
            for namespace, shelf in known.shelves.items():
                for record in self._records(known.extent, namespace):
                    expires_us = record.expires_us
                    if record not in gone.get(namespace, _Gone()) and not (
                        expires_us is not None and expires_us <= epoch_us(now)
                    ):
                        yield record.alone()
                yield _mark(namespace, shelf.revision, pruned_us=0, pruned=0)

        self._extent = self._journal.rewrite(live())
        self._known = _Known()

    def _held(self, shelf: _Shelf, task_ids: Sequence[str]) -> dict[str, Revocation]:
        starts = [start for task_id in task_ids if (start := shelf.lines.get(_escaped(task_id))) is not None]
        held: dict[str, Revocation] = {}
        for start, line in zip(starts, self._journal.lines_at(starts), strict=True):
            offset = start + len(line)
            record = _Line(offset, line, self._matched(offset, line), self._corrupt).decoded()
            held[record.task_id] = record
        return held

    def _matched(self, offset: int, line: bytes) -> re.Match[bytes]:
        match = _LINE.match(line)
        if match is None:
            raise self._corrupt(offset, "it is neither a record nor a mark")
        return match

    def _corrupt(self, offset: int, why: object) -> StoreCorrupt:
        return StoreCorrupt(
            f"revoke store {self.url}, line {self._journal.line_number(offset)}: {why}",
            hint="restore the file from a backup, or delete that line if you know that nobody needs it",
        )


def _dominates(garbage: int, records: int) -> bool:
    return garbage > _GARBAGE and garbage * 2 > records


def _escaped(text: str) -> bytes:
    """The text as it stands between the quotes of a line; always ASCII, so equal texts are equal bytes."""
    return json.dumps(text)[1:-1].encode()


def _encoded(record: Revocation, held: Revocation | None) -> bytes:
    fields = record.to_message()
    first = {name: fields.pop(name) for name in ("namespace", "task_id", "version")}
    supersedes = None if held is None else held.version
    last = {"expires_at": fields.pop("expires_at")}  # whoever skims a line looks for it at the end
    return json.dumps({**first, "supersedes": supersedes, **fields, **last}, separators=(",", ":")).encode() + b"\n"


def _mark(namespace: bytes, revision: int, *, pruned_us: int, pruned: int) -> bytes:
    head = b'{"namespace":"' + namespace + b'",'
    return head + f'"revision":{revision},"pruned_us":{pruned_us},"pruned":{pruned}}}\n'.encode()
