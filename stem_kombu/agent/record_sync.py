"""Control records from the store to what obeys them: with each sync of the revocations, whose version counter they share (G21).

An idle sync costs no query more: nothing is read while the store's revision stands still. Directives and rules that a store has
lost are put back: workers obey them, and a command that is to end one must find it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from stem_kombu import directive, rule
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import ControlRecord

logger = logging.getLogger(__name__)

_CHUNK = 1000
#: Of these places the last record of each key is remembered, as many as this. An undo has a way of its own
#: (:mod:`stem_kombu.agent.store_history`), and an audit is no worker's.
_KEPT_PLACES, _MOST_KEPT = (directive.PLACE, rule.PLACE), 5000
#: Records that a log line names.
_NAMED = 10

#: Takes records of one place, in ascending order of version, expired ones included; a record may come again.
Subscriber: TypeAlias = Callable[[Sequence[ControlRecord]], object]


class RecordSync:
    """Reads the records of some places. ``subscribers`` maps each place to what takes its records. Used by one thread at a
    time."""

    def __init__(self, store: RevokeStore, namespace: str, subscribers: Mapping[str, Subscriber]) -> None:
        self._store = store
        self._namespace = namespace
        self._subscribers = dict(subscribers)
        #: The version up to which all records were read.
        self._read = 0
        self._kept: dict[tuple[str, str], ControlRecord] = {}

    def look(self, revision: int) -> None:
        """Hand out what is new; ``revision`` is the store's, read a moment ago. Raises
        :class:`~stem_kombu.errors.StoreError`; what was handed out by then comes again."""
        if not self._subscribers or not self._store.keeps_records or revision == self._read:
            return
        # A store that was set back is read anew, and so is one that has pruned what was not read here.
        is_same = self._store.floor(self._namespace) <= self._read < revision and self._has_newest()
        since = self._read if is_same else 0
        held: dict[tuple[str, str], int] = {}
        for place, chunk in _by_place(self._store.records_since(self._namespace, since, list(self._subscribers))):
            held.update(((place, record.key), record.version) for record in chunk)
            self._keep(chunk)
            self._subscribers[place](chunk)
        if not is_same:
            self._put_back(held)
        self._read = revision

    def read_anew(self) -> None:
        """Read everything with the next look: another copy of the data answers."""
        self._read = 0

    def _keep(self, records: Iterable[ControlRecord]) -> None:
        for record in records:
            at = record.place, record.key
            known = self._kept.get(at)
            if record.place in _KEPT_PLACES and (known is None or known.version < record.version):
                self._kept.pop(at, None)  # the newest last
                if len(self._kept) < _MOST_KEPT:
                    self._kept[at] = record

    def _has_newest(self) -> bool:
        """Whether the store holds the newest record that is kept, or a later one of its key. One write after a loss hides it
        from the revision."""
        if not self._kept:
            return True
        newest = next(reversed(self._kept.values()))
        there = self._store.record(self._namespace, newest.place, newest.key)
        if there is None:
            return newest.is_expired(self._store.now())  # and pruned
        return there.version >= newest.version

    def _put_back(self, held: Mapping[tuple[str, str], int]) -> None:
        """Give the store what it has lost, which holds these versions; what another worker was quicker with is left out."""
        if not any(held.get(at, 0) < mine.version for at, mine in self._kept.items()):
            return
        now, lost = self._store.now(), []
        for at, mine in list(self._kept.items()):
            theirs = held.get(at, 0)
            if mine.is_expired(now):
                del self._kept[at]
            elif theirs < mine.version:
                if (record := self._store.put_record_back(self._namespace, mine, theirs)) is not None:
                    self._keep([record])
                    lost.append(f"{mine.place} {mine.key}")
        if lost:
            said = ", ".join(lost[:_NAMED]) + (", …" if len(lost) > _NAMED else "")
            logger.warning(
                "the revoke store %s had lost %d records, which were put back: %s", self._store.url, len(lost), said
            )


def _by_place(records: Iterator[ControlRecord]) -> Iterator[tuple[str, list[ControlRecord]]]:
    while chunk := list(islice(records, _CHUNK)):
        for place in dict.fromkeys(record.place for record in chunk):
            yield place, [record for record in chunk if record.place == place]
