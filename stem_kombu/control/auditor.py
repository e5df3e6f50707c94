"""How a Stem client changes what a fleet keeps: ``Auditor.change(change, note)`` stores it and an entry in the audit, or neither;
before an order that stores nothing (shutdown, purge, a call) write ``Auditor.note(note)``: ``None`` means ``audited: false``.

Both append an entry to the audit: with a change in the same transaction, so that it did not happen or has a name on it (G32).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice

from stem_kombu import chance, machine, timeouts
from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.control import audit
from stem_kombu.control.audit import ANCHOR, AUDIT, Entry, Note
from stem_kombu.copies import replaced
from stem_kombu.errors import RecordConflict, StoreError
from stem_kombu.signing.keyring import Keyring
from stem_kombu.signing.records import signed_body
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change, Changed, ControlRecord, RecordDraft

logger = logging.getLogger(__name__)

#: Entries that are kept, unless the settings say otherwise.
MOST_ENTRIES = 100_000
#: After so many entries the oldest are looked at, and at most so many go at once.
_PRUNE_EVERY, _PAGE = 200, 900
#: How often a change is repeated when other clients append entries at the same moment.
_ATTEMPTS = 50


@dataclass(frozen=True, slots=True)
class Audited:
    """A change that was stored, and the record of its entry; ``None`` where the store keeps no records."""

    changed: Changed
    record: ControlRecord | None
    namespace: str
    keyring: Keyring | None

    @property
    def entry(self) -> Entry | None:
        """Read when it is asked for: who only changes something does not."""
        return None if self.record is None else Entry.of(self.record, self.namespace, self.keyring)


class Auditor:
    """Stores the changes of one process in one namespace. ``keep`` is for how long entries stay, in seconds."""

    def __init__(
        self,
        store: RevokeStore,
        namespace: str,
        keyring: Keyring | None,
        *,
        keep: float = timeouts.AUDIT_KEPT,
        clock: Clock = SYSTEM,
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._keyring = keyring
        self._keep = keep
        self._clock = clock
        self._host = machine.gethostname()

    def change(self, change: Change, note: Note) -> Audited:
        """Store the change and its entry, both or neither. Raises as :meth:`RevokeStore.change` does; a conflict with another
        entry is none, the entry then takes the next number."""
        if not self._store.keeps_records and not (change.removals or change.records or change.forgotten):
            changed = Changed(self._store.save(self._namespace, change.revocations))
            return Audited(changed, None, self._namespace, self._keyring)
        done = self.change_as_planned(lambda: (change, note))
        assert done is not None
        return done

    def change_as_planned(self, plan: Callable[[], tuple[Change, Note] | None]) -> Audited | None:
        """As :meth:`change`, with what the plan makes of what it reads in the store, or ``None`` for nothing to change. The plan
        is called again where another client has stored a change since: none is stored that was made without knowing of it."""
        namespace, nonce, tried = self._namespace, chance.token_hex(8), 0
        for attempt in range(_ATTEMPTS):
            seq, previous = self._tail()
            if seq < tried:
                seq = tried  # what stands there can't be read: the chain goes on behind it
            if (planned := plan()) is None:
                return None
            change, note = planned
            body = audit.body_of(note, seq + 1, previous, self._host, nonce, namespace=namespace, keyring=self._keyring)
            draft = RecordDraft(AUDIT, audit.key_of(seq + 1), body, replaces=0)
            try:
                done = self._store.change(namespace, replaced(change, records=[draft, *change.records]))
            except RecordConflict as conflict:
                if (done_before := self._own(draft.key, nonce, change)) is not None:
                    return done_before
                if conflict.place != AUDIT:
                    raise
                tried = seq + 1
                self._clock.sleep(chance.uniform(0.0, 0.002) * attempt)
                continue
            if (seq + 1) % _PRUNE_EVERY == 0:
                self._prune(seq + 1)
            return Audited(replaced(done, records=done.records[1:]), done.records[0], namespace, self._keyring)
        raise StoreError(
            f"revoke store {self._store.url}: {_ATTEMPTS} times another client wrote to the audit first; nothing was stored",
            hint="try again",
        )

    def note(self, note: Note) -> Entry | None:
        """The entry of something that changes no record; ``None`` where the store is down or keeps no records: it is done all
        the same, and answered with ``audited: false``."""
        if not self._store.keeps_records:
            return None
        try:
            audited = self.change(Change(), note)
        except StoreError as error:
            logger.warning("not audited: %s of %s: %s", note.action, note.requester, error)
            return None
        return audited.entry

    def _tail(self) -> tuple[int, str]:
        """Number and hash of the last entry."""
        for record in self._store.newest_records(self._namespace, AUDIT, 1):
            return audit.number_of(record.key), audit.hash_of(record.body)  # readable as an entry or not
        anchor = self._store.record(self._namespace, ANCHOR, "")
        return (0, audit.FIRST) if anchor is None else audit.anchored(anchor)

    def _own(self, key: str, nonce: str, change: Change) -> Audited | None:
        """What this very change has stored, when the store's answer to it was lost and it was sent again."""
        store, namespace = self._store, self._namespace
        record = store.record(namespace, AUDIT, key)
        if record is None or record.body.get("nonce") != nonce:
            return None
        ids = [draft.task_id for draft in change.revocations] + [removal.task_id for removal in change.removals]
        since = record.version - len(ids) - 1
        stored = {one.task_id: one for one in store.since(namespace, since) if one.version < record.version}
        found = [stored[task_id] for task_id in ids if task_id in stored]
        records = (store.record(namespace, draft.place, draft.key) for draft in change.records)
        changed = Changed(
            found[: len(change.revocations)],
            found[len(change.revocations) :],
            [one for one in records if one is not None],
            record.version + len(change.records),
        )
        return Audited(changed, record, namespace, self._keyring)

    def _prune(self, newest: int) -> None:
        """Take the oldest entries away, and leave their last number and hash as the anchor."""
        store, namespace = self._store, self._namespace
        before = store.now() - timedelta(seconds=self._keep)
        while True:
            oldest = list(islice(store.records_since(namespace, 0, [AUDIT]), _PAGE))
            gone = audit.prunable(oldest, newest, before, MOST_ENTRIES)
            if not gone:
                return
            held = store.record(namespace, ANCHOR, "")
            change = Change(
                records=[self._anchor(gone[-1], 0 if held is None else held.version)],
                forgotten=[(AUDIT, record.key) for record in gone],
            )
            try:
                store.change(namespace, change)
            except RecordConflict:
                return  # another client is at it

    def _anchor(self, last: ControlRecord, replaces: int) -> RecordDraft:
        body: Mapping[str, object] = {"seq": audit.number_of(last.key), "hash": audit.hash_of(last.body)}
        if self._keyring is not None:
            body = signed_body(body, self._keyring, namespace=self._namespace, place=ANCHOR, key="")
        return RecordDraft(ANCHOR, "", body, replaces=replaces)
