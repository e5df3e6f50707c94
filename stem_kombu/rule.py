"""A rule: a revocation of all tasks that match a selector and were sent before its cut-off (G29). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from stem_kombu.clock import isoformat
from stem_kombu.errors import ConfigurationError
from stem_kombu.fields import FieldError, any_text, flag, mapping, moment, number, optional, text, whole
from stem_kombu.ladder import Ladder, LadderText
from stem_kombu.revocation import TEXT_LIMIT, VERSION_LIMIT, Revocation
from stem_kombu.selector import Selector, sent_at
from stem_kombu.task import TaskMessage

#: Where rules are kept in a store.
PLACE = "rule"
#: Rules that may be live in a namespace at once: each is asked of each task.
MOST_LIVE = 100
#: Longest life of a rule that strikes tasks without a time of sending: it can't tell those of tomorrow from those of today.
LONGEST_UNDATED = 3600.0


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, as the store holds it. Times are aware UTC; ``enqueued_before`` is compared with the sender's clock.

    ``undated``: it strikes tasks without a time of sending as well. ``preview`` is what was confirmed when it was stored.
    ``request_id`` is that of the command that stored it. ``over``: it was taken back. ``ladder``: how what runs is ended where it
    does not stop, also by a worker that learns of the rule late.
    """

    namespace: str
    key: str
    version: int
    stored_at: datetime
    expires_at: datetime
    selector: Selector
    enqueued_before: datetime
    terminate: bool = False
    undated: bool = False
    reason: str | None = None
    requested_by: str | None = None
    preview: Mapping[str, object] = field(default_factory=dict, compare=False)
    request_id: str | None = None
    over: bool = False
    proof: str | None = None
    ladder: Ladder | None = None

    def is_live(self, now: datetime) -> bool:
        """Whether it counts at ``now``, by the store's clock."""
        return not self.over and self.expires_at > now

    def strikes(self, task: TaskMessage) -> bool:
        """Whether it revokes the task: it matches, and was sent before the cut-off by its sender's clock."""
        if not self.selector.matches(task):
            return False
        sent = sent_at(task)
        return self.undated if sent is None else sent < self.enqueued_before

    def revocation(self, task_id: str) -> Revocation:
        """What it says of one task."""
        steps = () if self.ladder is None else (LadderText.of(self.ladder, self.stored_at, self.expires_at).encoded(),)
        return Revocation(
            self.namespace,
            task_id,
            self.version,
            self.stored_at,
            self.terminate,
            self.reason,
            self.requested_by,
            self.expires_at,
            steps,
        )

    def body(self) -> dict[str, object]:
        """What a store keeps of it beside key, version and times, its proof aside."""
        return {
            "selector": self.selector.to_record(),
            "enqueued_before": isoformat(self.enqueued_before),
            "terminate": self.terminate,
            "undated": self.undated,
            "reason": self.reason,
            "requested_by": self.requested_by,
            "preview": dict(self.preview),
            "request_id": self.request_id,
            "over": self.over,
            **({} if self.ladder is None else self.ladder.to_record()),
        }

    def to_record(self) -> dict[str, object]:
        """The JSON form: of messages, and of what commands print."""
        return {
            "namespace": self.namespace,
            "rule": self.key,
            "version": self.version,
            "stored_at": isoformat(self.stored_at),
            "expires_at": isoformat(self.expires_at),
            **self.body(),
        }

    def to_message(self) -> dict[str, object]:
        """The JSON form with its proof."""
        return {**self.to_record(), "proof": self.proof}

    @classmethod
    def from_message(cls, value: Mapping[str, object]) -> Rule:
        """The rule of a message; raises :class:`~stem_kombu.fields.FieldError` where it is none."""
        return cls.of_body(
            value,
            namespace=text(value.get("namespace"), "namespace"),
            key=text(value.get("rule"), "rule"),
            version=whole(value.get("version"), "version", below=VERSION_LIMIT),
            stored_at=moment(value.get("stored_at"), "stored_at"),
            expires_at=moment(value.get("expires_at"), "expires_at"),
        )

    @classmethod
    def of_body(
        cls,
        body: Mapping[str, object],
        *,
        namespace: str,
        key: str,
        version: int,
        stored_at: datetime,
        expires_at: datetime | None,
    ) -> Rule:
        """The rule of a record of a store; raises :class:`~stem_kombu.fields.FieldError` where it is none."""
        if expires_at is None:
            raise FieldError("a rule has no end")
        if not (selector := Selector.from_record(body.get("selector"))):
            raise FieldError("a rule has no condition")
        return cls(
            namespace,
            key,
            version,
            stored_at,
            expires_at,
            selector,
            moment(body.get("enqueued_before"), "enqueued_before"),
            flag(body.get("terminate"), "terminate"),
            flag(body.get("undated"), "undated"),
            optional(_words, body.get("reason"), "reason"),
            optional(_words, body.get("requested_by"), "requested_by"),
            mapping(body.get("preview", {}), "preview"),
            optional(any_text, body.get("request_id"), "request_id"),
            flag(body.get("over", False), "over"),
            optional(any_text, body.get("proof"), "proof"),
            _ladder(body),
        )


def _ladder(body: Mapping[str, object]) -> Ladder | None:
    spans = [optional(number, body.get(name), name) for name in ("term_after_s", "kill_after_s")]
    try:
        return Ladder.of(*spans)
    except ConfigurationError as error:
        raise FieldError(error.message) from None


def _words(value: object, name: str) -> str:
    return text(value, name, least=0, most=TEXT_LIMIT)
