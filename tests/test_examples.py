"""The examples run as their page says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.program import Program

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("broker_url", ["embedded", "redis"], indirect=True)
def test_a_fleet_is_steered_from_python(tmp_path: Path, broker_url: str) -> None:
    program = Program(tmp_path, {"STEM_BROKER_URL": broker_url, "STEM_RESULT_BACKEND_URL": f"sqlite://{tmp_path}/s.db"})
    program.variables["PYTHONPATH"] = str(ROOT)
    try:
        program.start_worker("-A", "examples.shop_tasks:app", "--name", "shop-1")
        done = run("examples.steer_from_python", program.environment)
    finally:
        program.close()
    assert "1 of 1 workers answered" in done
    assert "complete: True" in done
    assert "the task ended as cancelled" in done


def test_a_worker_lives_inside_a_kombu_application(tmp_path: Path) -> None:
    done = run("examples.inside_a_kombu_application", Program(tmp_path, {}).environment)
    assert "the application's own consumer got {'order': 1}" in done
    assert "the report says ['ONE', 'TWO']" in done


def run(module: str, environment: dict[str, str]) -> str:
    """What the module prints, run from the checkout."""
    done = subprocess.run(
        [sys.executable, "-m", module],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
