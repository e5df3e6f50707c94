"""What the shell offers behind Tab: worker ids, queues and task names of the fleet, and nothing where that can't be had."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.program import STEM, Done, Program


def completed(program: Program, *words: str, **env: str) -> Done:
    """What bash is offered for the last of the words."""
    line = {"_STEM_COMPLETE": "bash_complete", "COMP_WORDS": " ".join(["stem", *words]), "COMP_CWORD": str(len(words))}
    return program.run(env={**line, **env})


def offered(program: Program, *words: str) -> list[str]:
    done = completed(program, *words, STEM_COMPLETION_TIMEOUT="60s")  # a busy machine imports a driver for seconds
    assert (done.code, done.err) == (0, ""), done
    return [line.partition(",")[2] for line in done.out.splitlines() if line]


@pytest.mark.parametrize("kind", ["redis", "amqp"])
def test_workers_queues_and_names_of_tasks_are_those_of_the_fleet(
    kind: str, program_on: Callable[[str], Program]
) -> None:
    program = program_on(kind)
    program.start_worker("--name", "alpha", "-Q", "mail,images", "-c", "1")
    program.ended(program.send("shop.add", "--queue", "mail", a=1))
    assert offered(program, "worker", "ping", "-w", "al") == ["alpha"]
    assert offered(program, "queue", "pause", "ma") == ["mail"]
    assert offered(program, "task", "send", "shop.") == ["shop.add"]


def test_what_is_typed_already_counts(embedded: Program) -> None:
    embedded.start_worker("--name", "alpha", "-Q", "mail,images", "-c", "1")
    assert offered(embedded, "worker", "ping", "--worker", "alpha", "-w", "") == []  # it is in the line already
    assert offered(embedded, "queue", "pause", "mail", "") == ["images"]
    assert offered(embedded, "task", "send", "--queue", "im") == ["images"]
    assert offered(embedded, "worker", "ping", "-n", "elsewhere", "-w", "") == []


def test_nothing_is_said_where_the_roster_can_not_be_read(stem: Program) -> None:
    for url in ("redis://127.0.0.1:1/0", "nonsense://", "sqlite:///nowhere/at/all.db"):
        done = completed(stem, "worker", "ping", "-w", "", STEM_BROKER_URL=url)
        assert (done.code, done.out.strip(), done.err) == (0, "", ""), url
    done = completed(stem, "worker", "ping", "-w", "", STEM_COMPLETION_TIMEOUT="soon")
    assert (done.code, done.err) == (0, "")


def test_a_server_that_does_not_answer_keeps_no_shell_waiting(stem: Program) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://127.0.0.1:{silent.getsockname()[1]}/0"
        done = completed(stem, "worker", "ping", "-w", "", STEM_BROKER_URL=url)  # its driver would wait for seconds
        assert (done.code, done.out.strip(), done.err) == (0, "", "")


def test_the_script_for_each_shell_is_clicks(stem: Program) -> None:
    for shell in ("bash", "zsh", "fish"):
        done = stem.run(env={"_STEM_COMPLETE": f"{shell}_source"})
        assert (done.code, "_STEM_COMPLETE" in done.out) == (0, True)
    assert Path(STEM).name == "stem"
