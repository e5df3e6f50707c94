"""Two Celery workers with one node name: Celery lets them be, so Stem starts in both and says what is wrong (G38)."""

from __future__ import annotations

from collections.abc import Callable

from tests.celery.conftest import Shop
from tests.waiting import eventually


def test_g38_two_celery_workers_of_one_node_name_both_work_and_are_shown_as_a_conflict(
    shop_on: Callable[[str], Shop],
) -> None:
    shop = shop_on("redis")  # on RabbitMQ Celery's own mailbox is exclusive, and the second worker does not start
    first = shop.start("-c", "1", name="twin")
    assert shop.client.ping(timeout=30).complete

    second = shop.start("-c", "1", name="twin")

    eventually(lambda: "worker id twin@shop is also used by" in second.log, 30, lambda: second.log)
    eventually(lambda: "worker id twin@shop is also used by" in first.log, 30, lambda: first.log)
    report = shop.client.ping(timeout=30)
    assert report.conflicts.keys() == {"twin@shop"}
    assert not report.complete
    (status,) = shop.client.status().workers
    assert status.heartbeat.conflict is not None

    second.kill()
    # Its heartbeats count for three intervals of a second; then the first has its id to itself again.
    eventually(lambda: shop.client.ping(timeout=30).complete, 60)
    assert "no other worker uses worker id" in first.log


def test_g38_the_successor_of_a_killed_celery_worker_has_its_node_name_at_once(shop: Shop) -> None:
    shop.start("-c", "1", name="twin", STEM_HEARTBEAT_INTERVAL="300s").kill()

    successor = shop.start("-c", "1", name="twin", STEM_HEARTBEAT_INTERVAL="300s")

    report = shop.client.ping(timeout=30)
    assert report.complete
    assert report.replies[0].payload["pid"] == successor.process.pid
    assert "is also used by" not in successor.log
