"""The targets of docs/reliability.md, each with at least 200 trials on Redis and on RabbitMQ.

    python -m tests.faults.targets [--quick]        # or: make reliability;  --quick: a tenth, to try it out

Revoked tasks that ran (after a restart, a SIGKILL, or when nobody was up), pools stuck after SIGKILL of an idle child,
messages lost when consumers are killed. The workers are real processes; a task that runs leaves a mark in a file.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.settings import Settings
from stem_kombu.task import TaskMessage
from tests.faults.away import doubled
from tests.faults.bursts import missing
from tests.faults.ceasing import ROWS as CEASING
from tests.faults.embedded_workers import ROWS
from tests.faults.endings import ROWS as ENDINGS
from tests.faults.fleet import ROOT, Servers, WorkerProcess, be_quiet
from tests.faults.ladders import ROWS as LADDERS
from tests.faults.late import late
from tests.faults.native import ROWS as NATIVE
from tests.faults.notes import now
from tests.faults.nursery import Fostered
from tests.faults.programs import BOUND, left_running
from tests.faults.promoting import promoted
from tests.faults.report import FOLDER, Figures, Target, commit
from tests.faults.report import main as render
from tests.faults.resending import resent
from tests.faults.setting_aside import ROWS as ASIDE
from tests.faults.steered import ROWS as STEERED
from tests.waiting import eventually

BROKERS = {"Redis": ("redis", "redis"), "RabbitMQ": ("rabbitmq", "postgres")}
#: Brokers that forget who holds a message, so that Stem leases them. Measured is what these leases promise.
LEASED = {
    "SQLAlchemy on SQLite": ("sqla_sqlite", "sqlite"),
    "SQLAlchemy on PostgreSQL": ("sqla_postgres", "postgres"),
    "filesystem": ("filesystem", "sqlite"),
}
ABOUT = """\
Workers and brokers are real processes. For each target:

- Revokes: a revoke is acknowledged, then the worker is restarted (SIGTERM), killed (SIGKILL), or starts only then. The
  revoked tasks are sent, together with others that must run.
- Celery clients without the line revoke tasks of Celery workers that have it. Then these workers are restarted, killed or
  replaced, or their revoke store was away when the revoke came.
- Children are killed while they are idle. Tasks that follow at once must end.
- Next attempts: tasks that came by exchanges of every kind, with priorities and headers of their own, fail once or wait for
  an eta. Meanwhile their worker is killed. Each task must end, and each of its messages must be as it came.
- Messages: two workers read 20,000 messages and are killed again and again. Each message must have run at least once.
- On Redis, messages that a worker sends are held back for longer than a lease, and arrive long after the worker was killed.
- Programs: isolate tasks start programs two levels deep. None may run two seconds after a hard time limit, a ladder's
  SIGKILL, a killed child or a killed worker.
- Ladders signal tasks that end by themselves at about the same moment, eight at once among others. No signal may reach
  another task, a worker, or a program of a worker's own group.
- Fail-over: the store's primary is lost among revokes, and an older replica is promoted. One sync interval later every
  worker and the store must hold what any worker had applied.
- Ids: processes and containers claim one worker id at once, and the one that got it is killed. Workers made before a fork
  are started in three children.
- A worker beside a host's own connection is killed while it holds messages, or its connections stop without an error.
- Records: next attempts that can't be published and records that can't be stored must delay no other task, and end as they
  should.
- Bursts of tasks fail once, with priorities, among messages of another application. Workers and children are killed
  meanwhile, alone and beside a Celery worker on the same queues. Each task must end, and each other message must be kept
  and named.
- Pause: workers are restarted, killed and added while a queue is paused. Its tasks must wait, and run once when it is
  resumed.
- Outage: the server of backend and revoke store is killed while tasks run, and comes back a minute later. Each task must
  run, and none twice.
