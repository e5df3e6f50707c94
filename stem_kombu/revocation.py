"""The revocation: what was asked for, what the store holds, and which of two records wins.

The merge rule stands here once, as a pure function; every store applies it inside its own transaction. The rule: a
version is assigned by the store and only grows; ``terminate`` once asked for stays asked for; a revocation is never
shortened by a later one (the longer expiry wins, and none is the longest); an expired record counts as absent.

Where a fleet has keys, each draft comes with a proof, and a record keeps the proofs of what it was merged from: texts
that :mod:`stem_kombu.signing.proofs` writes and judges, and of which only the retention is decided here.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from operator import itemgetter
from typing import Any, TypeGuard

from stem_kombu.bound import current, joined, stamped
from stem_kombu.clock import epoch_us, repeated_isoformat
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import (
    CONTROL_CHARACTER,
    UNLIMITED,
    UNSTORABLE,
    FieldError,
    any_text,
    flag,
    is_text,
    items,
    json_value,
    mapping,
    repeated_moment,
    shown,
    text,
    whole,
)

logger = logging.getLogger(__name__)

#: Longest task id that is accepted, in characters. Redis keys and index entries stay small; a UUID has 36.
TASK_ID_LIMIT = 512
#: Longest reason or requester that is kept, in characters.
TEXT_LIMIT = 2000
#: Most proofs that a record keeps, and longest one, in characters: two texts of the above, escaped, and a signature.
MOST_PROOFS = 12
PROOF_LIMIT = 2 * 12 * TEXT_LIMIT + 1000
#: Versions are below this, so that the doubles of Lua and JSON hold them exactly.
VERSION_LIMIT = 2**53


def checked_task_id(task_id: object) -> str:
    """The id itself, or :class:`ConfigurationError` when it is empty, too long, or holds control characters."""
    if not isinstance(task_id, str):
        said = f"task id {shown(task_id)} ({type(task_id).__name__}) is no text"
        raise ConfigurationError(said, hint="give result.id, or str(…) of an id of yours")
    if not task_id.strip():
        raise ConfigurationError(f"task id {task_id!r} is empty", hint="give the id that `stem task send` printed")
    if len(task_id) > TASK_ID_LIMIT:
        raise ConfigurationError(
            f"task id {task_id[:40]!r}… has {len(task_id)} characters", hint=f"at most {TASK_ID_LIMIT} are accepted"
        )
    if CONTROL_CHARACTER.search(task_id):
        raise ConfigurationError(
            f"task id {task_id!r} holds a control character", hint="ids are one line of plain text"
        )
    return task_id


def storable_ids(task_ids: Iterable[object]) -> Iterator[str]:
    """The ids that a store can hold; each other one is named in the log, so that one bad id does not stop a batch."""
    for task_id in task_ids:
        try:
            yield checked_task_id(task_id if isinstance(task_id, str) else str(task_id))
        except ConfigurationError as error:
            logger.warning("not revoked for good: %s", error)


def as_flag(value: object) -> object:
    """``True`` or ``False`` for what stands for them: Celery's tools send 0, 1 and null, and stem-kombu 0.1.0 stored
    that as it came. Anything else as it is, for the caller to refuse."""
    if value is None or (type(value) is int and value in (0, 1)):
        return bool(value)
    return value


def _fits_float(number: float) -> bool:
    try:
        float(number)
    except OverflowError:
        return False
    return True


@dataclass(frozen=True, slots=True)
class RevocationDraft:
    """What a caller asks the store to hold: no version and no times, since those are the store's to give.

    ``expires_in`` is in seconds from the store's now; ``None`` means that the revocation never expires.
    """

    task_id: str
    terminate: bool = False
    reason: str | None = None
    requested_by: str | None = None
    expires_in: float | None = None
    proofs: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        # What no store could hold, or no reader would accept, is refused here, before any writer. Texts lose a class of their
        # own, such as an enumeration's, which drivers write in different ways. What is as it must be is left alone, since ten
        # thousand of these are made for one call.
        if type(checked_task_id(self.task_id)) is not str:
            object.__setattr__(self, "task_id", str.__str__(self.task_id))
        terminate: object = self.terminate
        if type(terminate) is not bool:
            object.__setattr__(self, "terminate", self._checked_terminate())
        if self.expires_in is not None and type(self.expires_in) is not float:
            object.__setattr__(self, "expires_in", self._checked_life(self.expires_in))
        if self.proofs != ():
            object.__setattr__(self, "proofs", tuple(self.proofs))
            if not all(map(_is_proof_text, self.proofs)):
                raise ConfigurationError(f"a proof of the revocation of {self.task_id!r} is too long or not plain text")
        for name, given in (("reason", self.reason), ("requested_by", self.requested_by)):
            if given is None:
                continue
            if not isinstance(given, str):
                raise ConfigurationError(
                    f"revocation of {self.task_id!r}: {name} {shown(given)} is not text", hint="give text, or none"
                )
            if len(given) > TEXT_LIMIT:
                raise ConfigurationError(
                    f"{name} has {len(given)} characters", hint=f"at most {TEXT_LIMIT} are accepted"
                )
            if type(given) is not str:
                object.__setattr__(self, name, str.__str__(given))

    @classmethod
    def again(cls, record: Revocation, now: datetime) -> RevocationDraft:
        """A draft by which a store that lost the record holds it again; ``now`` is that store's."""
        left = None if record.expires_at is None else max(1e-6, (record.expires_at - now).total_seconds())
        proofs = tuple(current(record.proofs, epoch_us(record.issued_at)))
        return cls(record.task_id, record.terminate, record.reason, record.requested_by, left, proofs)

    def _checked_terminate(self) -> bool:
        flag = as_flag(self.terminate)
        if type(flag) is not bool:
            raise ConfigurationError(
                f"revocation of {self.task_id!r}: terminate {shown(flag)} is not true or false",
                hint="give True or False",
            )
        return flag

    def _checked_life(self, life: object) -> float:
        if isinstance(life, bool) or not isinstance(life, (int, float)) or not _fits_float(life):
            raise ConfigurationError(
                f"revocation of {self.task_id!r}: expires_in {shown(life)} is not a number of seconds",
                hint="give seconds, or none for a revocation that never expires",
            )
        return float(life)


