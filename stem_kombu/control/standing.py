"""Whether a revocation by this client will be obeyed, asked before it is stored.

A fleet with keys obeys signed revocations only. A client without a key, or with a key that no worker accepts, must not store a
revocation that no worker obeys, nor report it as stored. The client asks the workers first, with a revoke of nothing. Where none
answers, it looks at the heartbeats of the roster and at the records of the store.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING

from stem_kombu.backends.base import Roster, RosterView
from stem_kombu.backends.heartbeat import Liveness
from stem_kombu.bound import is_bound
from stem_kombu.control.protocol.messages import REFUSED, STALE
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import BrokerError, StoreCorrupt, StoreError
from stem_kombu.ladder import is_ladder
from stem_kombu.revocation import Revocation, proof_key
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.stores.base import RevokeStore

if TYPE_CHECKING:
    from stem_kombu.control.client.reports import WorkerReply  # workers have this module, and no use for a client

#: Records that are looked at, and of the tasks to revoke.
_SAMPLE, _OWN = 200, 20

_ALIVE = (Liveness.LIVE, Liveness.DRAINING)
_NO_KEY = "set the STEM_SIGNING_… variables of this fleet; `stem keys check` shows what is set"
_OTHER_KEY = "use a key that the workers list; if they shall accept this one, list it there and restart them"


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a process can see of the workers that are to obey its revocations: the roster as it is stored, ``None`` where it
    can't be read, and what workers answer to a revoke of nothing, where :class:`~stem_kombu.errors.BrokerError` may be raised."""

    roster_view: Callable[[], RosterView | None]
    ask: Callable[[], Sequence[WorkerReply]] = tuple


def roster_only(roster: Roster, namespace: str) -> Fleet:
    """The fleet as a worker sees it: it reads the roster and asks no other worker."""

    def view() -> RosterView | None:
        with suppress(StoreError):  # a revocation is stored also while the roster is down
            return roster.view(namespace)
        return None

    return Fleet(view)


def check(verifier: Verifier, namespace: str, fleet: Fleet, store: RevokeStore, task_ids: Sequence[str]) -> None:
    """Raise :class:`Untrusted` where workers would not obey what this process revokes, as far as that can be told.

    Records of the store, those of these tasks first, are read only where workers and roster do not tell.
    """
    view = fleet.roster_view()
    if verifier.keyring is not None:
        with suppress(BrokerError):  # what is stored holds without a broker as well
            if check_answers(fleet.ask()):
                return
    if not check_roster(verifier, view, namespace):
        check_records(verifier.keyring, _sampled(store, namespace, task_ids))


def accepts(reply: WorkerReply) -> bool:
    """Whether a reply shows that the worker accepts this client's revocations. A worker of 0.1.0 does not know a revoke of
    nothing, and answers so to a key that it has verified."""
    return reply.error is None or reply.error.code not in (REFUSED, STALE)


def check_answers(replies: Sequence[WorkerReply]) -> bool:
    """Whether a worker accepts this client's revocations; ``False`` when no reply tells.

    Raises :class:`Untrusted` when only refusals came. Replies that can't be verified show nothing: any user of the broker can
    send some, and must not keep an operator from revoking.
    """
    if any(accepts(reply) for reply in replies):
        return True
    for reply in replies:
        if reply.error is not None and reply.error.code == REFUSED:
            raise _refusal(f"worker {reply.worker} refuses this key ({reply.error.message})", _OTHER_KEY)
    return False


def check_roster(verifier: Verifier, view: RosterView | None, namespace: str) -> bool:
    """Whether the live workers of a roster, as it is stored, show that this client may revoke; ``False`` when there are
    none, or when they only show that it knows a key of theirs.

    Raises :class:`Untrusted` when they show the contrary.
    """
    beats = [] if view is None else [beat for beat in view.heartbeats if beat.namespace == namespace]
    live = [beat for beat in beats if view is not None and beat.liveness(view.now) in _ALIVE]
    signed = [beat for beat in live or beats if beat.signature is not None]
    if not signed:
        return bool(live)  # a fleet without keys
    if verifier.keyring is None:
        raise _refusal(
            f"worker {signed[0].worker} signs its heartbeats: this fleet has keys and this client none", _NO_KEY
        )
    assert view is not None
    known = verifier.view(RosterView(tuple(signed), view.now), namespace).heartbeats
    if not known and live:
        raise _refusal(f"no heartbeat is signed with a key that is listed here (worker {signed[0].worker})", _OTHER_KEY)
    return False


def check_records(keyring: Keyring | None, records: Iterable[Revocation]) -> None:
    """Raise :class:`Untrusted` where records of the store show that workers don't accept this client's key: it has none and
    the records are signed, or proofs under its id are of another secret, or no proof is of a key that is listed here."""
    strange: Revocation | None = None
    other_secret: Revocation | None = None
    known = False
    for record in records:
        for proof in record.proofs:
            if is_ladder(proof) or is_bound(proof):
                continue
            if keyring is None:
                raise _refusal(f"the revocation of task {record.task_id!r} is signed: this fleet has keys", _NO_KEY)
            from stem_kombu.signing.proofs import holds

            own = (proof_key(proof) or ("", ""))[0] == keyring.active.id
            if holds(record, proof, keyring):
                if own:
                    return
                known = True
            elif own:
                other_secret = other_secret or record
            else:
                strange = strange or record
    if keyring is not None and other_secret is not None:
        found = f"the revocation of task {other_secret.task_id!r} is signed with another secret under key {keyring.active.id!r}"
        raise _refusal(
            found, f"{_OTHER_KEY}; after a change of the secret under one id, `stem keys endorse` signs again"
        )
    if strange is not None and not known:
        raise _refusal(
            f"the revocation of task {strange.task_id!r} is signed with a key that is not listed here", _OTHER_KEY
        )


def _sampled(store: RevokeStore, namespace: str, task_ids: Sequence[str]) -> Iterator[Revocation]:
    """Some records of the store: of the tasks to revoke, then the oldest. A damaged record ends them: to revoke must be
    possible all the same. Raises :class:`~stem_kombu.errors.StoreUnavailable`."""
    with suppress(StoreCorrupt):
        own = (store.get(namespace, task_id) for task_id in task_ids[:_OWN])
        yield from chain((record for record in own if record is not None), islice(store.load(namespace), _SAMPLE))


def check_kept(keyring: Keyring, stored: Sequence[Revocation]) -> None:
    """Raise :class:`Untrusted` where a record has no room left for this client's proof."""
    own = (keyring.active.id, keyring.fingerprints[keyring.active.id])
    for record in stored:
        if own not in map(proof_key, record.proofs):
            raise Untrusted(
                "not-kept",
                f"the revocation of task {record.task_id!r} is held, but with the proofs of others: there is no room for"
                f" one by key {keyring.active.id!r}",
                hint="revoke it with a key that has signed it before, or delete the record and revoke it again",
            )


def _refusal(found: str, hint: str) -> Untrusted:
    return Untrusted("not-accepted", f"{found}; nothing was stored", hint=hint)
