"""The one place that signs revocations and stores them: for clients, the command line, Celery's ``app.control``, and workers
that take revokes from Celery's tools.

It stands beside the client and below the agent, as both use it: the client may not import the agent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.bound import Bound, bound_text, check_held
from stem_kombu.clock import epoch_us
from stem_kombu.control import audit, standing, undo
from stem_kombu.control.auditor import Audited, Auditor
from stem_kombu.control.rule_records import draft_of, rules_of
from stem_kombu.control.verification import Verifier
from stem_kombu.ladder import Ladder
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.rule import Rule
from stem_kombu.signing import ladders
from stem_kombu.signing.keyring import Keyring, Scope
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change, Removal


class Revoker:
    """Stores the revocations of one process in one namespace, signed by its active key where the fleet has keys.

    ``fleet`` is how the process looks whether workers would obey it; ``None`` stores without that look, for an operator who
    signs on purpose what workers do not obey yet. ``keep``: for how long entries of the audit stay, in seconds.
    """

    def __init__(
        self,
        store: RevokeStore,
        namespace: str,
        verifier: Verifier,
        fleet: standing.Fleet | None = None,
        *,
        keep: float = timeouts.AUDIT_KEPT,
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._verifier = verifier
        self._fleet = fleet
        self._auditor = Auditor(store, namespace, verifier.keyring, keep=keep)

    @property
    def is_audited(self) -> bool:
        """Whether the store can keep an entry of each change."""
        return self._store.keeps_records

    def save(
        self,
        drafts: Sequence[RevocationDraft],
        request_id: str | None = None,
        *,
        ladder: Ladder | None = None,
        bound: Bound | None = None,
    ) -> list[Revocation]:
        """What the store holds after these drafts, one record for each task id; no worker is told. The audit has an entry of it,
        under the request of which it is a part. ``ladder``: each of these tasks is ended so where it does not stop. ``bound``:
        only that attempt, or what was sent before that time, is revoked.

        All are stored, or none. Raises :class:`~stem_kombu.errors.StoreError`, and
        :class:`~stem_kombu.signing.keyring.Untrusted` where the active key may not revoke or the fleet would not obey it; then
        nothing was stored. Raises ``Untrusted`` with the reason ``not-kept`` for a record that has no room for this key's proof.
        """
        self._permit("revoke", [draft.task_id for draft in drafts], ladder)
        keyring = self._verifier.keyring
        drafts = self._proven(drafts, ladder, bound)
        if not drafts:
            return []
        note = _note(drafts, request_id, ladder, bound)
        stored = list(self._auditor.change(Change(drafts), note).changed.revocations)
        if keyring is not None:
            standing.check_kept(keyring, stored)
        if bound is not None:
            check_held(stored, bound)
        return stored

    def save_selected(
        self,
        drafts: Sequence[RevocationDraft],
        rule: Rule | None,
        note: audit.Note,
        *,
        ladder: Ladder | None = None,
        replaces: int = 0,
    ) -> tuple[list[Revocation], list[Rule]]:
        """Store revocations by id together with the rule of the same selection, or neither. ``replaces`` is the version that the
        store holds of the rule. Raises as :meth:`save`, and :class:`~stem_kombu.errors.RecordConflict` for another version."""
        self._permit("revoke", [draft.task_id for draft in drafts], ladder)
        namespace, keyring = self._namespace, self._verifier.keyring
        drafts = self._proven(drafts, ladder)
        records = [] if rule is None else [draft_of(rule, replaces=replaces)]
        changed = self._auditor.change(Change(drafts, records=records), note).changed
        if keyring is not None:
            standing.check_kept(keyring, changed.revocations)
        return list(changed.revocations), rules_of(changed.records, namespace, self._verifier)

    def undo(self, removals: Sequence[Removal], note: audit.Note) -> Audited:
        """Take revocations back: what the store holds of them has ended, and it keeps a record of each undo; no worker is told.

        All are undone, or none. Raises as :meth:`save` does, and :class:`~stem_kombu.errors.RecordConflict` when the store holds
        another version of one of them.
        """
        self._permit("undo a revocation", [removal.task_id for removal in removals])
        namespace, keyring = self._namespace, self._verifier.keyring
        if keyring is not None:
            removals = _signed(removals, keyring, namespace, self._store.now())
        records = [undo.draft_of(removal, note.request_id, namespace, keyring) for removal in removals]
        return self._auditor.change(Change(removals=removals, records=records), note)

    def _permit(self, what: str, task_ids: Sequence[str], ladder: Ladder | None = None) -> None:
        """Raise :class:`~stem_kombu.signing.keyring.Untrusted` where the active key may not do that, or the fleet would not obey
        it. Nothing is stored yet."""
        self._verifier.require(Scope.OPERATE, what)
        if ladder is not None:
            ladders.require(self._verifier.keyring, ladder)
        if self._fleet is not None:
            standing.check(self._verifier, self._namespace, self._fleet, self._store, task_ids)

    def _proven(
        self, drafts: Sequence[RevocationDraft], ladder: Ladder | None, bound: Bound | None = None
    ) -> Sequence[RevocationDraft]:
        """The drafts, signed where there are keys, each with the ladder and bound."""
        namespace, keyring = self._namespace, self._verifier.keyring
        if keyring is not None:
            from stem_kombu.signing.proofs import signed_drafts

            drafts = signed_drafts(drafts, keyring, namespace=namespace, now=self._store.now(), bound=bound)
        elif bound is not None:
            drafts = _bounded(drafts, bound, self._store.now())
        if ladder is not None:
            drafts = ladders.with_ladder(drafts, ladder, keyring, namespace=namespace, now=self._store.now())
        return drafts


def _signed(removals: Sequence[Removal], keyring: Keyring, namespace: str, now: datetime) -> list[Removal]:
    from stem_kombu.signing.proofs import proof_of_end

    found = []
    for one in removals:
        texts = (one.reason, one.requested_by)
        ended = now - timedelta(seconds=timeouts.ENDED_BEFORE)
        proof = proof_of_end(keyring, namespace=namespace, task_id=one.task_id, texts=texts, now=now, ended=ended)
        found.append(replace(one, proofs=(proof,)))
    return found


def _bounded(drafts: Sequence[RevocationDraft], bound: Bound, now: datetime) -> list[RevocationDraft]:
    """The drafts where there are no keys, each with the bound."""
    found, now_us = [], epoch_us(now)
    for draft in drafts:
        life = draft.expires_in
        ends = None if life is None else now_us + timedelta(seconds=life) // timedelta(microseconds=1)
        found.append(replace(draft, proofs=(*draft.proofs, bound_text(bound, now_us=now_us, expires_us=ends))))
    return found


def _note(
    drafts: Sequence[RevocationDraft], request_id: str | None, ladder: Ladder | None, bound: Bound | None
) -> audit.Note:
    first, steps = drafts[0], {} if ladder is None else dict[str, object](ladder.to_record())
    steps |= {} if bound is None else bound.to_record()
    target = audit.tasks_target([draft.task_id for draft in drafts], terminate=first.terminate, **steps)
    return audit.Note("revoke", target, first.requested_by, first.reason, request_id=request_id)
