"""What a checkpoint costs when nothing is pending, where handlers really run: in a child, and in a thread."""

from __future__ import annotations

import contextlib
import time

from benchmarks.figures import Figure, Findings
from benchmarks.lab import Lab, stem_worker
from stem_kombu import Stem

ROUNDS = 300_000


def measure(lab: Lab, found: Findings) -> None:
    settings = lab.settings(lab.url("redis"))
    with lab.processes() as start, contextlib.closing(Stem("benchmarks", settings=settings)) as app:
        stem_worker(start, settings, "alpha", "-c", "1").wait_for("ready:")
        for place, task in (("an isolate", "bench.checkpoints"), ("a thread", "bench.inline-checkpoints")):
            bare, beats, reference = [], [], []
            for _ in range(lab.rounds):
                path = lab.path("checkpoint")
                app.send_task(task, [str(path), ROUNDS]).get(timeout=60)
                check, heartbeat = map(float, path.read_text().split())
                bare.append(check / 1000)
                beats.append(heartbeat / 1000)
                reference.append(method_call())
            found.add(
                Figure(f"ctx.check() in {place}", bare, "us", "0.15 at most"),
                Figure(f"ctx.heartbeat() in {place}", beats, "us"),
                Figure("an empty method call in this interpreter", reference, "us"),
            )


def method_call() -> float:
    class Empty:
        def call(self) -> None:
            pass

    call, numbers = Empty().call, range(ROUNDS)
    began = time.perf_counter_ns()
    for _ in numbers:
        call()
    took = time.perf_counter_ns() - began
    began = time.perf_counter_ns()
    for _ in numbers:
        pass
    return (took - (time.perf_counter_ns() - began)) / ROUNDS / 1000
