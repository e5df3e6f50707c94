"""From the moment a revoke is stored to TaskRevoked in a running isolate, and on to the child's next task."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.figures import Figure, Findings
from benchmarks.floor import Floor
from benchmarks.lab import BROKERS, Lab, stem_worker
from stem_kombu import ControlClient, Stem

WARM_UP = 3


def measure(lab: Lab, found: Findings) -> None:
    trials = 30 * lab.rounds
    for broker in BROKERS:
        settings = lab.settings(lab.url(broker))
        stops, slots = [], []
        with (
            lab.processes() as start,
            contextlib.closing(Stem("benchmarks", settings=settings)) as app,
            ControlClient(settings) as client,
        ):
            stem_worker(start, settings, "alpha", "-c", "1").wait_for("ready:")

            def send(name: str, path: str, app: Stem = app) -> str:
                return app.send_task(name, [path]).id

            for trial in range(trials + WARM_UP):
                stop, slot = one_stop(client, send, lab.path("stop"))
                if trial >= WARM_UP:
                    stops.append(stop)
                    slots.append(slot)
        stop = Figure(f"{broker}: revoke stored to TaskRevoked in an isolate", stops, "ms", "p99 20 at most")
        trip = Figure(f"{broker}: the broker's own round trip (bare Kombu, one answer)", round_trips(lab, broker), "ms")
        found.add(stop, trip, Figure(f"{broker}: the same child begins its next task", slots, "ms", "10 at most"))
        found.add(
            Figure(
                f"{broker}: p99 of the stop against the round trip",
                [stop.quantile(0.99) / trip.median],
                "x",
                "3 at most",
            )
        )


def round_trips(lab: Lab, broker: str, answers: int = 1) -> list[float]:
    """Milliseconds of a fanout and so many answers, each after a pause as between two stops."""
    url, took = lab.url(broker), []
    with lab.processes() as start:
        for _ in range(answers):
            start(sys.executable, "-m", "benchmarks.responder", url).wait_for("ready:")
        floor = Floor(url, answers)
        for number in range(20 * lab.rounds + WARM_UP):
            began = time.perf_counter()
            floor()
            if number >= WARM_UP:
                took.append((time.perf_counter() - began) * 1000)
            time.sleep(0.01)
        floor.close()
    return took


def one_stop(client: ControlClient, send: Callable[[str, str], str], path: Path) -> tuple[float, float]:
    """Milliseconds from a stored revoke to the stop of a running task, and from there to the child's next task."""
    busy = send("bench.busy", str(path))
    waiting(path, "started")
    send("bench.mark", str(path))
    stored_at: list[float] = []
    client.revoke([busy], terminate=True, on_stored=lambda _: stored_at.append(time.monotonic()))
    (_, started_in, _), (_, stopped_in, stopped), (_, marked_in, marked) = waiting(path, "marked")
    assert started_in == stopped_in == marked_in, "the child did not survive"
    return (float(stopped) - stored_at[0]) * 1000, (float(marked) - float(stopped)) * 1000


def waiting(path: Path, for_what: str, timeout: float = 30.0) -> list[tuple[str, str, str]]:
    """The notes, once there is one of that kind."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        notes = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        if any(note[0] == for_what for note in notes):
            return [(what, pid, at) for what, pid, at in notes]
        time.sleep(0.0005)
    raise RuntimeError(f"no task noted {for_what} within {timeout:g} s")
