"""The simulation itself: a slice of it, its sameness in every process, and mistakes that it must find.

Each runs in a process of its own, which is made into a simulated world and is good for nothing else afterwards.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.simulation.mutants import MUTANTS

ROOT = Path(__file__).resolve().parents[2]


def simulation(*arguments: str, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.simulation", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout, env=dict(os.environ))


def test_every_promise_is_kept_in_a_slice_of_the_simulated_schedules() -> None:
    done = simulation("--schedules", "800", "--first", "1", "--processes", "2")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "800 schedules from seed 1" in done.stdout
    assert done.stdout.endswith("\n0 failed\n")


def test_a_seed_gives_the_same_history_in_every_process() -> None:
    first, second = (simulation("--digest", "--schedules", "30", "--first", "7000").stdout for _ in range(2))
    assert len(first) == 65
    assert first == second


@pytest.mark.skipif(platform.python_implementation() != "CPython", reason="counts CPython's calls")
def test_a_schedule_makes_no_more_calls_than_it_did_and_collects_no_garbage() -> None:
    calls, collections = map(int, simulation("--steps", "--schedules", "100", "--first", "0").stdout.split())
    assert collections == 0
    # A change for the worse of more than a tenth, in production code or in the simulation, is worth a look.
    assert calls < 19_000


def test_a_failing_seed_is_printed_with_its_events_and_shows_the_same_when_it_is_run_again() -> None:
    broken = simulation(
        "--schedules", "20", "--first", "0", "--processes", "1", "--mutant", "acknowledge before record"
    )
    assert broken.returncode == 1
    found = re.search(r"\nseed (\d+): (G18: acknowledged before its outcome was recorded)\n", broken.stdout)
    assert found is not None
    seed, what = found.groups()
    assert f"again: python -m tests.simulation --seed {seed} --mutant 'acknowledge before record'" in broken.stdout
    again = simulation("--seed", seed, "--mutant", "acknowledge before record")
    assert again.returncode == 1
    assert f"seed {seed}: {what}" in again.stdout
    assert simulation("--seed", seed).returncode == 0


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_every_mutant_is_found_by_a_promise_that_it_breaks() -> None:
    done = simulation("--mutants", "--schedules", "1500", timeout=880)
    found = {
        name: (promise, what) for name, _, promise, what in (line.split("\t") for line in done.stdout.splitlines())
    }
    assert found.keys() == MUTANTS.keys(), done.stderr
    wrong = {name: found[name] for name, mutant in MUTANTS.items() if found[name][0] not in mutant.promises}
    assert wrong == {}
