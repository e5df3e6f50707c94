"""A bad deploy of 5,000 queued tasks among 20,000: found, previewed, revoked and confirmed by one command on Redis.

    python -m benchmarks.selected [--bad 5000] [--good 15000] [--later 200] [--senders stem celery] [--rounds 1]

The tasks are sent by Stem or by a plain Celery client that knows nothing of Stem, and wait in a paused queue of a live worker.
The goal is less than 3 s for the whole process of `stem worker revoke --name … --yes`. Then the queue is resumed: of the bad
ones none may run, all others have to, and so do those that are sent under the same name afterwards.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

from celery import Celery

from benchmarks.lab import ROOT, Lab, Process
from stem_kombu import Stem, TaskContext
from stem_kombu.settings import Settings

app = Stem("bench")
_MARKS = "BENCH_MARKS"


def _mark(ctx: TaskContext) -> None:
    descriptor = os.open(os.environ[_MARKS], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        os.write(descriptor, f"{ctx.task_id}\n".encode())
    finally:
        os.close(descriptor)


app.task("mail.bad")(_mark)
app.task("mail.good")(_mark)


class Fleet:
    """One worker on an empty Redis, whose queue is paused, and the program of an operator."""

    def __init__(self, lab: Lab) -> None:
        url = lab.url("redis")
        self.variables = {"STEM_BROKER_URL": url, "STEM_RESULT_BACKEND_URL": url, "STEM_REVOKE_STORE_URL": url}
        self.marks = Path(lab.folder, f"marks-{time.monotonic_ns()}")
        self.marks.touch()
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
        self._environment = {**inherited, **self.variables, _MARKS: str(self.marks), "PYTHONPATH": str(ROOT)}
        self.sender = Stem("sender", settings=Settings.from_env(self.variables))
        self.plain = Celery("plain", broker=url, set_as_current=False)
        start = ["worker", "start", "-A", "benchmarks.selected:app", "--name", "alpha", "-Q", "mail", "-c", "1"]
        self._worker = Process(
            [sys.executable, "-m", "stem_kombu_cli", *start], self.marks.with_suffix(".log"), self._environment
        )
        self._worker.wait_for("ready: worker")
        self.stem("queue", "pause", "mail", "--yes")

    def stem(self, *arguments: str) -> tuple[float, float, str]:
        """Seconds that the program took, seconds of processor time, and what it printed."""
        began, used = time.perf_counter(), _used()
        done = subprocess.run(
            [sys.executable, "-m", "stem_kombu_cli", *arguments],
            env=self._environment, cwd=ROOT, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"stem {' '.join(arguments)} ended with {done.returncode}\n{done.stdout}{done.stderr}")
        return time.perf_counter() - began, _used() - used, done.stdout

    def send(self, by: str, name: str, ids: list[str]) -> None:
        if by == "stem":
            self.sender.send_many(name, [{}] * len(ids), queue="mail", task_ids=ids)
            return
        with self.plain.producer_or_acquire() as producer:
            for task_id in ids:
                self.plain.send_task(name, task_id=task_id, queue="mail", producer=producer)

    def ran(self, expected: int, timeout: float) -> set[str]:
        """The ids of those that ran, once these are so many, or after so many seconds in which none came."""
        found, until = 0, time.monotonic() + timeout
        while (now := len(self.marks.read_text().split())) < expected and time.monotonic() < until:
            if now > found:
                found, until = now, time.monotonic() + timeout
            time.sleep(0.1)
        return set(self.marks.read_text().split())

    def close(self) -> None:
        self._worker.end()
        self.sender.close()
        self.plain.close()


def _used() -> float:
    """Processor time of the children that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measured(lab: Lab, by: str, bad: int, good: int, later: int) -> tuple[float, float]:
    """Seconds of the command, and of its processor time; raises ``RuntimeError`` where a task ran that must not, or did not."""
    fleet = Fleet(lab)
    try:
        sent = [f"{by}-{number}" for number in range(bad + good)]
        share = (bad + good) // bad
        wrong = set(sent[::share][:bad])
        for first in range(0, len(sent), 1000):  # mixed, as they come in a fleet
            part = sent[first : first + 1000]
            fleet.send(by, "mail.bad", [one for one in part if one in wrong])
            fleet.send(by, "mail.good", [one for one in part if one not in wrong])
        command = ("worker", "revoke", "--name", "mail.bad", "--yes", "--json", "--reason", "INC-42")
        seconds, used, printed = fleet.stem(*command)
        told = json.loads(printed)
        if (told["preview"]["waiting"], told["revoked"], told["complete"]) != (bad, bad, True):
            raise RuntimeError(f"found {told['preview']['waiting']}, revoked {told['revoked']}: {printed[:2000]}")
        after = [f"{by}-later-{number}" for number in range(later)]
        fleet.send(by, "mail.bad", after)
        fleet.stem("queue", "resume", "mail", "--yes")
        due = {*sent, *after} - wrong
        ran = fleet.ran(len(due), 60.0)
        if ran != due:
            raise RuntimeError(f"{len(ran & wrong)} revoked tasks ran, {len(due - ran)} others did not")
        return seconds, used
    finally:
        fleet.close()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.selected", description=__doc__)
    for name, usual in (("bad", 5000), ("good", 15000), ("later", 200), ("rounds", 1)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    parser.add_argument("--senders", nargs="+", choices=["stem", "celery"], default=["stem", "celery"])
    options = parser.parse_args()
    with Lab() as lab:
        for by in options.senders:
            for _ in range(options.rounds):
                seconds, used = measured(lab, by, options.bad, options.good, options.later)
                print(
                    f"sent by {by}: {options.bad:,} of {options.bad + options.good:,} found, revoked and confirmed in"
                    f" {seconds:.2f} s, {used:.2f} s of them processor time (goal: 3 s); 0 of them ran, {options.good:,} others"
                    f" and {options.later:,} sent later did",
                    flush=True,
                )


if __name__ == "__main__":
    main()
