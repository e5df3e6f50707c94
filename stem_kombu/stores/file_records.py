"""Control records in a file beside that of the revocations, which 0.1.0 never opens.

    {"namespace":"shop","place":"directive","key":…,"version":17…,"stored_us":…,"expires_us":null,"body":{…},"crc":"0a1b2c3d"}
    {"namespace":"shop","place":"audit","key":"12","gone":true,"crc":…}
    {"namespace":"shop","floor":17…,"crc":…}

A change is written here first, and then counts: the file of the revocations gets its versions in the same step, under its lock.
What a writer left here that was killed between the two has a version which that file does not know: no reader shows it, and
the next writer takes it away.
"""

from __future__ import annotations

import json
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from pathlib import Path

from stem_kombu.clock import epoch_us
from stem_kombu.fields import FieldError, any_text, json_value, mapping, text, whole
from stem_kombu.stores.journal import HEADER_LENGTH, MORE, Extent, Journal, Replaced
from stem_kombu.stores.lines import batch_of
from stem_kombu.stores.quarantine import Quarantine
from stem_kombu.stores.records import ControlRecord, body_text

_CRC = len(',"crc":"00000000"}')
#: The file is rewritten when this many of its lines, and more than half of them, are of no use any more.
_MOST_USELESS = 1000
#: Records that are read at a time.
_PAGE = 500
Name = tuple[str, str]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a record begins in the file, its version and when it expires."""

    version: int
    start: int
    expires_us: int | None


@dataclass(slots=True)
class _Known:
    """What was learnt of the file up to ``end``: of each namespace its records in ascending order of version."""

    extent: Extent = field(default_factory=Extent)
    end: int = 0
    lines: int = 0
    records: dict[str, dict[Name, _Place]] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)


class FileRecords:
    """The records beside one file, whose reader's ``lock`` they share.

    ``revision`` gives the highest version that counts in a namespace, ``writing`` holds the write lock of the revocations.
    """

    def __init__(
        self,
        path: Path,
        lock: threading.RLock,
        revision: Callable[[str], int],
        writing: Callable[[], AbstractContextManager[object]],
        quarantine: Quarantine,
    ) -> None:
        self._journal = Journal(path.with_name(path.name + ".control"))
        self._revision = revision
        self._writing = writing
        self._quarantine = quarantine
        self._lock = lock
        self._known = _Known()

    def versions(self, namespace: str, names: Sequence[Name]) -> dict[Name, int]:
        """The versions of those of the records that there are."""
        if not names:
            return {}
        held = self._learnt().records.get(namespace, {})
        return {name: held[name].version for name in names if name in held}

    def write(self, namespace: str, records: Sequence[ControlRecord], gone: Sequence[Name]) -> None:
        """Add these, for a change that counts once the namespace has their versions. Needs the revocations' write lock."""
        lines = [_line({"namespace": namespace, "place": name[0], "key": name[1], "gone": True}) for name in gone]
        lines += [_record_line(namespace, record) for record in records]
        self._append(lines)

    def since(self, namespace: str, version: int, places: Collection[str] | None) -> Iterator[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.records_since`."""
        while True:
            try:
                for record in self._newer(namespace, version, places):
                    version = record.version
                    yield record
                return
            except Replaced:  # rewritten between two looks: go on in the new file from where we are
                continue

    def newest(self, namespace: str, place: str, limit: int) -> list[ControlRecord]:
        """See :meth:`stem_kombu.stores.base.RevokeStore.newest_records`."""

        def chosen(held: Mapping[Name, _Place]) -> list[_Place]:
            return list(islice((held[name] for name in reversed(list(held)) if name[0] == place), limit))

        return self._chosen(namespace, chosen)

    def one(self, namespace: str, place: str, key: str) -> ControlRecord | None:
        """See :meth:`stem_kombu.stores.base.RevokeStore.record`."""
        found = self._chosen(namespace, lambda held: [held[place, key]] if (place, key) in held else [])
        return found[0] if found else None

    def floor(self, namespace: str) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.floor`."""
        return self._learnt().floors.get(namespace, 0)

    def prune(self, namespace: str, before: datetime) -> int:
        """See :meth:`stem_kombu.stores.base.RevokeStore.prune_records`."""
        if not self._expired(namespace, before):
            return 0
        with self._writing():
            if not (expired := self._expired(namespace, before)):
                return 0
            lines = [_line({"namespace": namespace, "place": p, "key": k, "gone": True}) for (p, k), _ in expired]
            lines.append(_line({"namespace": namespace, "floor": max(version for _, version in expired)}))
            self._append(lines)
        return len(expired)

    def _expired(self, namespace: str, before: datetime) -> list[tuple[Name, int]]:
        """Names and versions of the records that had expired by then."""
        held, until = self._learnt().records.get(namespace, {}), epoch_us(before)
        return [(n, at.version) for n, at in held.items() if at.expires_us is not None and at.expires_us <= until]

    def close(self) -> None:
        """Forget what was learnt of the file."""
        with self._lock:
            self._known = _Known()

    def _append(self, lines: list[bytes]) -> None:
        with self._lock, self._journal.writing(self._known.extent) as extent:
            known = self._read(extent)
            useless = known.lines - sum(map(len, known.records.values()))
            # Behind what counts stands what a writer left that was killed.
            if known.end < extent.end or (useless > _MOST_USELESS and useless * 2 > known.lines):
                extent = self._journal.rewrite(list(self._live(known, extent)))
            self._journal.append(extent, batch_of(lines))

    def _live(self, known: _Known, extent: Extent) -> Iterator[bytes]:
        for namespace, held in known.records.items():
            for _, line in self._lines_at([at.start for at in held.values()], extent):
                yield line[: -len(MORE)] + b"}\n" if line.endswith(MORE) else line
            if namespace in known.floors:
                yield _line({"namespace": namespace, "floor": known.floors[namespace]})

    def _newer(self, namespace: str, version: int, places: Collection[str] | None) -> Iterator[ControlRecord]:
        with self._lock:
            known = self._learnt()
            extent, found = known.extent, []
            for name, at in reversed(known.records.get(namespace, {}).items()):
                if at.version <= version:
                    break
                if places is None or name[0] in places:
                    found.append(at)
        found.reverse()
        for first in range(0, len(found), _PAGE):
            yield from self._at(namespace, found[first : first + _PAGE], extent)

    def _chosen(
        self, namespace: str, chosen: Callable[[Mapping[Name, _Place]], Sequence[_Place]]
    ) -> list[ControlRecord]:
        while True:
            try:
                with self._lock:
                    known = self._learnt()
                    found, extent = chosen(known.records.get(namespace, {})), known.extent
                return list(self._at(namespace, found, extent))
            except Replaced:
                continue

    def _at(self, namespace: str, places: Sequence[_Place], extent: Extent) -> Iterator[ControlRecord]:
        """The records there, in this order."""
        lines = dict(self._lines_at(sorted(at.start for at in places), extent))
        for at in places:
            try:
                yield _record(mapping(_decoded(lines[at.start]), "a line"))
            except (ValueError, TypeError, OverflowError) as error:
                self._set_aside(at.start + len(lines[at.start]), error, namespace)

    def _lines_at(self, starts: Sequence[int], extent: Extent) -> Iterator[tuple[int, bytes]]:
        """The lines that begin there, in one pass; the starts ascend."""
        wanted = set(starts)
        for offset, line in self._journal.lines(extent, starts[0]) if starts else ():
            if (start := offset - len(line)) in wanted:
                yield start, line
                if start == starts[-1]:
                    return

    def _learnt(self) -> _Known:
        with self._lock:
            while True:
                try:
                    return self._read(self._journal.extent(self._known.extent))
                except Replaced:
                    continue

    def _read(self, extent: Extent) -> _Known:
        """What is known up to the last batch that counts; a later one is read again the next time."""
        known = self._known
        if not extent.continues(known.extent):
            known = _Known()
        self._known = _Known()  # should the reading fail, then nothing half-learnt stays behind
        known.extent, known.end = extent, known.end or min(HEADER_LENGTH, extent.end)
        revisions: dict[str, int] = {}
        batch: list[tuple[int, dict[str, object]]] = []
        count = 0
        for offset, line in self._journal.lines(extent, known.end):
            count += 1
            try:
                batch.append((offset - len(line), mapping(_decoded(line), "a line")))
            except (ValueError, TypeError) as error:
                self._set_aside(offset, error, None)
            if line.endswith(MORE):
                continue
            if not all(self._counts(fields, revisions) for _, fields in batch):
                break
            for start, fields in batch:
                self._take(known, start, fields)
            known.end, known.lines = offset, known.lines + count
            batch, count = [], 0
        self._known = known
        return known

    def _counts(self, fields: Mapping[str, object], revisions: dict[str, int]) -> bool:
        version, namespace = fields.get("version"), fields.get("namespace")
        if type(version) is not int or not isinstance(namespace, str):
            return True
        if version > revisions.get(namespace, -1):
            revisions[namespace] = self._revision(namespace)
        return version <= revisions[namespace]

    def _take(self, known: _Known, start: int, fields: Mapping[str, object]) -> None:
        try:
            namespace = any_text(fields.get("namespace"), "namespace")
            if "floor" in fields:
                known.floors[namespace] = max(known.floors.get(namespace, 0), whole(fields["floor"], "floor"))
                return
            name = any_text(fields.get("place"), "place"), any_text(fields.get("key"), "key")
            held = known.records.setdefault(namespace, {})
            if fields.get("gone") is True:
                held.pop(name, None)
                return
            expires_us = fields.get("expires_us")
            if expires_us is not None and type(expires_us) is not int:
                raise FieldError("expires_us is no whole number")
            at = _Place(whole(fields.get("version"), "version"), start, expires_us)
            held.pop(name, None)
            held[name] = at
        except FieldError as error:
            self._set_aside(start + 1, error, None)

    def _set_aside(self, offset: int, error: Exception, namespace: str | None) -> None:
        place = f"{self._journal.path.name}, line {self._journal.line_number(offset)}"
        self._quarantine.add(namespace, place, error)


def _line(fields: Mapping[str, object]) -> bytes:
    text = json.dumps(fields, separators=(",", ":")).encode()[:-1]
    return text + b',"crc":"%08x"}\n' % zlib.crc32(text)


def _record_line(namespace: str, record: ControlRecord) -> bytes:
    place, key, version, stored_us, expires_us, body = record.row()
    times = {"version": version, "stored_us": stored_us, "expires_us": expires_us}
    return _line({"namespace": namespace, "place": place, "key": key, **times, "body": json.loads(body)})


def _decoded(line: bytes) -> object:
    """The value of a line; raises :class:`~stem_kombu.fields.FieldError` for one that was changed."""
    whole_line = line[: -len(MORE)] + b"}" if line.endswith(MORE) else line.rstrip(b"\n")
    fields = mapping(json_value(whole_line), "a line")
    if text(fields.get("crc"), "crc") != f"{zlib.crc32(whole_line[:-_CRC]):08x}":
        raise FieldError("its checksum does not fit: a part of it was changed")
    return fields


def _record(fields: Mapping[str, object]) -> ControlRecord:
    body = body_text(mapping(fields.get("body"), "body"))
    row = (fields.get(name) for name in ("place", "key", "version", "stored_us", "expires_us"))
    return ControlRecord.of((*row, body))
