"""The one place that signs revocations and stores them: for clients, the command line, Celery's ``app.control``, and workers
that take revokes from Celery's tools.

It stands beside the client and below the agent, as both use it: the client may not import the agent.
"""

from __future__ import annotations

from collections.abc import Sequence

from stem_kombu.control import audit, standing
from stem_kombu.control.auditor import Auditor
from stem_kombu.control.verification import Verifier
from stem_kombu.revocation import Revocation, RevocationDraft
from stem_kombu.signing.keyring import Scope
from stem_kombu.signing.proofs import signed_drafts
from stem_kombu.stores.base import RevokeStore
from stem_kombu.stores.records import Change


class Revoker:
    """Stores the revocations of one process in one namespace, signed by its active key where the fleet has keys.

    ``fleet`` is how the process looks whether workers would obey it; ``None`` stores without that look, for an operator who
    signs on purpose what workers do not obey yet.
    """

    def __init__(
        self, store: RevokeStore, namespace: str, verifier: Verifier, fleet: standing.Fleet | None = None
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._verifier = verifier
        self._fleet = fleet
        self._auditor = Auditor(store, namespace, verifier.keyring)

    def save(self, drafts: Sequence[RevocationDraft], note: audit.Note | None = None) -> list[Revocation]:
        """What the store holds after these drafts, one record for each task id; no worker is told. The audit has an entry of it:
        ``note``, or what the drafts say.

        All are stored, or none. Raises :class:`~stem_kombu.errors.StoreError`, and
        :class:`~stem_kombu.signing.keyring.Untrusted` where the active key may not revoke or the fleet would not obey it; then
        nothing was stored. Raises ``Untrusted`` with the reason ``not-kept`` for a record that has no room for this key's proof.
        """
        self._verifier.require(Scope.OPERATE, "revoke")
        store, namespace, keyring = self._store, self._namespace, self._verifier.keyring
        if self._fleet is not None:
            task_ids = [draft.task_id for draft in drafts]
            standing.check(self._verifier, namespace, self._fleet, standing.sampled(store, namespace, task_ids))
        if keyring is not None:
            drafts = signed_drafts(drafts, keyring, namespace=namespace, now=store.now())
        if not drafts:
            return []
        stored = list(self._auditor.change(Change(drafts), note or _note(drafts)).changed.revocations)
        standing.check_kept(keyring, stored)
        return stored


def _note(drafts: Sequence[RevocationDraft]) -> audit.Note:
    first = drafts[0]
    target = audit.tasks_target((draft.task_id for draft in drafts), terminate=first.terminate)
    return audit.Note("revoke", target, first.requested_by, first.reason)
