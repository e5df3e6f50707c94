"""A Celery application as teams have it, with the one line added unless ``SHOP_PLAIN`` is set."""

from __future__ import annotations

import os
import time

from celery import Celery

from stem_kombu.celery import checkpoint, install, progress
from stem_kombu.testing.gates import Gate


def _leases(seconds: float) -> dict[str, float]:
    """Leases of that length; short ones are looked through as often, or a test could not see one run out."""
    often = {"unacked_restore_interval": 0.2, "unacked_restore_throttle": 1} if seconds < 60 else {}
    return {"visibility_timeout": seconds, **often}


app = Celery("shop", broker=os.environ["SHOP_BROKER"], backend=os.environ["SHOP_BACKEND"])
app.conf.update(
    broker_connection_retry_on_startup=True,
    worker_hijack_root_logger=False,
    broker_transport_options=_leases(float(os.environ.get("SHOP_VISIBILITY", "3600")))
    if app.conf.broker_url.startswith("redis")
    else {},
    worker_cancel_long_running_tasks_on_connection_loss=False,
)
if os.environ.get("SHOP_PLAIN") != "1":
    install(app)


@app.task(name="shop.add")
def add(a: int, b: int = 0) -> int:
    return a + b


@app.task(name="shop.render", max_retries=3, autoretry_for=(Exception,))
def render(gate: str) -> str:
    """Works at a gate, with a checkpoint at each look; an ``except Exception`` does not get in the way."""
    Gate(gate).reach()
    try:
        Gate(gate).wait_open(checkpoint=lambda: _swallowing(checkpoint))
    finally:
        Gate(gate).reach("finally")
    return "rendered"


app.task(name="shop.render_late", acks_late=True, reject_on_worker_lost=True)(render.run)


def _swallowing(call):  # type: ignore[no-untyped-def]
    try:
        call()
    except Exception:  # noqa: BLE001 - as careless handlers do
        pass


@app.task(name="shop.deaf")
def deaf(gate: str) -> str:
    """Never checkpoints."""
    Gate(gate).reach()
    Gate(gate).wait_open()
    return "finished"


@app.task(name="shop.reports", bind=True)
def reports(self, gate: str) -> str:  # type: ignore[no-untyped-def]
    progress(0.5, tile=3)
    Gate(gate).reach()
    Gate(gate).wait_open(checkpoint=checkpoint)
    return "reported"


@app.task(name="shop.who")
def who() -> int:
    return os.getpid()


@app.task(name="shop.measure")
def measure(rounds: int) -> float:
    """Nanoseconds of a checkpoint with nothing pending."""
    began = time.perf_counter_ns()
    for _ in range(rounds):
        checkpoint()
    return (time.perf_counter_ns() - began) / rounds


@app.task(name="shop.long", acks_late=True)
def long(gate: str) -> str:
    """Counts how often it was begun."""
    for number in range(100):
        if Gate(gate).reached(f"run-{number}") is None:
            Gate(gate).reach(f"run-{number}")
            break
    Gate(gate).wait_open()
    return "once"
