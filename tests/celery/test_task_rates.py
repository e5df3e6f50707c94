"""Rate limits of tasks that a Celery worker obeys as directives: at once, after a restart, and until they end (G21, G23, G25)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

from stem_kombu.control.client.directives import NEVER, DirectiveClient, DirectiveReport, Ending
from stem_kombu.directive import Kind
from stem_kombu.rate import Rate, RateLimit
from tests.celery.conftest import Shop
from tests.waiting import eventually

POOLS = pytest.mark.parametrize(
    "pool",
    [("-c", "1"), ("-P", "threads", "-c", "1"), ("-P", "solo"), ("-P", "gevent", "-c", "2")],
    ids=["prefork", "threads", "solo", "gevent"],
)
ADD, SELDOM = "task:shop.add", "task:shop.seldom"


def limit(
    shop: Shop, rate: str | None, subject: str = ADD, *, each: bool = True, ending: Ending = NEVER
) -> DirectiveReport:
    value = None if rate is None else RateLimit(Rate.parse(rate), each).value()
    return DirectiveClient(shop.client).set(Kind.RATE_LIMIT, {"*": value}, subject=subject, ending=ending, timeout=15.0)


def limits(shop: Shop) -> dict[str, Any]:
    (reply,) = shop.client.stats(timeout=15.0).replies
    found: dict[str, Any] = reply.payload["settings"].get("rate-limit", {})
    return found


def waits(shop: Shop, count: int, subject: str = ADD) -> None:
    eventually(lambda: limits(shop)[subject]["value"]["held"] == count, 30)


def own_rate(shop: Shop, task: str) -> str:
    """What Celery itself says of the task's limit."""
    (answer,) = shop.app.control.inspect(timeout=10, limit=1).registered("rate_limit").values()
    (found,) = [line for line in answer if line.split()[0] == task]
    return str(found)


@POOLS
def test_g25_a_task_s_rate_is_limited_at_a_celery_worker(shop: Shop, pool: tuple[str, ...]) -> None:
    shop.start(*pool)
    report = limit(shop, "1/h")
    assert report.not_obeying == ()
    (reply,) = report.replies
    assert reply.payload["settings"]["rate-limit"][ADD]["value"]["rate"] == "1/h"
    results = [shop.send("shop.add", 1, n) for n in range(3)]
    assert shop.send("shop.echo", 1).get(timeout=30) == [[1], {}, 0]  # other tasks go on
    waits(shop, 2)
    assert sum(result.ready() for result in results) <= 1
    # when it ends, what waits goes on
    assert limit(shop, None).not_obeying == ()
    assert [result.get(timeout=30) for result in results] == [1, 2, 3]
    assert limits(shop) == {}
    assert [shop.send("shop.add", 1, n).get(timeout=30) for n in range(3)] == [1, 2, 3]


def test_g21_a_celery_worker_that_starts_later_reads_the_limit_before_its_first_task(shop: Shop) -> None:
    limit(shop, "1/h")
    results = [shop.send("shop.add", 1, n) for n in range(3)]
    for ran, name in enumerate(("alpha", "beta"), 1):
        worker = shop.start("-c", "1", name=name)
        eventually(lambda ran=ran: sum(result.ready() for result in results) == ran, 30, lambda log=worker: log.log)
        waits(shop, 3 - ran)
        assert worker.terminate() == 0  # and gives back what waits
    limit(shop, None)
    shop.start("-c", "1", name="gamma")
    assert [result.get(timeout=30) for result in results] == [1, 2, 3]


def test_g23_a_limit_ends_by_itself_at_a_celery_worker(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1")
    limit(shop, "1/h", ending=Ending(expires_in=4.0))
    results = [shop.send("shop.add", 1, n) for n in range(3)]
    assert [result.get(timeout=30) for result in results] == [1, 2, 3]
    assert limits(shop) == {}


def test_the_application_s_own_limit_counts_again_when_the_directive_ends(shop: Shop) -> None:
    shop.start("-c", "1")
    results = [shop.send("shop.seldom") for _ in range(4)]  # which may run once an hour
    results[0].get(timeout=30)
    limit(shop, "1000/s", SELDOM)
    assert [result.get(timeout=30) for result in results] == [None] * 4
    limit(shop, "1000/h", SELDOM)
    assert own_rate(shop, "shop.seldom") == "shop.seldom [rate_limit=1000/h]"
    limit(shop, None, SELDOM)
    assert own_rate(shop, "shop.seldom") == "shop.seldom [rate_limit=1/h]"
    # and what Celery's own command says meanwhile stays
    limit(shop, "5/s", SELDOM)
    shop.app.control.rate_limit("shop.seldom", "2/h", reply=True, limit=1, timeout=10)
    limit(shop, None, SELDOM)
    assert own_rate(shop, "shop.seldom") == "shop.seldom [rate_limit=2/h]"


def test_a_limit_that_a_celery_worker_can_not_keep_is_unsupported_and_ends_the_one_before(
    shop_on: Callable[[str], Shop],
) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1")
    assert limit(shop, "1/h").not_obeying == ()
    results = [shop.send("shop.add", 1, n) for n in range(3)]
    waits(shop, 2)
    # when it is to be shared
    assert limit(shop, "2/h", each=False).not_obeying == (("alpha@shop", "unsupported"),)
    assert [result.get(timeout=30) for result in results] == [1, 2, 3]
    assert limit(shop, "2/h", "queue:celery").not_obeying == (("alpha@shop", "unsupported"),)


def test_a_celery_worker_without_rate_limits_says_so(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1", SHOP_NO_RATES="1")
    assert limit(shop, "1/h").not_obeying == (("alpha@shop", "unsupported"),)
    assert limits(shop) == {}


def test_the_command_limits_and_shows_it(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")
    shop.start("-c", "1")

    def stem(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = shop.environment | {"STEM_BROKER_URL": shop.broker}
        command = [sys.executable, "-m", "stem_kombu_cli", "worker", *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    done = stem("rate-limit", "--name", "shop.a*", "3/h", "--each", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["not_obeying"] == []
    shown = stem("inspect")
    assert "alpha@shop: limited: " in shown.stdout + shown.stderr and "3/h" in shown.stdout + shown.stderr
