"""The audit of a fleet, as an operator reads it: who changed what, and whether the chain is whole (G32)."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from itertools import islice
from types import TracebackType
from typing import TYPE_CHECKING, Any

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control import audit
from stem_kombu.control.audit import ANCHOR, AUDIT, Entry
from stem_kombu.control.client.places import settings_of
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError
from stem_kombu.settings import Settings
from stem_kombu.signing.keyring import Scope
from stem_kombu.stores.registry import open_revoke_store

if TYPE_CHECKING:
    from stem_kombu.app import Stem

SCHEMA = "stem.audit/1"
#: Entries that :meth:`AuditClient.find` returns at most, and problems that :meth:`AuditClient.verify` names.
MOST_FOUND, _MOST_PROBLEMS = 100_000, 100


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries are meant; all conditions have to hold. ``action`` and ``requester`` are globs, ``task`` an id that the
    entry names, ``since`` how long ago at most it was."""

    action: str | None = None
    requester: str | None = None
    task: str | None = None
    since: timedelta | None = None


@dataclass(frozen=True, slots=True)
class AuditCheck:
    """What :meth:`AuditClient.verify` found. ``first`` and ``last`` are numbers of entries, ``None`` where there are none;
    ``pruned`` is the number up to which they were pruned. ``head`` is the hash of the last one: kept elsewhere, it shows later
    whether the end was cut off. ``signed``: whether each was checked with keys."""

    namespace: str
    entries: int
    first: int | None
    last: int | None
    pruned: int
    head: str | None
    signed: bool
    problems: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "namespace": self.namespace,
            "entries": self.entries,
            "first": self.first,
            "last": self.last,
            "pruned": self.pruned,
            "head": self.head,
            "signed": self.signed,
            "problems": list(self.problems),
        }


class AuditClient:
    """Reads the audit. ``target`` is an application or settings.

    Raises :class:`~stem_kombu.errors.StoreUnavailable` when the revoke store can't be reached, and
    :class:`ConfigurationError` for one that keeps revocations only.
    """

    def __init__(self, target: Stem | Settings, *, clock: Clock = SYSTEM) -> None:
        self.settings: Settings = settings_of(target)
        self._namespace = self.settings.namespace
        self._trust = Verifier.of(self.settings.signing, clock=clock)
        self._trust.require(Scope.READ, "read the audit")
        source = self.settings.revoke_store
        self._store = open_revoke_store(source.value, name=source.name, tls=self.settings.tls)
        if not self._store.keeps_records:
            raise ConfigurationError(
                f"revoke store {self._store.url} keeps revocations only: there is no audit in it",
                hint="use Redis, PostgreSQL, SQLite or a file as the revoke store",
            )

    def find(self, wanted: AuditFilter | None = None, *, limit: int = 1000) -> list[Entry]:
        """The newest ``limit`` entries that match, in the order in which they were written."""
        return list(deque(self.since(0, wanted or AuditFilter()), limit))

    def since(self, version: int, wanted: AuditFilter) -> Iterator[Entry]:
        """The entries behind the one of that version that match, in the order in which they were written. What can't be read is
        passed over; :meth:`verify` names it."""
        earliest = None if wanted.since is None else self._store.now() - wanted.since
        for record in self._store.records_since(self._namespace, version, [AUDIT]):
            if earliest is not None and record.stored_at < earliest:
                continue
            try:
                entry = Entry.of(record, self._namespace, self._trust.keyring)
            except FieldError:
                continue
            if _matches(entry, wanted):
                yield entry

    def verify(self) -> AuditCheck:
        """Whether the chain is whole: no entry changed, missing or, with keys, unsigned. Entries that were cut off at the end
        leave no trace in it."""
        # The anchor is read last: entries that are pruned meanwhile are behind it then.
        records = list(self._store.records_since(self._namespace, 0, [AUDIT]))
        anchor = self._store.record(self._namespace, ANCHOR, "")
        pruned = 0 if anchor is None else audit.anchored(anchor)[0]
        kept = [record for record in records if audit.number_of(record.key) > pruned]
        found = list(islice(audit.problems(kept, anchor, self._namespace, self._trust.keyring), _MOST_PROBLEMS))
        found += [f"{one.place}: {one.reason}" for one in self._store.quarantine.of(self._namespace)]
        first, last = (audit.number_of(records[at].key) if records else None for at in (0, -1))
        head = audit.hash_of(records[-1].body) if records else None
        signed = self._trust.keyring is not None
        return AuditCheck(self._namespace, len(records), first, last, pruned, head, signed, tuple(found))

    def close(self) -> None:
        """Let the connection go. May be called twice."""
        self._store.close()

    def __enter__(self) -> AuditClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _matches(entry: Entry, wanted: AuditFilter) -> bool:
    note = entry.note
    return (
        (wanted.action is None or fnmatchcase(note.action, wanted.action))
        and (wanted.requester is None or fnmatchcase(note.requester or "", wanted.requester))
        and (wanted.task is None or entry.concerns(wanted.task))
    )
