"""Runs the simulation: ``python -m tests.simulation --schedules 100000``, and one seed again: ``--seed 4711``."""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path


def main() -> int:
    if os.environ.get("PYTHONHASHSEED") != "0":
        # Sets of texts are walked in the order of their hashes, which Python draws anew for each process.
        again = [sys.executable, "-m", "tests.simulation", *sys.argv[1:]]
        os.execve(sys.executable, again, {**os.environ, "PYTHONHASHSEED": "0"})  # noqa: S606 - this very program
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--schedules", type=int, default=100_000, metavar="N", help="how many (default: 100000)")
    parser.add_argument("--first", type=int, metavar="SEED", help="the first seed (default: by the time)")
    parser.add_argument(
        "--processes", type=int, default=os.cpu_count() or 1, metavar="N", help="default: all processors"
    )
    parser.add_argument("--seed", type=int, metavar="SEED", help="run this one alone and print its history")
    parser.add_argument("--mutant", metavar="NAME", help="with that mistake in the product")
    parser.add_argument("--mutants", action="store_true", help="hunt every mutant with at most N schedules")
    parser.add_argument("--digest", action="store_true", help="print a digest of the histories and nothing else")
    parser.add_argument(
        "--steps", action="store_true", help="print calls of functions in a schedule, and collections in all"
    )
    parser.add_argument("--report", type=Path, metavar="PATH", help="write figures for docs/reliability.md there")
    asked = parser.parse_args()

    from tests.simulation import ports

    ports.install()
    from tests.simulation import mutants, runner

    first = int(time.time()) * 1000 if asked.first is None else asked.first
    theme = None
    if asked.mutant:
        mutants.MUTANTS[asked.mutant].apply()
        theme = mutants.MUTANTS[asked.mutant].theme or None
    if asked.seed is not None:
        return replay(asked.seed, theme)
    if asked.mutants:
        return hunt(asked.schedules)
    if asked.digest:
        runner.prepare()
        print(runner.digest(range(first, first + asked.schedules)))
        return 0
    if asked.steps:
        runner.prepare_for_many()
        calls, collections = runner.steps(range(first, first + asked.schedules))
        print(calls // asked.schedules, collections)
        return 0
    began = time.monotonic()
    tally = runner.run_many(first, asked.schedules, asked.processes)
    tally.seconds, tally.processes = time.monotonic() - began, asked.processes
    print(
        f"{tally.schedules} schedules from seed {first} in {tally.seconds:.1f} s: {tally.rate:.0f} a minute over"
        f" {asked.processes} processes, {tally.cpu / tally.schedules * 1000:.2f} ms of a processor each\n"
        f"{tally.events} events, {tally.simulated / 3600:.1f} simulated hours; faults: "
        + (", ".join(f"{name} {count}" for name, count in sorted(tally.faults.items())) or "none")
    )
    for seed, what in sorted(tally.failures.items()):
        mutant = f" --mutant '{asked.mutant}'" if asked.mutant else ""
        print(f"\nseed {seed}: {what}\n  again: python -m tests.simulation --seed {seed}{mutant}")
    print(f"{len(tally.failures)} failed")
    if asked.report:
        from tests.simulation import report

        report.write(tally, asked.report)
    return 1 if tally.failures else 0


def replay(seed: int, theme: str | None) -> int:
    from tests.simulation import runner

    runner.prepare()
    result = runner.run_one(seed, theme)
    for event in result.history:
        print(event)
    print(f"\nseed {seed}: {result.trouble or result.violation or 'every promise was kept'}")
    return 1 if result.failed else 0


def hunt(most: int) -> int:
    """One line for each mutant: its name, the seed, the promise and what was seen, with tabs between."""
    from tests.simulation import mutants, runner

    runner.prepare()
    missed = 0
    for name in mutants.MUTANTS:
        found = runner.hunt(name, most)
        missed += found is None
        print(name, *(found or ("", "", "not found")), sep="\t", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
