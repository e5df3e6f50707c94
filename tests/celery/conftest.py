"""Real Celery workers as processes, and the ``stem`` program beside them."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import kombu.pools
import pytest
from celery import Celery

from stem_kombu.celery.configuration import host_of
from stem_kombu.control.client.client import ControlClient
from stem_kombu.settings import Settings
from tests.waiting import eventually

ROOT = Path(__file__).parent.parent.parent
_numbers = itertools.count(1)


class CeleryWorker:
    """A ``celery worker`` process."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path, name: str) -> None:
        self.process, self._log, self.name = process, log, name

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def wait_ready(self) -> CeleryWorker:
        eventually(lambda: " ready." in self.log or self.process.poll() is not None, 60, lambda: self.log)
        assert self.process.poll() is None, self.log
        return self

    def terminate(self) -> int:
        self.process.terminate()
        return self.process.wait(60)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


class Shop:
    """A Celery client, a Stem client, and the workers of one broker."""

    def __init__(self, broker: str, backend: str, folder: Path, options: dict[str, Any] | None = None) -> None:
        self.broker, self.backend, self.folder = broker, backend, folder
        self.options = options or {}
        self.workers: list[CeleryWorker] = []
        self.app = Celery("client", broker=broker, backend=backend, set_as_current=False)
        self.app.conf.broker_transport_options = self.options
        self.settings = Settings.from_env({}, host=host_of(self.app))
        self.client = ControlClient(self.settings)

    @property
    def environment(self) -> dict[str, str]:
        return {
            **os.environ,
            "SHOP_BROKER": self.broker,
            "SHOP_BACKEND": self.backend,
            "SHOP_OPTIONS": json.dumps(self.options),
            "PYTHONPATH": str(ROOT),
        }

    def begin(self, *options: str, name: str = "alpha", app: str = "tests.celery.shop:app", **env: str) -> CeleryWorker:
        log = self.folder / f"celery-{next(_numbers)}.log"
        options = options or ("-c", "2")
        if "--with-mingle" in options:  # Celery's default: a second in which it asks its neighbours what they know
            options = tuple(option for option in options if option != "--with-mingle")
        else:
            options = ("--without-mingle", *options)
        with log.open("wb") as out:
            process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", app, "worker", "-n", f"{name}@shop",
                 "-l", "info", *options],
                env={**self.environment, "STEM_HEARTBEAT_INTERVAL": "1s", "STEM_SYNC_INTERVAL": "500ms", **env},
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
            )  # fmt: skip
        worker = CeleryWorker(process, log, f"{name}@shop")
        self.workers.append(worker)
        return worker

    def start(self, *options: str, name: str = "alpha", app: str = "tests.celery.shop:app", **env: str) -> CeleryWorker:
        return self.begin(*options, name=name, app=app, **env).wait_ready()

    def send(self, name: str, *args: Any, **options: Any) -> Any:
        return self.app.send_task(name, args, **options)

    def close(self) -> None:
        self.client.close()
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        self.app.close()
        # Celery leaves its connections in Kombu's pools, and what is in them is closed in each child that this process
        # forks later: Kombu then reads, without a timeout, the answer to a BRPOP that nobody will ever answer.
        kombu.pools.reset()


@pytest.fixture
def shop_on_files(tmp_path: Path, redis_url: str) -> Iterator[Shop]:
    """Celery on a transport of Kombu that its event loop can't wait for: it then has another pool and another loop."""
    folder = tmp_path / "queues"
    folder.mkdir()
    shop = Shop(
        "filesystem://", redis_url, tmp_path,
        {"data_folder_in": str(folder), "data_folder_out": str(folder), "control_folder": str(tmp_path / "control")},
    )  # fmt: skip
    yield shop
    shop.close()


@pytest.fixture
def shop_on(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Shop]]:
    shops: list[Shop] = []

    def made(kind: str) -> Shop:
        # Results are on Redis with either broker, as most teams have it.
        backend = request.getfixturevalue("redis_url")
        broker = backend if kind == "redis" else request.getfixturevalue("amqp_url")
        shops.append(Shop(broker, backend, tmp_path))
        return shops[-1]

    yield made
    for shop in shops:
        shop.close()


@pytest.fixture(params=["redis", "amqp"])
def shop(request: pytest.FixtureRequest, shop_on: Callable[[str], Shop]) -> Shop:
    """Celery on each broker in turn."""
    return shop_on(request.param)
