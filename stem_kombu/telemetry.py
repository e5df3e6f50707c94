"""A worker's metrics for OpenTelemetry: the series of ``docs/metrics.md``, and four of the semantic conventions for messaging.

What a worker counts anyway is read at each interval, put into the SDK's data model and sent by its OTLP exporter, so that a task
pays nothing for it. Needs the extra ``stem-kombu[otel]``; nothing imports this until it is asked for.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from opentelemetry.sdk.metrics.export import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    MetricExporter,
    MetricExportResult,
    MetricsData,
    NumberDataPoint,
    ResourceMetrics,
    ScopeMetrics,
    Sum,
)
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope

from stem_kombu import timeouts
from stem_kombu.clock import SYSTEM
from stem_kombu.control.protocol.messages import Stats
from stem_kombu.control.server.handlers.stats import stats
from stem_kombu.measures import BOUNDS
from stem_kombu.metrics import StatsCollector
from stem_kombu.transports.send_measures import SENT, Sent
from stem_kombu.version import __version__

if TYPE_CHECKING:
    from prometheus_client.core import Metric as Family

    from stem_kombu.control.server.worker_view import WorkerView

logger = logging.getLogger(__name__)

_CUMULATIVE = AggregationTemporality.CUMULATIVE
#: What the semantic conventions call a broker; others go by the name of Kombu's transport.
_SYSTEMS = {
    "amqp": "rabbitmq",
    "amqps": "rabbitmq",
    "pyamqp": "rabbitmq",
    "rediss": "redis",
    "sentinel": "redis",
    "sqs": "aws_sqs",
}
_PATH = "/v1/metrics"


class MetricReporter:
    """Sends the metrics of the worker of that ``view`` every ``interval`` seconds, and once more when it stops.

    ``endpoint`` is an OTLP receiver over HTTP, ``http://collector:4318``; ``/v1/metrics`` is added where it has no path. With
    ``by_grpc`` it is one over gRPC, ``http://collector:4317``, or ``https://`` with TLS. What tasks this process sends is counted
    from the start on. A receiver that is away is logged once, and costs nothing else.

    Raises :class:`ImportError` where the exporter is not installed.
    """

    def __init__(self, view: WorkerView, endpoint: str, *, interval: float = 60.0, by_grpc: bool = False) -> None:
        self._view = view
        self._interval = interval
        self._endpoint, self._exporter = (_over_grpc if by_grpc else _over_http)(endpoint)
        self._resource = Resource.create(
            {
                "service.name": view.identity.namespace,
                "service.instance.id": view.identity.worker,
                "service.version": __version__,
                "host.name": view.identity.hostname,
                "process.pid": view.identity.pid,
            }
        )
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._is_away = False

    def start(self) -> None:
        """Return once the first report is under way."""
        SENT.is_on = True
        self._thread = threading.Thread(target=self._run, name="stem-telemetry", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once the last report is sent, at most ``timeouts.METRICS_EXPORT`` seconds later."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(timeouts.METRICS_EXPORT)
        self._exporter.shutdown(timeout_millis=1000)

    def __enter__(self) -> MetricReporter:
        self.start()
        return self

    def __exit__(self, *failure: object) -> None:
        self.stop()

    def _run(self) -> None:
        while True:
            ends = self._ended.wait(self._interval)
            try:
                self.report()
            except Exception:
                # The thread's boundary: whatever a worker or an exporter is up to, the next report is tried.
                logger.exception("metrics can't be reported to %s", self._endpoint)
            if ends:
                return

    def report(self) -> None:
        """Send what counts now."""
        payload = stats(Stats(measures=True), self._view)
        if self._ended.is_set():  # the worker is down by now, and what is asked of it here is asked for the last time
            payload["state"] = "draining"
        found = self._exporter.export(self._data(payload), timeout_millis=timeouts.METRICS_EXPORT * 1000)
        away = found is not MetricExportResult.SUCCESS
        if away and not self._is_away:
            logger.warning("metrics do not reach %s: they are tried again every %g s", self._endpoint, self._interval)
        elif self._is_away and not away:
            logger.warning("metrics reach %s again", self._endpoint)
        self._is_away = away

    def _data(self, payload: Mapping[str, Any]) -> MetricsData:
        now = int(SYSTEM.now() * 1e9)
        started = datetime.fromisoformat(payload["started_at"].replace("Z", "+00:00"))
        metrics = data_of(payload, SENT.rows(), int(started.timestamp() * 1e9), now)
        scope = ScopeMetrics(InstrumentationScope("stem_kombu", __version__), metrics, "")
        return MetricsData([ResourceMetrics(self._resource, [scope], "")])


def _over_http(endpoint: str) -> tuple[str, MetricExporter]:
    from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter

    url = endpoint if urlsplit(endpoint).path.strip("/") else endpoint.rstrip("/") + _PATH
    _quiet("http")
    return url, OTLPMetricExporter(endpoint=url, timeout=timeouts.METRICS_EXPORT)


def _over_grpc(endpoint: str) -> tuple[str, MetricExporter]:
    from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter

    _quiet("grpc")
    plain = urlsplit(endpoint).scheme == "http"
    return endpoint, OTLPMetricExporter(endpoint=endpoint, insecure=plain, timeout=int(timeouts.METRICS_EXPORT))


def _quiet(kind: str) -> None:
    """What an exporter says of a receiver that is away, at each try, is said here once."""
    logging.getLogger(f"opentelemetry.exporter.otlp.proto.{kind}").setLevel(logging.CRITICAL)


def data_of(payload: Mapping[str, object], sent: Sequence[Sent], since: int, now: int) -> list[Metric]:
    """The metrics of a payload of ``stats`` with ``measures``, in the SDK's model; times in nanoseconds since the epoch."""
    points = _Points(since, now)
    families = StatsCollector(lambda: {None: payload}).collect()
    return [*(metric for family in families for metric in points.of(family)), *_messaging(points, payload, sent)]