@dataclass(frozen=True, slots=True)
class Revocation:
    """A revocation as the store holds it.

    ``version`` is assigned by the store, strictly increasing per namespace in commit order. ``issued_at`` and
    ``expires_at`` are aware UTC times by the store's clock.
    """

    namespace: str
    task_id: str
    version: int
    issued_at: datetime
    terminate: bool = False
    reason: str | None = None
    requested_by: str | None = None
    expires_at: datetime | None = None
    proofs: tuple[str, ...] = ()

    def is_expired(self, now: datetime) -> bool:
        """Whether the record no longer counts at ``now`` (the store's now). One that had ended when it was written, as an undo
        writes it, never counted, whatever the time is taken to be."""
        return self.expires_at is not None and (self.expires_at <= now or self.expires_at < self.issued_at)

    def to_record(self) -> dict[str, Any]:
        """The JSON form: every field present, times as ISO 8601 UTC text."""
        return {
            "namespace": self.namespace,
            "task_id": self.task_id,
            "version": self.version,
            "issued_at": repeated_isoformat(self.issued_at),
            "terminate": self.terminate,
            "reason": self.reason,
            "requested_by": self.requested_by,
            "expires_at": None if self.expires_at is None else repeated_isoformat(self.expires_at),
        }

    def to_message(self) -> dict[str, object]:
        """The JSON form with its proofs, for those who have to judge them."""
        return {**self.to_record(), "proofs": list(self.proofs)} if self.proofs else self.to_record()

    @classmethod
    def from_record(cls, record: Mapping[str, object]) -> Revocation:
        """The revocation of a JSON form; raises :class:`~stem_kombu.fields.FieldError` naming the field that is missing, of
        another type, or no value that a store can have given."""
        proofs = items(record["proofs"], "proofs", most=UNLIMITED) if "proofs" in record else []
        expires_at = record.get("expires_at")
        return cls.checked(
            namespace=record.get("namespace"),
            task_id=record.get("task_id"),
            version=record.get("version"),
            issued_at=repeated_moment(record.get("issued_at"), "issued_at"),
            terminate=record.get("terminate", False),
            texts=(record.get("reason"), record.get("requested_by")),
            expires_at=None if expires_at is None else repeated_moment(expires_at, "expires_at"),
            proofs=proofs[:MOST_PROOFS],
        )

    @classmethod
    def checked(
        cls,
        *,
        namespace: object,
        task_id: object,
        version: object,
        issued_at: datetime,
        terminate: object,
        texts: tuple[object, object],
        expires_at: datetime | None,
        proofs: Sequence[object],
    ) -> Revocation:
        """The revocation of fields from a message or from the columns of a store; ``texts`` are reason and requester.

        Raises :class:`~stem_kombu.fields.FieldError` naming the field that no store can have given: of another type, out of
        range, or text that not every store can hold. Workers stop tasks because of a revocation, so none is guessed.
        """
        if len(proofs) > MOST_PROOFS:
            raise FieldError(f"proofs are more than {MOST_PROOFS}")
        try:
            checked_id = checked_task_id(task_id)
        except ConfigurationError as error:
            raise FieldError(error.message) from None
        reason, by = texts
        return cls(
            text(namespace, "namespace", most=UNLIMITED, without=UNSTORABLE),
            checked_id,
            whole(version, "version", below=VERSION_LIMIT),
            issued_at,
            flag(terminate, "terminate"),
            None if reason is None else text(reason, "reason", least=0, most=TEXT_LIMIT, without=UNSTORABLE),
            None if by is None else text(by, "requested_by", least=0, most=TEXT_LIMIT, without=UNSTORABLE),
            expires_at,
            tuple(map(_proof_text, proofs)) if proofs else (),
        )


