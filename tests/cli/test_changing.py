"""The options of the commands that change something, and the question before what is dangerous (G36)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from stem_kombu_cli.main import cli
from tests.cli.program import Done
from tests.cli.terminal import at_terminal

_CHANGE = (sys.executable, "-m", "tests.cli.changing_program", "change")
_ROOT = Path(__file__).resolve().parents[2]


class Changer:
    def __init__(self, folder: Path) -> None:
        self._environ = {**os.environ, "STEM_BROKER_URL": f"sqlite://{folder / 'broker.db'}"}

    def run(self, *arguments: str, **variables: str) -> Done:
        done = subprocess.run(
            [*_CHANGE, *arguments],
            env={**self._environ, **variables},
            cwd=_ROOT,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=90,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    def typed(self, keys: str, *arguments: str, **variables: str) -> Done:
        return at_terminal([*_CHANGE, *arguments], keys, env={**self._environ, **variables}, cwd=_ROOT)


@pytest.fixture
def changer(tmp_path: Path) -> Changer:
    return Changer(tmp_path)


def test_the_options_arrive(changer: Changer) -> None:
    done = changer.run("--yes", "--reason", " INC-42 ", "--requester", "ops@desk", "--wait")
    assert done.code == 0, done
    assert done.json == {"reason": "INC-42", "requester": "ops@desk", "dry_run": False, "wait": True}


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_g36_a_script_without_yes_is_refused(changer: Changer, form: tuple[str, ...]) -> None:
    done = changer.run(*form)
    assert done.code == 5, done
    assert "error: not confirmed: this pauses queue mail on every worker" in done.err
    assert "hint: look at it with --dry-run, then add --yes" in done.err
    if form:
        assert (done.json["schema"], done.json["code"], done.json["stored"]) == ("stem.error/1", 5, [])
    else:
        assert done.out == ""


def test_g36_json_does_not_ask_even_on_a_terminal(changer: Changer) -> None:
    done = changer.typed("y\n", "--json")
    assert done.code == 5, done
    assert json.loads(done.out)["code"] == 5


@pytest.mark.parametrize("keys", ["\n", "n\n", "\x04"], ids=["enter", "no", "end-of-input"])
def test_g36_enter_is_no(changer: Changer, keys: str) -> None:
    done = changer.typed(keys)
    assert done.code in (5, 130), done
    assert done.out == ""
    assert "This pauses queue mail on every worker. Go on? [y/N]" in done.err


def test_yes_at_the_question_is_enough_up_to_a_hundred(changer: Changer) -> None:
    assert changer.typed("y\n", "--count", "100").code == 0


@pytest.mark.parametrize(("keys", "code"), [("y\n", 5), ("\n", 5), ("100\n", 5), ("101\n", 0)])
def test_g36_above_a_hundred_the_count_has_to_be_typed(changer: Changer, keys: str, code: int) -> None:
    done = changer.typed(keys, "--count", "101")
    assert done.code == code, done
    assert "Type 101 to go on" in done.err
    assert bool(done.out) == (code == 0)


def test_a_dry_run_does_not_ask(changer: Changer) -> None:
    done = changer.run("--dry-run", STEM_REQUIRE_REASON="true")
    assert done.code == 0, done
    assert done.json["dry_run"] is True


def test_a_required_reason_that_is_missing_is_exit_code_2(changer: Changer) -> None:
    for given in ((), ("--reason", "  ")):
        done = changer.run("--yes", *given, STEM_REQUIRE_REASON="true")
        assert done.code == 2, done
        assert "error: no reason was given, and STEM_REQUIRE_REASON is set" in done.err
        assert "hint: add --reason TEXT" in done.err
    assert changer.run("--yes", "--reason", "INC-42", STEM_REQUIRE_REASON="true").json["reason"] == "INC-42"


def test_a_required_reason_is_asked_for_on_a_terminal(changer: Changer) -> None:
    done = changer.typed("INC-42\n", "--yes", STEM_REQUIRE_REASON="true")
    assert done.code == 0, done
    assert json.loads(done.out)["reason"] == "INC-42"
    assert changer.typed("\n", "--yes", STEM_REQUIRE_REASON="true").code == 2


@pytest.mark.parametrize(
    "command", [("task", "retry", "t"), ("queue", "purge", "q"), ("revokes", "prune"), ("revokes", "undo", "t")]
)
def test_wait_is_not_offered_where_no_worker_is_waited_for(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*command, "--wait"])
    assert done.exit_code == 2 and "No such option" in done.output, done.output
