"""Clients that are killed with SIGKILL in mid-command, and what is left of them when everything of theirs has expired."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.registry import open_roster
from stem_kombu.transports.connections import open_connection
from stem_kombu.transports.redis.janitor import sweep
from tests.servers.rabbitmq import RabbitServer
from tests.soak.footprint import held_by
from tests.soak.resources import ROOT, Soak, soaking
from tests.waiting import eventually

#: Each waits for a worker that is on the roster and does not answer, so that it is in the middle of something for as long
#: as it lives.
COMMANDS = (
    ("worker", "ping", "--worker", "nobody", "--timeout", "45s"),
    ("worker", "inspect", "--worker", "nobody", "--revoked", "--timeout", "45s"),
    ("worker", "stats", "--worker", "nobody", "--worker", "soak", "--timeout", "45s"),
    ("worker", "revoke", "--task", "soak-revoked-0", "--worker", "nobody", "--timeout", "45s"),
    ("worker", "status", "--follow"),
    ("worker", "call", "no-such-command", "--worker", "nobody", "--timeout", "45s"),
)

#: ``stem``, with queues of control that expire after so many seconds, where a test can't wait for a minute.
SHORT = """
import sys
from stem_kombu.transports import names
for function in (names.broadcast_queue, names.inbox_queue, names.reply_queue, names.heartbeat_queue, names.direct_queue):
    function.__kwdefaults__["expires"] = {expires}
from stem_kombu_cli.main import main
main(sys.argv[1:])
"""


def run(
    broker: str,
    folder: Path,
    *,
    kills: int,
    seed: int,
    expires: float | None = None,
    rabbitmq: RabbitServer | None = None,
) -> dict[str, Any]:
    """Kill that many commands; half of them when the broker knows of them, half after a random while.

    ``expires`` shortens the life of the clients' queues (seconds), ``None`` leaves it at the product's. What is left is
    compared with what was there before the first one, once that time has passed.
    """
    rng = random.Random(seed)
    started = time.monotonic()
    program = (
        [sys.executable, "-c", SHORT.format(expires=expires)] if expires else [sys.executable, "-m", "stem_kombu_cli"]
    )
    with soaking(broker, folder, rabbitmq) as soak:
        soak.round(10, 20)
        _expect_somebody(soak)
        before = _settled(soak, rabbitmq)
        seen = 0
        for number in range(kills):
            command = COMMANDS[number % len(COMMANDS)]
            process = subprocess.Popen(
                [*program, *command],
                env={**os.environ, **soak.variables},
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            try:
                if number % 2:
                    time.sleep(rng.uniform(0.05, 1.5))  # anywhere between its birth and its wait
                else:
                    eventually(_more_than(before, broker, rabbitmq, process), 60, interval=0.02)
                    seen += 1
                    time.sleep(rng.uniform(0.0, 0.2))
            finally:
                process.kill()
                process.wait()
        at_once = dict(held_by(broker, rabbitmq))
        # On Redis an inbox without a reader stays until its last command has expired.
        left = _wait_for(before, soak, rabbitmq, (expires or 60.0) + 60.0)
        return {
            "broker": broker.partition(":")[0],
            "kills": kills,
            "killed_while_connected": seen,
            "seed": seed,
            "seconds": round(time.monotonic() - started, 1),
            "held_before": before,
            "held_after_the_last_kill": at_once,
            "held_at_the_end": left,
            "left": [] if left == before else sorted(set(map(str, left.items())) - set(map(str, before.items()))),
        }


def _expect_somebody(soak: Soak) -> None:
    """Put a worker on the roster that is not there, and is not due to beat for a day."""
    roster = soak.settings.roster
    opened = open_roster(roster.value, name=roster.name)
    opened.beat(Heartbeat(soak.settings.namespace, "nobody", "boot", "inbox", 86_400.0, "host", 1, "0"))
    opened.close()


def _more_than(
    before: dict[str, Any], broker: str, rabbitmq: RabbitServer | None, process: subprocess.Popen[bytes]
) -> Callable[[], bool]:
    sign = "connections" if "connections" in before else "stem_broker_queue"

    def connected() -> bool:
        assert process.poll() is None, "a command that should wait has ended"
        return bool(held_by(broker, rabbitmq)[sign] > before[sign])

    return connected


def _settled(soak: Soak, rabbitmq: RabbitServer | None) -> dict[str, Any]:
    last: dict[str, Any] = {}

    def still() -> bool:
        nonlocal last
        now, before = dict(held_by(soak.broker, rabbitmq)), last
        last = now
        return now == before

    eventually(still, 90, interval=1.0)
    return last


def _wait_for(before: dict[str, Any], soak: Soak, rabbitmq: RabbitServer | None, timeout: float) -> dict[str, Any]:
    """What is held once it is what was held before, or after that long."""
    last: dict[str, Any] = {}

    def gone() -> bool:
        nonlocal last
        # What a worker does every five minutes: followers of heartbeats that died are taken off their exchange.
        sweep(open_connection(soak.broker), soak.settings.namespace, ["soak"])
        last = dict(held_by(soak.broker, rabbitmq))
        if last.get("connections", 0) < before.get("connections", 0):
            last["connections"] = before["connections"]  # one that was idle for long has been closed
        return last == before

    try:
        eventually(gone, timeout, interval=1.0)
    except AssertionError:
        return last
    return last
