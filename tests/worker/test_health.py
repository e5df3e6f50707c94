"""G34: health means consuming. A worker's file as its threads stamp it, and what a probe of it says."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from stem_kombu import health_page, timeouts
from stem_kombu.agent.health_file import HealthFile
from stem_kombu.app import Stem
from stem_kombu.concurrency.pulse import Pulses
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.errors import ConfigurationError
from stem_kombu.health_page import Health, Page, health_of
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu.testing.proxy import TcpProxy
from stem_kombu.worker.worker import Worker
from tests.suspension import suspend
from tests.waiting import consistently, eventually
from tests.worker.conftest import WorkerMaker

embedded = pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)
servers = pytest.mark.parametrize("broker_url", ["redis", "amqp"], indirect=True)
#: Seconds without a turn with the broker; more than an idle worker's turns are apart.
SOON = 4.0


def path_of(worker: Worker) -> Path:
    path = worker.agent.health.path
    assert path is not None
    return path


def probed(worker: Worker) -> Health:
    return health_of(Page.at(str(path_of(worker))), time.monotonic())


def stem_health(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The program itself."""
    run = [sys.executable, "-m", "stem_kombu_cli.stem_health", *arguments]
    return subprocess.run(run, capture_output=True, text=True, timeout=60, check=False)


def test_g34_a_worker_that_consumes_is_live_and_ready(worker: Worker) -> None:
    path = path_of(worker)
    assert path == Path(os.environ["XDG_STATE_HOME"], "stem", "stem", "alpha.health")
    assert (path.stat().st_mode & 0o777, path.stat().st_size) == (0o600, 4096)
    health = eventually(lambda: (found := probed(worker)).state == "ok" and found)
    assert health.live
    assert health.ready
    assert [name for name, _, _ in health.threads] == ["pool", "hydration", "consumer", "control", "heartbeats"]
    assert health.queues == dict.fromkeys(worker.queues, True)
    assert health.pid == os.getpid()
    assert health.store_age is not None
    told = json.loads(stem_health("--name", "alpha", "--json").stdout)
    assert (told["schema"], told["worker"], told["state"]) == ("stem.probe/1", "alpha", "ok")


def test_g34_every_vital_thread_stamps_for_itself(worker: Worker) -> None:
    """In a worker with nothing to do each of them moves on, within its own period."""
    shortened = time.monotonic()

    def have_moved() -> bool:
        return all(now - age > shortened for now in [time.monotonic()] for _, age, _ in probed(worker).threads)

    worker.agent.hydration.nudge()
    eventually(have_moved, 30)


