"""``/livez``, ``/readyz`` and ``/metrics`` of a worker over HTTP (``worker start --health-listen``)."""

from __future__ import annotations

from collections.abc import Callable

from stem_kombu.clock import monotonic
from stem_kombu.health_page import Health, Page, health_of
from stem_kombu_cli.http_server import Answer, HttpServer
from stem_kombu_cli.metrics_page import no_metrics
from stem_kombu_cli.stem_health import document


class HealthServer(HttpServer):
    """``read()`` is the page of the worker's health file as it stands, ``metrics(accept)`` what is answered at ``/metrics``."""

    def __init__(
        self, address: tuple[str, int], read: Callable[[], Page], metrics: Callable[[str], Answer] = no_metrics
    ) -> None:
        self._read = read
        routes = {"/livez": self._live, "/readyz": self._ready, "/metrics": metrics}
        super().__init__(address, routes, option="--health-listen")

    def _live(self, accept: str) -> Answer:
        health = self._health()
        return 200 if health.live else 503, "application/json", document(health).encode()

    def _ready(self, accept: str) -> Answer:
        health = self._health()
        return 200 if health.ready else 503, "application/json", document(health).encode()

    def _health(self) -> Health:
        return health_of(self._read(), monotonic())
