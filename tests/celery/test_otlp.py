"""A Celery worker with Stem in it sends the metrics of its tasks to an OTLP receiver, and hands on the headers of a trace."""

from __future__ import annotations

from contextlib import closing

import pytest

from tests.celery.conftest import Shop
from tests.otlp_receivers import GrpcReceiver, Receiver
from tests.waiting import eventually


@pytest.mark.parametrize(
    ("pool", "kind", "receiver"),
    [(("-c", "1"), "otlp", Receiver), (("-P", "threads", "-c", "1"), "otlp-grpc", GrpcReceiver)],
    ids=["prefork-http", "threads-grpc"],
)
def test_g35_what_a_receiver_gets_of_a_celery_worker_agrees_with_its_tasks(
    shop: Shop, pool: tuple[str, ...], kind: str, receiver: type[Receiver] | type[GrpcReceiver]
) -> None:
    with closing(receiver()) as received:
        variables = {"STEM_METRIC_EXPORTERS": f"{kind}:{received.url}", "STEM_OTLP_INTERVAL": "200ms"}
        worker = shop.start(*pool, **variables)
        assert shop.send("shop.add", 1, 2).get(timeout=60) == 3
        finished = "stem_tasks_finished_total"
        eventually(lambda: received.sums(finished, task="shop.add") == 1, 60, lambda: worker.log)
        system = "redis" if shop.broker.startswith("redis") else "rabbitmq"
        assert received.sums("messaging.process.duration", messaging_system=system) == 1
        assert received.sums("stem_worker_state", state="running") == 1
        assert worker.terminate() == 0
        assert received.sums("stem_worker_state", state="draining") == 1


def test_the_headers_of_a_trace_reach_a_celery_task_unharmed(shop: Shop) -> None:
    trace = {
        "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
        "baggage": "tenant=acme,user=m%C3%BCller",
    }
    shop.start("-c", "1")
    assert shop.send("shop.traced", list(trace), headers=trace).get(timeout=60) == [[1, trace], [2, trace]]