class _Points:
    """Makes data points, which all begin when the worker started and end now."""

    def __init__(self, since: int, now: int) -> None:
        self._since, self._now = since, now

    def of(self, family: Family) -> Iterator[Metric]:
        """One metric, by the name that its samples have in Prometheus."""
        if family.type == "histogram":
            yield self._histogram_of(family)
            return
        name = f"{family.name}_total" if family.type == "counter" else family.name
        values = [(sample.labels, sample.value) for sample in family.samples if sample.name == name]
        unit = "s" if name.endswith("_seconds") else "1"
        yield (
            self.counter(name, family.documentation, unit, values)
            if family.type == "counter"
            else Metric(name, family.documentation, unit, Gauge(self._numbers(values)))
        )

    def counter(self, name: str, about: str, unit: str, values: Iterable[tuple[Mapping[str, str], float]]) -> Metric:
        """A sum that never goes back."""
        return Metric(name, about, unit, Sum(self._numbers(values), _CUMULATIVE, is_monotonic=True))

    def histogram(
        self, name: str, about: str, rows: Iterable[tuple[Mapping[str, str], Sequence[int], float]]
    ) -> Metric:
        """Of seconds, in the buckets of :data:`~stem_kombu.measures.BOUNDS`; counts do not add up from bucket to bucket."""
        points = [
            HistogramDataPoint(
                dict(labels), self._since, self._now, sum(counts), total, list(counts), list(BOUNDS), 0.0, 0.0
            )
            for labels, counts, total in rows
        ]
        return Metric(name, about, "s", Histogram(points, _CUMULATIVE))

    def _numbers(self, values: Iterable[tuple[Mapping[str, str], float]]) -> list[NumberDataPoint]:
        return [NumberDataPoint(dict(labels), self._since, self._now, float(value)) for labels, value in values]

    def _histogram_of(self, family: Family) -> Metric:
        sums: dict[tuple[tuple[str, str], ...], float] = {}
        buckets: dict[tuple[tuple[str, str], ...], list[float]] = defaultdict(list)
        for sample in family.samples:
            key = tuple((name, value) for name, value in sample.labels.items() if name != "le")
            if sample.name.endswith("_bucket"):
                buckets[key].append(sample.value)
            elif sample.name.endswith("_sum"):
                sums[key] = sample.value
        rows = (
            (dict(key), [int(upper - lower) for lower, upper in zip([0.0, *counts], counts, strict=False)], sums[key])
            for key, counts in buckets.items()
        )
        return self.histogram(family.name, family.documentation, rows)


def _messaging(points: _Points, payload: Mapping[str, Any], sent: Sequence[Sent]) -> list[Metric]:
    """The four metrics of the semantic conventions for messaging clients."""
    system = str(payload["transport"])
    system = _SYSTEMS.get(system, system)
    measures = payload["measures"]

    def labels(operation: str, queue: str, error: str | None = None) -> dict[str, str]:
        held = {
            "messaging.system": system,
            "messaging.operation.name": operation,
            "messaging.destination.name": queue,
        }
        return held if error is None else {**held, "error.type": error}

    received: dict[str, int] = defaultdict(int)
    for row in measures["tasks"]:
        received[row["queue"]] += row["received"]
    consumed = [(labels("receive", queue), float(count)) for queue, count in received.items()]
    sends = [(labels("send", one.queue, one.error), float(one.messages)) for one in sent]
    durations = [(labels("send", one.queue, one.error), *_spans(one.durations)) for one in sent]
    processed = [
        (labels("process", queue, error), counts, total)
        for (queue, error), (counts, total) in _processed(measures["durations"]).items()
    ]
    return [
        points.histogram("messaging.process.duration", "Duration of processing operation.", processed),
        points.counter(
            "messaging.client.consumed.messages",
            "Number of messages that were delivered to the application.",
            "{message}",
            consumed,
        ),
        points.counter(
            "messaging.client.sent.messages",
            "Number of messages producer attempted to send to the broker.",
            "{message}",
            sends,
        ),
        points.histogram(
            "messaging.client.operation.duration",
            "Duration of messaging operation initiated by a producer or consumer client.",
            durations,
        ),
    ]


def _processed(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str | None], tuple[list[int], float]]:
    """Durations by queue, those of failed attempts apart: which class of error it was is not kept."""
    found: dict[tuple[str, str | None], tuple[list[int], float]] = {}

    def add(queue: str, error: str | None, counts: Sequence[int], total: float) -> None:
        held, so_far = found.get((queue, error)) or ([0] * len(counts), 0.0)
        found[queue, error] = [a + b for a, b in zip(held, counts, strict=True)], so_far + total

    for row in rows:
        counts, total = _spans(row)
        failed, failed_total = _spans(row["failed"]) if "failed" in row else ([0] * len(counts), 0.0)
        if any(failed):
            add(row["queue"], "_OTHER", failed, failed_total)
        if (well := [a - b for a, b in zip(counts, failed, strict=True)]) and any(well):
            add(row["queue"], None, well, max(0.0, total - failed_total))
    return found


def _spans(held: Mapping[str, Any]) -> tuple[list[int], float]:
    return list(held["counts"]), float(held["sum_s"])
