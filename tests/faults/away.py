"""Tasks that run while backend and store are away for a minute: how many are lost, and how many run twice."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from stem_kombu.backends.registry import open_backend
from stem_kombu.clock import SYSTEM
from stem_kombu.outcome import TaskState
from stem_kombu.task import TaskMessage
from tests.faults.report import Target
from tests.servers.postgres import PostgresServer
from tests.servers.process import Reaper
from tests.waiting import eventually

#: Seconds of one outage: six leases of a message.
AWAY = 60.0
#: Tasks that are sent before each outage, and the most seconds that each of them takes.
TOGETHER, LONGEST = 50, 8.0
#: Tasks that have to run when it begins.
RUNNING = 6


def doubled(here: Any, broker: str, trials: int, patience: float) -> tuple[Target, dict[str, int]]:
    """Of ``trials`` tasks, those that did not succeed once the backend was back, or started more than once. Two workers read
    them; the server of backend and revoke store is killed while they run, and started a minute later."""
    rng, reaper = random.Random(trials), Reaper()
    server = PostgresServer(reaper, fsync=True)
    try:
        server.start()
        here.urls |= dict.fromkeys(("backend", "revoke_store"), server.new_database())
        for name in ("alpha", "bravo"):
            here.start_worker(name, app="tests.faults.counting", inline_slots=4)
        bad: set[str] = set()
        outages = 0
        for first in range(0, trials, TOGETHER):
            ids = [f"away-{number}" for number in range(first, min(first + TOGETHER, trials))]
            here.app.producer.send_many(
                TaskMessage(each, "linger", (str(here.marks), rng.uniform(0.0, LONGEST))) for each in ids
            )
            eventually(lambda ids=ids: len(set(ids) & set(here.ran())) >= min(RUNNING, len(ids)), patience)  # type: ignore[misc]
            server.kill()
            SYSTEM.sleep(AWAY)
            server.start()
            outages += 1
            bad |= _unfinished(here, ids, patience)
        starts = Counter(here.ran())
        bad |= {each for each, times in starts.items() if times > 1}
    finally:
        server.close()
        reaper.close()
    what = f"tasks lost or run twice while the backend was away for a minute, {broker}"
    return Target(what, len(bad), trials, 100), {f"Outages of the backend, {broker}": outages}


def _unfinished(here: Any, ids: list[str], patience: float) -> set[str]:
    """Those that have not succeeded after so long without another one that did."""
    backend = open_backend(here.urls["backend"])
    left, deadline = set(ids), SYSTEM.monotonic() + patience
    try:
        while left and SYSTEM.monotonic() < deadline:
            ended = {one for one in left if (held := backend.get(one)) and held.state is TaskState.SUCCEEDED}
            if ended:
                left, deadline = left - ended, SYSTEM.monotonic() + patience
            SYSTEM.sleep(0.5)
    finally:
        backend.close()
    return left
