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
    "The goal of 100,000 schedules a minute on two cores (1.2 ms of a processor each) is missed. A schedule takes 2.1 ms at "
    "best (200 of them, the least of several repetitions), and more on a busy machine. It makes some 5,200 calls of Python "
    "functions, and no place dominates. By samples, half of the time is production code and its libraries (JSON 4 %, "
    "dataclasses 7 %), a fifth the scheduler and its locks, an eighth the simulated machines, a fourteenth Python's garbage "
    "collection, and 5 % the checker. By threads, starting workers takes 14 %, their consumers 16 %, operators' clients 16 "
    "%. Other interpreters change little: 3.12 and 3.13 are a tenth slower, a distribution's optimised 3.11 is a twentieth "
    "quicker. Only less production code in a schedule would halve the time."
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
