"""From the moment a revoke is stored to TaskRevoked in a running isolate, and on to the child's next task."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.figures import Figure, Findings
from benchmarks.lab import BROKERS, Lab, stem_worker
from stem_kombu import ControlClient, Stem

WARM_UP = 3


def measure(lab: Lab, found: Findings) -> None:
    trials = 40 * lab.rounds
    for broker in BROKERS:
        settings = lab.settings(lab.url(broker))
        stops, slots = [], []
        with (
            lab.processes() as start,
            contextlib.closing(Stem("benchmarks", settings=settings)) as app,
            ControlClient(settings) as client,
        ):
            stem_worker(start, settings, "alpha", "-c", "1").wait_for("ready:")
            for trial in range(trials + WARM_UP):
                path = lab.path("stop")
                busy = app.send_task("bench.busy", [str(path)])
                waiting(path, "started")
                app.send_task("bench.mark", [str(path)])
                stored_at: list[float] = []

                def stored(_: Sequence[object], stored_at: list[float] = stored_at) -> None:
                    stored_at.append(time.monotonic())

                client.revoke([busy.id], terminate=True, on_stored=stored)
                (_, started_in, _), (_, stopped_in, stopped), (_, marked_in, marked) = waiting(path, "marked")
                assert started_in == stopped_in == marked_in, "the child did not survive"
                if trial >= WARM_UP:
                    stops.append((float(stopped) - stored_at[0]) * 1000)
                    slots.append((float(marked) - float(stopped)) * 1000)
        found.add(
            Figure(f"{broker}: revoke stored to TaskRevoked in an isolate", stops, "ms", "p99 20 at most"),
            Figure(f"{broker}: the same child begins its next task", slots, "ms", "10 at most"),
        )


def waiting(path: Path, for_what: str, timeout: float = 30.0) -> list[tuple[str, str, str]]:
    """The notes, once there is one of that kind."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        notes = [line.split() for line in path.read_text().splitlines()] if path.exists() else []
        if any(note[0] == for_what for note in notes):
            return [(what, pid, at) for what, pid, at in notes]
        time.sleep(0.0005)
    raise RuntimeError(f"no task noted {for_what} within {timeout:g} s")