def _proof_text(proof: object) -> str:
    if not _is_proof_text(proof):
        raise FieldError(f"a proof {shown(proof)} is not text of at most {PROOF_LIMIT} ASCII characters")
    return proof


def _is_proof_text(proof: object) -> TypeGuard[str]:
    return is_text(proof, least=0, most=PROOF_LIMIT, without=None) and proof.isascii() and "\0" not in proof


def merge(
    held: Revocation | None, draft: RevocationDraft, *, namespace: str, version: int, now: datetime
) -> Revocation:
    """What the store must hold after ``draft`` arrives while it holds ``held``; ``version`` and ``now`` are the store's.

    The new record keeps the newer reason and requester where they are given, else the held ones.
    """
    if held is not None and held.is_expired(now):
        held = None
    expires_at = None if draft.expires_in is None else now + timedelta(seconds=draft.expires_in)
    if held is None:
        return Revocation(
            namespace, draft.task_id, version, now, draft.terminate, draft.reason, draft.requested_by, expires_at,
            stamped(kept_proofs((), draft.proofs, now), epoch_us(now)) if draft.proofs else (),
        )  # fmt: skip
    proofs = joined(current(held.proofs, epoch_us(held.issued_at)), draft.proofs)
    if held.expires_at is None or expires_at is None:
        expires_at = None
    else:
        expires_at = max(held.expires_at, expires_at)
    return Revocation(
        namespace=namespace,
        task_id=draft.task_id,
        version=version,
        issued_at=now,
        terminate=held.terminate or draft.terminate,
        reason=held.reason if draft.reason is None else draft.reason,
        requested_by=held.requested_by if draft.requested_by is None else draft.requested_by,
        expires_at=expires_at,
        proofs=stamped(kept_proofs(*proofs, now), epoch_us(now)),
    )


def kept_proofs(held: Iterable[str], new: Iterable[str], now: datetime) -> tuple[str, ...]:
    """Those proofs that a record must keep: of each key and bound the newest, the one that lasts longest, and of those that
    terminate the one that lasts longest. In the order in which they came; at most :data:`MOST_PROOFS`.

    A key is its id and its secret's fingerprint, which the proof names: a store can't verify, and a proof by another secret
    under a known id must not replace the one that workers verify. Where there are too many, those that expired go first
    and then the latest: a revocation that is in force stays in force. A text that is no proof is dropped.
    """
    found = [(proof, read) for proof in dict.fromkeys((*held, *new)) if (read := _proof_facts(proof)) is not None]
    if len(found) < 2:
        return tuple(proof for proof, _ in found)
    kept: set[str] = set()
    for key in dict.fromkeys((read[0], read[4]) for _, read in found):
        own = [(proof, *read[1:]) for proof, read in found if (read[0], read[4]) == key][
            ::-1
        ]  # of equals the later one
        kept.add(max(own, key=itemgetter(1))[0])
        kept.add(max(own, key=itemgetter(2))[0])
        if ending := [one for one in own if one[3]]:
            kept.add(max(ending, key=itemgetter(2))[0])
    lasting = [(proof, read) for proof, read in found if proof in kept]
    while len(lasting) > MOST_PROOFS and (over := [one for one in lasting if one[1][2] <= epoch_us(now)]):
        lasting.remove(over[0])
    return tuple(proof for proof, _ in lasting)[:MOST_PROOFS]


def proof_key(proof: str) -> tuple[str, str] | None:
    """The id of the key that a proof names as its signer, and the fingerprint of its secret, empty in proofs of 0.1.0;
    ``None`` for a text that is no proof."""
    read = _proof_facts(proof)
    return None if read is None else read[0]


def _proof_facts(encoded: str) -> tuple[tuple[str, str], int, float, bool, str] | None:
    """Key id and fingerprint, when it was signed, when it expires (microseconds, infinite for never), whether it terminates, and
    what it is bound to."""
    try:
        proof = mapping(json_value(encoded), "a proof")
        _, key, _ = any_text(proof.get("s"), "s").split(":")
        fingerprint, bound = any_text(proof.get("f", ""), "f"), any_text(proof.get("b", ""), "b")
        signed_us, expires_us, terminate = proof.get("t"), proof.get("e"), flag(proof.get("x"), "x")
    except ValueError:
        return None
    if type(signed_us) is not int or (expires_us is not None and type(expires_us) is not int):
        return None
    return (key, fingerprint), signed_us, math.inf if expires_us is None else expires_us, terminate, bound
