"""The ladder: how a revoked task is ended that does not stop at a checkpoint, SIGTERM and then SIGKILL to its process group.

A ladder is part of a revocation and travels as a text among its proofs. Every store, those of 0.1.0 too, keeps and merges such
texts without understanding them, and readers of 0.1.0 pass over them. One text is kept for each pair of spans and each
key, so what was asked for once stays asked for; a reader takes the shortest of each span.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime

from stem_kombu.clock import epoch_us
from stem_kombu.durations import checked_duration
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import any_text, items, json_value, mapping, number, optional, whole
from stem_kombu.revocation import Revocation

#: The beginning of what stands where a proof has its signature.
_SCHEME = "ladder:"


@dataclass(frozen=True, slots=True)
class Ladder:
    """Seconds from the moment at which a worker has the revocation: to SIGTERM, and to SIGKILL. ``None``: no such step.

    Raises :class:`~stem_kombu.errors.ConfigurationError` for spans that are no such seconds, or in the wrong order.
    """

    term_after: float | None = None
    kill_after: float | None = None

    def __post_init__(self) -> None:
        for name in ("term_after", "kill_after"):
            if (span := getattr(self, name)) is not None:
                object.__setattr__(self, name, float(checked_duration(span, name=name)))
        if self.term_after is None and self.kill_after is None:
            raise ConfigurationError("a ladder without a step", hint="give term_after, kill_after, or both")
        if self.term_after is not None and self.kill_after is not None and self.term_after > self.kill_after:
            raise ConfigurationError(
                f"term_after {self.term_after:g} s is longer than kill_after {self.kill_after:g} s",
                hint="the process group gets SIGTERM before SIGKILL",
            )

    @classmethod
    def of(cls, term_after: float | None, kill_after: float | None) -> Ladder | None:
        """``None`` for no step."""
        return None if term_after is None and kill_after is None else cls(term_after, kill_after)

    @property
    def longest(self) -> float:
        """Seconds to the last step."""
        return max(self.term_after or 0.0, self.kill_after or 0.0)

    def to_record(self) -> dict[str, float | None]:
        """The fields of a revocation in JSON."""
        return {"term_after_s": self.term_after, "kill_after_s": self.kill_after}


def checked_ladder(ladder: Ladder | None, *, terminate: bool) -> None:
    """Raise :class:`~stem_kombu.errors.ConfigurationError` for a ladder without ``terminate``."""
    if ladder is not None and not terminate:
        raise ConfigurationError(
            "a ladder needs terminate, as it ends running tasks", hint="revoke with terminate as well"
        )


@dataclass(frozen=True, slots=True)
class LadderText:
    """A ladder as a record holds it. ``key`` is the id of the key that has signed it, and both are empty without keys; times
    are microseconds since the epoch."""

    signed_us: int
    expires_us: int | None
    term_after: float | None
    kill_after: float | None
    key: str = ""
    signature: str = ""

    @classmethod
    def of(cls, ladder: Ladder, signed_at: datetime, expires_at: datetime) -> LadderText:
        """The text of a ladder without a key."""
        return cls(epoch_us(signed_at), epoch_us(expires_at), ladder.term_after, ladder.kill_after)

    def encoded(self) -> str:
        """As it stands among the proofs. What stores tell texts apart by has the spans in it, and who signed them."""
        name = f"{_SCHEME}{self.term_after}/{self.kill_after}@{self.key}:-"
        told = {"t": self.signed_us, "e": self.expires_us, "x": True, "r": None, "q": None, "s": name}
        spans = {"l": [self.term_after, self.kill_after], "k": self.key, "ls": self.signature}
        return json.dumps({**told, **spans}, separators=(",", ":"))

    @classmethod
    def decoded(cls, encoded: str) -> LadderText | None:
        """``None`` for what is no ladder."""
        if f'"s":"{_SCHEME}' not in encoded:
            return None
        try:
            fields = mapping(json_value(encoded), "a ladder")
            term, kill = items(fields.get("l"), "l")
            return cls(
                whole(fields.get("t"), "t"),
                optional(whole, fields.get("e"), "e"),
                optional(number, term, "term_after"),
                optional(number, kill, "kill_after"),
                any_text(fields.get("k"), "k"),
                any_text(fields.get("ls"), "ls"),
            )
        except ValueError:
            return None

    def stated(self, namespace: str, task_id: str) -> bytes:
        """What its author signs: a list of fixed length, in JSON."""
        spans = [self.signed_us, self.expires_us, self.term_after, self.kill_after]
        return json.dumps([namespace, task_id, *spans], separators=(",", ":")).encode()


def is_ladder(proof: str) -> bool:
    """Whether a text among the proofs is a ladder, and so no proof of the revocation."""
    return f'"s":"{_SCHEME}' in proof


def ladders(record: Revocation) -> Iterator[LadderText]:
    """The ladders that a record holds, verified or not."""
    for proof in record.proofs:
        if (found := LadderText.decoded(proof)) is not None:
            yield found


def ladder_of(record: Revocation, now: datetime) -> Ladder | None:
    """The ladder that is in force at ``now``, the store's: of each span the shortest. Where there are keys, the record has been
    verified."""
    if not record.proofs:
        return None
    now_us = epoch_us(now)
    live = [one for one in ladders(record) if one.expires_us is None or one.expires_us > now_us]
    term = min((one.term_after for one in live if one.term_after is not None), default=None)
    kill = min((one.kill_after for one in live if one.kill_after is not None), default=None)
    if kill is not None and term is not None and term >= kill:
        term = None  # of two ladders: SIGKILL comes first
    return Ladder.of(term, kill)
