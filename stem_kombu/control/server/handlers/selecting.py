"""``select``: which tasks that are here match a selector; ``rules``: obey what the store holds already."""

from __future__ import annotations

from collections import Counter

from stem_kombu.control.protocol.messages import Rules, Select
from stem_kombu.control.server.worker_view import WorkerView
from stem_kombu.control.verification import Verifier


def select(order: Select, view: WorkerView) -> dict[str, object]:
    """Counts by phase (``running``, ``reserved``, ``held``), how many have no time of sending, and the tasks: id, attempt, phase,
    whether its sender wrote the time, and the seconds for which it has run."""
    found = [
        task
        for task in view.selected(order.selector, order.before)
        if order.longer_than is None or (task.runtime is not None and task.runtime >= order.longer_than)
    ]
    counts = Counter(task.phase for task in found)
    return {
        **{phase: counts[phase] for phase in ("running", "reserved", "held")},
        "undated": sum(not task.dated for task in found),
        "tasks": [
            [task.id, task.attempt, task.phase, task.dated, task.runtime and round(task.runtime, 3)]
            for task in found[: order.limit]
        ],
    }


def rules(order: Rules, view: WorkerView, trust: Verifier) -> dict[str, object]:
    """The versions of those that count here now, and of those that no permitted key has signed."""
    own = [rule for rule in order.rules if rule.namespace == view.identity.namespace]
    mine, refused = trust.proven_rules(own)
    return {"applied": list(view.apply_rules(mine)), "refused": [rule.version for rule in refused]}
