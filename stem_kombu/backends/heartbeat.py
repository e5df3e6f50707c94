"""A worker's heartbeat: what it says of itself, and how its age is judged.

The interval travels in the beat, so that a reader judges each worker by its own promise.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import Enum
from typing import Any

from stem_kombu.backends.processes import Process
from stem_kombu.clock import isoformat, parse_isoformat

#: Intervals without a beat after which a worker is called stale, then dead (spec/cli.md, status).
STALE_AFTER = 3.0
DEAD_AFTER = 6.0
#: Seconds for which a roster keeps a dead worker's entry beyond that, so that an operator can still see it die.
ENTRY_MARGIN = 60.0
#: Characters of a text, and queues or totals, of one beat.
_LONGEST_TEXT, _MOST = 512, 10_000


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
    details_signature: str | None = None

    @property
    def lifetime(self) -> float:
        """Seconds after which a roster forgets this beat."""
        return self.interval * DEAD_AFTER + ENTRY_MARGIN

    def age(self, now: datetime) -> float:
        """Seconds since the beat at ``now`` (the roster's now), never negative."""
        return 0.0 if self.timestamp is None else max(0.0, (now - self.timestamp).total_seconds())

    def liveness(self, now: datetime) -> Liveness:
        """Live (or draining) within three intervals, stale within six, dead after."""
        intervals = self.age(now) / self.interval
        if intervals > DEAD_AFTER:
            return Liveness.DEAD
        if intervals > STALE_AFTER:
            return Liveness.STALE
        return Liveness.DRAINING if self.state == "draining" else Liveness.LIVE

    def holds_its_id(self, now: datetime) -> bool:
        """Whether nobody else may take the worker id: the beat is neither stale nor dead (draining counts as holding)."""
        return self.liveness(now) in {Liveness.LIVE, Liveness.DRAINING}

    def blocks(self, other: Heartbeat, now: datetime, dead: Heartbeat | None) -> bool:
        """Whether this entry keeps the worker id from another boot; not while it is just as ``dead`` was seen."""
        known_dead = dead is not None and (dead.boot, dead.timestamp) == (self.boot, self.timestamp)
        return self.boot != other.boot and self.holds_its_id(now) and not known_dead

    def to_record(self) -> dict[str, Any]:
        """The JSON form that rosters keep and the heartbeat stream carries."""
        record = {
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

    def details(self) -> dict[str, Any]:
        """What of the JSON form Stem 0.1.0 does not know."""
        found = {
            "process": None if self.process is None else self.process.to_record(),
            "conflict": self.conflict,
            "details_signature": self.details_signature,
        }
        return {name: value for name, value in found.items() if value is not None}

    @classmethod
    def from_record(cls, record: Mapping[str, Any], *, timestamp: datetime | None = None) -> Heartbeat:
        """The heartbeat of a JSON form, with ``timestamp`` instead of its own where that is given.

        Raises ``ValueError``, ``KeyError`` or ``TypeError`` when it isn't one: a field is missing, of another type, or
        no value that a worker can have. What is read here is shown to people and steers who is asked.
        """
        interval = _number(record["interval_s"], "interval_s")
        if not 0 < interval < 1e9:
            raise ValueError(f"interval {interval!r} is not a span of time")
        rss, load = record.get("rss_bytes"), record.get("load_avg")
        if timestamp is None and (written := record.get("timestamp")) is not None:
            timestamp = parse_isoformat(_text(written, "timestamp"))
        queues, totals = record["queues"], record["totals"]
        if not isinstance(queues, list) or not isinstance(totals, dict) or max(len(queues), len(totals)) > _MOST:
            raise ValueError("queues and totals are not a list and an object of some names")
        issued, signature = record.get("issued_at"), record.get("signature")
        pid, process = _whole(record["pid"], "pid"), record.get("process")
        conflict, details_signature = record.get("conflict"), record.get("details_signature")
        return cls(
            namespace=_text(record["namespace"], "namespace"),
            worker=_text(record["worker"], "worker"),
            boot=_text(record["boot"], "boot"),
            inbox=_text(record["inbox"], "inbox"),
            interval=interval,
            hostname=_text(record["hostname"], "hostname", least=0),
            pid=pid,
            version=_text(record["version"], "version", least=0),
            state=_text(record["state"], "state"),
            concurrency=_whole(record["concurrency"], "concurrency"),
            in_flight=_whole(record["in_flight"], "in_flight"),
            queues=tuple(_text(queue, "a queue") for queue in queues),
            rss_bytes=None if rss is None else _whole(rss, "rss_bytes"),
            load_avg=None if load is None else _number(load, "load_avg"),
            uptime=_number(record["uptime_s"], "uptime_s"),
            totals={_text(name, "a total"): _whole(count, "a total") for name, count in totals.items()},
            timestamp=timestamp,
            issued_at=None if issued is None else parse_isoformat(_text(issued, "issued_at")),
            signature=None if signature is None else _text(signature, "signature"),
            process=Process.from_record(process, pid) if isinstance(process, dict) else None,
            conflict=None if conflict is None else _text(conflict, "conflict"),
            details_signature=None if details_signature is None else _text(details_signature, "details_signature"),
        )


def _text(value: object, name: str, *, least: int = 1) -> str:
    if not isinstance(value, str) or not least <= len(value) <= _LONGEST_TEXT:
        raise ValueError(f"{name} {str(value)[:40]!r} is not text of {least} to {_LONGEST_TEXT} characters")
    value.encode()  # half a surrogate pair is a ValueError as well
    return value


def _whole(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} {str(value)[:40]!r} is not a whole number")
    return value


def _number(value: object, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e15:
        raise ValueError(f"{name} {str(value)[:40]!r} is not a number of at least 0")
    return float(value)
