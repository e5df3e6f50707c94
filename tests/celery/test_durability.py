"""The five revokes that a stock Celery worker forgets: with the one line, no revoked task runs."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import redis
from celery import Celery
from celery.app.control import Control
from celery.exceptions import TaskRevokedError
from celery.utils.collections import LimitedSet

from stem_kombu.bound import Bound
from stem_kombu.celery import install
from stem_kombu.clock import SYSTEM
from stem_kombu.control.client.revocations import RevocationClient
from stem_kombu.control.client.undoing import UndoAnswer
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.servers.rabbitmq import RabbitServer
from tests.servers.redis import RedisServer
from tests.waiting import eventually

TRIALS = 5


def none_runs(shop: Shop, ids: list[str], folder: Path) -> None:
    """Send tasks of these ids, and see each refused."""
    gates = [Gate(folder / f"gate-{task_id}") for task_id in ids]
    results = [shop.send("shop.deaf", gate.path, task_id=task_id) for task_id, gate in zip(ids, gates, strict=True)]
    for result in results:
        with pytest.raises(TaskRevokedError):
            result.get(timeout=60)
    assert [gate.reached() for gate in gates] == [None] * len(ids)


def test_g4_a_clean_restart_without_a_state_file(shop: Shop, tmp_path: Path) -> None:
    ids = [f"restart-{n}" for n in range(TRIALS)]
    worker = shop.start("-c", "1")
    assert shop.client.revoke(ids).complete
    assert worker.terminate() == 0
    shop.start("-c", "1", name="bravo")
    none_runs(shop, ids, tmp_path)


def test_g4_a_sigkill_with_a_state_file(shop: Shop, tmp_path: Path) -> None:
    ids = [f"killed-{n}" for n in range(TRIALS)]
    options = ("-c", "1", "--statedb", str(tmp_path / "state"))
    worker = shop.start(*options)
    shop.client.revoke(ids[:2])
    shop.app.control.revoke(ids[2:], reply=True, timeout=10, limit=1)
    worker.kill()
    shop.start(*options)
    none_runs(shop, ids, tmp_path)


def test_g4_no_worker_up_when_it_is_revoked(shop: Shop, tmp_path: Path) -> None:
    ids = [f"down-{n}" for n in range(TRIALS)]
    shop.client.revoke(ids)
    shop.start("-c", "1")
    none_runs(shop, ids, tmp_path)


def test_g3_a_bound_revocation_refuses_its_attempt_and_what_was_sent_before(shop: Shop, tmp_path: Path) -> None:
    """Under the same ids others run: another attempt, and what was sent later."""
    client = install(shop.app, revoke_store=shop.backend)
    first, other = Gate(tmp_path / "first"), Gate(tmp_path / "other")
    shop.client.revoke(["first"], bound=Bound(attempt=1))
    shop.client.revoke(["other"], bound=Bound(attempt=2))
    shop.client.revoke(["later"], bound=Bound(before=SYSTEM.utcnow()))
    sent = [client.send_task("shop.deaf", (first.path,), task_id="first")]
    sent.append(client.send_task("shop.deaf", (Gate(tmp_path / "earlier").path,), task_id="earlier"))
    shop.client.revoke(["earlier"], bound=Bound(before=SYSTEM.utcnow()))
    shop.start("-c", "1")
    for result in sent:
        with pytest.raises(TaskRevokedError):
            result.get(timeout=60)
    later = Gate(tmp_path / "later")
    for task_id, gate in (("other", other), ("later", later)):
        result = client.send_task("shop.deaf", (gate.path,), task_id=task_id)
        gate.wait_reached()
        report = shop.client.revoke([task_id], terminate=True, bound=Bound(attempt=7))
        assert [reply.payload["in_flight"] for reply in report.replies] == [[]]
        gate.open()
        result.get(timeout=60)


def test_g4_no_worker_up_when_celery_s_own_client_revokes_it(
    shop: Shop, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The same line in the application that revokes, which is usually the same module."""
    ids = [f"down-{n}" for n in range(TRIALS)]
    client = install(shop.app, revoke_store=shop.backend)
    assert client.control.revoke(ids[1:], reply=True, timeout=0.1) == []
    client.AsyncResult(ids[0]).revoke()
    shop.start("-c", "1")
    none_runs(shop, ids, tmp_path)
    # and a store that is away is no reason to keep quiet about it, nor to leave the workers that are up in the dark
    elsewhere = Celery("elsewhere", broker=shop.broker, control=OwnControl, set_as_current=False)
    install(elsewhere, revoke_store="redis://127.0.0.1:1/0")
    elsewhere.control.revoke("heard", reply=True, timeout=10, limit=1)
    assert "not durable yet" in caplog.text
    assert "heard" in shop.app.control.inspect(limit=1, timeout=10).revoked()["alpha@shop"]
    assert elsewhere.control.own() == "kept"
    elsewhere.close()


