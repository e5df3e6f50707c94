"""Rules about stamps of Celery's, as ``revoke_by_stamped_headers`` means them: what has the stamp is revoked, sent when it may.

A stamp names one piece of work, whose next tasks Celery sends with the same stamp. So such a rule has no cut-off before its end.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta

from stem_kombu import chance, timeouts
from stem_kombu.control import audit
from stem_kombu.control.revoker import Revoker
from stem_kombu.control.rule_records import rules_of
from stem_kombu.control.verification import Verifier
from stem_kombu.errors import ConfigurationError, RecordConflict
from stem_kombu.rule import MOST_LIVE, PLACE, Rule
from stem_kombu.selector import Selector, header_text
from stem_kombu.stores.base import RevokeStore

#: Of the keys of such rules: all that store the same stamp mean the same record.
_KEYS = uuid.UUID("9a5e5c0e-54c8-4b0c-9d0a-6a1f0c0f6d11")


@dataclass(frozen=True, slots=True)
class StampDraft:
    """One value of a stamp that is to be revoked."""

    stamp: str
    value: str
    terminate: bool
    reason: str | None
    requested_by: str | None

    @property
    def selector(self) -> Selector:
        return Selector(headers=((self.stamp, self.value),))

    @property
    def key(self) -> str:
        return str(uuid.uuid5(_KEYS, f"{len(self.stamp)}:{self.stamp}{self.value}"))


def stamps_of(headers: object) -> list[tuple[str, str]]:
    """Stamps with their values as Celery's command names them: a mapping, or texts ``stamp=value``."""
    if isinstance(headers, Mapping):
        found = headers.items()
    else:
        texts = [str(one).split("=") for one in headers] if isinstance(headers, (list, tuple)) else []
        found = {text[0]: text[1] for text in texts if len(text) > 1}.items()
    each = [(stamp, value if isinstance(value, (list, tuple, set)) else [value]) for stamp, value in found]
    return list(dict.fromkeys((str(stamp), header_text(value)) for stamp, values in each for value in values))


def save_stamped(
    drafts: Sequence[StampDraft], revoker: Revoker, store: RevokeStore, namespace: str, verifier: Verifier
) -> list[Rule]:
    """The rules that the store holds of these stamps now, each for 7 days; no worker is told. Raises as :meth:`Revoker.save`,
    and :class:`ConfigurationError` for more rules than may be live; those before it are stored then."""
    return [_saved(draft, revoker, store, namespace, verifier) for draft in dict.fromkeys(drafts)]


def _saved(draft: StampDraft, revoker: Revoker, store: RevokeStore, namespace: str, verifier: Verifier) -> Rule:
    while True:
        held, now = store.record(namespace, PLACE, draft.key), store.now()
        known = rules_of([] if held is None else [held], namespace, verifier)
        if known and known[0].is_live(now) and (known[0].terminate or not draft.terminate):
            return known[0]
        live = rules_of(store.records_since(namespace, 0, [PLACE]), namespace, verifier)
        if sum(rule.is_live(now) for rule in live) >= MOST_LIVE and not (known and known[0].is_live(now)):
            raise ConfigurationError(
                f"{MOST_LIVE} rules are live in namespace {namespace!r}, and no more are kept",
                hint="take some back: stem revokes rules, stem revokes undo --rule KEY",
            )
        ends = now + timedelta(seconds=timeouts.RULE_LIFE)
        rule = Rule(
            namespace, draft.key, 0, now, ends, draft.selector, ends, draft.terminate, True, draft.reason,
            draft.requested_by, {}, chance.token_hex(16),
        )  # fmt: skip
        if verifier.keyring is not None:
            from stem_kombu.signing.rule_proofs import signed_rule

            rule = signed_rule(rule, verifier.keyring)
        target = {"selector": rule.selector.to_record(), "terminate": rule.terminate, "rule": rule.key}
        note = audit.Note("revoke", target, rule.requested_by, rule.reason, request_id=rule.request_id)
        try:
            (stored,) = revoker.save_selected((), rule, note, replaces=0 if held is None else held.version)[1]
        except RecordConflict:
            continue  # another process stores the same: look again
        return stored
