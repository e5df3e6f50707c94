"""The audit: who changed what. Each entry names the one before by its hash, and is signed where there are keys (G32).

An entry is a control record of the place ``audit`` under its number: it is stored together with the change, or neither is. When
entries are pruned, the record ``audit-anchor`` keeps number and hash of the last one that went.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from stem_kombu.clock import isoformat
from stem_kombu.fields import FieldError, any_text, optional, whole
from stem_kombu.signing.keyring import Keyring, Untrusted
from stem_kombu.signing.records import signed_body, verify_body
from stem_kombu.stores.records import ControlRecord, body_text

AUDIT, ANCHOR = "audit", "audit-anchor"
#: ``previous`` of the first entry.
FIRST = ""
#: Characters of task ids that an entry names; the others are counted.
_MOST_IDS = 30_000


@dataclass(frozen=True, slots=True)
class Note:
    """What a change says about itself. ``action`` is the command's word (``revoke``, ``pause``); ``target`` what it is about, as
    JSON; ``before`` and ``after`` are values, where there are any; ``request_id`` ties it to what was sent to workers."""

    action: str
    target: Mapping[str, object] = field(default_factory=dict)
    requester: str | None = None
    reason: str | None = None
    before: object = None
    after: object = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry as the store holds it. ``verified``: whether a key of the reader's keyring signed it; ``None`` without keys."""

    seq: int
    at: datetime
    note: Note
    host: str
    key: str | None
    previous: str
    hash: str
    version: int
    verified: bool | None = None

    def to_dict(self) -> dict[str, object]:
        note = self.note
        return {
            "seq": self.seq,
            "at": isoformat(self.at),
            "action": note.action,
            "requester": note.requester,
            "host": self.host,
            "key": self.key,
            "verified": self.verified,
            "request_id": note.request_id,
            "target": dict(note.target),
            "reason": note.reason,
            "before": note.before,
            "after": note.after,
            "previous": self.previous,
        }

    def concerns(self, task_id: str) -> bool:
        """Whether it names the task."""
        named = self.note.target.get("tasks")
        return isinstance(named, list) and task_id in named

    @classmethod
    def of(cls, record: ControlRecord, namespace: str, keyring: Keyring | None = None) -> Entry:
        """The entry of a record; raises :class:`FieldError` when it is none."""
        body = record.body
        target = body.get("target")
        note = Note(
            any_text(body.get("action"), "action"),
            target if isinstance(target, dict) else {},
            optional(any_text, body.get("requester"), "requester"),
            optional(any_text, body.get("reason"), "reason"),
            body.get("before"),
            body.get("after"),
            optional(any_text, body.get("request_id"), "request_id"),
        )
        seq = whole(body.get("seq"), "seq")
        if record.key != key_of(seq):
            raise FieldError(f"entry {seq} stands under {record.key!r}")
        return cls(
            seq,
            record.stored_at,
            note,
            any_text(body.get("host"), "host"),
            optional(any_text, body.get("key"), "key"),
            any_text(body.get("previous"), "previous"),
            hash_of(body),
            record.version,
            None if keyring is None else is_signed(record, namespace, keyring),
        )


def body_of(
    note: Note, seq: int, previous: str, host: str, nonce: str, *, namespace: str, keyring: Keyring | None
) -> dict[str, object]:
    """What the record of an entry holds, signed where there are keys."""
    body: dict[str, object] = {
        "seq": seq,
        "previous": previous,
        "action": note.action,
        "target": dict(note.target),
        "requester": note.requester,
        "reason": note.reason,
        "before": note.before,
        "after": note.after,
        "request_id": note.request_id,
        "host": host,
        "nonce": nonce,
        "key": None if keyring is None else keyring.active.id,
    }
    if keyring is None:
        return body
    return signed_body(body, keyring, namespace=namespace, place=AUDIT, key=key_of(seq))


def is_signed(record: ControlRecord, namespace: str, keyring: Keyring) -> bool:
    """Whether a key of the keyring that may change something signed the record."""
    try:
        verify_body(record.body, keyring, namespace=namespace, place=record.place, key=record.key)
    except Untrusted:
        return False
    return True


def hash_of(body: Mapping[str, object]) -> str:
    """By which the next entry names this one: the SHA-256 of all of it, in hexadecimal."""
    return hashlib.sha256(body_text(body).encode()).hexdigest()


def key_of(seq: int) -> str:
    """The key of an entry in its place."""
    return f"{seq:012d}"


def number_of(key: str) -> int:
    """The number of the entry under that key; 0 for a key of no entry."""
    return int(key) if key.isascii() and key.isdigit() else 0


def tasks_target(task_ids: Iterable[str], **more: object) -> dict[str, object]:
    """The target of a change of tasks: how many, and as many ids as an entry has room for."""
    ids = list(task_ids)
    room, named = _MOST_IDS, []
    for task_id in ids:
        room -= len(task_id.encode("unicode_escape")) + 3
        if room < 0:
            break
        named.append(task_id)
    return {"tasks": named, "count": len(ids), **more}


def problems(
    records: Iterable[ControlRecord], anchor: ControlRecord | None, namespace: str, keyring: Keyring | None
) -> Iterator[str]:
    """What is wrong with the chain, a sentence each; ``records`` ascend. With keys each entry has to be signed."""
    seq, previous = 0, FIRST
    if anchor is not None:
        seq, previous = anchored(anchor)
        if keyring is not None and not is_signed(anchor, namespace, keyring):
            yield f"the anchor at entry {seq} is not signed by a key that is known here"
    for record in records:
        try:
            entry = Entry.of(record, namespace, keyring)
        except FieldError as error:
            yield f"entry {record.key} can't be read: {error}"
            continue
        if entry.seq != seq + 1:
            missing = f"entry {seq + 1} is" if entry.seq == seq + 2 else f"entries {seq + 1} to {entry.seq - 1} are"
            yield f"{missing} missing" if entry.seq > seq else f"entry {entry.seq} stands behind entry {seq}"
        elif entry.previous != previous:
            yield f"entry {entry.seq} does not follow from entry {seq}: one of them was changed"
        if entry.verified is False:
            yield f"entry {entry.seq} is not signed by a key that is known here, or was changed"
        seq, previous = entry.seq, entry.hash


def anchored(anchor: ControlRecord) -> tuple[int, str]:
    """Number and hash of the last entry that was pruned; 0 and nothing for an anchor that can't be read."""
    try:
        return whole(anchor.body.get("seq"), "seq"), any_text(anchor.body.get("hash"), "hash")
    except FieldError:
        return 0, FIRST


def prunable(oldest: Sequence[ControlRecord], newest_seq: int, before: datetime, most: int) -> list[ControlRecord]:
    """Those of the oldest entries, ascending, that are older than ``before`` or more than ``most`` behind the newest; up to the
    first that stays."""
    gone: list[ControlRecord] = []
    for record in oldest:
        seq = record.body.get("seq")
        if record.stored_at >= before and (type(seq) is not int or newest_seq - seq < most):
            break
        gone.append(record)
    return gone
