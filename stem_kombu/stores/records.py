"""Control records: everything beside the revocations that a fleet keeps in its revoke store (directives, rules, undos, audit).

They stand in a place of their own, which 0.1.0 never reads, and share the revocations' version counter: a worker that looks
at one number knows whether there is something new of either kind. A record is replaced whole; a draft may name the version
that it replaces, so that no clock decides which of two writers wins.

What the store does not understand is the ``body``: a JSON object of whoever owns the ``place``.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.clock import epoch_us, from_epoch_us
from stem_kombu.errors import ConfigurationError, RecordConflict
from stem_kombu.fields import UNSTORABLE, FieldError, json_value, mapping, shown, text, whole
from stem_kombu.revocation import VERSION_LIMIT, Revocation, RevocationDraft
from stem_kombu.stores.batch import LONGEST_LIFE, folded, merged, next_version

#: Where :class:`~stem_kombu.errors.RecordConflict` says that a revocation was replaced meanwhile.
REVOCATION = "revocation"
#: Longest key in characters, longest body in bytes of JSON, most records of one change (a script of Redis can't be interrupted).
KEY_LIMIT = 1024
BODY_LIMIT = 64 * 1024
MOST_RECORDS = 1000
_PLACE = re.compile("[a-z][a-z-]{0,31}")


@dataclass(frozen=True, slots=True)
class ControlRecord:
    """A record as the store holds it; times are aware UTC by the store's clock."""

    place: str
    key: str
    version: int
    stored_at: datetime
    expires_at: datetime | None
    body: Mapping[str, object]

    def is_expired(self, now: datetime) -> bool:
        """Whether the record no longer counts at ``now`` (the store's now)."""
        return self.expires_at is not None and self.expires_at <= now

    def row(self) -> tuple[str, str, int, int, int | None, str]:
        """Place, key, version, microseconds of storing and of expiry, and the body as JSON text: what :meth:`of` reads."""
        expires_us = None if self.expires_at is None else epoch_us(self.expires_at)
        return self.place, self.key, self.version, epoch_us(self.stored_at), expires_us, body_text(self.body)

    @classmethod
    def of(cls, row: Sequence[object]) -> ControlRecord:
        """The record of :meth:`row`; raises ``TypeError``, ``ValueError`` or ``OverflowError`` when it is none."""
        place, key, version, stored_us, expires_us, body = row
        if not isinstance(body, str):
            raise FieldError(f"body {shown(body)} is not text")
        return cls(
            _checked_place(place),
            text(key, "key", least=0, most=KEY_LIMIT, without=UNSTORABLE),
            whole(version, "version", below=VERSION_LIMIT),
            from_epoch_us(stored_us),
            None if expires_us is None else from_epoch_us(expires_us),
            mapping(json_value(body), "body"),
        )


@dataclass(frozen=True, slots=True)
class RecordDraft:
    """What a caller asks the store to hold at ``place`` under ``key``.

    ``expires_in`` is in seconds from the store's now, ``expires_at`` a time by its clock; neither: it never expires.
    ``replaces`` is the version that the store must hold there (0: none); ``None``: whatever it holds.
    """

    place: str
    key: str
    body: Mapping[str, object]
    expires_in: float | None = None
    expires_at: datetime | None = None
    replaces: int | None = None
    #: The body as a store keeps it.
    text: str = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        try:
            _checked_place(self.place)
            text(self.key, "key", least=0, most=KEY_LIMIT, without=UNSTORABLE)
            object.__setattr__(self, "text", body_text(self.body))
        except (ValueError, TypeError, RecursionError) as error:
            raise ConfigurationError(f"record {shown(self.key)} of {shown(self.place)}: {error}") from None
        life, size = self.expires_in, len(self.text)
        if size > BODY_LIMIT:
            raise ConfigurationError(
                f"record {shown(self.key)} of {self.place}: it has {size} bytes", hint=f"at most {BODY_LIMIT} are kept"
            )
        if life is not None and not (math.isfinite(life) and 1e-6 <= life <= LONGEST_LIFE):
            raise ConfigurationError(
                f"record {shown(self.key)} of {self.place}: it can't expire in {life:g} seconds",
                hint="give a positive time of at most 100 years, or none",
            )
        if life is not None and self.expires_at is not None:
            raise ConfigurationError(f"record {shown(self.key)} of {self.place}: it has two times of expiry")

    def expires(self, now: datetime) -> datetime | None:
        """When it expires if it is stored at ``now``."""
        return self.expires_at if self.expires_in is None else now + timedelta(seconds=self.expires_in)


