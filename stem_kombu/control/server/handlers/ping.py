"""``ping``: who I am and how I stand."""

from __future__ import annotations

from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.control.protocol.messages import Ping
from stem_kombu.control.server.worker_view import WorkerView


def ping(order: Ping, view: WorkerView) -> dict[str, object]:
    """The payload of ``spec/cli.md``."""
    who, facts = view.identity, view.standing()
    return {
        "timestamp": isoformat(SYSTEM.utcnow()),
        "hostname": who.hostname,
        "pid": who.pid,
        "version": who.version,
        "state": facts.state,
        "uptime_s": round(facts.uptime, 3),
        "concurrency": facts.concurrency,
        "in_flight": facts.in_flight,
        "slots": facts.slots,
        "queues": sorted(facts.queues),
        "consuming": facts.consuming,
        **({"paused": sorted(facts.paused)} if facts.paused else {}),
        **({"conflict": facts.conflict} if facts.conflict is not None else {}),
    }
