"""celery-batches, as it comes from the registry: what is revoked while it waits for its batch is not in it (G1)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from celery.exceptions import TaskRevokedError

from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.waiting import eventually

pytest.importorskip("celery_batches")
POOLS = pytest.mark.parametrize("pool", [("-c", "1"), ("-P", "threads", "-c", "1")], ids=["prefork", "threads"])


@POOLS
@pytest.mark.parametrize("way", ["stem", "celery"])
def test_g1_a_member_that_is_revoked_in_the_buffer_is_not_in_its_batch(
    shop_on: Callable[[str], Shop], pool: tuple[str, ...], way: str, tmp_path: Path
) -> None:
    shop, gate = shop_on("redis"), Gate(tmp_path / "gate")
    worker = shop.start(*pool, app="tests.celery.batch_shop:app")
    sent = [shop.send("batches.sums", gate.path, number, task_id=f"member-{number}") for number in (1, 2, 4)]
    # they are in its hands, unacknowledged, and wait for a fourth
    eventually(lambda: received(shop) == 3, 30, lambda: worker.log)
    if way == "stem":
        shop.client.revoke(["member-2"], reason="wrong picture", requested_by="ops@desk")
    else:
        shop.app.control.revoke("member-2", reply=True, limit=1, timeout=20)
    sent.append(shop.send("batches.sums", gate.path, 8, task_id="member-8"))
    assert [sent[at].get(timeout=30) for at in (0, 2, 3)] == [13] * 3
    with pytest.raises(TaskRevokedError, match="wrong picture" if way == "stem" else None):
        sent[1].get(timeout=30)
    assert gate.reached("member-2") is None
    # a batch of which nothing is left does not run, and the next one does
    shop.client.revoke([f"none-{number}" for number in range(4)])
    none = [shop.send("batches.sums", gate.path, 1, task_id=f"none-{number}") for number in range(4)]
    for result in none:
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
    later = [shop.send("batches.sums", gate.path, 1) for _ in range(4)]
    assert [result.get(timeout=30) for result in later] == [4] * 4
    assert gate.reached("none-0") is None


def received(shop: Shop) -> int:
    """How many messages the worker has received."""
    (reply,) = shop.client.stats(timeout=20.0).replies
    return int(reply.payload["totals"]["received"])
