"""``shutdown``: begin to stop, and say how. The answer leaves before the end (G33)."""

from __future__ import annotations

from stem_kombu.control.protocol.messages import Shutdown
from stem_kombu.control.server.worker_view import WorkerView


def shutdown(order: Shutdown, view: WorkerView) -> dict[str, object]:
    """The mode in force, what was before, how many tasks run, and with which code the worker's process will end."""
    in_flight = view.standing().in_flight
    standing = view.shut_down(order)
    return {"mode": standing.mode, "was": standing.was, "in_flight": in_flight, "exit_code": standing.exit_code}
