"""Run the benchmarks: ``python -m benchmarks [ROW ...] [--rounds 5] [--results FOLDER] [--report]``.

Starts private servers on loopback, runs what is compared in turns, and prints medians with their spread. Each row is kept
as JSON in the folder of results, and docs/performance.md is written from all of them (``--report`` does only that). Figures
of different machines are never compared; ratios of one run are.
"""

from __future__ import annotations

import argparse
import importlib
import time
from contextlib import nullcontext
from pathlib import Path

from benchmarks.figures import Findings
from benchmarks.lab import ROOT, Lab
from benchmarks.report import write

ROWS = {
    "checkpoint": "a checkpoint with nothing pending",
    "ping": "a ping of 1, 2, 8 and 64 workers, the bare Kombu floor, and Celery's",
    "fleet": "a ping of 100, 1,000 and 5,000 simulated workers, and kombu.pidbox's",
    "stopping": "revoke stored to TaskRevoked, and the slot's next task",
    "pausing": "a pause of a queue, to the last start of one of its tasks on eight workers",
    "spread": "storing and spreading 1, 1,000 and 100,000 revocations",
    "many": "10,000 revocations in one call, and pings meanwhile",
    "million": "a worker with 1,000,000 live revocations",
    "guest": "Stem in a Celery worker: stop, slot, checkpoint, memory, throughput",
    "throughput": "no-op tasks a second, and how fast they are sent, beside other libraries",
    "signing": "what signing costs: a command, a revocation, a ping of eight workers",
    "confirmed": "sending on RabbitMQ, where a task is sent once the broker has it on its disk",
    "payloads": "tasks a second with arguments of 1 kB and 100 kB",
    "latency": "from sending to the task's first line, when nothing else is going on",
    "coroutine": "how long a coroutine that sends and waits holds up its event loop",
    "seeing": "what a scrape of /metrics once a second and log lines of tasks cost a worker",
    "idle": "memory and processor time of idle workers with 0, 2 and 16 children, and how soon they are ready",
    "probing": "a probe's processor time against an empty Python's, for each of its answers",
    "programs": "stem --help and stem worker ping as whole processes",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    rows = "; ".join(f"{name}: {about}" for name, about in ROWS.items())
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default all. {rows}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    parser.add_argument("--report", action="store_true", help="only write docs/performance.md from the results")
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    with Lab(given.rounds) if not given.report else nullcontext() as lab:
        for name in (given.rows or ROWS) if lab is not None else ():
            print(f"\n{name}: {ROWS[name]}", flush=True)
            began = time.monotonic()
            found = Findings(name, given.rounds)
            importlib.import_module(f"benchmarks.rows.{name}").measure(lab, found)
            found.write(given.results)
            print(f"  [{time.monotonic() - began:.0f} s]", flush=True)
    print(f"\nwritten: {write(given.results, ROOT / 'docs', ROWS)}")


if __name__ == "__main__":
    main()
