"""A worker's heartbeat: what it tells about the worker, and how its age is judged.

The interval travels in the beat, so that a reader judges each worker by its own promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum

from stem_kombu import timeouts
from stem_kombu.backends.processes import Process
from stem_kombu.clock import isoformat
from stem_kombu.fields import MOST_ITEMS, FieldError, flag, items, mapping, moment, number, optional, text, whole

#: Seconds between two beats are at most so many.
_LONGEST_INTERVAL = 1e9


class Liveness(str, Enum):
    LIVE = "live"
    DRAINING = "draining"
    STALE = "stale"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """One beat. ``boot`` tells two lives of the same worker id apart; ``inbox`` is the queue that reaches this worker
    alone; ``timestamp`` is set by the roster when it keeps the beat (aware UTC), before that by the worker.

    ``state`` is ``running`` or ``draining``. ``interval`` and ``uptime`` are seconds, ``rss_bytes`` bytes (``None``
    where the platform can't tell), ``load_avg`` the machine's one-minute load average. ``totals`` are the counters of
    ``stats``.
    """

    namespace: str
    worker: str
    boot: str
    inbox: str
    interval: float
    hostname: str
    pid: int
    version: str
    state: str = "running"
    concurrency: int = 0
    in_flight: int = 0
    queues: tuple[str, ...] = ()
    rss_bytes: int | None = None
    load_avg: float | None = None
    uptime: float = 0.0
    totals: Mapping[str, int] = field(default_factory=dict)
    timestamp: datetime | None = None
    #: Where the fleet has keys: when the worker made it, by the roster's clock, and its signature.
    issued_at: datetime | None = None
    signature: str | None = None
    #: The process that wrote it, where its system tells, and the other live worker that it found under its own id, in words.
    #: Stem 0.1.0 knows neither, so that they have a signature of their own.
    process: Process | None = None
    conflict: str | None = None
    #: The highest version of a directive that it knows (``None``: it is too old to know any), whether it obeys none, and the
    #: queues that it has paused.
    directives: int | None = None
    ignores_directives: bool = False
    paused: tuple[str, ...] = ()
    #: How many places for handlers are ``running`` and ``idle``, by mode (``isolate``, ``inline``); empty: it is too old to tell.
    slots: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    details_signature: str | None = None

    @property
    def lifetime(self) -> float:
        """Seconds after which a roster forgets this beat."""
        return self.interval * timeouts.DEAD_INTERVALS + timeouts.ROSTER_ENTRY_MARGIN

    def age(self, now: datetime) -> float:
        """Seconds since the beat at ``now`` (the roster's now), never negative."""
        return 0.0 if self.timestamp is None else max(0.0, (now - self.timestamp).total_seconds())

    def liveness(self, now: datetime) -> Liveness:
        """Live (or draining) within three intervals, stale within six, dead after."""
        intervals = self.age(now) / self.interval
        if intervals > timeouts.DEAD_INTERVALS:
            return Liveness.DEAD
        if intervals > timeouts.STALE_INTERVALS:
            return Liveness.STALE
        return Liveness.DRAINING if self.state == "draining" else Liveness.LIVE

    def holds_its_id(self, now: datetime) -> bool:
        """Whether no other worker may take the worker id: the beat is neither stale nor dead (draining counts as holding)."""
        return self.liveness(now) in {Liveness.LIVE, Liveness.DRAINING}

    def blocks(self, other: Heartbeat, now: datetime, dead: Heartbeat | None) -> bool:
        """Whether this entry keeps the worker id from another boot; not while it is just as ``dead`` was seen."""
        known_dead = dead is not None and (dead.boot, dead.timestamp) == (self.boot, self.timestamp)
        return self.boot != other.boot and self.holds_its_id(now) and not known_dead

    def to_record(self) -> dict[str, object]:
        """The JSON form that rosters keep and the heartbeat stream carries."""
        record: dict[str, object] = {
            "namespace": self.namespace,
            "worker": self.worker,
            "boot": self.boot,
            "inbox": self.inbox,
            "interval_s": self.interval,
            "hostname": self.hostname,
            "pid": self.pid,
            "version": self.version,
            "state": self.state,
            "concurrency": self.concurrency,
            "in_flight": self.in_flight,
            "queues": list(self.queues),
            "rss_bytes": self.rss_bytes,
            "load_avg": self.load_avg,
            "uptime_s": self.uptime,
            "totals": dict(self.totals),
            "timestamp": None if self.timestamp is None else isoformat(self.timestamp),
        }
        if self.issued_at is not None:
            record |= {"issued_at": isoformat(self.issued_at), "signature": self.signature}
        return record | self.details()

    def details(self) -> dict[str, object]:
        """What of the JSON form Stem 0.1.0 does not know."""
        found = {
            "process": None if self.process is None else self.process.to_record(),
            "conflict": self.conflict,
            "directives": self.directives,
            "ignores_directives": self.ignores_directives or None,
            "paused": list(self.paused) or None,
            "slots": {mode: dict(states) for mode, states in self.slots.items()} or None,
            "details_signature": self.details_signature,
        }
        return {name: value for name, value in found.items() if value is not None}

    def without_details(self) -> Heartbeat:
        """The beat with nothing that Stem 0.1.0 does not know."""
        return replace(
            self,
            process=None,
            conflict=None,
            directives=None,
            ignores_directives=False,
            paused=(),
            slots={},
            details_signature=None,
        )

    @classmethod
    def from_record(cls, record: object, *, timestamp: datetime | None = None) -> Heartbeat:
        """The heartbeat of a JSON form, with ``timestamp`` instead of its own where that is given.

        Raises :class:`~stem_kombu.fields.FieldError` naming the field that is missing, of another type, or no value that a
        worker can have: people read the values, and commands are sent to the workers that they name.
        """
        fields = mapping(record, "a heartbeat")
        interval = number(fields.get("interval_s"), "interval_s", most=_LONGEST_INTERVAL)
        if not interval:
            raise FieldError("interval_s is 0")
        if timestamp is None:
            timestamp = optional(moment, fields.get("timestamp"), "timestamp")
        queues, totals = items(fields.get("queues"), "queues"), mapping(fields.get("totals"), "totals", most=MOST_ITEMS)
        pid, process = whole(fields.get("pid"), "pid"), fields.get("process")
        return cls(
            namespace=text(fields.get("namespace"), "namespace"),
            worker=text(fields.get("worker"), "worker"),
            boot=text(fields.get("boot"), "boot"),
            inbox=text(fields.get("inbox"), "inbox"),
            interval=interval,
            hostname=text(fields.get("hostname"), "hostname", least=0),
            pid=pid,
            version=text(fields.get("version"), "version", least=0),
            state=text(fields.get("state"), "state"),
            concurrency=whole(fields.get("concurrency"), "concurrency"),
            in_flight=whole(fields.get("in_flight"), "in_flight"),
            queues=tuple(text(queue, "a queue") for queue in queues),
            rss_bytes=optional(whole, fields.get("rss_bytes"), "rss_bytes"),
            load_avg=optional(number, fields.get("load_avg"), "load_avg"),
            uptime=number(fields.get("uptime_s"), "uptime_s"),
            totals={text(name, "a total"): whole(count, "a total") for name, count in totals.items()},
            timestamp=timestamp,
            issued_at=optional(moment, fields.get("issued_at"), "issued_at"),
            signature=optional(text, fields.get("signature"), "signature"),
            process=Process.from_record(process, pid) if isinstance(process, dict) else None,
            conflict=optional(text, fields.get("conflict"), "conflict"),
            directives=optional(whole, fields.get("directives"), "directives"),
            ignores_directives=flag(fields.get("ignores_directives", False), "ignores_directives"),
            paused=tuple(text(queue, "a paused queue") for queue in items(fields.get("paused", []), "paused")),
            slots=_slots(fields.get("slots", {})),
            details_signature=optional(text, fields.get("details_signature"), "details_signature"),
        )


def _slots(value: object) -> dict[str, dict[str, int]]:
    return {
        text(mode, "a mode of slots"): {
            text(state, "a state of slots"): whole(count, "a count of slots")
            for state, count in mapping(states, "slots of a mode", most=MOST_ITEMS).items()
        }
        for mode, states in mapping(value, "slots", most=MOST_ITEMS).items()
    }
