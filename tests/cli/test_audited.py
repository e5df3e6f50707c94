"""Each command that changes something leaves an entry in the audit, or says ``audited: false`` (G32)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import click
import pytest
from celery import Celery

from stem_kombu.control.client.client import ControlClient
from stem_kombu.control.client.directives import DirectiveClient
from stem_kombu.control.client.queues import QueueClient
from stem_kombu.control.client.retries import RetryClient
from stem_kombu.control.client.revocations import RevocationClient
from stem_kombu.control.client.selecting import SelectorClient
from stem_kombu.control.client.selection import Selection
from stem_kombu.control.client.shutdowns import ShutdownClient
from stem_kombu.control.protocol.messages import Shutdown
from stem_kombu.errors import ConfigurationError
from stem_kombu.selector import Selector
from stem_kombu.settings import Settings
from stem_kombu.volatile import NOWHERE
from stem_kombu_cli.main import LazyGroup, cli
from tests.cli.program import Program
from tests.waiting import eventually

#: Each command with ``--reason``: what it is called with, the action of its entry, and whether an entry of its outcome follows.
CHANGES: dict[str, tuple[tuple[str, ...], str, bool]] = {
    "queue pause": (("default",), "pause", True),
    "queue resume": (("default",), "resume", True),
    "queue purge": (("{unserved}",), "purge", True),
    "worker pause": (("-q", "default"), "pause", True),
    "worker resume": (("-q", "default"), "resume", True),
    "worker scale": (("2", "-w", "alpha"), "scale", True),
    "worker autoscale": (("1,2", "-w", "alpha"), "autoscale", True),
    "worker rate-limit": (("10/s", "-q", "default"), "rate-limit", True),
    "worker log-level": (("debug",), "log-level", True),
    "directives clear": (("--all",), "directives clear", True),
    "worker revoke": (("-t", "{queued}", "--terminate"), "revoke", False),
    "revokes undo": (("{queued}",), "undo", True),
    "revokes prune": (("--older-than", "30d"), "prune", True),
    "worker call": (("double", "--args", '{"number": 4}'), "call", True),
    "task retry": (("{failed}",), "retry", True),
    "worker shutdown": (("-w", "bravo"), "shutdown", True),
}


def changing_commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, LazyGroup):
            yield from changing_commands(command, (*path, name))
        elif command is not None and any("--reason" in one.opts for one in command.params):
            yield " ".join((*path, name))


def test_g32_the_table_names_each_command_that_changes_something() -> None:
    assert sorted(changing_commands(cli)) == sorted(CHANGES)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """Two workers, a task that has failed, and one that no worker consumes."""
    folder = tmp_path_factory.mktemp("audited")
    program = Program(
        folder,
        {
            "STEM_BROKER_URL": f"sqlite://{folder / 'broker.db'}",
            "STEM_RESULT_BACKEND_URL": f"sqlite://{folder / 'state.db'}",
            "STEM_CONTROL_TIMEOUT": "30s",
        },
    )
    try:
        program.start_worker("--name", "alpha")
        program.start_worker("--name", "bravo")
        program.ended(program.send("shop.fails"))
        program.send("shop.add", "--queue", "unserved", a=1)
        yield program
    finally:
        program.close()


def entries(program: Program) -> list[dict[str, Any]]:
    done = program.run("audit", "list", "--json")
    return list(done.json["entries"]) if done.code == 0 else []


#: What stands for tasks and queues in the table.
PLACES = ("{failed}", "{queued}", "{unserved}")


def known(program: Program) -> dict[str, str]:
    found = dict.fromkeys(PLACES, "unserved")
    listed = program.ok("task", "list", "--json").json["tasks"]
    queued = [task["task_id"] for task in listed if task["state"] == "queued"]
    found["{queued}"] = queued[0] if queued else program.send("shop.add", "--queue", "unserved", a=1)
    found["{failed}"] = next(task["task_id"] for task in listed if task["state"] == "failed")
    return found


@pytest.mark.parametrize("command", CHANGES)
def test_g32_a_command_that_changes_something_leaves_an_entry(fleet: Program, command: str) -> None:
    arguments, action, has_outcome = CHANGES[command]
    filled = [known(fleet)[one] if one.startswith("{") and one in PLACES else one for one in arguments]
    before = len(entries(fleet))

    done = fleet.run(*command.split(), *filled, "--yes", "--reason", "INC-42", "--requester", "ann@desk", "--json")

    assert done.code == 0, done
    new = entries(fleet)[before:]
    assert {(one["action"], one["requester"], one["reason"]) for one in new} == {(action, "ann@desk", "INC-42")}
    assert [one["after"].get("outcome") is not None if isinstance(one["after"], dict) else False for one in new] == [
        False,
        *([True] if has_outcome else []),
    ]
    assert done.json.get("audited", True) is True
    assert fleet.run("audit", "verify").code == 0


@pytest.mark.parametrize("selection", [("--name", "shop.*"), ("--name", "shop.*", "--terminate", "--wait")])
def test_g32_a_selection_and_its_outcome_have_entries(fleet: Program, selection: tuple[str, ...]) -> None:
    fleet.send("shop.add", "--queue", "unserved", a=1)
    before = len(entries(fleet))
    done = fleet.run("worker", "revoke", *selection, "--yes", "--json")
    assert done.json["audited"] is True
    change, outcome = entries(fleet)[before:]
    assert change["target"]["rule"] == done.json["rule"]["rule"] and change["request_id"] == outcome["request_id"]
    assert outcome["after"]["outcome"]["expected"] >= 0


def test_g32_a_revoke_that_waits_leaves_its_verdicts(fleet: Program) -> None:
    queued = fleet.send("shop.add", "--queue", "nobody", a=1)
    before = len(entries(fleet))
    fleet.run("worker", "revoke", "-t", queued, "-t", "never-sent", "--wait", "--json")
    change, outcome = entries(fleet)[before:]
    assert change["target"]["count"] == 2
    assert outcome["after"]["outcome"]["verdicts"] == {"will-not-start": 1, "unknown": 1}
    # and an undo of the request undoes what it has stored, and nothing else
    undone = fleet.run("revokes", "undo", "--request", change["request_id"], "--json").json
    assert {task["id"] for task in undone["tasks"]} == {queued, "never-sent"}


@pytest.mark.parametrize(
    "command",
    [
        ("worker", "call", "double", "--args", '{"number": 4}'),
        ("queue", "purge", "full"),
        ("worker", "shutdown", "--worker", "nobody-*", "--rolling"),
    ],
    ids=" ".join,
)
def test_g32_what_is_done_while_the_store_is_down_says_that_it_has_no_entry(
    fleet: Program, command: tuple[str, ...]
) -> None:
    fleet.send("shop.add", "--queue", "full", a=1)
    down = {"STEM_REVOKE_STORE_URL": "redis://127.0.0.1:1/0", "STEM_CONTROL_TIMEOUT": "4s"}
    done = fleet.run(*command, "--yes", "--json", env=down)
    if "--rolling" in command:  # no worker matches, so that none is stopped, and none is to be noted
        assert (done.code, done.json["audited"]) == (4, True), done
    else:
        assert (done.code, done.json["audited"]) == (3, False), done
        assert "the audit has no entry" in done.err


def test_g32_from_python_each_change_says_that_a_store_of_revocations_only_has_no_entry(fleet: Program) -> None:
    settings = Settings.from_env({**fleet.variables, "STEM_CONTROL_TIMEOUT": "2s"})
    settings = replace(settings, revoke_store=NOWHERE)
    with ControlClient(settings) as client:
        assert client.revoke(["nobody-s"]).to_dict()["audited"] is False
        assert client.call("double", {"number": 1}).to_dict()["audited"] is False
        shutdown = ShutdownClient(client)
        shutdown.order(Shutdown(), ["nobody-*"], 0.5)
        assert not shutdown.is_audited
        with pytest.raises(ConfigurationError, match="can't store directives"):
            DirectiveClient(client).pause(["default"])
    with SelectorClient(settings) as selecting:
        chosen = Selection(selecting.wish(Selector.of(name="shop.*")), waiting=1, ids=("nobody-s",))
        assert selecting.revoke_selected(chosen, timeout=0.5).to_dict()["audited"] is False
    with QueueClient(settings) as queues:
        queues.purge("unserved")
        assert not queues.is_audited
    with RevocationClient(settings) as revocations:
        revocations.prune(older_than=3600.0)
        assert not revocations.is_audited
        with pytest.raises(ConfigurationError):
            revocations.undo(["nobody-s"])
    with RetryClient(settings) as retries:
        retries.retry([fleet.send("shop.add", "--queue", "nobody", a=1)])
        assert retries.is_audited  # nothing was sent


def test_g32_celery_s_own_revoke_leaves_an_entry_that_names_how_it_came(program_on: Callable[[str], Program]) -> None:
    program = program_on("redis")
    program.start_worker("--name", "alpha@here")
    plain = Celery("plain", broker=program.variables["STEM_BROKER_URL"])
    plain.control.revoke("from-flower", destination=["alpha@here"], reply=True, timeout=30, limit=1)
    (entry,) = eventually(lambda: entries(program), 60)
    assert (entry["action"], entry["target"]["tasks"]) == ("revoke", ["from-flower"])
    assert (entry["requester"], entry["reason"]) == ("Celery, through worker alpha@here", "revoked through Celery")
