"""Fleets as a look may find them."""

from __future__ import annotations

from stem_kombu_cli.top.model import Snapshot, Tab


def snapshot(workers: int = 2, tasks: int = 5) -> Snapshot:
    """So many workers, and so many tasks in turn on them; three queues, one of them paused by the one directive."""
    each = tasks // workers if workers else 0
    return Snapshot(
        "shop",
        "redis://:***@broker/0",
        "2026-07-01T12:00:00.000000Z",
        {
            Tab.WORKERS: [
                {
                    "worker": f"worker-{number}",
                    "state": "live",
                    "age_s": 1.5,
                    "hostname": "host-a",
                    "pid": 4711 + number,
                    "version": "0.2.0",
                    "in_flight": each,
                    "concurrency": 32,
                    "slots": {"isolate": {"running": 20, "idle": 12}, "inline": {"running": 0, "idle": 16}},
                    "queues": ["mail", "images"],
                    "rss_bytes": 81_000_000,
                }
                for number in range(workers)
            ],
            Tab.TASKS: [
                {
                    "id": f"task-{number}",
                    "name": "images.render",
                    "queue": "images",
                    "mode": "isolate",
                    "attempt": 1,
                    "args": "'a.png'",
                    "runtime_s": 0.5 * (number * 7919 % 1000),
                    "progress": 0.25,
                    "checkpoint_s_ago": None,
                    "terminate_requested_s_ago": None,
                    "worker": f"worker-{number % max(1, workers)}",
                }
                for number in range(tasks)
            ],
            Tab.QUEUES: [
                {
                    "name": "mail",
                    "depth": 4000,
                    "oldest_s": 60.0,
                    "consumers": ["worker-0"],
                    "count": 1,
                    "paused": "by ops",
                },
                {"name": "images", "depth": 0, "oldest_s": None, "consumers": ["worker-0"], "count": 1, "paused": None},
                {"name": "typo", "depth": None, "oldest_s": None, "consumers": [], "count": 0, "paused": None},
            ],
            Tab.DIRECTIVES: [
                {
                    "version": 12,
                    "kind": "pause",
                    "subject": "queue mail",
                    "workers": "*",
                    "value": "paused",
                    "age_s": 3700.0,
                    "ends_in_s": None,
                    "requested_by": "ops@desk",
                    "reason": "INC-42",
                }
            ],
        },
    )
