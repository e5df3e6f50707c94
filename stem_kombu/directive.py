"""Directives: what a fleet is to do until further notice, and which of them counts for one worker (G23, G24).

A directive is a value for a subject (a queue, a task, a logger, or all) on some workers. It is a record of the revoke store,
of which the later version replaces the earlier whole. Everything here is pure: the time is passed in, by the store's clock.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from fnmatch import fnmatchcase
from typing import TypeAlias

from stem_kombu.autoscale import Autoscale
from stem_kombu.clock import isoformat
from stem_kombu.fields import FieldError, any_text, flag, mapping, moment, optional, text, whole
from stem_kombu.rate import RateLimit

#: Where the records of directives are kept in a store.
PLACE = "directive"
#: Before the name of a queue, and before that of a task, in the subject of a rate limit.
QUEUE, TASK = "queue:", "task:"
#: The workers of a directive for all of them.
ALL_WORKERS = "*"

#: What a directive asks for; JSON. ``pause``: ``True``, or ``False`` for an exemption from another pause. ``concurrency``: a
#: number of children, or :class:`stem_kombu.autoscale.Autoscale`. ``rate-limit``: :class:`stem_kombu.rate.RateLimit`, about
#: ``queue:NAME`` or ``task:NAME``. ``log-level``: a level's name.
Value: TypeAlias = bool | int | str | Mapping[str, object]
#: Kind, subject and workers: of a key one directive is held, the latest.
Key: TypeAlias = tuple[str, str | None, str]


class Kind(str, Enum):
    """What a directive is about."""

    PAUSE = "pause"
    CONCURRENCY = "concurrency"
    RATE_LIMIT = "rate-limit"
    LOG_LEVEL = "log-level"


@dataclass(frozen=True, slots=True)
class Directive:
    """One directive, as the store holds it.

    ``subject`` is a name or a glob, ``None`` for all; ``workers`` is a worker id or a glob. Times are aware UTC, by the
    store's clock. ``cleared``: it asks for nothing any more, and is kept so that workers learn that.
    """

    namespace: str
    kind: Kind
    subject: str | None
    workers: str
    value: Value
    version: int
    issued_at: datetime
    expires_at: datetime | None = None
    reason: str | None = None
    requested_by: str | None = None
    cleared: bool = False
    #: Where the fleet has keys: who asked for it, see :mod:`stem_kombu.signing.directive_proofs`.
    proof: str | None = None

    @property
    def key(self) -> Key:
        return self.kind.value, self.subject, self.workers

    def is_live(self, now: datetime) -> bool:
        """Whether it asks for something at ``now``."""
        return not self.cleared and (self.expires_at is None or self.expires_at > now)

    def was_over(self, then: datetime) -> bool:
        """Whether it had been cleared, or had ended, by ``then``."""
        if self.cleared:
            return self.issued_at < then
        return self.expires_at is not None and self.expires_at < then

    def is_about(self, subject: str | None) -> bool:
        """Whether it is about that queue, task or logger (``None``: about the worker as a whole)."""
        return self.subject is None or self.subject == subject or (subject is not None and _fits(subject, self.subject))

    def is_for(self, worker: str) -> bool:
        """Whether that worker has to obey it."""
        return self.workers in (ALL_WORKERS, worker) or _fits(worker, self.workers)

    def rank(self, worker: str, subject: str | None) -> tuple[int, int, int]:
        """The greater wins: the exact worker before a glob before ``*``, then the exact subject before a glob before all, then
        the higher version."""
        of_worker = 2 if self.workers == worker else 0 if self.workers == ALL_WORKERS else 1
        of_subject = 0 if self.subject is None else 2 if self.subject == subject else 1
        return of_worker, of_subject, self.version

    def body(self) -> dict[str, object]:
        """What a store keeps of it beside version and times."""
        return {
            "kind": self.kind.value,
            "subject": self.subject,
            "workers": self.workers,
            "value": self.value,
            "reason": self.reason,
            "requested_by": self.requested_by,
            "cleared": self.cleared,
            **({} if self.proof is None else {"proof": self.proof}),
        }

    def to_record(self) -> dict[str, object]:
        """The JSON form: of messages, and of what commands print."""
        return {
            "namespace": self.namespace,
            **self.body(),
            "version": self.version,
            "issued_at": isoformat(self.issued_at),
            "expires_at": None if self.expires_at is None else isoformat(self.expires_at),
        }

    @classmethod
    def from_record(cls, record: object) -> Directive:
        """The directive of its JSON form; raises :class:`~stem_kombu.fields.FieldError` naming the field."""
        fields = mapping(record, "a directive")
        return cls.from_body(
            fields,
            namespace=text(fields.get("namespace"), "namespace"),
            version=whole(fields.get("version"), "version"),
            issued_at=moment(fields.get("issued_at"), "issued_at"),
            expires_at=optional(moment, fields.get("expires_at"), "expires_at"),
        )

    @classmethod
    def from_body(
        cls,
        body: Mapping[str, object],
        *,
        namespace: str,
        version: int,
        issued_at: datetime,
        expires_at: datetime | None,
    ) -> Directive:
        """The directive of a store's record. Raises :class:`~stem_kombu.fields.FieldError` naming the field, also for a kind
        that this version does not know."""
        spelled = text(body.get("kind"), "kind")
        try:
            kind = Kind(spelled)
        except ValueError:
            raise FieldError(f"kind {spelled[:40]!r} is not known") from None
        return cls(
            namespace=namespace,
            kind=kind,
            subject=optional(text, body.get("subject"), "subject"),
            workers=text(body.get("workers"), "workers"),
            value=_value(kind, body.get("value")),
            version=version,
            issued_at=issued_at,
            expires_at=expires_at,
            reason=optional(any_text, body.get("reason"), "reason"),
            requested_by=optional(any_text, body.get("requested_by"), "requested_by"),
            cleared=flag(body.get("cleared", False), "cleared"),
            proof=optional(any_text, body.get("proof"), "proof"),
        )


@dataclass(frozen=True, slots=True)
class DirectiveDraft:
    """A directive that is to be stored. ``replaces`` is the version of its key that the store holds, 0 for none; ``expires_at``
    is by the store's clock."""

    kind: Kind
    subject: str | None
    workers: str
    value: Value
    replaces: int = 0
    expires_at: datetime | None = None
    cleared: bool = False

    @property
    def key(self) -> Key:
        return self.kind.value, self.subject, self.workers

    @classmethod
    def clearing(cls, held: Directive) -> DirectiveDraft:
        """What clears that directive."""
        return cls(held.kind, held.subject, held.workers, held.value, held.version, None, cleared=True)


