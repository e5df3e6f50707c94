"""What a command comes back with: who answered, who did not, and what happened.

``to_dict()`` is the JSON of ``spec/cli.md`` §3, to which fields may be added and from which none may go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from datetime import datetime
from typing import Any

from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.bound import bounds_shown
from stem_kombu.clock import isoformat
from stem_kombu.control.client.verdicts import TaskVerdict
from stem_kombu.control.protocol.messages import ReplyError
from stem_kombu.errors import BrokerError
from stem_kombu.ladder import ladder_of
from stem_kombu.revocation import Revocation

SCHEMA = "stem.control/1"


@dataclass(frozen=True, slots=True)
class WorkerReply:
    """One worker's answer. ``rtt`` is in seconds; ``payload`` has the fields of ``spec/cli.md``, empty with an error."""

    worker: str
    rtt: float
    payload: Mapping[str, Any]
    error: ReplyError | None = None

    @property
    def status(self) -> str:
        return "ok" if self.error is None else "error"

    def to_dict(self) -> dict[str, Any]:
        return {
            "worker": self.worker,
            "status": self.status,
            "rtt_s": round(self.rtt, 6),
            "payload": dict(self.payload),
            "error": None if self.error is None else {"code": self.error.code, "message": self.error.message},
        }


@dataclass(frozen=True, slots=True)
class Report:
    """A command's outcome. ``expected`` and ``silent`` are sorted worker ids, ``replies`` are sorted by worker; spans in
    seconds. ``notes`` are sentences for people about what could not be known (a roster that is down)."""

    command: str
    namespace: str
    request_id: str
    timeout: float
    elapsed: float
    expected: tuple[str, ...]
    silent: tuple[str, ...]
    replies: tuple[WorkerReply, ...]
    notes: tuple[str, ...] = ()
    #: Targets that no roster entry matches and nobody answered for.
    unknown: tuple[str, ...] = ()
    #: How many replies were not believed, by reason, where there are keys.
    untrusted: Mapping[str, int] = field(default_factory=dict)
    #: Worker ids that two live processes have, each with the other process in words: the answer is of one of them.
    conflicts: Mapping[str, str] = field(default_factory=dict)
    #: Whether the audit has an entry of it; ``None`` for a command that changes nothing.
    audited: bool | None = None

    @property
    def complete(self) -> bool:
        """Everyone expected answered, and at least one did, and each of them is one process."""
        return not self.silent and bool(self.replies) and not self.conflicts

    @property
    def failed(self) -> tuple[WorkerReply, ...]:
        """Answers with an error."""
        return tuple(reply for reply in self.replies if reply.error is not None)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "command": self.command,
            "namespace": self.namespace,
            "request_id": self.request_id,
            "timeout_s": self.timeout,
            "elapsed_s": round(self.elapsed, 6),
            "complete": self.complete,
            "expected": list(self.expected),
            "silent": list(self.silent),
            "replies": [reply.to_dict() for reply in self.replies],
            "notes": list(self.notes),
            **({"untrusted": dict(self.untrusted)} if self.untrusted else {}),
            **({"conflicts": dict(self.conflicts)} if self.conflicts else {}),
            **({} if self.audited is None else {"audited": self.audited}),
        }


@dataclass(frozen=True, slots=True)
class RevokeReport(Report):
    """``stored`` is what the store holds now. ``broadcast`` is false when it is stored but the broker could not be reached:
    ``broker_error`` says why, and workers that accept it honour it at their next sync. ``durable`` is false where the fleet
    has no revoke store: then only the workers that have answered hold it, and only while they live."""

    stored: tuple[Revocation, ...] = ()
    broadcast: bool = True
    broker_error: str | None = None
    durable: bool = True
    #: One for each stored revocation, where they were waited for.
    verdicts: tuple[TaskVerdict, ...] | None = None

    @classmethod
    def of(cls, report: Report, stored: Sequence[Revocation]) -> RevokeReport:
        """The report of the broadcast, and what was stored before it."""
        return cls(**{one.name: getattr(report, one.name) for one in fields(Report)}, stored=tuple(stored))

    @classmethod
    def unsent(
        cls, stored: Sequence[Revocation], error: BrokerError, namespace: str, request_id: str, timeout: float
    ) -> RevokeReport:
        """What was stored and could not be broadcast, because of ``error``."""
        return cls(
            "revoke", namespace, request_id, timeout, 0.0, (), (), (),
            stored=tuple(stored), broadcast=False, broker_error=str(error),
        )  # fmt: skip

    def to_dict(self) -> dict[str, Any]:
        return {
            # Named, because a dataclass with slots is another class than the one that super() would look for.
            **Report.to_dict(self),
            "stored": [_stored(revocation) for revocation in self.stored],
            "broadcast": self.broadcast,
            "broker_error": self.broker_error,
            **({} if self.durable else {"durable": False}),
            **({} if self.verdicts is None else {"verdicts": [verdict.to_dict() for verdict in self.verdicts]}),
        }


def _stored(revocation: Revocation) -> dict[str, object]:
    ladder = ladder_of(revocation, revocation.issued_at)
    return revocation.to_record() | ({} if ladder is None else ladder.to_record()) | bounds_shown(revocation)


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker by its last beat. ``age`` is in seconds."""

    heartbeat: Heartbeat
    liveness: Liveness
    age: float

    @classmethod
    def at(cls, heartbeat: Heartbeat, now: datetime) -> WorkerStatus:
        return cls(heartbeat, heartbeat.liveness(now), heartbeat.age(now))

    def to_dict(self) -> dict[str, Any]:
        beat = self.heartbeat
        return {
            "worker": beat.worker,
            "state": self.liveness.value,
            "age_s": round(self.age, 3),
            "interval_s": beat.interval,
            "hostname": beat.hostname,
            "pid": beat.pid,
            "version": beat.version,
            "in_flight": beat.in_flight,
            "concurrency": beat.concurrency,
            **({"slots": beat.slots} if beat.slots else {}),
            "queues": list(beat.queues),
            "rss_bytes": beat.rss_bytes,
            "load_avg": beat.load_avg,
            "totals": dict(beat.totals),
            "timestamp": None if beat.timestamp is None else isoformat(beat.timestamp),
            **({"conflict": beat.conflict} if beat.conflict is not None else {}),
            **({"directives": beat.directives} if beat.directives is not None else {}),
            **({"ignores_directives": True} if beat.ignores_directives else {}),
            **({"paused": list(beat.paused)} if beat.paused else {}),
        }


@dataclass(frozen=True, slots=True)
class StatusReport:
    """The workers of a namespace, sorted by id. ``listened`` says that there was no roster to read and that beats were
    listened for instead, for that many seconds."""

    namespace: str
    workers: tuple[WorkerStatus, ...]
    listened: float | None = None
    #: How many heartbeats were not believed, by reason, where there are keys.
    untrusted: Mapping[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        return {
            "schema": SCHEMA,
            "namespace": self.namespace,
            "listened_s": self.listened,
            "workers": [worker.to_dict() for worker in self.workers],
            **({"untrusted": dict(self.untrusted)} if self.untrusted else {}),
        }
