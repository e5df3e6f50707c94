"""How a revoked task ends, seen by its class, by signal handlers, by locks of other packages, and by what was to follow it."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from celery import chain, chord, group
from celery.exceptions import TaskRevokedError

from stem_kombu.testing.gates import Gate
from tests.celery.canvas_shop import with_tasks
from tests.celery.conftest import Shop
from tests.waiting import eventually

APP = "tests.celery.canvas_shop:app"
WHY = r"revoked by ops@desk at 20\S+Z: wrong picture"
POOLS = pytest.mark.parametrize(
    "pool", [("-c", "2"), ("-P", "threads", "-c", "2"), ("-P", "solo"), ("-P", "gevent", "-c", "2")], ids=" ".join
)


@pytest.fixture
def canvas(shop_on: Callable[[str], Shop], tmp_path: Path) -> Canvas:
    return Canvas(shop_on("redis"), tmp_path)


class Canvas:
    """A shop with the tasks of :mod:`tests.celery.canvas_shop`."""

    def __init__(self, shop: Shop, folder: Path) -> None:
        self.shop, self._folder = shop, folder
        self.tasks = with_tasks(shop.app, shop.backend)
        self.errback = Gate(folder / "errback")

    def start(self, *options: str) -> None:
        self.shop.start(*options, app=APP, SHOP_ERRBACK=str(self.errback.path))

    def gate(self, name: str) -> Gate:
        return Gate(self._folder / name)

    def stop(self, result: Any, way: str, *, terminate: bool = True) -> None:
        """Revoke it by ``stem worker revoke`` or, as Celery's clients do, by ``app.control.revoke``."""
        if way == "stem":
            self.shop.client.revoke([result.id], terminate=terminate, reason="wrong picture", requested_by="ops@desk")
        else:
            self.shop.app.control.revoke(result.id, terminate=terminate, reply=True, limit=1, timeout=10)


def is_revoked(result: Any, match: str | None = None) -> None:
    """Its own end: with ``propagate`` a follower raises what its parent has ended with, at times before it has ended itself."""
    ended = result.get(timeout=30, propagate=False)
    assert isinstance(ended, TaskRevokedError) and result.state == "REVOKED"
    if match is not None:
        assert re.search(match, str(ended)), str(ended)


@POOLS
def test_a_stopped_task_calls_on_failure_and_after_return_and_the_signal(canvas: Canvas, pool: tuple[str, ...]) -> None:
    canvas.start(*pool)
    gate = canvas.gate("gate")
    result = canvas.tasks["telling"].delay(str(gate.path))
    gate.wait_reached()
    canvas.stop(result, "stem")
    is_revoked(result, WHY)
    for name in ("on_failure", "TaskRevokedError", "after_return-REVOKED", "task_revoked"):
        eventually(lambda name=name: gate.reached(name) is not None, 20)  # type: ignore[misc]
    assert gate.reached("on_success") is None


def test_a_task_that_is_refused_before_it_starts_ends_as_celery_ends_it(canvas: Canvas) -> None:
    gate = canvas.gate("gate")
    canvas.shop.client.revoke(["early"])
    canvas.start("-c", "1")
    is_revoked(canvas.tasks["telling"].apply_async((str(gate.path),), task_id="early"))
    eventually(lambda: gate.reached("task_refused") is not None, 20)
    assert [gate.reached(name) for name in (None, "on_failure", "after_return-REVOKED")] == [None] * 3


@pytest.mark.parametrize("lock", ["singleton", "once"])
def test_a_stopped_task_lets_its_lock_go(canvas: Canvas, lock: str) -> None:
    """celery-singleton and celery-once, as they come from the registry."""
    canvas.start("-c", "1")
    task, gate = canvas.tasks[lock], canvas.gate("gate")
    first = task.delay(str(gate.path))
    gate.wait_reached()
    assert task.delay(str(gate.path)).id in (first.id, None)  # not a second time while it runs
    canvas.stop(first, "stem")
    is_revoked(first)
    gate.open()
    ids: list[str | None] = []
    eventually(lambda: ids.append(task.delay(str(gate.path)).id) or ids[-1] not in (first.id, None), 20)
    assert canvas.shop.app.AsyncResult(ids[-1]).get(timeout=30) == "worked"


WAYS = pytest.mark.parametrize("way", ["stem", "celery"])


@WAYS
@pytest.mark.parametrize("pool", [("-c", "2"), ("-P", "threads", "-c", "2"), ("-P", "solo")], ids=" ".join)
def test_what_follows_in_a_chain_is_revoked_with_the_stopped_task(
    canvas: Canvas, way: str, pool: tuple[str, ...]
) -> None:
    canvas.start(*pool)
    telling, gate, later = canvas.tasks["telling"], canvas.gate("gate"), canvas.gate("later")
    first = telling.si(str(gate.path)).on_error(canvas.tasks["errback"].s())
    last = chain(
        first, telling.si(str(later.path)), group(telling.si(str(later.path)), telling.si(str(later.path)))
    ).delay()
    gate.wait_reached()
    canvas.stop(last.parent.parent, way)
    why = WHY if way == "stem" else None
    for result in (last.parent.parent, last.parent, *last.results):
        is_revoked(result, why)
    eventually(lambda: canvas.errback.reached() is not None, 20)
    assert later.reached() is None


@WAYS
def test_what_follows_a_task_that_never_starts_is_revoked_with_it(canvas: Canvas, way: str) -> None:
    telling, gate = canvas.tasks["telling"], canvas.gate("gate")
    canvas.start("-c", "1")
    first = telling.si(str(gate.path)).on_error(canvas.tasks["errback"].s()).set(countdown=3)
    last = chain(first, telling.si(str(gate.path))).delay()
    canvas.stop(last.parent, way, terminate=False)
    is_revoked(last.parent)  # which Celery 5.7 records at once; the rest when the message is due
    eventually(lambda: last.state == "REVOKED", 20)
    if way == "stem":
        is_revoked(last, WHY)
    eventually(lambda: canvas.errback.reached() is not None, 20)
    assert gate.reached() is None


@pytest.mark.filterwarnings("ignore:Call to deprecated setex")  # by Celery before 5.6
@WAYS
@pytest.mark.parametrize("pool", [("-c", "2"), ("-P", "threads", "-c", "2")], ids=" ".join)
def test_the_body_of_a_chord_ends_with_a_stopped_header(canvas: Canvas, way: str, pool: tuple[str, ...]) -> None:
    canvas.start(*pool)
    telling, gate, other, body = canvas.tasks["telling"], canvas.gate("gate"), canvas.gate("other"), canvas.gate("body")
    other.open()
    header = [telling.si(str(gate.path)), telling.si(str(other.path))]
    result = chord(header, telling.si(str(body.path)).on_error(canvas.tasks["errback"].s())).delay()
    gate.wait_reached()
    canvas.stop(result.parent.results[0], way)
    is_revoked(result.parent.results[0])
    eventually(lambda: result.state == "FAILURE", 30, lambda: result.state)
    assert "TaskRevokedError" in str(result.result)
    eventually(lambda: canvas.errback.reached() is not None, 20)
    assert body.reached() is None
