"""One randomised schedule: a seed decides the stack, what is asked of it and what befalls it; then its history is judged.

python -m tests.faults.schedule SEED [--keep FOLDER]      # repeat one, and show its history
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from stem_kombu.control.client.reports import Report
from stem_kombu.errors import StemError
from stem_kombu.revocation import RevocationDraft
from stem_kombu.stores.registry import open_revoke_store
from stem_kombu.transports.connections import open_connection
from tests.faults import steering
from tests.faults.command import HALT, STEPS
from tests.faults.fleet import BOUNDS, NAMES, STACKS, SYNC, Counts, Fleet, Servers, be_quiet, wait_ready
from tests.faults.history import Event, History
from tests.faults.nemeses import NEMESES, Heal, driver_errors, stop_in_order
from tests.faults.notes import now
from tests.faults.promises import violations
from tests.faults.story import Violation
from tests.waiting import eventually

#: The timeout of commands: they end as soon as everybody has answered, however busy this machine is.
PATIENCE = 8.0
#: Where more messages are held than there are slots: at most so many tasks at a time, of so many steps and seconds for each.
SHORT = (25, (1, 1, 1, 1, 1, 3, 10), (0.0, 0.001, 0.001, 0.02))
#: Seconds within which everybody answers again once all faults are over.
ANSWERS_AGAIN = 60.0
#: Seconds without any progress after which what has not ended is taken to be lost.
STUCK = 60.0


@dataclass
class Result:
    """What one schedule came to."""

    seed: int
    stack: str
    history: History
    violations: list[Violation]
    #: Surprises that no promise speaks of: tracebacks, processes that ended by themselves.
    troubles: list[str]
    counts: Counts
    seconds: float
    #: Messages that a worker held for each slot.
    prefetch: int
    nemeses: list[str] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.violations)

    def __str__(self) -> str:
        lines = [f"seed {self.seed} ({self.stack}), {self.seconds:.0f} s: {', '.join(self.nemeses) or 'no faults'}"]
        lines += [str(found) for found in self.violations[:5]]
        lines += [f"surprise: {trouble}" for trouble in self.troubles[:8]]
        if self.failed:
            lines.append(f"repeat it with: python -m tests.faults.schedule {self.seed}")
        return "\n".join(lines)


class Schedule:
    """Carries one out. ``steps`` is how many things are asked or done while faults may strike."""

    def __init__(
        self, servers: Servers, seed: int, folder: Path, *, steps: int = 24, stack: str | None = None, only: str = ""
    ) -> None:
        self.seed, self.steps, self._only = seed, steps, only
        self.rng = random.Random(seed)
        chosen = self.rng.choice(list(STACKS))
        self.stack = stack or chosen
        skews: dict[str, float] = {}
        if not set(STACKS[self.stack]) & {"embedded", "file", "sqlite"} and self.rng.random() < 0.3:
            # Clocks of one machine can't differ, so only where the parties may be on several.
            skews = {self.rng.choice((*NAMES, "client")): self.rng.choice((-3600.0, 3600.0))}
        #: Messages held for each slot. With several of short tasks, children have the next ones with them.
        self.prefetch = self.rng.choice((1, 8))
        self.fleet = Fleet(servers, self.stack, folder, self.rng, skews=skews, prefetch=self.prefetch)
        self.nemeses: list[str] = [f"clock of {who} {by:+.0f} s" for who, by in skews.items()]
        self._heals: list[tuple[int, Heal]] = []
        self._number = 0
        for what in skews:
            self._count(f"clock skew of an hour ({'client' if what == 'client' else 'worker'})")

    def run(self) -> Result:
        began = now()
        with self.fleet as fleet:
            for name in NAMES:
                fleet.start_worker(name)
            self._everybody()
            for step in range(self.steps):
                self._heal(step)
                self._strike(step)
                self._operate()
                self._stopped.wait(self.rng.choice((0.0, 0.1, 0.3)))
            self._heal(None)
            self._settle()
            self._examine()
            self._finish()
            troubles = [*fleet.troubles, *fleet.log_troubles()]
            history = fleet.history()
        return Result(
            self.seed,
            self.stack,
            history,
            violations(history),
            troubles,
            fleet.counts,
            now() - began,
            self.prefetch,
            self.nemeses,
        )

    _stopped = threading.Event()

    # -- faults -----------------------------------------------------------------------------------------------------

    def _strike(self, step: int) -> None:
        if len(self._heals) >= 2 or self.rng.random() > 0.45:
            return
        names = [name for name in NEMESES if self._only in name]
        name = self.rng.choices(names, [NEMESES[name][0] for name in names])[0]
        heal = NEMESES[name][1](self.fleet)
        if heal is None:
            return
        self.nemeses.append(name)
        self._count(name)
        self._heals.append((step + self.rng.randint(1, 6), heal))

    def _heal(self, step: int | None) -> None:
        for entry in list(self._heals):
            if step is None or entry[0] <= step:
                self._heals.remove(entry)
                entry[1]()

    def _count(self, name: str) -> None:
        self.fleet.counts.faults[name] = self.fleet.counts.faults.get(name, 0) + 1

    # -- operations -------------------------------------------------------------------------------------------------

    def _operate(self) -> None:
        operations: list[tuple[int, Callable[[], None]]] = [
            (8, self.send),
            (4, self.revoke),
            (3, self.revoke_ahead),
            (2, self.revoke_unheard),
            (3, self.revoke_by_command),
            (2, self.revoke_on_a_full_disk),
            (2, self.ping),
            (2, self.mark),
            (1, self.garbage),
            *((weight, partial(act, self.fleet, PATIENCE)) for weight, act in steering.OPERATIONS),
        ]
        operation = self.rng.choices([o for _, o in operations], [weight for weight, _ in operations])[0]
        self.fleet.counts.operations += 1
        try:
            operation()
        except StemError:
            pass  # a fault may keep it from happening; what happened is noted
        self.fleet.collect_commands()

    def _new_id(self) -> str:
        self._number += 1
        return f"s{self.seed}-{self._number}"

    def send(self, task: str | None = None, count: int | None = None) -> None:
        usual, steps, pauses = (5, (1, 3, 10, 40), (0.02, 0.05)) if self.prefetch == 1 else SHORT
        for _ in range(self.rng.randint(1, usual) if count is None else count):
            sent = task or self._new_id()
            name = self.rng.choice(("thread.work", "child.work", "child.work", "coroutine.work"))
            kwargs = {
                "steps": self.rng.choice(steps),
                "pause": self.rng.choice(pauses),
                "failures": self.rng.choice((0, 0, 0, 1)),
                "deaf": self.rng.random() < 0.2,
            }
            began = now()
            self.fleet.app.send_task(name, kwargs=kwargs, task_id=sent)
            self.fleet.note("enqueued", "client", task=sent, began=began)
            self.fleet.tasks.append(sent)
            self.fleet.counts.tasks_sent += 1

    def revoke(self) -> None:
        """Something that waits, runs or has ended."""
        recent = self.fleet.tasks[-8:]
        if recent:
            self._revoke([self.rng.choice(recent)], terminate=self.rng.random() < 0.7)

    def revoke_ahead(self) -> None:
        """A task that is sent only after it was revoked: it must never run."""
        task = self._new_id()
        self._revoke([task], terminate=self.rng.random() < 0.5)
        self.send(task, 1)

    def revoke_unheard(self) -> None:
        """As if every broadcast were lost: the store holds it, and nobody is told."""
        task = self._new_id()
        store = open_revoke_store(self.fleet.urls_of("client")["revoke_store"])
        began = now()
        try:
            stored = store.save("stem", [RevocationDraft(task, self.rng.random() < 0.5)])
            at = now()
        finally:
            store.close()
        for record in stored:
            self._stored(began, at, record.task_id, record.version, record.terminate)
        self._count("broadcast dropped")
        self._stopped.wait(self.rng.choice((0.0, 2.0 * SYNC)))
        self.send(task, 1)

    def revoke_by_command(self) -> None:
        """The command line, killed or halted at a step of the revoke, or neither."""
        step = self.rng.choice(STEPS)
        task = self.rng.choice(self.fleet.tasks[-5:]) if self.fleet.tasks else self._new_id()
        if step != "never" and self.rng.random() < 0.3:
            self._count(f"SIGSTOP of the CLI {step.replace('-', ' ')}")
            step = HALT + step
        elif step != "never":
            self._count(f"SIGKILL of the CLI {step.replace('-', ' ')}")
        terminate = ("--terminate",) if self.rng.random() < 0.7 else ()
        self.fleet.begin_command(
            step, "worker", "revoke", "-t", task, *terminate, "--timeout", f"{PATIENCE:g}s", "--json"
        )

    def revoke_on_a_full_disk(self) -> None:
        """The command line, which must not claim to have stored what it could not."""
        if self.fleet.kinds["store"] in ("file", "sqlite"):
            self._count("disk full for the CLI")
            self.fleet.begin_command(
                "never",
                "worker",
                "revoke",
                "-t",
                self._new_id(),
                "--timeout",
                f"{PATIENCE:g}s",
                "--json",
                disk_full=True,
            )

    def _stored(self, began: float, at: float, task: str, version: int, terminate: bool) -> None:
        self.fleet.note("stored", "client", at=at, began=began, task=task, version=version, terminate=terminate)

    def _revoke(self, tasks: list[str], *, terminate: bool) -> None:
        fleet = self.fleet
        incarnations = {worker.name: worker.incarnation for worker in fleet.running()}
        began = now()
        saved: list[float] = []
        report = fleet.control.revoke(
            tasks, terminate=terminate, timeout=PATIENCE, on_stored=lambda _: saved.append(now())
        )
        for record in report.stored:
            self._stored(began, saved[0], record.task_id, record.version, record.terminate)
        fleet.counts.revokes_acknowledged += 1
        versions = {record.task_id: record for record in report.stored}
        for reply in report.replies:
            if reply.error is not None or incarnations.get(reply.worker) != fleet.workers[reply.worker].incarnation:
                continue  # which of two incarnations has answered can't be told
            for task in (*reply.payload["applied"], *reply.payload["stale"]):
                record = versions[task]
                fleet.note(
                    "applied",
                    incarnations[reply.worker],
                    task=task,
                    version=record.version,
                    terminate=record.terminate,
                )

    def ping(self) -> None:
        self._asked("ping", lambda: self.fleet.control.ping(timeout=PATIENCE))

    def mark(self) -> None:
        """A command of the application's own, which notes who obeys it."""
        token = self._new_id()
        targets = self.rng.choice((None, ["alpha"], ["bravo"], ["al*"]))
        call = self.fleet.control.call
        self._asked(
            "mark",
            lambda: call("mark", {"token": token}, workers=targets, timeout=PATIENCE),
            targets=targets,
            request=token,
        )

    def _asked(
        self, name: str, ask: Callable[[], Report], *, targets: list[str] | None = None, request: str | None = None
    ) -> Report:
        fleet = self.fleet
        asked = fleet.note(
            "asked", "client", request=request or self._new_id(), state=name, value=PATIENCE, targets=targets
        )
        report = ask()
        for reply in report.replies:
            fleet.note("heard", "client", request=asked.request, target=reply.worker)
        fleet.note("answered", "client", request=asked.request, targets=list(report.silent))
        return report

    def garbage(self) -> None:
        """What no worker can read, in the queue of tasks."""
        self.fleet.note("fed")
        bodies = [
            (b"\x80\x04N.", "application/x-python-serialize"),
            (b"{", "application/json"),
            (b"[1, 2]", "application/json"),
            (b"\xff\xfe", "text/plain"),
        ]
        body, kind = self.rng.choice(bodies)
        try:
            with open_connection(self.fleet.urls["broker"], connect_timeout=1.0) as connection:
                connection.ensure_connection(max_retries=1, timeout=1)
                connection.Producer().publish(
                    body, routing_key="default", content_type=kind, content_encoding="utf-8", retry=False
                )
        except (OSError, *driver_errors()):
            pass  # the broker is down by another fault

    # -- the end ----------------------------------------------------------------------------------------------------

    def _settle(self) -> None:
        """Everybody is there and answers."""
        fleet = self.fleet
        fleet.collect_commands(wait=True)
        self._everybody()
        until = now() + ANSWERS_AGAIN
        while True:
            try:
                if set(NAMES) <= {reply.worker for reply in self._asked_silently().replies}:
                    return
            except StemError:
                pass
            if now() > until:
                break
            self._stopped.wait(0.2)
        self._asked("ping", lambda: fleet.control.ping(timeout=PATIENCE, workers=list(NAMES)))
        fleet.troubles.append(f"not everybody answered {ANSWERS_AGAIN:g} s after all faults were over")

    def _everybody(self) -> None:
        """Start who is not there, and wait until all consume."""
        fleet = self.fleet
        for _ in range(5):
            for name in NAMES:
                worker = fleet.workers[name]
                if worker.process.poll() is not None or worker.expected_end:
                    stop_in_order(fleet, worker)
                    fleet.start_worker(name)
            for name in NAMES:
                wait_ready(fleet.workers[name])
            if all(worker.running and not worker.expected_end for worker in fleet.workers.values()):
                return
        raise AssertionError("a worker does not start: " + fleet.workers[name].log.read_text()[-2000:])

    def _asked_silently(self) -> Report:
        return self.fleet.control.ping(timeout=PATIENCE, workers=list(NAMES))

    def _examine(self) -> None:
        """With all faults over, each promise is asked for once more, of everybody."""
        fleet = self.fleet
        unheard = self._new_id()
        store = open_revoke_store(fleet.urls_of("client")["revoke_store"])
        began = now()
        try:
            (record,) = store.save("stem", [RevocationDraft(unheard)])
            self._stored(began, now(), unheard, record.version, record.terminate)
        finally:
            store.close()
        long = [self._new_id() for _ in range(2)]
        for task in long:
            fleet.app.send_task("child.work", kwargs={"steps": 400, "pause": 0.05}, task_id=task)
            fleet.note("enqueued", "client", task=task)
            fleet.tasks.append(task)
        self._stopped.wait(BOUNDS.freshness + 0.2)
        self.send(unheard, 1)
        self._revoke(long, terminate=True)
        self.ping()
        self.send(count=4)

    def _finish(self) -> None:
        """Wait until nothing is left to do, read the store, and stop the workers in order."""
        fleet = self.fleet
        last = (now(), len(fleet.unfinished()))

        def done() -> bool:
            nonlocal last
            left = len(self._left())
            if left != last[1]:
                last = (now(), left)
            return left == 0 or now() - last[0] > STUCK

        eventually(done, 600, interval=0.1)
        fleet.read_store()
        self._asked("ping", lambda: fleet.control.ping(timeout=PATIENCE))
        self._count_children()
        fleet.note("quiet")
        for worker in fleet.running():
            fleet.kill_worker(worker, signal.SIGTERM)
        for worker in fleet.workers.values():
            stop_in_order(fleet, worker)

    def _count_children(self) -> None:
        """Each pool is whole again, or is noted as it is once that has had time enough."""
        fleet = self.fleet
        until = now() + BOUNDS.recovery + 30.0
        while True:
            seen = {
                reply.worker: (sum(slot["state"] in ("idle", "running") for slot in reply.payload["pool"]), 2)
                for reply in fleet.control.stats(timeout=PATIENCE).replies
                if reply.error is None
            }
            if all(alive == wanted for alive, wanted in seen.values()) or now() > until:
                break
            self._stopped.wait(0.3)
        for name, children in seen.items():
            fleet.note("pool", fleet.workers[name].incarnation, value=children)

    def _left(self) -> list[str]:
        """What must still end: not what a broker without persistence has forgotten."""
        left = self.fleet.unfinished()
        if self.fleet.kinds["broker"] != "volatile" or not left:
            return left
        events = self.fleet.history().events
        emptied = [event.at for event in events if event.kind == "fault" and event.value == "emptied"]
        sent = {event.task: event.at for event in events if event.kind == "enqueued"}
        return [task for task in left if not emptied or sent.get(task, 0) > max(emptied)]


