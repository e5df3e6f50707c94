"""Many tasks and commands through one worker, in rounds, and what it holds after each."""

from __future__ import annotations

import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stem_kombu import timeouts
from stem_kombu.control.client.client import ControlClient
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from tests.cli.program import STEM
from tests.servers.rabbitmq import RabbitServer
from tests.soak import app as application
from tests.soak.footprint import footprint, held_by
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]
NAMES = ("soak.inline", "soak.inline", "soak.isolate", "soak.inline", "soak.fails")
#: Ids that are revoked again and again: a revocation that is held is no leak.
REVOKED = [f"soak-revoked-{number}" for number in range(5)]


class Soak:
    """One worker by the real command line, with its backend in ``folder``."""

    def __init__(self, broker: str, folder: Path, rabbitmq: RabbitServer | None = None) -> None:
        self.broker, self._rabbitmq = broker, rabbitmq
        self.variables = {
            "STEM_BROKER_URL": broker,
            "STEM_RESULT_BACKEND_URL": f"sqlite://{folder / 'state.db'}",
            "STEM_SYNC_INTERVAL": "1s",
            # What is looked for is what is left, however slow the machine is.
            "STEM_CONTROL_TIMEOUT": "60s",
        }
        if broker.startswith("redis"):
            self.variables["STEM_REVOKE_STORE_URL"] = broker
        self.settings = Settings.from_env(self.variables)
        self._log = folder / "worker.log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [STEM, "worker", "start", "-A", "tests.soak.app:app", "--name", "soak", "--concurrency", "2"],
                env={**os.environ, **self.variables},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.app = application.app
        self.app.configure(self.settings)
        self.finished = 0
        self.commands = 0

    def wait_ready(self) -> None:
        eventually(
            lambda: " is ready" in self.log or "ready:" in self.log or self.process.poll() is not None,
            150,
            lambda: self.log,
        )
        assert self.process.poll() is None, self.log

    @property
    def log(self) -> str:
        return self._log.read_text()

    def warm_up(self, tasks: int, commands: int, *, fill: bool = False) -> None:
        """A round in which every slot is taken at once, so that every thread that there may be is there.

        With ``fill``, rounds follow until what has a bound is as full as this pace makes it: a worker remembers each
        command, with its answer, until it would be stale (G14), and SQLite has pages of the backend in its cache.
        """
        self.round(200, 10, ("soak.pause",))
        began = time.monotonic()
        self.round(tasks, commands)
        while fill and time.monotonic() - began < self.settings.control_timeout + timeouts.COMMAND_CLOCK_TOLERANCE:
            self.round(tasks, commands)

    def round(self, tasks: int, commands: int, names: Sequence[str] = NAMES) -> None:
        """Send the tasks, give the commands meanwhile, and return when all are done."""
        sending = threading.Thread(target=self._send, args=(tasks, names))
        sending.start()
        with ControlClient(self.settings) as client:
            for _ in range(commands):
                self._command(client)
            sending.join()
            self.finished += tasks
            eventually(
                lambda: self._settled(client) >= self.finished, 600, lambda: f"{self.finished}: {self.log[-2000:]}"
            )

    def _send(self, tasks: int, names: Sequence[str]) -> None:
        queue = self.settings.default_queue
        for start in range(0, tasks, 500):
            numbers = range(start, min(start + 500, tasks))
            self.app.producer.send_many(
                TaskMessage(
                    f"{self.finished}-{number}-{os.getpid()}", names[number % len(names)], (number,), queue=queue
                )
                for number in numbers
            )

    def _command(self, client: ControlClient) -> None:
        turn, self.commands = self.commands % 20, self.commands + 1
        if turn % 5 == 0:
            report: Any = client.revoke(
                [REVOKED[self.commands // 5 % len(REVOKED)]], terminate=turn == 0, reason="soak"
            )
        elif turn == 1:
            report = client.stats()
        elif turn % 2:
            report = client.inspect(revoked=turn == 3, limit=10)
        else:
            report = client.ping()
        assert [reply.worker for reply in report.replies] == ["soak"], report

    def _settled(self, client: ControlClient) -> int:
        totals = client.stats().replies[0].payload["totals"]
        return int(totals["succeeded"]) + int(totals["failed"]) + int(totals["cancelled"])

    def blocks(self) -> int:
        """Memory blocks that Python has allocated in the worker."""
        with ControlClient(self.settings) as client:
            return int(client.call("blocks").replies[0].payload["blocks"])

    def held(self) -> dict[str, Any]:
        """What the worker and the broker hold while nothing is asked of them."""
        return {
            "worker": footprint(self.process.pid).to_dict(),
            "client": footprint(os.getpid()).to_dict(),
            "broker": dict(held_by(self.broker, self._rabbitmq)),
        }

    def close(self) -> None:
        self.app.close()
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(60)


@contextmanager
def soaking(broker: str, folder: Path, rabbitmq: RabbitServer | None = None) -> Iterator[Soak]:
    soak = Soak(broker, folder, rabbitmq)
    try:
        soak.wait_ready()
        yield soak
    finally:
        soak.close()


def run(
    broker: str,
    folder: Path,
    *,
    tasks: int,
    commands: int,
    rounds: int,
    warm_up: tuple[int, int],
    fill: bool = False,
    within: float | None = None,
    rabbitmq: RabbitServer | None = None,
    tell: Callable[[str], object] | None = None,
) -> dict[str, Any]:
    """The figures of a soak: what was held after the warm-up, after each round, and at the end.

    ``fill``: warm up until what has a bound is full. No round begins later than ``within`` seconds after the first one.
    """
    started = time.monotonic()
    with soaking(broker, folder, rabbitmq) as soak:
        born = footprint(soak.process.pid).rss
        soak.warm_up(*warm_up, fill=fill)
        before = at_rest(soak)
        done, given, began = soak.finished, soak.commands, time.monotonic()
        curve: list[dict[str, int]] = []
        while len(curve) < rounds and (not curve or within is None or time.monotonic() - began < within):
            soak.round(tasks // rounds, commands // rounds)
            now = footprint(soak.process.pid)
            curve.append(
                {
                    "rss": now.rss,
                    "threads": now.threads,
                    "descriptors": now.descriptors,
                    "blocks": soak.blocks(),
                }
            )
            if tell is not None:
                tell(f"{soak.finished - done} tasks, {soak.commands - given} commands: {curve[-1]}")
        after = at_rest(soak, until=before)
        odd = [line for line in soak.log.splitlines() if "ERROR" in line and "soak.fails" not in line]
        return {
            "broker": soak.settings.broker.value.partition(":")[0],
            "tasks": soak.finished - done,
            "commands": soak.commands - given,
            "warm_up_tasks": done,
            "warm_up_commands": given,
            "seconds": round(time.monotonic() - started, 1),
            "rss_at_birth": born,
            "before": before,
            "after": after,
            "after_each_round": curve,
            "errors_in_the_log": len(odd),
            "left": differences(before, after),
        }


def at_rest(soak: Soak, until: dict[str, Any] | None = None) -> dict[str, Any]:
    """What is held once it no longer changes (connections close, queues of clients go), or is as it was before."""
    last: list[dict[str, Any]] = [{}]

    def settled() -> bool:
        now = soak.held()
        same = not differences(until, now) if until is not None else not differences(last[0], now) if last[0] else False
        last[0] = now
        return same

    try:
        eventually(settled, 90, interval=0.5)
    except AssertionError:
        if until is None:
            raise
    return last[0]


def differences(before: dict[str, Any] | None, after: dict[str, Any]) -> list[str]:
    """What is more than before, memory aside: that is judged by its curve."""
    found: list[str] = []
    own = ("descriptors", "threads")
    # The client's children are the session's servers, which open what they like.
    for part, names in (("worker", (*own, "processes", "descriptors_of_children")), ("client", own)):
        for name in names:
            old, new = (before or after)[part][name], after[part][name]
            if new > old:
                found.append(f"{name} of the {part}: {old}, then {new}")
    old, new = (before or after)["broker"], after["broker"]
    if old.get("connections", 0) > new.get("connections", 0):
        old = {**old, "connections": new["connections"]}  # one that was idle for long has been closed
    if old != new:
        found.append(f"broker: {json.dumps(old, sort_keys=True)}, then {json.dumps(new, sort_keys=True)}")
    return found


def growth(figures: dict[str, Any]) -> float:
    """Bytes by which the worker grew per 1,000 tasks, from the second half of its curve."""
    curve = [sample["rss"] for sample in figures["after_each_round"]]
    half = curve[len(curve) // 2 :]
    each = figures["tasks"] / len(curve)
    return (half[-1] - half[0]) / (each * (len(half) - 1)) * 1000 if len(half) > 1 else 0.0
