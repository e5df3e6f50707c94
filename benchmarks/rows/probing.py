"""A probe's processor time against that of an empty Python, for each of its answers: as text and as JSON."""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import ROOT, Lab
from stem_kombu.agent.health_file import HealthFile
from stem_kombu.clock import SYSTEM
from stem_kombu.concurrency.pulse import Pulses
from stem_kombu.control.server.worker_view import WorkerIdentity
from stem_kombu.health_page import RUNNING
from stem_kombu.settings import Settings

#: As the script that pip makes for ``stem-health``.
PROBE = "import sys; from stem_kombu_cli.stem_health import main; sys.exit(main())"
#: Seconds in which a thread of a worker is to move: one that does, and one that is taken for stuck a moment later.
MOVES, STUCK = 3600.0, 0.001


class Kept:
    """The health file of a worker, kept here: it consumes, unless it has not begun to, and its thread is to move so often."""

    def __init__(self, path: Path, *, consumes: bool = True, period: float = MOVES) -> None:
        self._pulses, self._consumes = Pulses(), consumes
        self._pulses.thread("consumer", period).beat()
        who = WorkerIdentity("stem", path.stem, "boot", "host", os.getpid(), "0", SYSTEM.utcnow())
        self.path, self.file = path, HealthFile(Settings.from_env({}, health_file=str(path)), who, self._pulses)
        self.file.start()
        self.file.show(RUNNING, ["default"])

    def stamp(self) -> None:
        """As the worker does all the time."""
        self._pulses.synced.beat()
        if self._consumes:
            self._pulses.consumed.beat()


def measure(lab: Lab, found: Findings) -> None:
    with ExitStack() as ends:
        ready = Kept(lab.path("ready.health"))
        idle = Kept(lab.path("idle.health"), consumes=False)
        stuck = Kept(lab.path("stuck.health"), period=STUCK)
        for one in (ready, idle, stuck):
            ends.callback(one.file.stop)
        killed = lab.path("killed.health")
        shutil.copy(ready.path, killed)
        answers = {
            "ready": (ready.path, 0),
            "not ready": (idle.path, 1),
            "a stuck thread": (stuck.path, 1),
            "a worker that was killed": (killed, 4),
            "no file": (lab.path("missing.health"), 4),
        }
        programs = {"python -c pass": (["-c", "pass"], 0)}
        for what, (path, code) in answers.items():
            for form in ("", " --json"):
                programs[f"{what}{form}"] = (["-c", PROBE, "--file", str(path), *form.split()], code)
        used: dict[str, list[float]] = {name: [] for name in programs}
        for turn in range(10 * lab.rounds + 1):
            for name, (arguments, code) in programs.items():
                for one in (ready, idle, stuck):
                    one.stamp()
                cpu = processor_time(arguments, code)
                if turn:  # the first one fills caches
                    used[name].append(cpu)
    figures = {name: Figure(f"{name}: CPU", samples, "ms") for name, samples in used.items()}
    empty = figures.pop("python -c pass")
    found.add(empty, *figures.values())
    found.add(*(ratio(f"{name}, against an empty Python", one, empty, "1.5 at most") for name, one in figures.items()))


def processor_time(arguments: list[str], code: int) -> float:
    """Milliseconds of a Python with these arguments, which must end with that exit code."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, *arguments], cwd=ROOT, capture_output=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != code:
        raise RuntimeError(f"{arguments}: exit code {done.returncode} instead of {code}: {done}")
    return (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) * 1000
