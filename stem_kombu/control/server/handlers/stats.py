"""``stats``: counters, queue depths, pool and metadata."""

from __future__ import annotations

import collections
from collections.abc import Sequence

from stem_kombu.clock import SYSTEM, isoformat
from stem_kombu.control.protocol.messages import Stats
from stem_kombu.control.server.handlers.directives import settings_payload
from stem_kombu.control.server.worker_view import WaitingOutcome, WorkerFacts, WorkerView


def stats(order: Stats, view: WorkerView) -> dict[str, object]:
    """The payload of ``spec/cli.md``, ``bounds``: the spans that the guarantees depend on, ``dropped``: what was not
    obeyed or believed, by door and reason, ``settling``: outcomes that are not carried out yet, and ``troubles``: what fails
    just now, by part. Asks the broker for depths. With ``measures``, ``measures`` and ``totals`` are of one moment."""
    who, facts = view.identity, view.facts()
    measured = view.measures() if order.measures else {}
    depths, held = view.queue_depths(), view.revocations()
    return {
        "timestamp": isoformat(SYSTEM.utcnow()),
        "namespace": who.namespace,
        "hostname": who.hostname,
        "pid": who.pid,
        "version": who.version,
        "started_at": isoformat(who.started_at),
        "uptime_s": round(facts.uptime, 3),
        "state": facts.state,
        "concurrency": facts.concurrency,
        "prefetch": facts.prefetch,
        "in_flight": facts.in_flight,
        "reserved": facts.reserved,
        "queues": {
            name: {
                "depth": depths.get(name),
                "consuming": consuming,
                **({"paused_by": facts.paused[name]} if name in facts.paused else {}),
            }
            for name, consuming in sorted(facts.queues.items())
        },
        "totals": dict(measured.pop("totals", facts.totals)),
        "settling": _settling(facts, view.waiting_outcomes()),
        "troubles": dict(facts.troubles),
        "dropped": {door: dict(reasons) for door, reasons in facts.dropped.items()},
        "slots": {mode: dict(states) for mode, states in facts.slots.items()},
        "pool": [
            {
                "slot": slot.slot,
                "pid": slot.pid,
                "state": slot.state,
                "task_id": slot.task_id,
                "tasks_done": slot.tasks_done,
                "rss_bytes": slot.rss_bytes,
            }
            for slot in facts.pool
        ],
        "rss_bytes": facts.rss_bytes,
        "load_avg": facts.load_avg,
        "broker": facts.broker,
        "backend": facts.backend,
        "revoke_store": facts.revoke_store,
        "transport": facts.transport,
        "control_link": facts.control_link,
        "revoked_count": held.count,
        "set_aside": {"revoke_store": len(held.set_aside)},
        "heartbeat_interval_s": facts.heartbeat_interval,
        "bounds": dict(facts.bounds),
        "restarts": dict(facts.restarts),
        "directives": facts.directives,
        "settings": settings_payload(view),
        **({"measures": measured} if measured else {}),
    }


def _settling(facts: WorkerFacts, waiting: Sequence[WaitingOutcome]) -> dict[str, object]:
    return {
        "count": facts.settling,
        "waiting": dict(collections.Counter(outcome.step for outcome in waiting)),
        "oldest_s": round(waiting[0].waited, 3) if waiting else None,
        "error": waiting[0].error if waiting else None,
        "not_storable": facts.not_storable,
    }
