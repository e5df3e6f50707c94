"""A Celery worker with Stem in it shows in the fleet's metrics (G35)."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stem_kombu.control.protocol.messages import Stats
from stem_kombu.metrics import StatsCollector, exposition
from tests.celery.conftest import Shop
from tests.waiting import eventually


@pytest.mark.parametrize("pool", [("-c", "1"), ("-P", "threads", "-c", "1"), ("-P", "solo")], ids=lambda pool: pool[1])
def test_g35_counters_of_a_celery_worker_equal_its_stats(shop: Shop, pool: tuple[str, ...]) -> None:
    worker = shop.start(*pool)
    assert shop.app.send_task("shop.add", (1, 2)).get(timeout=60) == 3
    payload = eventually(
        lambda: (
            (found := shop.client.ask(Stats(measures=True), timeout=30).replies[0].payload)["totals"]["succeeded"]
            and found
        ),
        60,
    )
    _, body = exposition(StatsCollector(lambda: {worker.name: payload}, labelled=True))
    found = {
        (sample.name, sample.labels.get("task"), sample.labels.get("queue"), sample.labels.get("outcome")): sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.endswith(("_total", "_count"))
    }
    totals = payload["totals"]
    assert (totals["received"], totals["started"], totals["succeeded"]) == (1, 1, 1)
    assert found["stem_tasks_received_total", "shop.add", "celery", None] == 1
    assert found["stem_tasks_started_total", "shop.add", "celery", None] == 1
    assert found["stem_tasks_finished_total", "shop.add", "celery", "succeeded"] == 1
    assert found["stem_task_duration_seconds_count", "shop.add", "celery", None] == 1
    assert payload["slots"]["isolate" if pool[0] == "-c" else "inline"]["idle"] == 1
