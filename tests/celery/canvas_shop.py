"""The shop, with tasks that tell how they ended, and with the locks of celery-singleton and celery-once."""

from __future__ import annotations

import os
import warnings
from typing import Any

from celery import Celery, Task, signals
from celery_singleton import Singleton

from stem_kombu.celery import checkpoint
from stem_kombu.testing.gates import Gate

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # its docstrings have escapes that Python warns of when it compiles them first
    from celery_once import QueueOnce


class Telling(Task):  # type: ignore[misc]  # Celery publishes no types
    """Reaches a place of its gate for each ending."""

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        Gate(args[0]).reach("on_failure")
        Gate(args[0]).reach(type(exc).__name__)

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        Gate(args[0]).reach("on_success")

    def after_return(self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        Gate(args[0]).reach(f"after_return-{status}")


def works(gate: str) -> str:
    Gate(gate).reach()
    Gate(gate).wait_open(checkpoint=checkpoint)
    return "worked"


def with_tasks(app: Celery, redis: str) -> dict[str, Any]:
    """The tasks on that application, by their short names; no other application of this process gets them."""
    app.conf.singleton_backend_url = redis
    app.conf.ONCE = {"backend": "celery_once.backends.Redis", "settings": {"url": redis, "default_timeout": 3600}}

    def locked(gate: str) -> str:
        return works(gate)

    def failed(request: Any, exc: BaseException, traceback: Any) -> None:
        Gate(os.environ["SHOP_ERRBACK"]).reach()

    return {
        "telling": app.task(name="shop.telling", shared=False, base=Telling)(works),
        "singleton": app.task(name="shop.singleton", shared=False, base=Singleton)(locked),
        "once": app.task(name="shop.once", shared=False, base=QueueOnce, once={"graceful": True})(locked),
        "errback": app.task(name="shop.errback", shared=False)(failed),
    }


@signals.task_revoked.connect  # type: ignore[misc]
def on_revoked(sender: Any, request: Any, terminated: bool, **_: Any) -> None:
    if sender.name == "shop.telling":
        Gate(request.args[0]).reach("task_revoked" if terminated else "task_refused")


if "SHOP_BROKER" in os.environ:
    from tests.celery.shop import app

    with_tasks(app, os.environ["SHOP_BACKEND"])
