"""One id, one worker; and workers beside a connection of a host application: what is wrong after races, kills and silence."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

import redis

from stem_kombu.control.client.client import ControlClient
from stem_kombu.testing.proxy import TcpProxy
from tests.faults.fleet import ROOT
from tests.faults.report import Target
from tests.waiting import eventually

#: What a process id namespace of its own takes, as a container has one.
BOX = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
_FORKING = """
import json, os, signal, sys
from stem_kombu.settings import Settings
from stem_kombu.worker.worker import Worker
from tests.faults.counting import app
app.configure(Settings.from_env({"STEM_CELERY_EVENTS": "off"}, **json.loads(sys.argv[1])))
worker = Worker(app, concurrency=1, inline_slots=1)
for _ in range(3):
    if not os.fork():
        worker.start()
        print("up", flush=True)
        signal.pause()
signal.pause()
"""


def one_id(here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials``: two processes claim one id at the same instant, one is to get it; it is killed, and its successor is to
    get it at once (its heartbeats count for 90 s)."""
    bad = 0
    for _ in range(trials):
        rivals = [here.begin_worker("same", app="tests.faults.counting", heartbeat_interval=30.0) for _ in range(2)]
        ready = [rival for rival in rivals if here.is_ready(rival)]
        refused = [rival for rival in rivals if "is taken by a live worker" in rival.log.read_text(errors="replace")]
        bad += (len(ready), len(refused)) != (1, 1)
        for rival in ready:
            here.end(rival, signal.SIGKILL)
    return Target(f"ids that two processes got, or none, or that a kill kept, {broker}", bad, trials, 200, "")


def containers(here: Any, broker: str, trials: int, patience: float) -> Target:
    """The same in process id namespaces, in each of which the worker is process 1: of two that live one is refused, and the
    successor of a killed one gets the id within an interval, as it can't see that it is dead."""
    bad = 0
    for _ in range(trials):
        first = _boxed(here, "first")
        eventually(lambda first=first: "ready\n" in _said(first), patience)  # type: ignore[misc]
        second = _boxed(here, "second")
        eventually(lambda second=second: second.poll() is not None or "ready\n" in _said(second), patience)  # type: ignore[misc]
        bad += "is taken by a live worker" not in _said(second)
        for one in (first, second):
            one.kill()
            one.wait()
    return Target(f"ids that two containers got, or that a kill kept, {broker}", bad, trials, 50, "Stem 0.1.0: all")


def made_before_a_fork(here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials`` workers that were made once and started in three children, those that a ping does not find."""
    bad = done = 0
    settings = {**here.urls, "heartbeat_interval": 1.0}
    with ControlClient(here.app) as control:
        while done < trials:
            host = subprocess.Popen(
                [sys.executable, "-c", _FORKING, json.dumps(settings)],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            assert host.stdout is not None
            for _ in range(3):
                host.stdout.readline()
            report = control.ping(timeout=patience)
            bad += 3 - len({reply.payload["pid"] for reply in report.replies if reply.error is None})
            done += 3
            os.killpg(host.pid, signal.SIGKILL)
            host.wait()
            host.stdout.close()
            backend = here.app.backend
            for beat in backend.view("stem").heartbeats:
                backend.leave("stem", beat.worker, beat.boot)
    return Target(
        f"workers made before a fork that nobody reaches, {broker}", bad, done, 200, "Stem 0.1.0: two of three"
    )


def silent_deaths(here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials``: each time all connections of a worker beside a plain Kombu connection die in silence, a task that is
    sent then has to end."""
    parts = urlsplit(here.urls["broker"])
    soon = {"heartbeat": 1} if parts.scheme == "amqp" else {"transport_options": {"socket_timeout": 1.0}}
    bad = 0
    with TcpProxy(str(parts.hostname), int(parts.port or 0)) as proxy:
        relayed = urlunsplit(parts._replace(netloc=parts.netloc.replace(f":{parts.port}", f":{proxy.port}")))
        here.start_worker("alpha", app="tests.faults.counting", beside=[relayed, soon])
        for number in range(trials):
            proxy.half_open()
            here.send(f"silent-{number}")
            try:
                eventually(lambda number=number: f"silent-{number}" in here.ran(), patience, interval=0.05)  # type: ignore[misc]
            except AssertionError:
                bad += 1
    what = f"silent deaths of a host's connection after which a worker did no more work, {broker}"
    return Target(what, bad, trials, 50, "Stem 0.1.0: all")


def leases_of_a_host(here: Any, broker: str, trials: int, patience: float) -> Target:
    """Of ``trials`` tasks that a killed worker beside a plain Kombu connection held, those that lie where Kombu's and Celery's
    workers would take them for their own (Redis), or never ran (RabbitMQ)."""
    bad = done = 0
    while done < trials:
        ids = [f"held-{done + n}" for n in range(8)]
        worker = here.start_worker("alpha", app="tests.faults.counting", beside=[here.urls["broker"], {}])
        here.send(*ids)
        with suppress(AssertionError):
            eventually(lambda ids=ids: set(ids) & set(here.ran()), patience, interval=0.001)  # type: ignore[misc]
        here.end(worker, signal.SIGKILL)
        done += len(ids)
        if here.urls["broker"].startswith("redis"):
            with redis.Redis.from_url(here.urls["broker"]) as client:
                bad += int(client.hlen("unacked")) + int(client.zcard("unacked_index"))
        else:
            worker = here.start_worker("alpha", app="tests.faults.counting", beside=[here.urls["broker"], {}])
            eventually(lambda ids=ids: set(ids) <= set(here.ran()), patience)  # type: ignore[misc]
            here.end(worker, signal.SIGTERM)
    what = f"messages of killed workers beside a host's connection, lost or in the host's keys, {broker}"
    return Target(what, bad, done, 200, "Stem 0.1.0 on Redis: all")


def _boxed(here: Any, name: str) -> subprocess.Popen[bytes]:
    log = here.folder / f"boxed-{name}-{time.monotonic_ns()}.log"
    options = {**here.urls, "name": "same", "sync_interval": 1.0, "heartbeat_interval": 1.0}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *BOX,
                sys.executable,
                "-m",
                "tests.faults.process",
                json.dumps({**options, "app": "tests.faults.counting"}),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    process.log = log  # type: ignore[attr-defined]
    return process


def _said(process: Any) -> str:
    log: Path = process.log
    return log.read_text(errors="replace")


#: Each row's name, what measures it, and which part of the trials it makes: a trial of some takes over ten seconds.
ROWS = {
    "one id": (one_id, 1.0),
    "containers": (containers, 0.25),
    "made before a fork": (made_before_a_fork, 1.0),
    "silent deaths": (silent_deaths, 0.25),
    "leases of a host": (leases_of_a_host, 1.0),
}
