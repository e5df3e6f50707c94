"""How the program speaks: data on stdout, words on stderr, two lines for an error, a code for each outcome."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Callable

import pytest
import redis

from stem_kombu.testing.ports import free_port
from tests.cli.program import PROJECT, STEM, Program
from tests.cli.terminal import shown_at
from tests.waiting import eventually

COMMANDS = [
    (),
    ("worker",),
    ("worker", "start"),
    ("worker", "ping"),
    ("worker", "inspect"),
    ("worker", "stats"),
    ("worker", "revoke"),
    ("worker", "status"),
    ("worker", "call"),
    ("health",),
    ("demo",),
    ("task",),
    ("task", "send"),
    ("task", "show"),
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command) or "stem")
def test_every_command_has_help_with_an_example(stem: Program, command: tuple[str, ...]) -> None:
    done = stem.ok(*command, "--help")
    assert re.search(r"Examples?:\s+.*stem ", done.out)
    assert done.err == ""
    assert stem.ok(*command, "-h").out == done.out


def test_the_version_is_printed(stem: Program) -> None:
    assert re.fullmatch(r"stem, version \d+\.\d+\.\d+\S*\n", stem.ok("--version").out)


def test_the_module_is_the_same_program(stem: Program) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "stem_kombu_cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=stem.environment,
    )
    assert done.stdout == stem.ok("--help").out


@pytest.mark.parametrize(
    "arguments", [("wroker",), ("worker", "pong"), ("worker", "ping", "--jsno"), ("worker", "ping", "extra")]
)
def test_a_mistyped_word_is_exit_code_2_with_a_way_on(stem: Program, arguments: tuple[str, ...]) -> None:
    done = stem.run(*arguments)
    assert done.code == 2
    first, second = done.err.splitlines()
    assert first.startswith("error: ")
    assert second.startswith("hint: see: stem")
    assert done.out == ""


def test_a_near_miss_is_recognised(stem: Program) -> None:
    assert "Did you mean 'stem worker'?" in stem.run("wroker").err
    assert "Did you mean 'stem worker ping'?" in stem.run("worker", "pong").err


@pytest.mark.parametrize("command", ["ping", "inspect", "stats", "status"])
def test_json_is_one_document_in_one_line(fleet: Program, command: str) -> None:
    done = fleet.ok("worker", command, "--json")
    assert done.out.count("\n") == 1
    assert json.loads(done.out)["namespace"] == "stem"


def test_a_pipe_gets_no_colour_unless_it_is_asked_for(fleet: Program) -> None:
    escape = "\x1b["
    assert escape not in fleet.ok("worker", "ping").out
    assert escape in fleet.ok("--color", "always", "worker", "ping").out
    assert escape in fleet.ok("worker", "ping", env={"FORCE_COLOR": "1"}).out
    assert escape not in fleet.ok("worker", "ping", env={"FORCE_COLOR": "1", "NO_COLOR": "1"}).out
    assert escape not in fleet.ok("--color", "never", "worker", "ping", env={"FORCE_COLOR": "1"}).out
    assert escape not in fleet.ok("--color", "always", "worker", "ping", "--json").out


def test_a_terminal_gets_colour_and_progress(fleet: Program) -> None:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
    with fleet.workers[1].paused():
        process = subprocess.Popen(
            [STEM, "worker", "ping", "--timeout", "3s"],
            env={**fleet.environment, "TERM": "xterm"},
            stdout=theirs,
            stderr=theirs,
        )
        os.close(theirs)
        text = shown_at(ours)
        assert process.wait(60) == 3
    assert "1 of 2 answered" in text
    assert "\x1b[" in text
    assert "silent: bravo" in text


_FULL = "error: stdout can't be written: No space left on device\n"


@pytest.mark.parametrize(
    ("line", "code", "err"),
    [
        ("health >&-", 0, ""),
        ("health --json >&-", 0, ""),
        ("--help >&-", 0, ""),
        ("health 2>&-", 0, ""),
        ("task show nosuch 2>&-", 4, ""),
        ("task show nosuch 2>/dev/full", 4, ""),
        ("health --nosuch 2>/dev/full", 2, ""),
        ("health >/dev/full", 1, _FULL),
        ("--help >/dev/full", 1, _FULL),
        ("worker revoke --task - <&-", 2, "error: there is no task id on standard input\nhint: write one id a line\n"),
        ("task send nosuch --args - <&-", 2, None),
    ],
)
def test_a_stream_that_is_closed_or_full_changes_no_exit_code_and_shows_no_traceback(
    embedded: Program, line: str, code: int, err: str | None
) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{STEM} {line}"],
        env=embedded.environment,
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )
    assert done.returncode == code, done
    assert "Traceback" not in done.stderr
    if err is not None:
        assert done.stderr == err


@pytest.mark.parametrize("stream", [">&-", ">/dev/full", "2>&-"])
def test_a_worker_runs_though_nobody_takes_what_it_says(embedded: Program, stream: str) -> None:
    line = f"exec {STEM} worker start -A shop:app --name unheard -c 1 {stream}"
    worker = subprocess.Popen(
        ["sh", "-c", line], env=embedded.environment, cwd=PROJECT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        assert embedded.ended(embedded.send("shop.add", a=1))["result"] == 1
        worker.terminate()
        assert worker.wait(60) == 0
    finally:
        worker.kill()
        worker.wait()


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_reader_that_leaves_early_is_no_error_message(fleet: Program, form: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [STEM, "worker", "ping", *form],
        env=fleet.environment,
        stdout=writing,
        stderr=subprocess.PIPE,
        timeout=60,
        check=False,
    )
    os.close(writing)
    assert done.returncode == 141
    assert b"Traceback" not in done.stderr
    assert b"rror" not in done.stderr


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_a_traceback_is_only_for_debug(embedded: Program, form: tuple[str, ...]) -> None:
    broker = f"redis://127.0.0.1:{free_port()}/0"
    quiet = embedded.run("worker", "ping", "--broker", broker, "--timeout", "500ms", *form)
    assert quiet.code == 74, quiet
    assert "Traceback" not in quiet.err
    assert [line.split(":")[0] for line in quiet.err.splitlines()] == ["error", "hint"]
    loud = embedded.run("--debug", "worker", "ping", "--broker", broker, "--timeout", "500ms", *form)
    assert loud.code == 74
    assert "Traceback" in loud.err


@pytest.mark.parametrize("kind", ["embedded", "redis", "amqp"])
def test_nobody_there_is_exit_code_69_in_text_and_in_json(program_on: Callable[[str], Program], kind: str) -> None:
    program = program_on(kind)
    for command in ("ping", "inspect", "stats"):
        text, document = program.run("worker", command), program.run("worker", command, "--json")
        assert (text.code, document.code) == (69, 69)
        assert (text.out, document.json["replies"], document.json["complete"]) == ("", [], False)
        assert "no live worker in namespace 'stem'" in text.err


def test_a_shell_can_complete_commands_and_options(stem: Program) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert "stem" in stem.ok(env={"_STEM_COMPLETE": f"{shell}_source"}).out
    words = stem.ok(env={"_STEM_COMPLETE": "bash_complete", "COMP_WORDS": "stem worker re", "COMP_CWORD": "2"}).out
    assert words.split() == ["plain,revoke", "plain,resume"]
    words = stem.ok(
        env={"_STEM_COMPLETE": "bash_complete", "COMP_WORDS": "stem worker revoke --ter", "COMP_CWORD": "3"}
    ).out
    assert words.split() == ["plain,--terminate", "plain,--term-after"]


def test_g13_a_client_that_is_killed_leaves_nothing_that_lasts(program_on: Callable[[str], Program]) -> None:
    program = program_on("redis")
    worker = program.start_worker("--name", "mute", "-c", "1")
    with redis.Redis.from_url(program.variables["STEM_BROKER_URL"]) as client, worker.paused():
        before = {key for key in client.keys("*") if client.ttl(key) == -1}
        process = program.popen("worker", "ping", "--timeout", "60s")
        known = len(client.client_list())
        eventually(lambda: len(client.client_list()) > known)
        process.kill()
        process.communicate()
        lasting = {key for key in client.keys("*") if client.ttl(key) == -1} - before
        assert {key for key in lasting if b"reply" in key and client.type(key) == b"list"} == set()
