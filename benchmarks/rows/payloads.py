"""Tasks a second with larger arguments, run by one worker or by as many processes as in the row of no-op tasks."""

from __future__ import annotations

from benchmarks.contestants import celery, dramatiq, huey, stem, taskiq
from benchmarks.figures import Figure, Findings
from benchmarks.lab import Lab
from benchmarks.rows.throughput import once

#: Bytes, and how many tasks: many more than all prefetch, since what is fetched before the first mark runs is not in the time.
#: With 300 of 100 kB that was most of them, and the ratio to a library without prefetch twice what 1,200 give.
PAYLOADS = {"1 kB": (1_000, 2000), "100 kB": (100_000, 1200)}
CONTESTANTS = [
    stem("inline", 2, "--prefetch-multiplier", "8"),
    stem("async", 2, "--prefetch-multiplier", "8"),
    stem("isolate", 1, "-c", "2", "--prefetch-multiplier", "32"),
    celery("celery prefork, tuned", True, "-c", "2"),
    dramatiq(),
    huey(),
    taskiq(),
]


def measure(lab: Lab, found: Findings) -> None:
    for broker in ("redis", "rabbitmq", "embedded"):
        for payload, (size, tasks) in PAYLOADS.items():
            contestants = [one for one in CONTESTANTS if broker in one.brokers]
            rates: dict[str, list[float]] = {one.name: [] for one in contestants}
            for _ in range(lab.rounds):
                for one in contestants:
                    rates[one.name].append(once(lab, one, broker, tasks, "x" * size)[-1])
            found.add(*(Figure(f"{broker}, {payload}: {name}", samples, "tasks/s") for name, samples in rates.items()))
