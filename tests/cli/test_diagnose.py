"""``stem worker diagnose``: what a worker on this host would meet."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stem_kombu_cli.commands.worker_diagnose import known_variables
from tests.cli.program import Program
from tests.waiting import eventually

DIAGNOSE = ("worker", "diagnose", "--json")


def checks(program: Program, code: int = 0, **env: str) -> dict[str, dict[str, Any]]:
    """The checks by name, the last of each."""
    done = program.run(*DIAGNOSE, env=env)
    assert done.code == code, done
    assert done.json["schema"] == "stem.diagnose/1"
    assert done.json["status"] == ("error" if code else "ok")
    assert all(set(one) == {"check", "level", "message", "hint"} for one in done.json["checks"])
    return {one["check"]: one for one in done.json["checks"]}


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_a_host_where_all_is_well(program_on: Callable[[str], Program], kind: str) -> None:
    program = program_on(kind)
    found = checks(program)
    assert {name for name, one in found.items() if one["level"] == "error"} == set()
    assert found["worker"]["level"] == "skipped"
    assert found["clock"]["level"] == found["state folder"]["level"] == found["variables"]["level"] == "ok"
    assert ("consumer_timeout" in found) == (kind == "amqp")
    program.start_worker("--name", "alpha", "-c", "1")
    worker = eventually(lambda: (one := checks(program)["worker"])["level"] == "ok" and one, 30)
    assert worker["message"] == "alpha: ok: it consumes"
    text = program.ok("worker", "diagnose")
    assert text.out.startswith("CHECK")
    assert "alpha: ok: it consumes" in text.out


def test_a_variable_that_means_nothing_is_named_with_what_was_meant(program_on: Callable[[str], Program]) -> None:
    found = checks(program_on("embedded"), STEM_REVOKE_STORE_ULR="redis://localhost")
    assert found["variables"]["level"] == "warn"
    assert "STEM_REVOKE_STORE_ULR" in found["variables"]["message"]
    assert found["variables"]["hint"] == "did you mean STEM_REVOKE_STORE_URL?"


def test_what_can_not_be_used_is_an_error(program_on: Callable[[str], Program], tmp_path: Path) -> None:
    program = program_on("embedded")
    found = checks(program, 1, STEM_HEARTBEAT_INTERVAL="soon")
    assert "STEM_HEARTBEAT_INTERVAL" in found["settings"]["message"]
    found = checks(program, 1, STEM_BROKER_URL="redis://127.0.0.1:1/0")
    assert found["broker"]["level"] == "error"
    assert found["broker"]["hint"]
    (tmp_path / "file").write_text("")
    found = checks(program, XDG_STATE_HOME=str(tmp_path / "file"))
    assert found["state folder"]["level"] == "warn", "no file of this worker's is kept there"
    found = checks(program, 1, XDG_STATE_HOME=str(tmp_path / "file"), STEM_BROKER_URL="", STEM_RESULT_BACKEND_URL="")
    assert found["state folder"]["level"] == "error"


def test_a_worker_that_was_killed_is_told(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    worker = program.start_worker("--name", "alpha", "-c", "1")
    worker.process.kill()
    worker.process.wait()
    found = checks(program)
    assert found["worker"]["level"] == "warn"
    assert found["worker"]["message"].startswith("alpha: gone:")


def test_every_documented_variable_is_known() -> None:
    docs = Path(__file__).parents[2] / "docs"
    named = {name for page in docs.glob("*.md") for name in re.findall(r"`(STEM_[A-Z0-9_]+)`", page.read_text())}
    assert named - known_variables() == set()
    assert known_variables() - named == set(), "each is documented"