def test_g34_a_worker_whose_consumer_hangs_is_not_ready_and_then_not_live(
    worker: Worker, app: Stem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(health_page, "CONSUMES_WITHIN", SOON)
    eventually(lambda: probed(worker).state == "ok")
    hangs, goes_on = threading.Event(), threading.Event()
    receive = worker.consumer._receive

    def hang(message: Any, generation: int) -> None:
        hangs.set()
        goes_on.wait(100)
        receive(message, generation)

    monkeypatch.setattr(worker.consumer, "_receive", hang)
    try:
        app.send_task("inline.add", (1,))
        assert hangs.wait(30)
        health = eventually(lambda: (found := probed(worker)).state == "disconnected" and found, 30)
        assert health.live
        assert not health.ready
        assert health.queues == dict.fromkeys(worker.queues, False)
        later = health_of(Page.at(str(path_of(worker))), time.monotonic() + 3 * timeouts.MOVES)
        assert later.state == "stuck"
        assert "thread consumer has not moved" in later.message
    finally:
        goes_on.set()
    eventually(lambda: probed(worker).ready, 30)


@servers
def test_g34_with_its_broker_away_a_worker_is_live_and_not_ready(
    broker_url: str, backend_url: str, app: Stem, proxy_for: Callable[[str, int], TcpProxy],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(health_page, "CONSUMES_WITHIN", SOON)
    parts = urlsplit(broker_url)
    assert parts.hostname is not None
    assert parts.port is not None
    proxy = proxy_for(parts.hostname, parts.port)
    through = broker_url.replace(f":{parts.port}", f":{proxy.port}", 1)
    app.configure(Settings.from_env({}, broker=through, backend=backend_url, sync_interval=0.3, heartbeat_interval=0.5))
    with Worker(app, name="alpha", concurrency=1) as worker:
        eventually(lambda: probed(worker).state == "ok")
        proxy.stop()
        health = eventually(lambda: (found := probed(worker)).state == "disconnected" and found, 40)
        assert health.live
        consistently(lambda: probed(worker).live, 1.0)
        proxy.start()
        eventually(lambda: probed(worker).ready, 40)


@embedded
def test_g34_a_worker_that_drains_is_ready_and_one_that_ended_is_no_more(
    make_worker: WorkerMaker, app: Stem, gate: Gate
) -> None:
    worker = make_worker()
    path = path_of(worker)
    app.send_task("inline.gated", (str(gate.path),))
    gate.wait_reached()
    stopping = threading.Thread(target=worker.stop)
    stopping.start()
    health = eventually(lambda: (found := probed(worker)).state == "draining" and found)
    assert health.live
    assert health.ready
    gate.open()
    stopping.join(30)
    assert not path.exists()
    done = stem_health("--name", "alpha")
    assert (done.returncode, done.stdout.startswith("gone: alpha:")) == (4, True)


@pytest.mark.parametrize("broker_url", ["redis"], indirect=True)
def test_g34_a_worker_starves_that_asks_for_nothing_while_messages_wait(
    make_worker: WorkerMaker, app: Stem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeouts, "STARVING_LOOKS", 0.4)
    worker = make_worker()
    eventually(lambda: probed(worker).state == "ok")
    monkeypatch.setattr(worker.inflight, "room", lambda prefetch: 0)
    result = app.send_task("inline.add", (1,))
    health = eventually(lambda: (found := probed(worker)).state == "starving" and found, 30)
    assert health.live
    assert not health.ready
    monkeypatch.undo()
    assert result.get(timeout=30) == 1
    eventually(lambda: probed(worker).state == "ok", 30)


@embedded
def test_g34_a_worker_that_waits_for_its_store_is_starting(
    make_worker: WorkerMaker, app: Stem, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(app, name="alpha", concurrency=1)
    reads, goes_on = threading.Event(), threading.Event()
    sync = worker.hydration.sync

    def slow() -> bool:
        reads.set()
        goes_on.wait(60)
        return sync()

    monkeypatch.setattr(worker.hydration, "sync", slow)
    starting = threading.Thread(target=worker.start)
    starting.start()
    try:
        assert reads.wait(60)
        health = probed(worker)
        assert (health.state, health.live, health.ready) == ("starting", True, False)
        goes_on.set()
        starting.join(60)
        eventually(lambda: probed(worker).ready)
    finally:
        goes_on.set()
        starting.join(60)
        worker.stop(0.0)


def started(broker: str, backend: str, name: str) -> subprocess.Popen[str]:
    """A worker in a process of its own, which consumes."""
    options = {"name": name, "broker": broker, "backend": backend, "concurrency": 1}
    run = [sys.executable, "-m", "tests.worker.process", json.dumps(options)]
    process = subprocess.Popen(run, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()
    assert process.stdout is not None
    process.stdout.close()


@embedded
def test_g34_a_suspended_worker_is_not_live(broker_url: str, backend_url: str) -> None:
    process = started(broker_url, backend_url, "alpha")
    try:
        eventually(lambda: '"name": "main"' in stem_health("--name", "alpha", "--json").stdout, 30)
        suspend(process.pid)
        limit = health_page.PERIODS * timeouts.LOOKS
        done = eventually(
            lambda: (found := stem_health("--name", "alpha", "--live")).returncode == 1 and found, limit + 30
        )
        assert "stuck: alpha: thread main has not moved" in done.stdout
        process.send_signal(signal.SIGCONT)
        eventually(lambda: stem_health("--name", "alpha", "--live").returncode == 0, 30)
    finally:
        end(process)


@embedded
def test_g34_a_killed_worker_is_no_more_and_the_next_one_removes_its_file(
    broker_url: str, backend_url: str, state_folder: Path
) -> None:
    process = started(broker_url, backend_url, "alpha")
    end(process)
    path = state_folder / "stem" / "alpha.health"
    assert path.exists()
    assert not Page.at(str(path)).alive
    assert stem_health("--name", "alpha", "--live").returncode == 4
    other = started(broker_url, backend_url, "beta")
    try:
        assert not path.exists()
        assert eventually(lambda: "ok: beta" in stem_health().stdout, 30), "the only one needs no name"
    finally:
        end(other)


# -- the file ---------------------------------------------------------------------------------------------------------


def identity(name: str) -> WorkerIdentity:
    from stem_kombu.clock import SYSTEM

    return WorkerIdentity.here("stem", name, SYSTEM.utcnow())


def a_file(path: Path | str | None, name: str = "alpha") -> HealthFile:
    settings = replace(Settings.from_env({}), health_file=None if path is None else str(path))
    return HealthFile(settings, identity(name), Pulses())


def test_a_path_that_was_given_must_be_writable(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"health file .*absent/alpha: No such file"):
        a_file(tmp_path / "absent" / "alpha").start()
    assert list(tmp_path.iterdir()) == []


def test_without_its_usual_place_a_worker_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    with caplog.at_level(logging.WARNING):
        health = a_file(None)
        health.start()
    assert health.path is None
    assert "STEM_HEALTH_FILE" in caplog.text
    health.show(health_page.RUNNING, ["mail"])
    health.stop()


def test_off_means_no_file(state_folder: Path) -> None:
    health = a_file("off")
    health.start()
    assert health.path is None
    assert not state_folder.exists()


def test_a_file_that_another_worker_of_the_id_has_replaced_is_left_alone(tmp_path: Path) -> None:
    first, second = a_file(tmp_path / "alpha"), a_file(tmp_path / "alpha")
    first.start()
    second.start()
    second.claim()
    first.stop()
    assert Page.at(str(tmp_path / "alpha")).alive
    second.stop()
    assert list(tmp_path.iterdir()) == []


def test_a_process_that_was_forked_off_does_not_make_a_dead_worker_look_alive(tmp_path: Path) -> None:
    health = a_file(tmp_path / "alpha")
    health.start()
    (here, there), (done, ends) = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(there, b"x")  # it has let go of the file, as each fork does first of all
            os.close(ends)
            os.read(done, 1)  # until the parent is done
        finally:
            os._exit(0)
    os.close(done)
    try:
        assert os.read(here, 1) == b"x"
        health.renew()  # as if this process had ended
        assert not Page.at(str(tmp_path / "alpha")).alive
    finally:
        os.close(ends)
        os.waitpid(child, 0)
        os.close(here)
        os.close(there)


def test_stamps_go_on_without_a_file() -> None:
    pulses = Pulses()
    pulse = pulses.thread("main", 5.0)
    pulse.beat()
    pulse.rest()
    assert pulses.threads == [pulse]