def test_g31_an_undo_lifts_what_celery_s_own_client_revoked(shop: Shop, tmp_path: Path) -> None:
    """Celery keeps a set of its own beside Stem's cache, and has put the id there too. The result that it has stored of the id
    stays."""
    shop.start("-c", "1")
    shop.app.control.revoke("wrong", reply=True, timeout=10, limit=1)

    with RevocationClient(shop.client.settings) as revocations:
        report = revocations.undo(["wrong"], timeout=10)

    assert [task.answer for task in report.tasks] == [UndoAnswer.LIFTED]
    gate = Gate(tmp_path / "gate")
    shop.send("shop.deaf", gate.path, task_id="wrong")
    gate.wait_reached()
    gate.open()


class OwnControl(Control):  # type: ignore[misc]  # Celery publishes no types
    """As an application may have it."""

    def own(self) -> str:
        return "kept"


def test_g4_sixty_thousand_ids(shop: Shop, tmp_path: Path) -> None:
    shop.start("-c", "1")
    first = [f"first-{n}" for n in range(TRIALS)]
    shop.client.revoke(first, timeout=30)
    for start in range(0, 60_000, 20_000):
        report = shop.client.revoke([f"id-{n}" for n in range(start, start + 20_000)], timeout=60, expires_in=3600)
        assert report.complete
    none_runs(shop, first, tmp_path)
    assert shop.client.ping().complete


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_g4_the_broker_restarts_at_that_moment(
    shop_on: Callable[[str], Shop],
    kind: str,
    redis_server: RedisServer,
    rabbitmq_server: RabbitServer,
    start_redis: Callable[..., RedisServer],
    tmp_path: Path,
) -> None:
    # given revocations in a store that is not the broker, and a broker that goes down before it hears of them
    store = start_redis().new_database()
    shop = shop_on(kind)
    server = redis_server if kind == "redis" else rabbitmq_server
    worker = shop.start("-c", "1", STEM_REVOKE_STORE_URL=store)
    # Celery's loop reads for a tenth of a second at first, and takes the end of its connection there for silence: it then reads
    # nothing any more, with Stem or without. So it has to be past that.
    with shop.app.connection_for_write() as connection:
        shop.send("shop.add", 1, 2, connection=connection, ignore_result=True)
    eventually(lambda: "succeeded" in worker.log, 60, lambda: worker.log)
    ids = [f"outage-{n}" for n in range(TRIALS)]
    from stem_kombu.control.client.client import ControlClient
    from stem_kombu.settings import Settings

    with ControlClient(Settings.from_env({}, broker=shop.broker, backend=shop.backend, revoke_store=store)) as client:
        server.stop()
        report = client.revoke(ids, timeout=2)
        assert not report.broadcast
        server.start()
        eventually(lambda: client.ping(timeout=2).complete, 60)

        def synced() -> bool:
            replies = client.inspect(timeout=2).replies
            return bool(replies) and replies[0].payload["revoked_count"] == TRIALS

        eventually(synced, 60)
    none_runs(shop, ids, tmp_path)


def test_g2_a_worker_whose_revocations_can_not_be_read_takes_no_task(
    shop_on: Callable[[str], Shop], start_redis: Callable[..., RedisServer]
) -> None:
    shop = shop_on("redis")
    gone = start_redis()
    store = gone.new_database()
    with redis.Redis.from_url(store) as client:
        client.set("{stem}:control:revokes", "no hash")  # somebody else wrote there
    worker = shop.begin("-c", "1", STEM_REVOKE_STORE_URL=store)
    result = shop.send("shop.add", 1)
    assert worker.process.wait(60) != 0
    assert "stem can't start" in worker.log
    assert result.state == "PENDING"


def test_what_celery_writes_to_its_own_state_file_can_be_read_without_stem() -> None:
    from celery.worker import state

    from stem_kombu.celery import revoked
    from stem_kombu.revocation_cache import RevocationCache

    revoked.install(RevocationCache("stem"))
    try:
        state.revoked.add("held")
        assert isinstance(state.revoked, revoked.DurableRevoked)
        read = pickle.loads(pickle.dumps(state.revoked))  # noqa: S301 - as Celery does with its own file
    finally:
        revoked.uninstall()
        state.revoked.discard("held")
    assert (type(read), list(read)) == (LimitedSet, ["held"])
