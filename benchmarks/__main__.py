"""Run the benchmarks: ``python -m benchmarks [ROW ...] [--rounds 5] [--results FOLDER]``.

Starts private servers on loopback, runs what is compared in turns, and prints medians with their spread. Each row is kept
as JSON in the folder of results. Figures of different machines are never compared; ratios of one run are.
"""

from __future__ import annotations

import argparse
import importlib
import time
from pathlib import Path

from benchmarks.figures import Findings
from benchmarks.lab import ROOT, Lab

ROWS = {
    "checkpoint": "a checkpoint with nothing pending",
    "ping": "a ping of eight workers, the bare Kombu floor, and Celery's",
    "stopping": "revoke stored to TaskRevoked, and the slot's next task",
    "many": "10,000 revocations in one call, and pings meanwhile",
    "million": "a worker with 1,000,000 live revocations",
    "guest": "Stem in a Celery worker: stop, slot, checkpoint, memory, throughput",
    "throughput": "no-op tasks a second, and how fast they are sent, beside other libraries",
    "signing": "what signing costs: a command, a revocation, a ping of eight workers",
    "programs": "stem --help and stem worker ping as whole processes",
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    rows = "; ".join(f"{name}: {about}" for name, about in ROWS.items())
    parser.add_argument("rows", nargs="*", metavar="ROW", help=f"default all. {rows}")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--results", type=Path, default=ROOT / "benchmarks" / "results")
    given = parser.parse_args()
    if unknown := set(given.rows) - set(ROWS):
        parser.error(f"no such row: {', '.join(sorted(unknown))}; there are {', '.join(ROWS)}")
    with Lab(given.rounds) as lab:
        for name in given.rows or ROWS:
            print(f"\n{name}: {ROWS[name]}", flush=True)
            began = time.monotonic()
            found = Findings(name)
            importlib.import_module(f"benchmarks.rows.{name}").measure(lab, found)
            found.write(given.results)
            print(f"  [{time.monotonic() - began:.0f} s]", flush=True)


if __name__ == "__main__":
    main()
