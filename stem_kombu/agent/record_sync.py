"""Control records from the store to what obeys them: with each sync of the revocations, whose version counter they share (G21).

An idle sync costs no query more: nothing is read while the store's revision stands still.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TypeAlias

from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import ControlRecord

_CHUNK = 1000

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

    def look(self, revision: int) -> None:
        """Hand out what is new; ``revision`` is the store's, read a moment ago. Raises
        :class:`~stem_kombu.errors.StoreError`; what was handed out by then comes again."""
        if not self._subscribers or not self._store.keeps_records or revision == self._read:
            return
        # A store that was set back is read anew, and so is one that has pruned what was not read here.
        since = self._read if self._store.floor(self._namespace) <= self._read < revision else 0
        records = self._store.records_since(self._namespace, since, list(self._subscribers))
        for place, chunk in _by_place(records):
            self._subscribers[place](chunk)
        self._read = revision

    def read_anew(self) -> None:
        """Read everything with the next look: another copy of the data answers."""
        self._read = 0


def _by_place(records: Iterator[ControlRecord]) -> Iterator[tuple[str, list[ControlRecord]]]:
    while chunk := list(islice(records, _CHUNK)):
        for place in dict.fromkeys(record.place for record in chunk):
            yield place, [record for record in chunk if record.place == place]
