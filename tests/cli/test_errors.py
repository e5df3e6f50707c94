"""Errors are sentences on stderr and, with ``--json``, one document on stdout as well; ``--debug`` may stand anywhere."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Callable

import pytest

from stem_kombu.testing.ports import free_port
from tests.cli.program import Program
from tests.waiting import eventually

#: Every command with a JSON form, with arguments that it can do nothing with but reach out.
COMMANDS = [
    ("worker", "ping"),
    ("worker", "inspect"),
    ("worker", "stats"),
    ("worker", "revoke", "-t", "any"),
    ("worker", "status"),
    ("worker", "call", "double"),
    ("task", "send", "shop.add"),
    ("task", "show", "any"),
    ("keys", "endorse"),
]
JSON = pytest.mark.parametrize("json", [("--json",), ("-o", "json")], ids=["--json", "-o json"])


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_server_that_is_not_there_is_one_document_with_code_74(stem: Program, command: tuple[str, ...]) -> None:
    nowhere = f"redis://127.0.0.1:{free_port()}/0"
    places = ("--broker", nowhere, "--backend", nowhere, "--timeout", "2s")
    if command[0] in ("task", "keys"):
        places = places[:-2]
    keys = {
        "STEM_SIGNING_KEYS": "ops:" + "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        "STEM_SIGNING_ACTIVE_KEY": "ops",
    }
    done = stem.run(*command, *places, "--json", env=keys if command[0] == "keys" else None)
    assert done.code == 74, done
    document = done.json
    assert (document["schema"], document["code"], document["stored"]) == ("stem.error/1", 74, [])
    assert f"error: {document['error']}" in done.err
    assert document["hint"]
    assert f"hint: {document['hint']}" in done.err


@JSON
@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("worker", "pnig"), "Did you mean 'stem worker ping'?"),
        (("worker", "ping", "--no-such-option"), "--no-such-option"),
        (("worker", "ping", "--timeout", "soon"), "--timeout"),
        (("worker", "ping", "--worker", ""), "--worker is blank"),
        (("worker", "revoke"), "--task"),
        (("worker", "call", "double", "--args", "nonsense"), "--args"),
        (("task", "send", "shop.add", "--args", "nonsense"), "--args"),
        (("task", "show"), "ID"),
        (("health", "--broker", "nonsense://host"), "nonsense"),
        (("keys", "check"), "signing is not configured"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else None,
)
def test_a_usage_error_is_one_document_with_code_2(
    stem: Program, arguments: tuple[str, ...], said: str, json: tuple[str, ...]
) -> None:
    done = stem.run(*arguments, *json)
    assert done.code == 2, done
    document = done.json
    if document["schema"] != "stem.health/1":
        assert (document["schema"], document["code"]) == ("stem.error/1", 2)
        assert said in document["error"]
    assert said in done.err or said in done.out


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("ping", "stem worker ping"),
        ("revoke", "stem worker revoke"),
        ("workers", "stem worker"),
        ("tasks", "stem task"),
        ("inspect", "stem worker inspect"),
        ("send", "stem task send"),
        ("queues", "stem queue list"),
        ("wroker", "stem worker"),
    ],
)
def test_a_command_that_is_typed_one_level_too_high_is_answered_with_the_right_one(
    stem: Program, typed: str, meant: str
) -> None:
    done = stem.run(typed, "--task", "any")
    assert done.code == 2
    assert f"there is no command '{typed}'. Did you mean '{meant}'?" in done.err


@pytest.mark.parametrize("where", [0, 1, 2, 4])
def test_debug_may_stand_anywhere_as_the_hints_say_it(stem: Program, where: int) -> None:
    arguments = ["worker", "ping", "--broker", f"redis://127.0.0.1:{free_port()}/0"]
    arguments.insert(where, "--debug")
    done = stem.run(*arguments)
    assert done.code == 74
    assert "Traceback" in done.err
    assert "no such option" not in done.err.lower()


def test_an_interrupted_command_is_one_document_with_code_130(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    worker = program.start_worker("--name", "mute", "--concurrency", "1")
    with worker.paused():
        process = program.popen("worker", "ping", "--timeout", "60s", "--json")
        # It has its handler for Ctrl-C from its first line on, and waits for a worker that can't answer.
        eventually(lambda: _has_begun(process.pid), 60)
        process.send_signal(signal.SIGINT)
        try:
            out, err = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:  # Python drops an interrupt within a call-back of an import's lock
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert out.count("\n") == 1
    assert '"schema": "stem.error/1", "code": 130, "error": "interrupted"' in out


def _has_begun(pid: int) -> bool:
    with open(f"/proc/{pid}/maps") as maps:  # noqa: PTH123 - a file that is made as it is read
        return "sqlite3" in maps.read()