def run(servers: Servers, seed: int, **options: object) -> Result:
    """Carry out the schedule of a seed in a folder of its own, which is removed unless it failed."""
    folder = Path(tempfile.mkdtemp(prefix=f"stem-faults-{seed}-"))
    kept = False
    try:
        result = Schedule(servers, seed, folder, **options).run()  # type: ignore[arg-type]
        kept = result.failed
        if kept:
            (folder / "history.jsonl").write_text("\n".join(result.history.lines()))
            result.troubles.append(f"its history and the workers' logs are in {folder}")
        return result
    except BaseException:
        kept = True
        print(f"schedule of seed {seed} broke off; its files are in {folder}", file=sys.stderr)
        raise
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seed", type=int, nargs="+")
    parser.add_argument("--steps", type=int, default=24)
    parser.add_argument("--stack", choices=list(STACKS))
    parser.add_argument("--only", default="", help="strike with the nemeses whose name has this in it")
    parser.add_argument("--show", action="store_true", help="print the whole history")
    options = parser.parse_args()
    be_quiet()
    servers = Servers()
    failed = False
    try:
        for seed in options.seed:
            try:
                result = run(servers, seed, steps=options.steps, stack=options.stack, only=options.only)
            except Exception:  # noqa: BLE001 - one that breaks off is told, and the others go on
                traceback.print_exc()
                failed = True
                continue
            if options.show:
                print(*map(repr, result.history), sep="\n")
            print(result, flush=True)
            failed |= result.failed
    finally:
        servers.close()
    sys.exit(failed)


__all__ = ["Event", "Result", "Schedule", "run"]

if __name__ == "__main__":
    main()