@dataclass(frozen=True, slots=True)
class Removal:
    """Take back the revocation of a task, if the store holds ``version`` of it.

    A record that has ended takes its place under a new version, and keeps these texts and this proof: so each worker, one of
    0.1.0 too, ceases to obey it with its next sync, and a later revocation of the task begins anew.
    """

    task_id: str
    version: int
    reason: str | None = None
    requested_by: str | None = None
    proofs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        RevocationDraft(self.task_id, False, self.reason, self.requested_by, None, self.proofs)  # checks them

    def ended(self, namespace: str, version: int, now: datetime) -> Revocation:
        """The record that takes the revocation's place."""
        return Revocation(
            namespace,
            self.task_id,
            version,
            now,
            False,
            self.reason,
            self.requested_by,
            now - timedelta(seconds=timeouts.ENDED_BEFORE),
            self.proofs,
        )


@dataclass(frozen=True, slots=True)
class Change:
    """What is done together, or not at all. ``forgotten`` are (place, key) of records that are deleted without a trace."""

    revocations: Sequence[RevocationDraft] = ()
    removals: Sequence[Removal] = ()
    records: Sequence[RecordDraft] = ()
    forgotten: Sequence[tuple[str, str]] = ()

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to do."""
        return not (self.revocations or self.removals or self.records or self.forgotten)


@dataclass(frozen=True, slots=True)
class Changed:
    """What the store holds after a change, in the order of the change: ``ended`` took the place of undone revocations."""

    revocations: Sequence[Revocation] = ()
    ended: Sequence[Revocation] = ()
    records: Sequence[ControlRecord] = ()
    #: The highest version that was given; 0 when nothing was stored.
    version: int = 0


def checked(change: Change) -> Change:
    """The change with distinct revocations; raises :class:`ConfigurationError` for one that no store takes."""
    distinct = folded(change.revocations)
    tasks = [draft.task_id for draft in distinct] + [removal.task_id for removal in change.removals]
    keys = [(draft.place, draft.key) for draft in change.records] + list(change.forgotten)
    for found, what in ((tasks, "task"), (keys, "record")):
        if len(set(found)) < len(found):
            raise ConfigurationError(f"one change names a {what} twice; nothing was stored")
    if len(keys) > MOST_RECORDS or len(change.removals) > MOST_RECORDS:
        raise ConfigurationError(
            f"{max(len(keys), len(change.removals))} records are too many for one change; nothing was stored",
            hint=f"change at most {MOST_RECORDS} at a time",
        )
    return Change(distinct, change.removals, change.records, change.forgotten)


def named(change: Change) -> list[tuple[str, str]]:
    """Place and key of the records that a change replaces by their versions."""
    return [(draft.place, draft.key) for draft in change.records if draft.replaces is not None]


def tasks_of(change: Change) -> list[str]:
    """The tasks whose revocations a checked change touches."""
    return [draft.task_id for draft in change.revocations] + [removal.task_id for removal in change.removals]


def changed(
    change: Change,
    held: Mapping[str, Revocation],
    records: Mapping[tuple[str, str], int],
    *,
    namespace: str,
    highest: int,
    now: datetime,
) -> Changed:
    """What the store must hold after a checked change: first revocations, then what ended, then records, numbered in order.

    ``held`` are the revocations of the tasks that it names, ``records`` the versions of the records that it names. Raises
    :class:`~stem_kombu.errors.RecordConflict` where the change replaces a version that is not there.
    """
    for removal in change.removals:
        there = held.get(removal.task_id)
        _compare(REVOCATION, removal.task_id, removal.version, 0 if there is None else there.version)
    for draft in change.records:
        if draft.replaces is not None:
            _compare(draft.place, draft.key, draft.replaces, records.get((draft.place, draft.key), 0))
    version = next_version(highest, now)
    stored = merged(change.revocations, held, namespace=namespace, highest=highest, now=now)
    version += len(stored)
    ended = [removal.ended(namespace, version + place, now) for place, removal in enumerate(change.removals)]
    version += len(ended)
    kept = [
        ControlRecord(draft.place, draft.key, version + place, now, draft.expires(now), draft.body)
        for place, draft in enumerate(change.records)
    ]
    version += len(kept)
    return Changed(stored, ended, kept, version - 1 if stored or ended or kept else 0)


def body_text(body: Mapping[str, object]) -> str:
    """The body as ASCII JSON; equal bodies are equal texts. Raises ``TypeError`` or ``ValueError`` for what JSON can't hold."""
    return json.dumps(dict(body), separators=(",", ":"), sort_keys=True, allow_nan=False)


def _compare(place: str, key: str, replaces: int, held: int) -> None:
    if replaces != held:
        raise RecordConflict.of(place, key, replaces, held)


def _checked_place(place: object) -> str:
    if not isinstance(place, str) or not _PLACE.fullmatch(place):
        raise FieldError(f"place {shown(place)} is no name of lower-case letters and hyphens")
    return place
