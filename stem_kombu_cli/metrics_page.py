"""``/metrics`` of a worker: made when it is asked for, and a clear answer where ``prometheus_client`` is not installed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from stem_kombu_cli.http_server import Answer

if TYPE_CHECKING:
    from stem_kombu.control.server.worker_view import WorkerView

#: What is missing, and what to do.
WITHOUT_EXTRA = "metrics need prometheus_client, which is not installed here"
HINT = "pip install 'stem-kombu[metrics]'"


def no_metrics(accept: str) -> Answer:
    """The answer where there is no ``prometheus_client``."""
    return 501, "text/plain; charset=utf-8", f"{WITHOUT_EXTRA}: {HINT}\n".encode()


def metrics_of(view: WorkerView) -> Callable[[str], Answer]:
    """What is answered at ``/metrics`` of that worker, given the header ``Accept``. One scrape at a time asks the broker for
    depths; others wait for their turn."""
    turn = threading.Lock()

    def answer(accept: str) -> Answer:
        try:
            from stem_kombu.metrics import StatsCollector, exposition
        except ImportError:
            return no_metrics(accept)
        with turn:
            return 200, *exposition(StatsCollector.of_worker(view), accept)

    return answer
