"""What a revocation of an id is bound to: one attempt, or what was sent before a moment; so that a reused id is not poisoned.

A bound is part of a revocation and travels as a text among its proofs, as a ladder does: every store, those of 0.1.0 too, keeps
such texts without understanding them, and workers of 0.1.0 obey the revocation for the whole id. Where a fleet has keys, the
bound is a field of the proof that its author signs.

What is merged into one record: of bound revocations each counts; with one that is not bound, the id is revoked whatever the
attempt. A store that merges writes into each text when its record was issued, so that a later revocation by a client of 0.1.0,
which knows no bounds and leaves the text as it is, is not bound.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from stem_kombu.clock import epoch_us, from_epoch_us, isoformat
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError, any_text, json_value, mapping, optional, whole

#: The beginning of what stands where a proof has its signature.
_SCHEME = '"s":"bound:'
#: When the record of a text was issued, in microseconds, at the end of the text.
_ISSUED = re.compile(r',"i":(\d+)\}\Z')


class Bounded(Protocol):
    """What is used of a :class:`~stem_kombu.revocation.Revocation`."""

    @property
    def task_id(self) -> str: ...

    @property
    def issued_at(self) -> datetime: ...

    @property
    def proofs(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Bound:
    """``attempt`` counts from 1; ``before`` is compared with the time of sending, by the sender's clock. Both have to hold; a
    task without a time of sending is not one of before.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for an attempt that is none, and for a time without a zone.
    """

    attempt: int | None = None
    before: datetime | None = None

    def __post_init__(self) -> None:
        if self.attempt is None and self.before is None:
            raise ConfigurationError("a bound without a condition", hint="give attempt, before, or both")
        if self.attempt is not None and not 1 <= self.attempt < 2**31:
            raise ConfigurationError(f"attempt {self.attempt!r} is none", hint="attempts count from 1")
        if self.before is not None and self.before.tzinfo is None:
            raise ConfigurationError(f"before {self.before.isoformat()} has no time zone", hint="give an aware time")

    def strikes(self, attempt: int, sent: datetime | None) -> bool:
        """Whether an attempt of a task that was sent then is revoked; ``None``: its sender did not write the time."""
        if self.attempt is not None and attempt != self.attempt:
            return False
        return self.before is None or (sent is not None and sent < self.before)

    def to_record(self) -> dict[str, object]:
        """The JSON form."""
        return {"attempt": self.attempt, "enqueued_before": None if self.before is None else isoformat(self.before)}

    @property
    def text(self) -> str:
        """As it stands in a proof: the attempt and the time in microseconds, each of which may be missing."""
        return f"{self.attempt or ''}/{'' if self.before is None else epoch_us(self.before)}"

    @classmethod
    def of_text(cls, value: object) -> Bound:
        """The bound of :attr:`text`; raises :class:`~stem_kombu.fields.FieldError` or ``OverflowError`` where it is none."""
        attempt, slash, before = any_text(value, "b").partition("/")
        if not slash or not all(part.isdecimal() or not part for part in (attempt, before)) or len(str(value)) > 40:
            raise FieldError(f"bound {str(value)[:40]!r} is none")
        try:
            return cls(int(attempt) if attempt else None, from_epoch_us(int(before)) if before else None)
        except ConfigurationError as error:
            raise FieldError(error.message) from None


def bound_text(bound: Bound, *, now_us: int, expires_us: int | None) -> str:
    """What stands among the proofs of a draft where there are no keys."""
    told = {"t": now_us, "e": expires_us, "x": False, "r": None, "q": None, "s": f"bound:{bound.text}@:-"}
    return json.dumps({**told, "b": bound.text}, separators=(",", ":"))


def is_bound(proof: str) -> bool:
    """Whether a text among the proofs is a bound, and so no proof of the revocation."""
    return _SCHEME in proof


def joined(held: Sequence[str], new: Sequence[str]) -> tuple[list[str], list[str]]:
    """What is merged of the proofs of two revocations: their bounds only where both are bound."""
    if any(map(is_bound, held)) and any(map(is_bound, new)):
        return [_bare(proof) for proof in held], [_bare(proof) for proof in new]
    return [proof for proof in held if not is_bound(proof)], [proof for proof in new if not is_bound(proof)]


def current(proofs: Sequence[str], issued_us: int) -> list[str]:
    """The proofs of a record without bounds that are not of this very record."""
    return [proof for proof in proofs if not is_bound(proof) or _issue_of(proof) == issued_us]


def stamped(proofs: Iterable[str], issued_us: int) -> tuple[str, ...]:
    """The proofs that a record keeps which is issued then."""
    return tuple(
        f'{_bare(proof)[:-1]},"i":{issued_us}}}' if is_bound(proof) and proof.endswith("}") else proof
        for proof in proofs
    )


def bounds_of(record: Bounded, now: datetime | None = None) -> tuple[Bound, ...]:
    """What the record is bound to, of what counts at ``now`` (the store's; ``None``: whenever): each of them counts. Empty where
    it is bound to nothing. Where there are keys, the record has been verified."""
    if not record.proofs:
        return ()
    now_us, issued_us = None if now is None else epoch_us(now), epoch_us(record.issued_at)
    own = [proof for proof in record.proofs if is_bound(proof) and _issue_of(proof) == issued_us]
    if not own:
        own = [proof for proof in record.proofs if not is_bound(proof) and '"s":"ladder:' not in proof]
    found = []
    for proof in own:
        try:
            fields = mapping(json_value(proof), "a bound")
            ends = optional(whole, fields.get("e"), "e")
            bound = None if fields.get("b") is None else Bound.of_text(fields["b"])
        except (ValueError, OverflowError):
            return ()
        if now_us is not None and ends is not None and ends <= now_us:
            continue
        if bound is None:
            return ()
        found.append(bound)
    return tuple(dict.fromkeys(found))


def check_held(stored: Iterable[Bounded], bound: Bound) -> None:
    """Raise :class:`~stem_kombu.errors.ConfigurationError` where a record has no room left for another bound."""
    for record in stored:
        if (held := bounds_of(record)) and bound not in held:
            raise ConfigurationError(
                f"the revocation of task {record.task_id!r} has {len(held)} bounds already, and room for no other",
                hint="revoke the id without --attempt and --enqueued-before, or undo it first",
            )


def bounds_shown(record: Bounded) -> dict[str, object]:
    """What JSON adds to a revocation that is bound."""
    bounds = bounds_of(record)
    return {"bounds": [bound.to_record() for bound in bounds]} if bounds else {}


def spares(record: Bounded, attempt: int, sent: datetime | None, now: datetime | None = None) -> bool:
    """Whether a revocation of its id says nothing of that attempt of the task, which was sent then."""
    bounds = bounds_of(record, now)
    return bool(bounds) and not any(bound.strikes(attempt, sent) for bound in bounds)


def _bare(proof: str) -> str:
    return _ISSUED.sub("}", proof) if is_bound(proof) else proof


def _issue_of(proof: str) -> int | None:
    found = _ISSUED.search(proof)
    return int(found[1]) if found is not None and len(found[1]) < 20 else None
