"""Who takes part in the rows about tasks: how each sends no-op tasks, and how its workers are started.

A peer is tuned as its own documentation recommends for many short tasks, never down; results are off for everybody, and
everybody acknowledges each message, except where the library has no acknowledgements (Huey, taskiq on lists, RQ, Celery
without ``acks_late``), which makes those faster, not slower.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks import bare
from benchmarks.lab import Process
from stem_kombu import Stem

#: RabbitMQ can't keep revocations; a file of its own holds none of them here.
_STORES = Path(tempfile.mkdtemp(prefix="stem-bench-"))
atexit.register(shutil.rmtree, _STORES, ignore_errors=True)

Send = Callable[[str, list[Any]], None]
Start = Callable[..., Process]


@dataclass(frozen=True)
class Contestant:
    """``sender(url)`` is a context manager that gives ``send(task, args)`` with ``task`` ``no_op`` or ``mark``;
    ``workers(start, url)`` begins its workers. ``fill(url, count, args)`` sends many no-op tasks at once."""

    name: str
    brokers: tuple[str, ...]
    sender: Callable[[str], Any]
    workers: Callable[[Start, str], Any]
    fill: Callable[[str, int, list[Any]], None] | None = None


def stem(kind: str, processes: int, *options: str) -> Contestant:
    """Stem's workers with no-op tasks of that kind (``inline``, ``async`` or ``isolate``)."""

    @contextmanager
    def sender(url: str) -> Iterator[Send]:
        app = Stem("benchmarks", broker=url)
        names = {"no_op": f"bench.{kind}", "mark": f"bench.{kind}-mark"}
        yield lambda task, args: app.send_task(names[task], args, queue="default") and None
        app.close()

    def workers(start: Start, url: str) -> None:
        for number in range(processes):
            start(
                sys.executable, "-m", "stem_kombu_cli", "worker", "start", "-A", f"benchmarks.tasks:{kind}_app",
                "--name", f"stem-{number}", "-l", "warning", *options,
                STEM_BROKER_URL=url, STEM_CELERY_EVENTS="false", STEM_REVOKE_STORE_URL=str(_STORES / "revocations"),
            )  # fmt: skip

    def fill(url: str, count: int, args: list[Any]) -> None:
        app = Stem("benchmarks", broker=url)
        app.send_many(f"bench.{kind}", [args] * count, queue="default")
        app.close()

    label = f"stem {kind}" + (f", {processes} processes" if processes > 1 else "")
    return Contestant(label, ("redis", "rabbitmq", "embedded"), sender, workers, fill)


def celery(label: str, tuned: bool, *options: str, processes: int = 1) -> Contestant:
    @contextmanager
    def sender(url: str) -> Iterator[Send]:
        from celery import Celery

        app = Celery("client", broker=url, set_as_current=False)
        with app.producer_pool.acquire(block=True) as producer:
            yield lambda task, args: app.send_task(f"bench.{task}", args, producer=producer) and None
        app.close()

    def workers(start: Start, url: str) -> None:
        for number in range(processes):
            start(
                sys.executable, "-m", "celery", "-A", "benchmarks.celery_tasks:app", "worker", "-n", f"w{number}@bench",
                "-l", "warning", *options,
                BENCH_CELERY_BROKER=url, C_FORCE_ROOT="1", BENCH_CELERY_TUNED="1" if tuned else "0",
            )  # fmt: skip

    return Contestant(label, ("redis", "rabbitmq"), sender, workers)


def huey() -> Contestant:
    @contextmanager
    def sender(url: str) -> Iterator[Send]:
        module = _module("huey_app", url)
        yield lambda task, args: getattr(module, task)(*args) and None

    def workers(start: Start, url: str) -> None:
        start(
            sys.executable, "-m", "huey.bin.huey_consumer", "benchmarks.peers.huey_app.huey", "-w", "2", "-k", "process",
            "-q", BENCH_BROKER=url,
        )  # fmt: skip

    return Contestant("huey, 2 processes", ("redis", "embedded"), sender, workers)


def dramatiq() -> Contestant:
    @contextmanager
    def sender(url: str) -> Iterator[Send]:
        module = _module("dramatiq_app", url)
        yield lambda task, args: getattr(module, task).send(*args) and None
        module.broker.close()

    def workers(start: Start, url: str) -> None:
        start(
            sys.executable, "-m", "dramatiq", "benchmarks.peers.dramatiq_app", "--processes", "2", "--threads", "8",
            BENCH_BROKER=url,
        )  # fmt: skip

    return Contestant("dramatiq, 2 processes", ("redis", "rabbitmq"), sender, workers)


def taskiq() -> Contestant:
    @contextmanager
    def sender(url: str) -> Iterator[Send]:
        module = _module("taskiq_app", url)
        loop = asyncio.new_event_loop()
        loop.run_until_complete(module.broker.startup())

        def send(task: str, args: list[Any]) -> None:
            loop.run_until_complete(getattr(module, task).kiq(*args))

        yield send
        loop.run_until_complete(module.broker.shutdown())
        loop.close()

    def workers(start: Start, url: str) -> None:
        start(
            sys.executable, "-m", "taskiq", "worker", "benchmarks.peers.taskiq_app:broker", "--workers", "2",
            BENCH_BROKER=url,
        )  # fmt: skip

    return Contestant("taskiq, 2 processes", ("redis", "rabbitmq"), sender, workers)


def rq() -> Contestant:
    @contextmanager
    def sender(url: str) -> Iterator[Send]:
        from redis import Redis
        from rq import Queue

        queue = Queue(connection=Redis.from_url(url))
        yield lambda task, args: queue.enqueue(f"benchmarks.peers.rq_tasks.{task}", *args, result_ttl=0) and None

    def workers(start: Start, url: str) -> None:
        for _ in range(2):
            start(
                sys.executable, "-m", "rq.cli", "worker", "--worker-class", "rq.SimpleWorker", "--url", url, "--quiet",
            )  # fmt: skip

    return Contestant("rq (SimpleWorker), 2 processes", ("redis",), sender, workers)


def floor(label: str, kind: str, *brokers: str) -> Contestant:
    """What is left when a library does nothing but send, receive and acknowledge (:mod:`benchmarks.bare`)."""

    def workers(start: Start, url: str) -> None:
        for _ in range(2):
            start(sys.executable, "-m", "benchmarks.bare", kind, url)

    return Contestant(label, brokers or ("redis", "rabbitmq"), lambda url: bare.sender(kind, url), workers)


def _module(name: str, url: str) -> Any:
    """A peer's module, made anew for each broker that it is used with."""
    import importlib

    os.environ["BENCH_BROKER"] = url
    full = f"benchmarks.peers.{name}"
    sys.modules.pop(full, None)
    return importlib.import_module(full)
