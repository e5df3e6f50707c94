"""A Celery worker's pool is scaled by a directive: at once, after a restart, and until it ends (G21, G25)."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import celery
import pytest

from stem_kombu.autoscale import Autoscale
from stem_kombu.control.client.directives import NEVER, DirectiveClient, DirectiveReport, Ending
from stem_kombu.directive import Kind
from stem_kombu.testing.gates import Gate
from tests.celery.conftest import Shop
from tests.celery.test_command import run
from tests.waiting import eventually

WAKES = pytest.mark.skipif(celery.__version__ < "5.7", reason="there a task that waits begins once another one ends")
GEVENT = pytest.param(("-P", "gevent", "-c", "2"), marks=WAKES, id="gevent")
POOLS = pytest.mark.parametrize("pool", [pytest.param(("-c", "2"), id="prefork"), GEVENT])


def scale(shop: Shop, size: Any, ending: Ending = NEVER) -> DirectiveReport:
    return DirectiveClient(shop.client).set(Kind.CONCURRENCY, {"*": size}, ending=ending, timeout=20.0)


def said(shop: Shop) -> Any:
    """What the worker says of its size: what counts, and what it was started with."""
    (reply,) = shop.client.stats(timeout=20.0).replies
    setting = reply.payload["settings"]["concurrency"][""]
    return setting["value"], setting["base"]


def size(shop: Shop) -> int:
    """Of the pool, as Celery itself counts it."""
    (found,) = (
        shop.app.control.inspect(timeout=20, limit=1).stats() or {"": {"pool": {"max-concurrency": 0}}}
    ).values()
    return len(found["pool"].get("processes") or ()) or int(found["pool"]["max-concurrency"])


class Busy:
    """Tasks that run until they are let go."""

    def __init__(self, shop: Shop, folder: Path, count: int) -> None:
        self.gates = [Gate(folder / f"busy-{number}") for number in range(count)]
        self.results = [shop.send("shop.deaf", gate.path) for gate in self.gates]

    def running(self) -> int:
        return sum(gate.reached() is not None for gate in self.gates)

    def end(self) -> None:
        for gate in self.gates:
            gate.open()
        assert [result.get(timeout=60) for result in self.results] == ["finished"] * len(self.results)


@pytest.mark.timeout(300)
@POOLS
def test_g25_a_pool_grows_and_shrinks_and_harms_no_task(shop: Shop, pool: tuple[str, ...], tmp_path: Path) -> None:
    shop.start(*pool)
    assert said(shop) == (2, 2)
    busy = Busy(shop, tmp_path, 5)
    eventually(lambda: busy.running() == 2, 60)
    assert scale(shop, 4).not_obeying == ()
    assert said(shop) == (4, 2)
    eventually(lambda: busy.running() == 4, 60)
    # children end once they are idle
    assert scale(shop, 1).not_obeying == ()
    busy.end()
    eventually(lambda: size(shop) == 1, 60)
    busy = Busy(shop, tmp_path / "later", 2)
    eventually(lambda: busy.running() == 1, 60)
    # without a directive it is as it was started
    assert scale(shop, None).not_obeying == ()
    eventually(lambda: busy.running() == 2, 60)
    busy.end()
    assert said(shop) == (2, 2)


@pytest.mark.timeout(300)
@POOLS
def test_g21_a_celery_worker_that_starts_later_has_the_size_that_was_asked_for(
    shop_on: Callable[[str], Shop], pool: tuple[str, ...], tmp_path: Path
) -> None:
    shop = shop_on("redis")
    worker = shop.start(*pool)
    done = run(shop, "worker", "scale", "3", "--yes", "--json")
    assert done.returncode == 0, done.stderr
    worker.terminate()
    shop.start(*pool)
    assert said(shop) == (3, 2)
    busy = Busy(shop, tmp_path, 4)
    eventually(lambda: busy.running() == 3, 60)
    busy.end()
    # and what Celery's own command changes meanwhile stays when the directive ends
    shop.app.control.pool_grow(2, reply=True, limit=1, timeout=20)
    eventually(lambda: size(shop) == 5, 60)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("pool", [("-P", "threads", "-c", "2"), ("-P", "solo"), ("--autoscale", "4,1")], ids=" ".join)
def test_a_pool_that_celery_can_not_scale_or_scales_itself_says_unsupported(
    shop_on: Callable[[str], Shop], pool: tuple[str, ...]
) -> None:
    shop = shop_on("redis")
    shop.start(*pool)
    assert scale(shop, 3).not_obeying == (("alpha@shop", "unsupported"),)
    done = run(shop, "worker", "scale", "3", "--yes", "--json")
    assert json.loads(done.stdout)["not_obeying"] == [{"worker": "alpha@shop", "code": "unsupported"}]


@pytest.mark.timeout(300)
def test_autoscale_is_celery_s_own_and_ends_a_size_before(shop_on: Callable[[str], Shop]) -> None:
    shop = shop_on("redis")
    shop.start("-P", "gevent", "-c", "2")
    scale(shop, 100)
    (reply,) = shop.client.stats(timeout=20.0).replies
    assert (
        reply.payload["settings"]["concurrency"][""]["clamped"] is True
    )  # the stop table has room for no more than 64
    scale(shop, 3)
    assert said(shop) == (3, 2)
    assert scale(shop, Autoscale(1, 4).value()).not_obeying == (("alpha@shop", "unsupported"),)
    assert said(shop)[1] == 2
    eventually(lambda: size(shop) == 2, 60)
