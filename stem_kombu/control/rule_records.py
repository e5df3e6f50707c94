"""Rules as records of a revoke store."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from stem_kombu.control.verification import Verifier
from stem_kombu.fields import FieldError
from stem_kombu.rule import PLACE, Rule
from stem_kombu.stores.records import ControlRecord, RecordDraft

logger = logging.getLogger(__name__)


def draft_of(rule: Rule, *, replaces: int = 0) -> RecordDraft:
    """What is to be stored of a rule, in place of that version of it; version and time of storing are the store's."""
    body = rule.body() if rule.proof is None else {**rule.body(), "proof": rule.proof}
    return RecordDraft(PLACE, rule.key, body, expires_at=rule.expires_at, replaces=replaces)


def rules_of(records: Iterable[ControlRecord], namespace: str, verifier: Verifier) -> list[Rule]:
    """The rules of those records that a permitted key has signed, or all without keys. A record that can't be read is named in
    the log and left out."""
    found = []
    for record in records:
        try:
            found.append(
                Rule.of_body(
                    record.body,
                    namespace=namespace,
                    key=record.key,
                    version=record.version,
                    stored_at=record.stored_at,
                    expires_at=record.expires_at,
                )
            )
        except (FieldError, OverflowError) as error:
            logger.error("rule %s, version %d, can't be read and is not obeyed: %s", record.key, record.version, error)
    return verifier.proven_rules(found)[0]
