"""A Celery application as teams have it, with the one line added unless ``SHOP_PLAIN`` is set."""

from __future__ import annotations

import json
import logging
import os
import ssl
import time

from celery import Celery, signals

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
    broker_transport_options={
        **(
            _leases(float(os.environ.get("SHOP_VISIBILITY", "3600"))) if app.conf.broker_url.startswith("redis") else {}
        ),
        **json.loads(os.environ.get("SHOP_OPTIONS", "{}")),
    },
    worker_cancel_long_running_tasks_on_connection_loss=False,
    worker_soft_shutdown_timeout=float(os.environ.get("SHOP_SOFT_SHUTDOWN", "0")),
    worker_disable_rate_limits="SHOP_NO_RATES" in os.environ,
    worker_pool_start_method=os.environ.get("SHOP_START", "fork"),
)
if "SHOP_TLS" in os.environ:
    # As Celery wants it for a broker that is a Redis or a RabbitMQ, and for a backend that is a Redis.
    files = json.loads(os.environ["SHOP_TLS"])
    prefixed = {f"ssl_{key}": value for key, value in files.items()} | {"ssl_cert_reqs": ssl.CERT_REQUIRED}
    plain = {**files, "cert_reqs": ssl.CERT_REQUIRED, "server_hostname": "localhost"}
    app.conf.broker_use_ssl = prefixed if app.conf.broker_url.startswith("redis") else plain
    app.conf.redis_backend_use_ssl = prefixed
match os.environ.get("SHOP_INSTALL", "line"):
    case "line":
        install(app)
    case "step":  # what the line does for workers, said in Celery's words
        app.steps["worker"].add("stem_kombu.celery.step:StemStep")


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


@app.task(name="shop.echo", bind=True)
def echo(self, *args: object, **kwargs: object) -> list[object]:  # type: ignore[no-untyped-def]
    return [list(args), kwargs, self.request.retries]


@app.task(name="shop.outer")
def outer(gate: str) -> str:
    """Calls another task as a function, and that one checkpoints."""
    return str(render(gate))


@app.task(name="shop.fails")
def fails() -> None:
    raise ValueError("two")


@app.task(name="shop.again", bind=True, max_retries=1)
def again(self) -> str:  # type: ignore[no-untyped-def]
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return "again"


@app.task(name="shop.traced", bind=True, max_retries=1)
def traced(self, names: list[str], seen: list[object] | None = None) -> list[object]:  # type: ignore[no-untyped-def]
    """Those headers of each of two attempts."""
    found = {name: self.request.headers.get(name) for name in names}
    seen = [*(seen or []), [self.request.retries + 1, found]]
    if self.request.retries == 0:
        raise self.retry(args=(names, seen), countdown=0)
    return seen


@app.task(name="shop.stamps", bind=True, max_retries=1)
def stamps(self) -> list[object]:  # type: ignore[no-untyped-def]
    if self.request.retries == 0:
        raise self.retry(countdown=0)
    return [self.request.headers.get("stem-sent-at"), self.request.retries]


@app.task(name="shop.register")
def register() -> None:
    """Registers another task, as an application does that loads a plug-in while its worker runs."""
    app.task(name="shop.late")(render.run.__wrapped__)
    consumers[0].update_strategies()


consumers: list[object] = []
signals.worker_ready.connect(lambda sender, **_: consumers.append(sender), weak=False)


@app.task(name="shop.seldom", rate_limit="1/h")
def seldom() -> None:
    """May run once an hour."""


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


@app.task(name="shop.whisper")
def whisper(word: str) -> None:
    logging.getLogger("shop").debug("whispers %s", word)


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
