"""``revoke``: take what the store holds already, tell running tasks to stop, and say what came of it.

The store isn't written here: the client did that before it spoke (G1).
"""

from __future__ import annotations

from typing import Any

from stem_kombu.control.base import WorkerView
from stem_kombu.control.messages import Revoke


def revoke(order: Revoke, view: WorkerView) -> dict[str, Any]:
    """The payload of ``spec/cli.md``, and ``finished``: ids that ended otherwise than cancelled, with how.

    Waits at most the order's settle budget for tasks that were told to stop.
    """
    mine = [revocation for revocation in order.revocations if revocation.namespace == view.identity.namespace]
    ids = [revocation.task_id for revocation in mine]
    running = view.running(ids)
    applied = view.apply(mine)
    told = running & {revocation.task_id for revocation in mine if revocation.terminate}
    endings = view.wait_ended(told, order.settle) if told else {}
    return {
        "applied": list(applied.applied),
        "stale": list(applied.stale),
        "expired": list(applied.expired),
        "in_flight": sorted(running),
        "terminated": sorted(task_id for task_id, ending in endings.items() if ending in ("cancelled", "settling")),
        "pending": sorted(told - endings.keys()),
        "finished": [
            {"id": task_id, "state": ending}
            for task_id, ending in sorted(endings.items())
            if ending not in ("cancelled", "settling")
        ],
    }
