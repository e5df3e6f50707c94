"""Whole programs as a user waits for them, beside Celery's."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from benchmarks.figures import Figure, Findings, ratio
from benchmarks.lab import ROOT, Lab, celery_worker, stem_worker

CELERY = [sys.executable, "-m", "celery", "-A", "benchmarks.celery_tasks:app"]
STEM = [sys.executable, "-m", "stem_kombu_cli"]
#: As the script that pip makes for ``stem-health``.
PROBE = [sys.executable, "-c", "import sys; from stem_kombu_cli.stem_health import main; sys.exit(main())"]
BARE = (
    "import sys, kombu\n"
    "with kombu.Connection(sys.argv[1]) as c:\n"
    "    kombu.Producer(c.default_channel).publish({}, exchange='', routing_key='bench-nowhere')\n"
)


def run(arguments: Sequence[str], environment: Mapping[str, str]) -> tuple[float, float]:
    """Milliseconds of wall clock and of CPU."""
    before, began = os.times(), time.perf_counter()
    done = subprocess.run(arguments, env={**os.environ, **environment}, cwd=ROOT, capture_output=True, check=False)
    took, after = time.perf_counter() - began, os.times()
    assert done.returncode == 0, done
    used = after.children_user + after.children_system - before.children_user - before.children_system
    return took * 1000, used * 1000


def measure(lab: Lab, found: Findings) -> None:
    broker, peers = lab.url("redis"), lab.url("redis")
    settings = lab.settings(broker)
    ours = {"STEM_BROKER_URL": broker, "STEM_RESULT_BACKEND_URL": str(settings.backend.value)}
    health = lab.folder / "alpha.health"
    theirs = {"BENCH_CELERY_BROKER": peers}
    programs = {
        "python -c pass": ([sys.executable, "-c", "pass"], {}),
        "python -c 'import click'": ([sys.executable, "-c", "import click"], {}),
        "stem-health": ([*PROBE, "--file", str(health)], {}),
        "stem --help": ([*STEM, "--help"], {}),
        "celery --help": ([*CELERY[:3], "--help"], {}),
        "bare Kombu: connect, publish, exit": ([sys.executable, "-c", BARE, broker], {}),
        "stem worker ping": ([*STEM, "worker", "ping"], ours),
        "celery inspect ping": ([*CELERY, "inspect", "ping"], theirs),
    }
    wall: dict[str, list[float]] = {name: [] for name in programs}
    cpu: dict[str, list[float]] = {name: [] for name in programs}
    with lab.processes() as start:
        stem_worker(start, settings, "alpha", "-c", "1", "--health-file", str(health)).wait_for("ready:")
        celery_worker(start, peers, "", "one", "-P", "solo").wait_for("ready.")
        for round_number in range(2 * lab.rounds + 1):
            for name, (arguments, environment) in programs.items():
                took, used = run(arguments, environment)
                if round_number:  # the first one compiles and fills caches
                    wall[name].append(took)
                    cpu[name].append(used)
    figures = {name: Figure(name, samples, "ms") for name, samples in wall.items()}
    busy = {name: Figure(f"{name}: CPU", samples, "ms") for name, samples in cpu.items()}
    found.add(*figures.values(), busy["stem worker ping"], busy["bare Kombu: connect, publish, exit"])
    found.add(
        ratio("CPU of stem-health against an empty Python", busy["stem-health"], busy["python -c pass"], "1.5 at most"),
        ratio("stem --help against celery --help", figures["stem --help"], figures["celery --help"], "0.35 at most"),
        ratio(
            "stem worker ping against celery inspect ping",
            figures["stem worker ping"], figures["celery inspect ping"], "0.3 at most",
        ),
        ratio(
            "CPU of stem worker ping against the bare process",
            busy["stem worker ping"], busy["bare Kombu: connect, publish, exit"], "1.2 at most",
        ),
    )  # fmt: skip
