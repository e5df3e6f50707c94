"""Schedules without end, and the figures of what they found.

    python -m tests.faults.soak SECONDS [--seed FIRST] [--steps N]        # or: make soak SECONDS=3600

Every schedule prints its seed; one that failed prints what was violated, the events that show it, and how to repeat it.
The figures go into ``docs/reliability/faults.json``. The exit code is 1 when a promise was violated.
"""

from __future__ import annotations

import argparse
import random
import sys
import traceback
from collections import Counter
from dataclasses import dataclass, field

from tests.faults.fleet import Servers, be_quiet
from tests.faults.notes import now
from tests.faults.promises import judged
from tests.faults.report import FOLDER, Figures, commit
from tests.faults.report import main as render
from tests.faults.schedule import Result, run

ABOUT = """\
Two workers of two children each and a client run as processes of their own on one machine. Each has links of its own (a TCP
proxy) to broker and store. There are seven stacks: Redis, RabbitMQ, the embedded broker, and Redis without persistence,
with Redis, PostgreSQL, SQLite or a file as store. A seed decides the stack, the operations and the faults. Operations are
tasks of all three kinds, pings, targeted commands, malformed messages, and revokes: by the library, by a command that is
killed at one of its steps, and by the store alone as if every broadcast were lost. In half of the schedules a worker holds
eight messages for each slot, and most tasks are short, so that children have their next tasks with them. Then all faults
end, the client asks for everything once more, and the checker judges the whole history."""


@dataclass
class Soak:
    """The sum of what schedules came to."""

    schedules: int = 0
    operations: int = 0
    tasks_sent: int = 0
    runs: int = 0
    revokes: int = 0
    commands: int = 0
    events: int = 0
    broken_off: int = 0
    held: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    stacks: Counter[str] = field(default_factory=Counter)
    promises: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    surprises: int = 0

    def add(self, result: Result) -> None:
        counts = result.counts
        self.schedules += 1
        self.operations += counts.operations
        self.tasks_sent += counts.tasks_sent
        self.revokes += counts.revokes_acknowledged
        self.commands += counts.commands
        self.events += len(result.history)
        self.runs += sum(event.kind == "started" for event in result.history)
        self.faults.update(counts.faults)
        self.stacks[result.stack] += 1
        self.held += result.prefetch > 1
        self.promises.update(judged(result.history))
        self.surprises += len(result.troubles)
        self.violations += [f"{v.promise}: {v.what} (seed {result.seed}, {result.stack})" for v in result.violations]

    def figures(self, seconds: float, first: int) -> Figures:
        return Figures(
            suite="faults",
            title="Real processes under faults",
            about=ABOUT,
            command=f"make soak SECONDS={seconds:.0f} SEED={first}",
            order=20,
            seconds=seconds,
            counts={
                "Schedules": self.schedules,
                **{f"… on {stack}": count for stack, count in sorted(self.stacks.items())},
                "… with eight messages held for each slot": self.held,
                "Operations": self.operations,
                "Tasks sent": self.tasks_sent,
                "Runs of handlers": self.runs,
                "Revokes acknowledged": self.revokes,
                "Commands in processes of their own": self.commands,
                "Events judged": self.events,
                "Schedules that broke off": self.broken_off,
                "Violations in this run": len(self.violations),
                "Commit": commit() or "unknown",
            },
            faults=dict(sorted(self.faults.items())),
            promises={name: self.promises[name] for name in sorted(self.promises, key=lambda name: int(name[1:]))},
            left=self.violations,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", type=float)
    parser.add_argument("--seed", type=int, help="of the first schedule; the next ones follow it")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--add", action="store_true", help="add the figures to those of the runs before")
    options = parser.parse_args()
    kept = FOLDER / "faults.json"
    earlier = Figures.read(kept) if options.add and kept.exists() else None
    be_quiet()
    first = random.SystemRandom().randrange(1, 10**6) if options.seed is None else options.seed
    soak, servers, began = Soak(), Servers(), now()
    seed = first
    try:
        while now() - began < options.seconds:
            try:
                result = run(servers, seed, steps=options.steps)
            except Exception:  # noqa: BLE001 - a schedule that breaks off is counted and told, and the others go on
                soak.broken_off += 1
                print(f"seed {seed} broke off:", flush=True)
                traceback.print_exc()
            else:
                soak.add(result)
                print(result, flush=True)
            figures = soak.figures(now() - began, first)
            (figures if earlier is None else figures.after(earlier)).write()
            seed += 1
    except KeyboardInterrupt:
        print("interrupted; the figures so far are kept", file=sys.stderr)
    finally:
        servers.close()
    render()
    print(f"{soak.schedules} schedules, {sum(soak.faults.values())} faults, {len(soak.violations)} violations")
    sys.exit(bool(soak.violations or soak.broken_off))


if __name__ == "__main__":
    main()
