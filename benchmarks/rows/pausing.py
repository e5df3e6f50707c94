"""From the call that pauses a queue to the last start of one of its tasks, on eight workers that are busy with it, against the
broker's own round trip beside them: a fanout by bare Kombu, and eight answers.

Both are measured in turns while the workers run tasks of 10 to 30 ms, so that tasks start at any time and the processors are
shared alike.
"""

from __future__ import annotations

import random
import sys
import time
from contextlib import closing
from pathlib import Path

from benchmarks.figures import Figure, Findings
from benchmarks.floor import Floor
from benchmarks.lab import BROKERS, Lab, stem_worker
from stem_kombu import ControlClient, Stem
from stem_kombu.control.client.directives import DirectiveClient

WORKERS, TASKS, BEFORE, WARM_UP = 8, 120, 24, 3
#: Pauses at least: of fewer than a hundred the 99th percentile is the longest, of so many the third longest.
LEAST = 210
#: Seconds after the answers in which a start would still be seen.
AFTER = 0.1
#: Seconds that a task takes, and that lie between a round trip and the pause after it.
TAKES, APART = (0.01, 0.03), (0.01, 0.03)


def measure(lab: Lab, found: Findings) -> None:
    for broker in BROKERS:
        settings = lab.settings(url := lab.url(broker))
        last: list[float] = []
        trips: list[float] = []
        with (
            lab.processes() as start,
            closing(Stem("benchmarks", settings=settings)) as app,
            ControlClient(settings) as client,
        ):
            for process in [
                stem_worker(start, settings, f"w{n}", "-A", "benchmarks.tasks:inline_app", "--inline-slots", "1")
                for n in range(WORKERS)
            ] + [start(sys.executable, "-m", "benchmarks.responder", url) for _ in range(WORKERS)]:
                process.wait_for("ready:")
            directives = DirectiveClient(client)
            directives.pause(["default"])  # which connects
            directives.resume(["default"])
            with closing(Floor(url, WORKERS)) as floor:
                floor()
                for trial in range(max(30 * lab.rounds, LEAST) + WARM_UP):
                    trip, took = one_pause(floor, directives, app, lab.path("steps"))
                    if trial >= WARM_UP:
                        trips.append(trip)
                        last.append(took)
        beside = Figure(f"{broker}: the round trip beside them (bare Kombu, {WORKERS} answers)", trips, "ms")
        pause = Figure(f"{broker}: pause called to the last start, {WORKERS} workers", last, "ms")
        found.add(pause, beside)
        against = [pause.quantile(0.99) / beside.median]
        found.add(Figure(f"{broker}: p99 of the pause against the round trip", against, "x", "3 at most"))


def one_pause(floor: Floor, directives: DirectiveClient, app: Stem, path: Path) -> tuple[float, float]:
    """Milliseconds of a round trip, and from the call of a pause to the last start; 0 where none came after it."""
    app.send_many("bench.step", [(str(path), random.uniform(*TAKES)) for _ in range(TASKS)])
    wait_for(path, BEFORE)
    asked = time.monotonic()
    floor()
    trip = time.monotonic() - asked
    time.sleep(random.uniform(*APART))
    called = time.monotonic()
    report = directives.pause(["default"])
    if len(report.replies) != WORKERS:
        raise RuntimeError(f"only {len(report.replies)} of {WORKERS} workers answered")
    time.sleep(AFTER)
    last = starts(path)[-1]
    if len(starts(path)) == TASKS:
        raise RuntimeError("no task was left to start when the queue was paused")
    directives.resume(["default"])
    wait_for(path, TASKS)
    return trip * 1000, max(0.0, (last - called) * 1000)


def starts(path: Path) -> list[float]:
    """When tasks have started so far, in order."""
    return sorted(float(line.split()[2]) for line in path.read_text().splitlines()) if path.exists() else []


def wait_for(path: Path, count: int, timeout: float = 30.0) -> None:
    """Return when so many tasks have started."""
    deadline = time.monotonic() + timeout
    while len(starts(path)) < count:
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(starts(path))} of {count} tasks started within {timeout:g} s")
        time.sleep(0.002)
