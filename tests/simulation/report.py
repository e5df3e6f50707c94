"""Figures of a simulation for ``docs/reliability.md``."""

from __future__ import annotations

from pathlib import Path

from tests.faults.report import Figures
from tests.simulation.mutants import MUTANTS
from tests.simulation.runner import Tally

ABOUT = (
    "A deterministic simulation of the control protocol. The classes that run in production (worker, consumer, admission, "
    "recorder, hydration, heartbeats, leases, pool, child, inline executor, control subscription, command server, client) "
    "run on simulated threads, clocks, pipes, processes, stores and brokers. One seed drives all of them. A schedule has "
    "one to three workers, up to three tasks, one or two operators and up to five faults. Messages are lost, doubled, "
    "delayed and overtaken besides. In some schedules operators also pause and scale, limit rates, shut workers down, undo, "
    "use ladders, and revoke by rules. The simulation is itself tested: {mutants} mistakes put into the product are each "
    "found.\n\n"
    "The goal of 100,000 schedules a minute on two cores (1.2 ms of a processor each) is missed by far. Since 2026-11-26 a "
    "schedule has grown with the product: 17,400 calls of functions, those in C included (9,900 then; a test bounds them), "
    "284,000 instructions of bytecode (163,000), 182 switches between threads (126). These are spread over twice as many "
    "functions (2,464 and 577 kB of bytecode instead of 1,212 and 272 kB), and each instruction costs half as much again, "
    "presumably because they no longer fit into the processor's near caches. On one busy machine, in one run, a schedule of "
    "2026-11-26 takes 3.1 ms at best and one of 2026-11-30 8.7 ms. No place dominates. By samples, 46 % of the time is "
    "production code, 12 % dataclasses, 4 % JSON, 8 % other libraries, 16 % the scheduler and its locks, 11 % the simulated "
    "machines, and 2 % the checker. By threads, starting workers takes 24 % (1.9 are started in a schedule), their consumers "
    "11 %, operators' clients 13 %. Nothing is spent on garbage: each 200 schedules have a process, forked from a warm one, "
    "that collects none (it took an eighth of the time). PyPy 3.11 takes four times as long, for all its compiler: each thread "
    "is a greenlet. Python 3.12 and 3.13 are a tenth slower, a distribution's optimised 3.11 is a twentieth quicker. Only "
    "much less production code in a schedule would reach the goal."
)


def write(tally: Tally, path: Path) -> None:
    """Write the figures of the run; ``path`` is in ``docs/reliability/``."""
    Figures(
        suite=path.stem,
        title="Simulation",
        about=ABOUT.format(mutants=len(MUTANTS)),
        command=f"make simulate SCHEDULES={tally.schedules}",
        order=20,
        seconds=round(tally.seconds, 1),
        counts={
            "schedules": tally.schedules,
            "schedules a minute": round(tally.rate),
            "milliseconds of a processor for each": round(tally.cpu / tally.schedules * 1000, 2),
            "processes": tally.processes,
            "simulated hours": round(tally.simulated / 3600, 1),
            "events checked": tally.events,
            "mutants found": f"{len(MUTANTS)} of {len(MUTANTS)} (a test)",
        },
        faults=dict(sorted(tally.faults.items())),
        left=[f"seed {seed}: {what.splitlines()[0]}" for seed, what in sorted(tally.failures.items())],
    ).write(path.parent)
