"""Many schedules: over the processors of this machine, counted, timed, and stopped at what fails."""

from __future__ import annotations

import gc
import hashlib
import logging
import multiprocessing
import sys
import time
from collections import Counter, deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from typing import Any

#: Schedules that a process runs in its life, and failures after which no more are looked for. A process looks for no garbage:
#: its end is a cheaper one, and 200 schedules leave less than 0.1 MB each behind.
CHUNK, MOST_FAILURES = 200, 20
#: Schedules that run before the first process is forked, so that none of them fills the product's caches again.
_WARM_UP = 40


@dataclass
class Tally:
    """What came of many schedules. ``failures`` maps a seed to what went wrong; ``cpu`` is in seconds, ``simulated`` too."""

    schedules: int = 0
    events: int = 0
    switches: int = 0
    simulated: float = 0.0
    cpu: float = 0.0
    faults: Counter[str] = field(default_factory=Counter)
    failures: dict[int, str] = field(default_factory=dict)
    #: Seconds that it took, over so many processes.
    seconds: float = 0.0
    processes: int = 1

    @property
    def rate(self) -> float:
        """Schedules in a minute."""
        return self.schedules / self.seconds * 60

    def add(self, other: Tally) -> None:
        self.schedules += other.schedules
        self.events += other.events
        self.switches += other.switches
        self.simulated += other.simulated
        self.cpu += other.cpu
        self.faults += other.faults
        self.failures |= other.failures


def prepare() -> None:
    """Make a world of this process; nothing else can be done in it any more."""
    from tests.simulation import ports

    ports.install()
    from tests.simulation import fleet

    logging.disable(logging.CRITICAL)
    logging.Logger.exception = _unexpected  # type: ignore[method-assign]
    fleet.wire()
    gc.disable()
    gc.freeze()


def prepare_for_many() -> None:
    """As :func:`prepare`, for a process that runs many schedules."""
    from stem_kombu.drivers import forking
    from stem_kombu.transports import inherited

    prepare()
    for seed in range(_WARM_UP):
        run_one(seed)
    # A process that is forked from here is no child of a simulated one: what was left by those has no descriptors to close.
    forking._heirlooms.clear()
    inherited._open.clear()
    gc.collect()
    gc.freeze()


def _unexpected(logger: logging.Logger, text: object, *args: object, **_: object) -> None:
    """What a boundary of the product catches although nobody expected it is a failure here: of the product, or of a double
    that lacks what the product has come to use."""
    from tests.simulation.kernel import KERNEL

    error = sys.exc_info()[1]
    if error is not None and not KERNEL.over:
        KERNEL.failures.append((logger.name, error))


def run_one(seed: int, theme: str | None = None) -> Any:
    from tests.simulation.schedule import Schedule

    return Schedule(seed, theme).run()


def run_chunk(seeds: range) -> Tally:
    """Run these, of which nothing is collected that is garbage."""
    tally = Tally()
    began = time.process_time()
    for seed in seeds:
        result = run_one(seed)
        tally.schedules += 1
        tally.events += result.events
        tally.switches += result.switches
        tally.simulated += result.seconds
        tally.faults.update(result.faults)
        if result.failed:
            tally.failures[seed] = result.trouble or str(result.violation)
        del result
    tally.cpu = time.process_time() - began
    return tally


def steps(seeds: range) -> tuple[int, int]:
    """Calls of functions, those in C included, in these schedules, and how often garbage was looked for meanwhile."""
    calls = 0

    def counted(frame: object, event: str, argument: object) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")

    before = sum(generation["collections"] for generation in gc.get_stats())
    sys.setprofile(counted)
    run_chunk(seeds)
    sys.setprofile(None)
    return calls, sum(generation["collections"] for generation in gc.get_stats()) - before


def run_many(first: int, count: int, processes: int) -> Tally:
    """Run ``count`` schedules with the seeds from ``first``, until too many have failed; this process becomes a world."""
    prepare_for_many()
    chunks = deque(range(start, min(start + CHUNK, first + count)) for start in range(first, first + count, CHUNK))
    total = Tally()
    running: dict[Connection, Any] = {}
    try:
        while (chunks and len(total.failures) < MOST_FAILURES) or running:
            while chunks and len(running) < processes and len(total.failures) < MOST_FAILURES:
                answer, process = _fork(chunks.popleft())
                running[answer] = process
            for answer in [answer for answer in wait(list(running)) if isinstance(answer, Connection)]:
                process = running.pop(answer)
                total.add(answer.recv())  # EOFError: the process was lost
                answer.close()
                process.join()
    finally:
        for process in running.values():
            process.kill()
    return total


def _fork(seeds: range) -> tuple[Connection, Any]:
    """A process that runs these, and where its tally will come from."""
    context = multiprocessing.get_context("fork")
    answer, end = context.Pipe(duplex=False)
    process = context.Process(target=_run_and_tell, args=(seeds, end))
    process.start()
    end.close()
    return answer, process


def _run_and_tell(seeds: range, end: Connection) -> None:
    with suppress(BrokenPipeError):  # nobody waits for it any more
        end.send(run_chunk(seeds))


def hunt(name: str, most: int) -> tuple[int, str, str] | None:
    """The seed of a schedule that shows the mutant by one of its promises, that promise, and how; ``None`` after ``most``."""
    from tests.simulation.mutants import MUTANTS, TROUBLE
    from tests.simulation.schedule import Schedule

    mutant = MUTANTS[name]
    with mutant.applied():
        for seed in (mutant.seed, *range(most - 1)):
            result = Schedule(seed, mutant.theme or None).run()
            found = result.violation
            promise, what = (found.promise, found.what) if found is not None else (TROUBLE, str(result.trouble))
            if result.failed and promise in mutant.promises:
                return seed, promise, what
            if seed % CHUNK == 0:
                gc.collect()
    return None


def digest(seeds: Iterable[int]) -> str:
    """A digest of the histories of those seeds: the same in every process that is asked."""
    found = hashlib.sha256()
    for seed in seeds:
        for line in _lines(seed):
            found.update(line.encode())
    return found.hexdigest()


def _lines(seed: int) -> Iterator[str]:
    result = run_one(seed)
    yield f"{seed} {result.switches} {result.trouble}"
    yield from result.history.lines()
