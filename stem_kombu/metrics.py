"""Metrics for Prometheus, of one worker or of a fleet: what workers answer to ``stats``, as ``prometheus_client`` writes it.

The names and labels are those of ``docs/metrics.md``. It needs the extra ``stem-kombu[metrics]``, and nothing imports it
until metrics are asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from itertools import accumulate
from typing import TYPE_CHECKING, Any, TypeAlias

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from stem_kombu.control.protocol.messages import Stats
from stem_kombu.control.server.handlers.stats import stats

if TYPE_CHECKING:
    from stem_kombu.control.server.worker_view import WorkerView

logger = logging.getLogger(__name__)

#: Payloads of ``stats`` with ``measures``, by worker id; the one key ``None`` where no series names a worker.
Payloads: TypeAlias = Mapping[str | None, Mapping[str, object]]

_OUTCOMES = ("succeeded", "failed", "retried", "cancelled")


class StatsCollector(Collector):
    """Gives a registry what ``read()`` returns, asked anew for each scrape: what has left is gone with the next one.

    ``labelled``: each series names its worker. A payload that is empty is of a worker that was expected and did not answer.
    """

    def __init__(self, read: Callable[[], Payloads], *, labelled: bool = False) -> None:
        self._read = read
        self._labels = ("worker",) if labelled else ()
        self._states = ("running", "draining", "silent") if labelled else ("running", "draining")

    @classmethod
    def of_worker(cls, view: WorkerView) -> StatsCollector:
        """Of a worker in this process, for its ``view``; asks the broker for depths at each scrape."""
        return cls(lambda: {None: stats(Stats(measures=True), view)})

    def describe(self) -> list[Metric]:
        """Nothing: a registry that takes this collector must not ask a fleet for it."""
        return []

    def collect(self) -> Iterator[Metric]:
        families = _Families(self._labels)
        for worker, payload in self._read().items():
            who = () if worker is None else (worker,)
            now = payload.get("state", "silent")
            for state in self._states:
                help = "1 for the state that the worker is in."
                families.gauge("stem_worker_state", help, who, state == now, state=state)
            try:
                if payload:
                    _add_worker(families, who, payload)
            except (KeyError, TypeError, ValueError, AttributeError):
                # A worker of another version must not hide the others; what could be read of it stays.
                logger.warning("metrics of worker %s can't be read", worker, exc_info=True)
        yield from families.all()


def exposition(collector: StatsCollector, accept: str = "") -> tuple[str, bytes]:
    """The type of content and the body, in the newest format that the header ``Accept`` takes: Prometheus' text, or
    OpenMetrics."""
    registry = CollectorRegistry()
    registry.register(collector)
    encode, kind = choose_encoder(accept)
    return kind, encode(registry)


class _Families:
    """Metric families, each made when its first sample comes."""

    def __init__(self, labels: tuple[str, ...]) -> None:
        self._labels = labels
        self._made: dict[str, Any] = {}

    def all(self) -> Iterator[Metric]:
        yield from self._made.values()

    def gauge(self, name: str, help: str, who: tuple[str, ...], value: float | None, **labels: str) -> None:
        """A value that goes up and down; none where it is not known."""
        if value is not None:
            self._family(GaugeMetricFamily, name, help, labels).add_metric([*who, *labels.values()], value)

    def counter(self, name: str, help: str, who: tuple[str, ...], value: float, **labels: str) -> None:
        self._family(CounterMetricFamily, name, help, labels).add_metric([*who, *labels.values()], value)

    def histogram(
        self, name: str, help: str, who: tuple[str, ...], held: Mapping[str, Any], bounds: list[str], **labels: str
    ) -> None:
        buckets = list(zip(bounds, accumulate(held["counts"]), strict=True))
        family = self._family(HistogramMetricFamily, name, help, labels)
        family.add_metric([*who, *labels.values()], buckets=buckets, sum_value=held["sum_s"])

    def _family(self, kind: type[Any], name: str, help: str, labels: Mapping[str, str]) -> Any:
        if (found := self._made.get(name)) is None:
            found = self._made[name] = kind(name, help, labels=[*self._labels, *labels])
        return found


def _add_worker(to: _Families, who: tuple[str, ...], payload: Mapping[str, Any]) -> None:
    gauge, counter = to.gauge, to.counter
    gauge("stem_build_info", "The version of Stem, as a label.", who, 1, version=str(payload["version"]))
    started = datetime.fromisoformat(payload["started_at"].replace("Z", "+00:00")).timestamp()
    gauge("stem_worker_start_time_seconds", "When the worker started, in seconds since the epoch.", who, started)
    for mode, states in payload.get("slots", {}).items():
        for state, count in states.items():
            gauge("stem_worker_slots", "Places for handlers.", who, count, mode=mode, state=state)
    for queue, held in payload["queues"].items():
        paused = "paused_by" in held
        gauge("stem_queue_depth", "Messages that wait at the broker.", who, held["depth"], queue=queue)
        gauge("stem_queue_consuming", "1 while the worker consumes the queue.", who, held["consuming"], queue=queue)
        gauge("stem_queue_paused", "1 while the queue is paused here.", who, paused, queue=queue)
    gauge("stem_revocations_held", "Revocations that the worker knows.", who, payload["revoked_count"])
    gauge("stem_directive_version", "The newest directive that the worker knows.", who, payload.get("directives"))
    for door, reasons in payload.get("dropped", {}).items():
        for reason, count in reasons.items():
            help = "Messages that were refused, by reason."
            counter("stem_control_dropped", help, who, count, door=door, reason=reason)
    if (measures := payload.get("measures")) is not None:
        _add_measures(to, who, measures)


def _add_measures(to: _Families, who: tuple[str, ...], measures: Mapping[str, Any]) -> None:
    gauge, counter, histogram = to.gauge, to.counter, to.histogram
    for row in measures["tasks"]:
        place = {"queue": row["queue"], "task": row["task"]}
        counter("stem_tasks_received", "Messages of tasks that came.", who, row["received"], **place)
        counter("stem_tasks_started", "Attempts whose handler was called.", who, row["started"], **place)
        for outcome in _OUTCOMES:
            if row[outcome]:
                help = "Attempts by how they ended."
                counter("stem_tasks_finished", help, who, row[outcome], **place, outcome=outcome)
    for how, count in measures["cancelled"].items():
        counter("stem_tasks_cancelled", "Cancelled tasks by how they came to their end.", who, count, how=how)
    bounds = [*(str(bound) for bound in measures["bounds_s"]), "+Inf"]
    for row in measures["durations"]:
        place = {"queue": row["queue"], "task": row["task"]}
        histogram("stem_task_duration_seconds", "Seconds of an attempt in its handler.", who, row, bounds, **place)
    for row in measures["waits"]:
        help = "Seconds from when an attempt could begin to when it began."
        histogram("stem_task_wait_seconds", help, who, row, bounds, queue=row["queue"])
    for row in measures["commands"]:
        help = "Control commands that were answered."
        counter("stem_control_commands", help, who, row["count"], command=row["command"], result=row["result"])
    for reason, count in measures.get("children_lost", {}).items():
        counter("stem_worker_children_lost", "Children that died, by what they were doing.", who, count, reason=reason)
    help = "By how much the slowest of the worker's own threads is late."
    gauge("stem_worker_loop_lag_seconds", help, who, measures["loop_lag_s"])
    gauge("stem_revoke_store_up", "1 while the revoke store can be read.", who, measures["store_up"])
    help = "Seconds since the revoke store was last read."
    gauge("stem_revoke_store_sync_age_seconds", help, who, measures["store_age_s"])
