"""The record of an undo: that a revocation was taken back, by whom and why (G31).

What lifts the revocation is the ended record that takes its place among the revocations: workers of 0.1.0 read that as well. This
record stays when that one is pruned, and says the same under a later version.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta

from stem_kombu import timeouts
from stem_kombu.clock import isoformat
from stem_kombu.fields import FieldError, any_text, optional, whole
from stem_kombu.revocation import Revocation
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.records import signed_body, verify_body
from stem_kombu.stores.records import ControlRecord, RecordDraft, Removal

UNDO = "undo"


def draft_of(removal: Removal, request_id: str | None, namespace: str, keyring: Keyring | None) -> RecordDraft:
    """The record to store, signed where there are keys."""
    body: dict[str, object] = {
        "undoes": removal.version,
        "reason": removal.reason,
        "requested_by": removal.requested_by,
        "request_id": request_id,
    }
    if keyring is not None:
        body = signed_body(body, keyring, namespace=namespace, place=UNDO, key=removal.task_id)
    return RecordDraft(UNDO, removal.task_id, body, timeouts.UNDO_KEPT)


def lifted(records: Iterable[ControlRecord], namespace: str, keyring: Keyring | None) -> list[Revocation]:
    """What the records lift, as revocations that have ended; without those that no key of the keyring signed, where there
    is one, and those that can't be read."""
    found = []
    for record in records:
        try:
            if keyring is not None:
                verify_body(record.body, keyring, namespace=namespace, place=record.place, key=record.key)
            whole(record.body.get("undoes"), "undoes")
            reason = optional(any_text, record.body.get("reason"), "reason")
            by = optional(any_text, record.body.get("requested_by"), "requested_by")
        except (Untrusted, FieldError):
            continue
        at = record.stored_at
        found.append(
            Revocation(
                namespace,
                record.key,
                record.version,
                at,
                False,
                reason,
                by,
                at - timedelta(seconds=timeouts.ENDED_BEFORE),
            )
        )
    return found


def to_dict(record: ControlRecord) -> dict[str, object]:
    """The record as JSON shows it."""
    fields = {name: record.body.get(name) for name in ("undoes", "reason", "requested_by", "request_id")}
    return {"task_id": record.key, "version": record.version, "undone_at": isoformat(record.stored_at), **fields}
