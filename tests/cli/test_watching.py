"""``--watch`` with nothing but the core: a command that repeats itself and redraws in place."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable

import pytest

from stem_kombu.errors import BrokerUnavailable
from stem_kombu_cli.watching import repeated
from tests.cli.program import STEM, Program
from tests.cli.terminal import shown_at


@pytest.mark.parametrize(
    "command",
    [("worker", "stats"), ("worker", "status"), ("worker", "inspect"), ("queue", "list"), ("task", "list")],
    ids=" ".join,
)
def test_a_command_repeats_itself_until_ctrl_c(embedded: Program, command: tuple[str, ...]) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1")
    process = embedded.popen(*command, "--watch", "10ms", "--json")
    assert process.stdout is not None
    looks = [json.loads(process.stdout.readline()) for _ in range(3)]
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130
    assert all(look["schema"].startswith("stem.") for look in looks)


def test_on_a_terminal_each_look_takes_the_place_of_the_one_before(embedded: Program) -> None:
    embedded.start_worker("--name", "alpha", "-c", "1")
    ours, theirs = pty.openpty()
    argv = [STEM, "worker", "status", "--watch", "10ms"]
    process = subprocess.Popen(
        argv, env=embedded.environment, cwd=embedded.folder, stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    shown = b""
    while shown.count(b"\x1b[H\x1b[J") < 3:
        shown += os.read(ours, 65536)
    process.send_signal(signal.SIGINT)
    shown_at(ours)
    assert process.wait(60) == 130
    screens = shown.decode().split("\x1b[H\x1b[J")
    assert "alpha" in screens[1]
    assert screens[1].splitlines()[0].startswith("WORKER")


def test_an_interval_need_not_be_given(embedded: Program) -> None:
    process = embedded.popen("worker", "status", "--watch", "--json")
    assert process.stdout is not None
    assert json.loads(process.stdout.readline())["workers"] == []
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 130


def test_a_server_that_is_away_for_a_while_ends_no_watch(capsys: pytest.CaptureFixture[str]) -> None:
    answers: list[Callable[[], int]] = [lambda: 1, _away, lambda: 2]
    looks = repeated(0.001, lambda: answers.pop(0)(), as_json=True)
    assert [next(looks), next(looks)] == [1, 2]
    assert "note: it is down; trying again" in capsys.readouterr().err


def test_a_server_that_is_away_from_the_start_does() -> None:
    with pytest.raises(BrokerUnavailable):
        next(repeated(0.001, _away, as_json=True))


def _away() -> int:
    raise BrokerUnavailable("it is down")


def test_watch_and_follow_exclude_each_other(embedded: Program) -> None:
    done = embedded.run("worker", "status", "--watch", "2s", "--follow")
    assert (done.code, "exclude each other" in done.err) == (2, True)
