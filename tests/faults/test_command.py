"""The command that dies at a step can be armed for each of them: what moves in the product must not disarm the soak."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.faults.command import HALT, STEPS


@pytest.mark.parametrize("step", [*STEPS, f"{HALT}before-replies"])
def test_each_step_at_which_a_command_is_to_die_is_there(step: str) -> None:
    armed = [sys.executable, "-m", "tests.faults.command", step, "worker", "revoke", "--help"]
    done = subprocess.run(armed, capture_output=True, text=True, timeout=110)
    assert (done.returncode, done.stderr) == (0, "")
