"""Rows of the table of revocations, which has the same columns in SQLite and PostgreSQL once its times are microseconds."""

from __future__ import annotations

from stem_kombu.clock import from_epoch_us
from stem_kombu.fields import any_text, optional
from stem_kombu.revocation import Revocation, as_flag
from stem_kombu.stores.batch import proofs_of
from stem_kombu.stores.quarantine import Quarantine

#: What reading a row that is no record can raise.
UNREADABLE = (TypeError, ValueError, OverflowError)


def record_of(namespace: str, row: tuple[object, ...]) -> Revocation:
    """The record of a row; raises one of :data:`UNREADABLE` when it is none."""
    task_id, version, issued_us, terminate, reason, requested_by, expires_us, proofs = row
    return Revocation.checked(
        namespace=namespace,
        task_id=task_id,
        version=version,
        issued_at=from_epoch_us(issued_us),
        terminate=as_flag(terminate),
        texts=(reason, requested_by),
        expires_at=None if expires_us is None else from_epoch_us(expires_us),
        proofs=proofs_of(optional(any_text, proofs, "proofs")),
    )


def is_readable(namespace: str, row: tuple[object, ...]) -> bool:
    """Whether the row holds a record."""
    try:
        record_of(namespace, row)
    except UNREADABLE:
        return False
    return True


def readable(namespace: str, row: tuple[object, ...], quarantine: Quarantine) -> Revocation | None:
    """The record of a row; ``None`` when it can't be read and was set aside (G37)."""
    try:
        return record_of(namespace, row)
    except UNREADABLE as error:
        quarantine.add(namespace, f"table stem_revocations, task {row[0]!r}", f"{error}: {row}", str(row[0]))
        return None
