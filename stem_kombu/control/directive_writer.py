"""The one place that signs directives and stores them (G21).

What is to be stored is planned from what is held: a plan names the versions that it replaces, and is made anew where another
writer was quicker, so that no clock decides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import attrgetter
from typing import TypeAlias

from stem_kombu import timeouts
from stem_kombu.control import standing
from stem_kombu.control.audit import Note
from stem_kombu.control.auditor import Auditor
from stem_kombu.control.verification import Verifier
from stem_kombu.directive import PLACE, Directive, DirectiveDraft, Key, latest, record_key
from stem_kombu.errors import ConfigurationError, RecordConflict
from stem_kombu.fields import FieldError
from stem_kombu.signing.keyring import Scope
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change, ControlRecord, RecordDraft

#: Directives that an entry of the audit names; all are counted.
_MOST_NAMED = 50
#: Plans that are made before a change gives up: another writer was quicker each time.
_MOST_PLANS = 8

#: What to store, from what is held (cleared and expired ones included) at a time of the store.
Plan: TypeAlias = Callable[[Sequence[Directive], datetime], Sequence[DirectiveDraft]]


@dataclass(frozen=True, slots=True)
class Author:
    """Who asks for a change, and why."""

    requested_by: str
    reason: str | None = None


class DirectiveWriter:
    """Stores the directives of one process in one namespace, signed by its active key where the fleet has keys. ``fleet`` is
    how it looks whether workers would obey it."""

    def __init__(
        self,
        store: RevokeStore,
        namespace: str,
        verifier: Verifier,
        fleet: standing.Fleet,
        auditor: Callable[[], Auditor],
    ) -> None:
        self._auditor = auditor
        self._store = store
        self._namespace = namespace
        self._verifier = verifier
        self._fleet = fleet

    def held(self) -> list[Directive]:
        """What the store holds, cleared and expired ones included, of each key the latest; in the order of their versions.
        Raises :class:`~stem_kombu.errors.StoreError`, and :class:`~stem_kombu.errors.ConfigurationError` for a store that
        holds no directives."""
        self._check_store()
        records = self._store.records_since(self._namespace, 0, [PLACE])
        found = latest(read_directives(records, self._namespace)).values()
        return sorted(found, key=attrgetter("version"))

    def now(self) -> datetime:
        """The store's time. Raises :class:`~stem_kombu.errors.StoreUnavailable`."""
        return self._store.now()

    def save(self, action: str, plan: Plan, author: Author) -> list[Directive]:
        """What the plan stored, with an entry in the audit: all of it, or nothing. ``plan`` may be called several times.

        Raises :class:`~stem_kombu.errors.ConfigurationError` for a store that holds no directives,
        :class:`~stem_kombu.errors.StoreError`, and :class:`~stem_kombu.signing.keyring.Untrusted` where the active key may not
        give directives or the fleet would not obey it; then nothing was stored.
        """
        self._verifier.require(Scope.OPERATE, "give directives")
        store, namespace = self._store, self._namespace
        self._check_store()
        standing.check(self._verifier, namespace, self._fleet, store, ())

        def planned() -> tuple[Change, Note] | None:
            # Read before the rest: what commits later has a higher version. Only proofs name it.
            revision = 0 if self._verifier.keyring is None else store.revision(namespace)
            now = store.now()
            held = self.held()
            drafts = plan(held, now)
            if not drafts:
                return None
            change = Change(records=[self._record(draft, author, now, revision) for draft in drafts])
            return change, _note(action, author, drafts, latest(held))

        plans = 0
        while True:
            try:
                done = self._auditor().change_as_planned(planned)
            except RecordConflict:
                plans += 1
                if plans >= _MOST_PLANS:
                    raise
            else:
                return [] if done is None else list(read_directives(done.changed.records, namespace))

    def _check_store(self) -> None:
        if not self._store.keeps_records:
            raise ConfigurationError(
                f"revoke store {self._store.url} can't store directives",
                hint="use Redis, PostgreSQL, SQLite or a file as the revoke store",
            )

    def _record(self, draft: DirectiveDraft, author: Author, now: datetime, revision: int) -> RecordDraft:
        directive = Directive(
            self._namespace,
            draft.kind,
            draft.subject,
            draft.workers,
            draft.value,
            0,
            now,
            draft.expires_at,
            author.reason,
            author.requested_by,
            draft.cleared,
        )
        body, keyring = directive.body(), self._verifier.keyring
        expires_at = now + timedelta(seconds=timeouts.DIRECTIVE_END_KEPT) if draft.cleared else draft.expires_at
        if keyring is not None:
            from stem_kombu.signing.directive_proofs import proof_of

            body["proof"] = proof_of(body, keyring, namespace=self._namespace, expires_at=expires_at, after=revision)
        return RecordDraft(PLACE, record_key(draft.key), body, expires_at=expires_at, replaces=draft.replaces)


def _note(action: str, author: Author, drafts: Sequence[DirectiveDraft], held: Mapping[Key, Directive]) -> Note:
    """What the audit says of the change."""
    named = [{"kind": one.kind.value, "subject": one.subject, "workers": one.workers} for one in drafts[:_MOST_NAMED]]
    before = [held.get(one.key) for one in drafts[:_MOST_NAMED]]
    return Note(
        action,
        {"directives": named, "count": len(drafts)},
        author.requested_by,
        author.reason,
        [None if one is None or one.cleared else one.value for one in before],
        [None if one.cleared else one.value for one in drafts[:_MOST_NAMED]],
    )


def read_directives(records: Iterable[ControlRecord], namespace: str) -> Iterable[Directive]:
    """The directives of control records; what can't be read, or is of a later version's kind, is left out."""
    for record in records:
        try:
            yield Directive.from_body(
                record.body,
                namespace=namespace,
                version=record.version,
                issued_at=record.stored_at,
                expires_at=record.expires_at,
            )
        except FieldError:
            continue
