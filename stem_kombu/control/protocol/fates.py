"""Where a revoked task is, as a worker tells it to the client that waits for its end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from stem_kombu.fields import any_text, flag, mapping, number, optional, whole
from stem_kombu.outcome import EndedBy


class FatePhase(str, Enum):
    """Where a revoked task is in a worker."""

    WAITING = "waiting"  # it has not started
    RUNNING = "running"
    SETTLING = "settling"  # out of its handler, or refused; that is being recorded
    ENDED = "ended"  # and recorded


@dataclass(frozen=True, slots=True)
class TaskFate:
    """What a worker knows of a revoked task that it has, or had a moment ago. Spans are seconds.

    ``ending`` is a state's name or ``released``, and ``ended_by`` what is known of it; both are ``None`` before the end.
    ``is_thread``: it runs in a thread of the worker, which nothing can end.
    """

    id: str
    phase: FatePhase
    attempt: int | None = None
    is_thread: bool = False
    checkpoint_ago: float | None = None
    stop_requested_ago: float | None = None
    ending: str | None = None
    ended_by: EndedBy | None = None

    def to_payload(self) -> dict[str, object]:
        """The JSON form, as it stands in a reply."""
        return {
            "id": self.id,
            "phase": self.phase.value,
            "attempt": self.attempt,
            "thread": self.is_thread,
            "checkpoint_s_ago": _rounded(self.checkpoint_ago),
            "stop_requested_s_ago": _rounded(self.stop_requested_ago),
            "ending": self.ending,
            "ended_by": None if self.ended_by is None else self.ended_by.to_record(),
        }

    @classmethod
    def from_payload(cls, value: object) -> TaskFate:
        """The fate of a reply's entry; raises ``ValueError`` for what is none."""
        fields: Mapping[str, object] = mapping(value, "a fate")
        return cls(
            any_text(fields.get("id"), "id"),
            FatePhase(fields.get("phase")),
            optional(whole, fields.get("attempt"), "attempt"),
            flag(fields.get("thread", False), "thread"),
            optional(number, fields.get("checkpoint_s_ago"), "checkpoint_s_ago"),
            optional(number, fields.get("stop_requested_s_ago"), "stop_requested_s_ago"),
            optional(any_text, fields.get("ending"), "ending"),
            optional(EndedBy.from_record, fields.get("ended_by"), "ended_by"),
        )


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)
