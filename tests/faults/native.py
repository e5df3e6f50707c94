"""Revoked tasks that ran: Celery's own ``app.control.revoke()`` from a client without the line, Celery workers with it (G1).

Five ways in which Celery by itself forgets: the worker that received the revoke is restarted, killed, killed while it holds the
tasks, or replaced by a worker that did not receive it; or its revoke store did not answer when the revoke came.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit, urlunsplit

import kombu.pools
from celery.states import READY_STATES

from stem_kombu.testing.gates import Gate
from stem_kombu.testing.proxy import TcpProxy
from tests.faults.counting_celery import make
from tests.faults.fleet import ROOT
from tests.faults.report import Target
from tests.waiting import eventually

if TYPE_CHECKING:
    from tests.faults.targets import Lab

#: What happens, and what it is called.
HOW = {
    "restart": "a restart of their Celery worker",
    "kill": "SIGKILL of their Celery worker",
    "held": "SIGKILL of the Celery worker that held them",
    "replaced": "another Celery worker took the place of theirs",
    "away": "SIGKILL of their Celery worker, the revoke store away when the revoke came",
}
#: Revoked tasks and others of a round.
REVOKED, FREE = 50, 2


class Worker:
    """A Celery worker with its children, on a lab's broker and store."""

    def __init__(self, here: Lab, urls: dict[str, str], name: str, number: int) -> None:
        self._log = here.folder / f"{name}-{number}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "COUNTING_BROKER": urls["broker"],
            "COUNTING_BACKEND": urls["celery"],
            "STEM_REVOKE_STORE_URL": urls["store"],
            "STEM_SYNC_INTERVAL": "1s",
            "STEM_HEARTBEAT_INTERVAL": "1s",
        }
        with self._log.open("wb") as out:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "celery", "-A", "tests.faults.counting_celery", "worker", "-n", f"{name}@native",
                 "-c", "1", "-l", "info", "--without-mingle", "--without-gossip"],
                cwd=here.folder, env=environment, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT,
                start_new_session=True,
            )  # fmt: skip

    def says(self, text: str) -> bool:
        assert self.process.poll() is None, self._log.read_text(errors="replace")
        return text in self._log.read_text(errors="replace")

    def kill(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def restart(self, patience: float) -> None:
        self.process.terminate()
        self.process.wait(patience)


class Trials:
    """Rounds of one way in which a worker ends, and what they came to."""

    def __init__(self, here: Lab, how: str, patience: float) -> None:
        self.here, self._how, self._patience = here, how, patience
        self._started = 0
        self._undone = ExitStack()
        self._store = self._undone.enter_context(_proxy(here.urls["revoke_store"]))
        state = here.urls["backend"]
        celery = f"db+{state.replace('postgresql', 'postgresql+psycopg2')}" if state.startswith("postgres") else state
        self._urls = {
            "broker": here.urls["broker"],
            "celery": celery,
            "store": _through(self._store, here.urls["revoke_store"]),
        }
        self._client = make(self._urls["broker"], celery)
        self._done: list[str] = []
        #: Rounds in which the store had not answered when the worker did: all of ``away``, and others on a busy machine.
        self.late = 0

    def run(self, trials: int) -> int:
        """How many of so many revoked tasks ran."""
        worker = self._start("alpha")
        while len(self._done) < trials:
            number = len(self._done)
            revoked = [f"revoked-{number + each}" for each in range(REVOKED)]
            free = [f"free-{number + each}" for each in range(FREE)]
            worker = self._round(worker, revoked, free)
            for task in (*revoked, *free):
                eventually(partial(self._ended, task), self._patience, f"{task} has not ended")
            missing = set(free) - set(self.here.ran())
            assert not missing, missing
            self._done += revoked
        worker.kill()
        return len(set(self._done) & set(self.here.ran()))

    def _round(self, worker: Worker, revoked: Sequence[str], free: Sequence[str]) -> Worker:
        if self._how == "held":
            # One child: behind this task the others stay in the worker's hands, unacknowledged.
            gate = Gate(self.here.folder / f"hold-{revoked[0]}")
            self._client.send_task("hold", (gate.path,))
            gate.wait_reached(timeout=self._patience)
            self._send(revoked)
        if self._how == "away":
            self._store.stall()
        durable = self._revoke(revoked)
        if self._how == "away":
            self._store.resume()
        if not durable:  # within its settle time: as soon as the store answers again
            said = f"revocations of {len(revoked)} tasks, which had waited for the revoke store, are stored now"
            eventually(lambda: worker.says(said), self._patience, said)
            self.late += 1
        if self._how in ("restart", "replaced"):
            worker.restart(self._patience)
        else:
            worker.kill()
        if self._how != "held":
            self._send(revoked)
        self._send(free)
        return self._start("bravo" if self._how == "replaced" and self._started % 2 else "alpha")

    def _send(self, ids: Sequence[str]) -> None:
        for each in ids:
            self._client.send_task("count", (str(self.here.marks),), task_id=each)

    def _revoke(self, ids: Sequence[str]) -> bool:
        """As any Celery client does; it knows from the answer that a worker has received it. Whether that had stored it."""
        # What Redis broadcasts while a worker's subscription is young may be lost: then it is asked again. Not sooner than the
        # answer may need: Celery's worker asks its result backend of each id first, 0.3 s for one of 50 on a busy PostgreSQL.
        with self._client.connection_for_write() as connection:
            answers = eventually(
                lambda: self._client.control.revoke(
                    list(ids), connection=connection, reply=True, timeout=self._patience / 4, limit=1
                ),
                self._patience,
            )
        (answer,) = answers[0].values()
        assert "ok" in answer, answer
        durable = answer.get("durable", True)
        assert not (durable and self._how == "away"), answer
        return bool(durable)

    def _ended(self, task: str) -> bool:
        return self._client.AsyncResult(task).state in READY_STATES

    def _start(self, name: str) -> Worker:
        self._started += 1
        worker = Worker(self.here, self._urls, name, self._started)
        self._undone.callback(worker.kill)
        eventually(lambda: worker.says(" ready."), self._patience, "the worker is not ready")
        return worker

    def close(self) -> None:
        self._undone.close()
        self._client.close()
        kombu.pools.reset()


def _proxy(url: str) -> TcpProxy:
    parts = urlsplit(url)
    assert parts.hostname is not None
    assert parts.port is not None
    return TcpProxy(parts.hostname, parts.port)


def _through(proxy: TcpProxy, url: str) -> str:
    parts = urlsplit(url)
    login = parts.netloc.rpartition("@")[0]
    return urlunsplit(parts._replace(netloc=f"{login + '@' if login else ''}{proxy.host}:{proxy.port}"))


def native(how: str, here: Lab, broker: str, trials: int, patience: float) -> tuple[Target, dict[str, int]]:
    """Of so many tasks that a client without the line revoked, those that ran."""
    made = Trials(here, how, patience)
    try:
        bad = made.run(trials)
    finally:
        made.close()
    what = f"tasks revoked by app.control.revoke() that ran after {HOW[how]}, {broker}"
    facts = {f"Times that the revoke store was away when a Celery client revoked, {broker}": made.late}
    return Target(what, bad, -(-trials // REVOKED) * REVOKED, 200), facts if how == "away" else {}


#: By name, with the share of the usual trials.
ROWS: dict[str, tuple[Callable[..., Any], float]] = {f"native {how}": (partial(native, how), 1.0) for how in HOW}