- Scale: a worker is scaled from two to eight children and back under load.
- Probes: workers are suspended, and cut off from their brokers in three ways. A probe must report it within 45 s."""
#: Seconds within which what must come about does, on a machine that is busy with other things.
PATIENCE = 240.0


class Lab:
    """One broker and one store, and workers on them."""

    def __init__(self, servers: Servers, broker: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="stem-targets-"))
        broker_kind, state_kind = {**BROKERS, **LEASED}[broker]
        state = servers.new_url(state_kind, self.folder)
        self.urls = {
            "broker": state if broker_kind == state_kind else servers.new_url(broker_kind, self.folder),
            "backend": state,
            "revoke_store": state,
        }
        self.app = Stem("targets")
        self.app.configure(Settings.from_env({"STEM_CELERY_EVENTS": "off"}, **self.urls))
        self.marks = self.folder / "marks"
        self.marks.touch()
        self._workers: list[WorkerProcess] = []
        self._nursery = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.nursery"],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "XDG_STATE_HOME": str(self.folder)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def begin_worker(self, name: str, **options: Any) -> WorkerProcess:
        log = self.folder / f"{name}-{len(self._workers)}.log"
        given = {**self.urls, "name": name, "sync_interval": 1.0, "heartbeat_interval": 1.0, **options}
        log.touch()
        assert self._nursery.stdin is not None
        assert self._nursery.stdout is not None
        self._nursery.stdin.write(json.dumps({**given, "log": str(log)}) + "\n")
        self._nursery.stdin.flush()
        process = Fostered(int(self._nursery.stdout.readline()))
        self._workers.append(WorkerProcess(name, process, log))  # type: ignore[arg-type]
        return self._workers[-1]

    def start_worker(self, name: str, **options: Any) -> WorkerProcess:
        """A worker that consumes. On a starved machine one may give up before it does; then another is started."""
        for _ in range(5):
            worker = self.begin_worker(name, **options)
            if self.is_ready(worker):
                return worker
        raise AssertionError(worker.log.read_text(errors="replace"))

    def is_ready(self, worker: WorkerProcess) -> bool:
        """Whether it consumes, once it does or has ended."""

        def known() -> bool:
            return worker.process.poll() is not None or "ready\n" in worker.log.read_text(errors="replace")

        eventually(known, PATIENCE)
        return worker.process.poll() is None

    def end(self, worker: WorkerProcess, number: int) -> None:
        worker.process.send_signal(number)
        worker.process.wait(PATIENCE)

    def send(self, *ids: str) -> None:
        queue = self.app.settings.default_queue
        self.app.producer.send_many(TaskMessage(each, "count", (str(self.marks),), queue=queue) for each in ids)

    def ran(self) -> list[str]:
        return self.marks.read_text().split()

    def close(self) -> None:
        for worker in self._workers:
            if worker.process.poll() is None:
                worker.process.kill()
                worker.process.wait()
        self._nursery.communicate("")
        self.app.close()


@contextlib.contextmanager
def lab(servers: Servers, broker: str) -> Iterator[Lab]:
    made = Lab(servers, broker)
    try:
        yield made
    finally:
        made.close()


def revoked(servers: Servers, broker: str, how: str, trials: int) -> Target:
    """Revoked tasks that ran, of ``trials``: eight for each restart, SIGKILL or absence."""
    what, peer = {
        "restart": ("revoked tasks that ran after a restart of their worker", "Celery 5.7: 5 of 5"),
        "kill": ("revoked tasks that ran after SIGKILL of their worker", "Celery 5.7 with --statedb: 5 of 5"),
        "absent": ("revoked tasks that ran, revoked while no worker was up", "Celery 5.7: 5 of 5"),
    }[how]
    done: list[str] = []
    with lab(servers, broker) as here, ControlClient(here.app) as control:
        worker = None if how == "absent" else here.start_worker("alpha", app="tests.faults.counting")
        while len(done) < trials:
            ids = [f"revoked-{len(done) + n}" for n in range(8)]
            free = [f"free-{len(done) + n}" for n in range(2)]
            report = control.revoke(ids, timeout=PATIENCE if worker is not None else 1.0)
            assert len(report.stored) == len(ids)
            if worker is not None:
                assert report.complete, report
                here.end(worker, signal.SIGTERM if how == "restart" else signal.SIGKILL)
            here.send(*ids, *free)
            worker = here.start_worker("alpha", app="tests.faults.counting")
            backend = here.app.backend
            assert backend is not None

            def ended(task: str, backend: Any = backend) -> bool:
                record = backend.get(task)
                return record is not None and record.state.is_terminal

            for task in (*ids, *free):
                eventually(lambda task=task: ended(task), PATIENCE, f"{task} has not ended")  # type: ignore[misc]
            assert set(free) <= set(here.ran())
            done += ids
            if how == "absent":
                here.end(worker, signal.SIGTERM)
                worker = None
        return Target(f"{what}, {broker}", len(set(done) & set(here.ran())), len(done), 200, peer)


def stuck(servers: Servers, broker: str, trials: int) -> Target:
    """Pools that ran nothing more after an idle child was killed, of so many kills."""
    rng = random.Random(trials)
    bad = 0
    with lab(servers, broker) as here:
        worker = here.start_worker("alpha", concurrency=2)
        for _ in range(trials):
            victims = eventually(worker.children, PATIENCE)
            with contextlib.suppress(ProcessLookupError):
                os.kill(rng.choice(victims), signal.SIGKILL)
            results = [here.app.send_task("child.count") for _ in range(2)]
            for result in results:
                record = result.wait(timeout=PATIENCE)
                if record is None or not record.state.is_terminal:
                    bad += 1
                    break
    peer = "`billiard.Pool`: 12 of 24"
    return Target(f"pools stuck after SIGKILL of an idle child, {broker}", bad, trials, 200, peer)


def resent_in(servers: Servers, broker: str, trials: int) -> Target:
    """See :func:`tests.faults.resending.resent`."""
    with lab(servers, broker) as here:
        return resent(here, broker, trials, PATIENCE)


def promoted_in(servers: Servers, trials: int) -> tuple[Target, dict[str, Any]]:
    """See :func:`tests.faults.promoting.promoted`."""
    with lab(servers, "Redis") as here:
        return promoted(here, trials, PATIENCE)


def _in_lab(servers: Servers, broker: str, measure: Callable[..., Any], trials: int) -> Any:
    with lab(servers, broker) as here:
        return measure(here, broker, trials, PATIENCE)


def lost(
    servers: Servers, broker: str, kills: int, messages: int, least: int = 20_000
) -> tuple[Target, dict[str, int]]:
    """Messages that never ran, of ``messages`` that two workers read while they are killed ``kills`` times."""
    names = ("alpha", "bravo")
    options = {"app": "tests.faults.counting", "inline_slots": 4}
    with lab(servers, broker) as here:
        here.urls["backend"] = None  # type: ignore[assignment] - the messages are judged by their marks alone
        workers = {name: here.start_worker(name, **options) for name in names}
        sent = [f"m{n}" for n in range(messages)]
        share = messages // kills
        for kill in range(kills):
            name = names[kill % 2]
            before = here.marks.stat().st_size
            here.send(*sent[kill * share : (kill + 1) * share])
            eventually(lambda before=before: here.marks.stat().st_size > before, PATIENCE)  # type: ignore[misc]
            here.end(workers[name], signal.SIGKILL)
            other = names[1 - kill % 2]
            if not here.is_ready(workers[other]):
                workers[other] = here.start_worker(other, **options)
            workers[name] = here.begin_worker(name, **options)
        here.send(*sent[kills * share :])
        deadline = now() + PATIENCE
        missing = set(sent)
        while missing and now() < deadline:
            time.sleep(0.2)
            found = len(missing)
            missing = set(sent) - set(here.ran())
            if len(missing) < found:
                deadline = now() + PATIENCE  # while something comes, the rest may be under way
        ran = here.ran()
        facts = {
            f"Consumer kills, {broker}": kills,
            f"Messages, {broker}": messages,
            f"Runs of these messages, {broker}": len(ran),
        }
        what = f"messages lost in {kills} consumer kills, {broker}"
        peer = "Kombu 5.7 on Redis, 30 kills: 5 of 20,000"
        if broker in LEASED:  # where one message of a dead worker might be sent again by several
            facts[f"Most runs of one of them, {broker}"] = max(Counter(ran).values())
            peer = "Kombu 5.7: all that a killed worker holds"
        return Target(what, len(missing), messages, least, peer), facts


def arriving_late(servers: Servers, trials: int) -> tuple[Target, dict[str, int]]:
    """Messages that never ran though all of them came to the server, in so many trials of late arrival on Redis."""
    with lab(servers, "Redis") as here:
        here.urls["backend"] = None  # type: ignore[assignment] - the messages are judged by their marks alone
        bad, messages = late(here, trials, PATIENCE)
    what = f"messages lost while what a worker sent arrived late, {trials} trials, Redis"
    return Target(what, bad, messages, 200, "Stem 0.1.0: 1 of 12 for each wait that was late"), {
        "Trials of late arrival, Redis": trials
    }


def programs(servers: Servers, broker: str, how: str, trials: int) -> Target:
    """Tasks of which a program ran two seconds after their end, of so many."""
    what = {
        "limit": "a hard time limit",
        "kill": "SIGKILL by a ladder",
        "child": "SIGKILL of their child",
        "worker": "SIGKILL of their worker",
    }[how]
    with lab(servers, broker) as here:
        bad, done = left_running(here, how, trials, PATIENCE)
    least = 100 if how == "worker" else 200
    return Target(f"tasks of which a program ran {BOUND:g} s after {what}, {broker}", bad, done, least)


def bursts(servers: Servers, broker: str, kills: int, *, beside: bool) -> tuple[Target, dict[str, int]]:
    """See :func:`tests.faults.bursts.missing`."""
    with lab(servers, broker) as here:
        return missing(here, broker, kills, PATIENCE, beside=beside)


def rows(servers: Servers, share: float) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What can be measured, by name, with that share of the trials; some give figures beside their target."""
    trials, messages = int(200 * share), int(20_000 * share)
    for broker in BROKERS:
        for how in ("restart", "kill", "absent"):
            yield f"revoked {how} {broker}", partial(revoked, servers, broker, how, trials)
        yield f"stuck {broker}", partial(stuck, servers, broker, trials)
        yield f"resent {broker}", partial(resent_in, servers, broker, trials)
        for how, times in (("limit", trials), ("kill", trials), ("child", trials), ("worker", trials // 2)):
            yield f"programs {how} {broker}", partial(programs, servers, broker, how, times)
        for name, (measure, part) in {**ROWS, **ENDINGS, **ASIDE, **LADDERS, **STEERED, **CEASING, **NATIVE}.items():
            yield f"{name} {broker}", partial(_in_lab, servers, broker, measure, int(trials * part))
        yield f"lost {broker}", partial(lost, servers, broker, trials, messages)
        for beside in (False, True):
            name = f"bursts {'beside' if beside else 'alone'} {broker}"
            yield name, partial(bursts, servers, broker, int(30 * share), beside=beside)
    for broker in LEASED:
        yield f"lost {broker}", partial(lost, servers, broker, int(50 * share), int(1000 * share), 1000)
        yield f"away {broker}", partial(_in_lab, servers, broker, doubled, int(100 * share))
    yield "late Redis", partial(arriving_late, servers, trials)
    yield "promoted", partial(promoted_in, servers, int(100 * share))


def keep(target: Target, facts: Mapping[str, Any], seconds: float, folder: Path, *, add: bool) -> Figures:
    """Write a target and its facts, to what the folder has if ``add``: other processes may be writing theirs there."""
    folder.mkdir(parents=True, exist_ok=True)
    figures = Figures(suite="targets", title="The targets, measured", about=ABOUT, command="make reliability", order=10)
    kept = folder / f"{figures.suite}.json"
    lock = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if add and kept.exists():
            earlier = Figures.read(kept)
            figures.targets, figures.counts, figures.seconds = earlier.targets, earlier.counts, earlier.seconds
        others = (other for other in figures.targets if other.what != target.what)
        figures.targets = sorted((*others, replace(target, commit=commit())), key=lambda one: one.what)
        figures.counts = dict(sorted((figures.counts | dict(facts)).items()))
        figures.seconds = round(figures.seconds + seconds, 1)
        figures.write(folder)
    finally:
        os.close(lock)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a tenth of the trials; the figures are not kept")
    parser.add_argument(
        "--only", default=[], nargs="+", help="measure what has one of these in its name, and keep the other figures"
    )
    parser.add_argument("--share", type=float, default=1.0, help="of the usual trials, such as 0.25 for 500 ladders")
    options = parser.parse_args()
    be_quiet()
    servers = Servers()
    folder = Path(tempfile.mkdtemp()) if options.quick else FOLDER
    add, bad = bool(options.only), 0
    try:
        for name, measure in rows(servers, 0.1 if options.quick else options.share):
            if options.only and not any(part in name for part in options.only):
                continue
            at = now()
            measured = measure()
            target, facts = (measured, {}) if isinstance(measured, Target) else measured
            print(f"{target.what}: {target.bad} of {target.trials} ({now() - at:.0f} s)", flush=True)
            keep(target, facts, now() - at, folder, add=add)
            add, bad = True, bad + target.bad
    finally:
        servers.close()
    if not options.quick:
        render()
    sys.exit(bool(bad))


if __name__ == "__main__":
    main()
