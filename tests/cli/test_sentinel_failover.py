"""A fail-over of real sentinels amid work, over the command line alone: no task is lost and no revoked one runs (G1, G3, G18)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from stem_kombu import Stem
from stem_kombu.errors import BrokerError, StoreError
from stem_kombu.outcome import TaskState
from stem_kombu.settings import Settings
from tests.cli.program import Program
from tests.servers.fixtures import Sentinels
from tests.waiting import eventually

TASKS, REVOKED = 500, 20


@pytest.fixture
def where(sentinels: Callable[..., Sentinels]) -> Sentinels:
    return sentinels(password="topsecret")


@pytest.fixture
def stem(where: Sentinels, tmp_path: Path) -> Iterator[Program]:
    made = Program(
        tmp_path,
        {
            "STEM_BROKER_URL": where.url,
            "STEM_RESULT_BACKEND_URL": where.url,
            "STEM_REVOKE_STORE_URL": where.url,
            "STEM_CONTROL_TIMEOUT": "30s",
            "STEM_HEARTBEAT_INTERVAL": "1s",
            "STEM_SYNC_INTERVAL": "1s",
        },
    )
    yield made
    made.close()


@pytest.mark.timeout(240)
def test_g3_g18_a_fail_over_amid_work_loses_no_task_and_no_revocation(
    stem: Program, where: Sentinels, tmp_path: Path
) -> None:
    assert where.url.startswith("sentinel://:topsecret@") and where.url.count(",") == 1, "the form of the command line"
    app = Stem("shop", settings=Settings.from_env(stem.variables))
    revoked = [f"revoked-{number}" for number in range(REVOKED)]

    stem.start_worker("--name", "alpha", "-c", "2")
    stem.ok("worker", "revoke", *(part for each in revoked[:10] for part in ("--task", each)), "--reason", "stop")
    results = list(app.send_many("shop.stamp", [(number, str(tmp_path)) for number in range(200)]))
    results += [app.send_task("shop.stamp", [-1, str(tmp_path)], task_id=each) for each in revoked[:10]]
    stamps = tmp_path / "stamps"
    eventually(lambda: stamps.exists() and stamps.read_text().count("\n") > 5, 60)
    # What was acknowledged to a client is on the replica as well: the loss of the master is no loss of data.
    where.master.say("WAIT", "1", "5000")
    where.master.kill()

    # Revoking and sending go on, each repeated until it is confirmed.
    others = [part for each in revoked[10:] for part in ("--task", each)]
    eventually(lambda: "stored: 10" in stem.run("worker", "revoke", *others, "--reason", "stop").err, 90)
    for number, task in [
        *((number, f"late-{number}") for number in range(200, TASKS)),
        *((-1, each) for each in revoked[10:]),
    ]:
        sent = eventually(
            lambda number=number, task=task: app.send_task("shop.stamp", [number, str(tmp_path)], task_id=task),
            90,
            interval=0.5,
            ignoring=(BrokerError, StoreError),
        )
        results.append(sent)

    ended = {result.id: eventually(lambda r=result: r.wait(timeout=60), 90, ignoring=StoreError) for result in results}
    ran = set(map(int, stamps.read_text().split()))
    assert ran == set(range(TASKS)), "each task ran, and no revoked one"
    for task, record in ended.items():
        assert record is not None
        expected = TaskState.CANCELLED if task in revoked else TaskState.SUCCEEDED
        assert record.state is expected, (task, record)
    # And the command line goes on over the new master.
    assert stem.ok("worker", "ping", "--json").json["complete"]
    stem.ok("worker", "revoke", "--task", "after")
    after = eventually(
        lambda: app.send_task("shop.stamp", [-2, str(tmp_path)], task_id="after"), ignoring=(BrokerError, StoreError)
    )
    assert (record := after.wait(timeout=60)) is not None and record.state is TaskState.CANCELLED
    app.close()