def record_key(key: Key) -> str:
    """The key of a directive's record within its place."""
    return json.dumps(key, separators=(",", ":"))


def winner(
    directives: Iterable[Directive], kind: Kind, worker: str, subject: str | None, now: datetime
) -> Directive | None:
    """The live directive of that kind that counts for the worker and the subject; ``None``: the worker's own value counts."""
    return max(
        (one for one in directives if _counts(one, kind, worker, subject, now)),
        key=lambda one: one.rank(worker, subject),
        default=None,
    )


def _counts(one: Directive, kind: Kind, worker: str, subject: str | None, now: datetime) -> bool:
    return one.kind is kind and one.is_live(now) and one.is_about(subject) and one.is_for(worker)


def latest(directives: Iterable[Directive]) -> dict[Key, Directive]:
    """Of each key the directive with the highest version, whatever order they come in."""
    found: dict[Key, Directive] = {}
    for one in directives:
        held = found.get(one.key)
        if held is None or one.version > held.version:
            found[one.key] = one
    return found


def next_end(directives: Iterable[Directive], now: datetime) -> datetime | None:
    """When the next live one ends, ``None`` when none does."""
    return min((one.expires_at for one in directives if one.expires_at is not None and one.is_live(now)), default=None)


def is_glob(name: str) -> bool:
    """Whether a name of a directive may match several."""
    return any(char in name for char in "*?[")


def _fits(name: str, pattern: str) -> bool:
    return is_glob(pattern) and fnmatchcase(name, pattern)


def _value(kind: Kind, value: object) -> Value:
    """The value of a record; raises :class:`FieldError` for one that the kind can't have."""
    if kind is Kind.PAUSE:
        return flag(value, "value")
    if kind is Kind.LOG_LEVEL:
        return text(value, "value")
    if kind is Kind.CONCURRENCY and not isinstance(value, dict):
        return whole(value, "value", below=2**16)
    found = mapping(value, "value", most=20)
    if kind is Kind.CONCURRENCY:
        Autoscale.of_value(found)
    else:
        RateLimit.of_value(found)
    return found
