"""``stem queue list``, ``peek`` and ``purge``, on each broker."""

from __future__ import annotations

import uuid
from collections.abc import Callable

import pytest
import redis

from tests.cli.program import STEM, Program
from tests.cli.terminal import at_terminal


@pytest.fixture
def typo() -> str:
    """A queue that no worker consumes."""
    return f"typo-{uuid.uuid4().hex[:8]}"


def can_look(program: Program) -> bool:
    return "amqp" not in program.variables["STEM_BROKER_URL"]


def test_every_queue_that_is_consumed_or_was_sent_to_is_listed(fleet: Program, typo: str) -> None:
    for number in range(3):
        fleet.send("shop.add", "--queue", typo, a=number)
    done = fleet.ok("queue", "list", "--json")
    assert done.json["schema"] == "stem.queues/1"
    found = {queue["name"]: queue for queue in done.json["queues"]}
    assert found["default"]["consumers"] == ["alpha", "bravo"]
    assert found["default"]["depth"] == 0
    assert (found[typo]["depth"], found[typo]["consumers"]) == (3, [])
    if can_look(fleet):
        assert found[typo]["oldest_s"] >= 0
    else:
        assert found[typo]["oldest_s"] is None
    lines = fleet.ok("queue", "list", typo).out.splitlines()
    assert lines[0].split() == ["QUEUE", "DEPTH", "OLDEST", "CONSUMERS", "WORKERS"]
    assert lines[1].split()[:2] == [typo, "3"]
    fleet.ok("queue", "purge", typo, "--yes")


def test_the_list_says_by_whom_a_queue_is_paused(fleet: Program, typo: str) -> None:
    fleet.ok("queue", "pause", typo, "--yes", "--requester", "ada@ops")
    told = fleet.ok("queue", "list", typo, "--json").err
    fleet.ok("queue", "resume", typo, "--yes")
    assert f"queue {typo} has been paused for" in told and "by ada@ops" in told


def test_no_control_queue_is_among_them(fleet: Program) -> None:
    fleet.ok("worker", "ping")
    assert not [name for name in names(fleet) if name.startswith("stem-") and "unreadable" not in name]


def names(program: Program) -> list[str]:
    return [queue["name"] for queue in program.ok("queue", "list", "--json").json["queues"]]


def test_a_peek_shows_what_comes_next_and_takes_nothing(fleet: Program, typo: str) -> None:
    sent = [fleet.send("shop.add", "--queue", typo, a=number) for number in range(3)]
    if not can_look(fleet):
        done = fleet.run("queue", "peek", typo, "--json")
        assert done.code == 2, done
        assert "can't show what waits in queue" in done.err and "hint: " in done.err
        fleet.ok("queue", "purge", typo, "--yes")
        return
    for _ in range(2):
        document = fleet.ok("queue", "peek", typo, "--limit", "2", "--json").json
        assert [message["id"] for message in document["messages"]] == sent[:2]
        assert {message["name"] for message in document["messages"]} == {"shop.add"}
        assert all(message["age_s"] >= 0 and message["problem"] is None for message in document["messages"])
    lines = fleet.ok("queue", "peek", typo).out.splitlines()
    assert [line.split()[0] for line in lines] == ["TASK", *sent]
    fleet.ok("queue", "purge", typo, "--yes")
    empty = fleet.run("queue", "peek", typo)
    assert empty.code == 4 and f"nothing waits in queue '{typo}'" in empty.err


def test_g36_a_purge_asks_and_removes_nothing_without_an_answer(fleet: Program, typo: str) -> None:
    fleet.send("shop.add", "--queue", typo, a=1)
    for arguments in ((), ("--json",)):
        done = fleet.run("queue", "purge", typo, *arguments)
        assert done.code == 5, done
        assert f"this removes 1 message from queue '{typo}' for good" in done.err
    assert fleet.ok("queue", "purge", typo, "--dry-run").out == f"would remove: 1 message from queue {typo}\n"
    entered = at_terminal([STEM, "queue", "purge", typo], "\n", env=fleet.environment, cwd=fleet.folder)
    assert entered.code == 5, entered
    done = fleet.ok("queue", "purge", typo, "--yes", "--json", "--reason", "INC-42")
    assert (done.json["removed"], done.json["dry_run"], done.json["reason"]) == (1, False, "INC-42")
    again = fleet.run("queue", "purge", typo, "--yes")
    assert again.code == 4, again


def test_a_list_repeats_itself_until_ctrl_c(program_on: Callable[[str], Program]) -> None:
    import signal

    program = program_on("embedded")
    process = program.popen("queue", "list", "--watch", "10ms", "--json")
    assert process.stdout is not None
    first, second = process.stdout.readline(), process.stdout.readline()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert first.startswith('{"schema": "stem.queues/1"') and second.startswith('{"schema": "stem.queues/1"')
    assert process.returncode == 130


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("queue", "peek", ""), "QUEUE is blank"),
        (("queue", "purge", "amq.x", "--yes"), "'amq.x' begins with 'amq.'"),
        (("queue", "list", " a"), "begins or ends with a space"),
        (("queue", "peek", "q", "--limit", "0"), "--limit"),
    ],
)
def test_a_name_that_is_no_queue_is_refused(embedded: Program, arguments: tuple[str, ...], told: str) -> None:
    done = embedded.run(*arguments)
    assert done.code == 2 and told in done.err, done


def test_g37_a_peek_shows_what_is_no_message_at_all(program_on: Callable[[str], Program], typo: str) -> None:
    program = program_on("redis")
    client = redis.Redis.from_url(program.variables["STEM_BROKER_URL"])
    client.rpush(typo, "not a message")
    done = program.ok("queue", "peek", typo, "--json")
    (message,) = done.json["messages"]
    assert message["id"] is None and "no message of Kombu's" in message["problem"]
    assert "no message of Kombu's" in program.ok("queue", "peek", typo).out


def test_a_key_that_is_no_list_is_named_with_the_next_step(program_on: Callable[[str], Program], typo: str) -> None:
    program = program_on("redis")
    client = redis.Redis.from_url(program.variables["STEM_BROKER_URL"])
    client.set(typo, "of another program")
    for command in (("queue", "peek", typo), ("queue", "purge", typo, "--yes")):
        done = program.run(*command)
        assert done.code == 74, done
        assert f"queue '{typo}'" in done.err and "another type than a list" in done.err and "hint: " in done.err
    listed = program.ok("queue", "list", typo)
    assert "another type than a list" in listed.err
    assert client.get(typo) == b"of another program"
