"""``stem revokes`` and ``stem audit``, on each broker (G31, G32)."""

from __future__ import annotations

import json
import uuid

import pytest

from tests.cli.program import Program


@pytest.fixture
def task() -> str:
    """An id that no task has."""
    return f"t-{uuid.uuid4().hex[:8]}"


def revoke(program: Program, *ids: str, options: tuple[str, ...] = ()) -> dict[str, object]:
    given = [part for task_id in ids for part in ("--task", task_id)]
    document: dict[str, object] = program.run("worker", "revoke", *given, *options, "--json").json
    return document


def test_g31_an_undone_task_runs_again_and_nothing_else_does(fleet: Program, task: str) -> None:
    other = f"{task}-other"
    revoke(fleet, task, other, options=("--reason", "typo"))
    done = fleet.ok("revokes", "undo", task, "--reason", "wrong id", "--requester", "ann", "--json")

    (answer,) = done.json["tasks"]
    assert (answer["id"], answer["answer"], answer["waits_for"]) == (task, "lifted", [])
    assert answer["version"] > answer["undoes"]
    assert done.json["command"] == "undo"
    assert sorted(reply["worker"] for reply in done.json["replies"]) == ["alpha", "bravo"]
    held = fleet.ok("worker", "inspect", "--revoked", "--json").json["replies"]
    for reply in held:
        ids = [record["task_id"] for record in reply["payload"]["revoked"]]
        assert other in ids and task not in ids
    assert [
        record["task_id"] for record in fleet.ok("revokes", "list", "--task", f"{task}*", "--json").json["revocations"]
    ] == [other]
    again = fleet.run("revokes", "undo", task)
    assert again.code == 4 and f"unknown: {task}, no revocation of it is in force" in again.out


def test_g31_it_is_shown_who_undid_what(fleet: Program, task: str) -> None:
    version = revoke(fleet, task, options=("--reason", "INC-1", "--requester", "bob"))["stored"][0]["version"]  # type: ignore[index]
    before = fleet.ok("revokes", "show", task)
    assert f"in force: version {version}" in before.out
    assert "reason: INC-1" in before.out

    fleet.ok("revokes", "undo", str(version), "--reason", "INC-2", "--requester", "ann")

    view = fleet.ok("revokes", "show", task, "--json").json
    assert view["revocation"] is None
    assert (view["undone"]["undoes"], view["undone"]["reason"], view["undone"]["requested_by"]) == (
        version,
        "INC-2",
        "ann",
    )
    assert [(entry["action"], entry["requester"]) for entry in view["audit"]] == [("undo", "ann"), ("revoke", "bob")]
    text = fleet.ok("revokes", "show", task).out
    assert "in force: no" in text and "by ann, reason INC-2" in text
    unknown = fleet.run("revokes", "show", "nobody-knows-it")
    assert unknown.code == 4 and "is not revoked" in unknown.err


def test_g31_a_task_that_is_revoked_again_is_revoked(fleet: Program, task: str) -> None:
    revoke(fleet, task)
    fleet.ok("revokes", "undo", task)
    again = revoke(fleet, task)
    assert [reply["payload"]["applied"] for reply in again["replies"]] == [[task], [task]]  # type: ignore[attr-defined]


def test_g31_what_is_recorded_as_cancelled_is_too_late(fleet: Program) -> None:
    task_id = str(uuid.uuid4())
    revoke(fleet, task_id)
    fleet.send("shop.add", "--id", task_id, a=1)
    assert fleet.ended(task_id)["state"] == "cancelled"

    done = fleet.run("revokes", "undo", task_id, "--json")

    assert done.code == 1, done
    (answer,) = done.json["tasks"]
    assert (answer["answer"], answer["state"]) == ("too-late", "cancelled")
    assert fleet.record(task_id)["state"] == "cancelled"


def test_g31_a_task_that_was_revoked_before_it_was_sent_runs_after_the_undo(fleet: Program) -> None:
    task_id = str(uuid.uuid4())
    revoke(fleet, task_id, options=("--terminate",))

    fleet.ok("revokes", "undo", task_id)
    fleet.send("shop.add", "--id", task_id, a=1)

    assert fleet.ended(task_id)["state"] == "succeeded"


def test_g31_a_whole_request_is_undone_but_for_what_was_revoked_anew(fleet: Program, task: str) -> None:
    ids = [f"{task}-{number}" for number in range(3)]
    document = revoke(fleet, *ids)
    revoke(fleet, ids[1], options=("--reason", "really"))
    request = str(document["request_id"])

    dry = fleet.ok("revokes", "undo", "--request", request, "--dry-run")
    assert sorted(line.split()[2].rstrip(",") for line in dry.out.splitlines()) == [ids[0], ids[2]]
    done = fleet.ok("revokes", "undo", "--request", request, "--json").json

    assert sorted(one["id"] for one in done["tasks"]) == [ids[0], ids[2]]
    assert {one["answer"] for one in done["tasks"]} == {"lifted"}
    left = fleet.ok("revokes", "list", "--task", f"{task}*", "--json").json["revocations"]
    assert [(record["task_id"], record["reason"]) for record in left] == [(ids[1], "really")]
    nothing = fleet.run("revokes", "undo", "--request", "no-such-request")
    assert nothing.code == 4 and "no revocation of request 'no-such-request' is in force" in nothing.err


def test_what_makes_no_sense_is_named(fleet: Program, task: str) -> None:
    assert fleet.run("revokes", "undo").code == 2
    assert fleet.run("revokes", "undo", task, "--request", "x").code == 2
    assert fleet.run("revokes", "list", "--limit", "0").code == 2
    assert fleet.run("revokes", "list", "--task", task).code == 4
    assert fleet.run("audit", "list", "--task", task).code == 4


def test_the_list_is_filtered_by_all_conditions(fleet: Program, task: str) -> None:
    revoke(fleet, f"{task}-a", options=("--requester", "ann@host", "--terminate", "--reason", "INC-3"))
    revoke(fleet, f"{task}-b", options=("--requester", "bob@host"))

    lines = fleet.ok("revokes", "list", "--task", f"{task}*").out.splitlines()
    assert lines[0].split() == ["TASK", "VERSION", "ISSUED", "TERMINATE", "EXPIRES", "BY", "REASON"]
    assert [line.split()[0] for line in lines[1:]] == [f"{task}-b", f"{task}-a"]
    only = fleet.ok("revokes", "list", "--task", f"{task}*", "--requester", "ann@*", "--since", "1h", "--json").json
    assert [record["task_id"] for record in only["revocations"]] == [f"{task}-a"]
    one = fleet.ok("revokes", "list", "--task", f"{task}*", "--limit", "1")
    assert len(one.out.splitlines()) == 2 and "2 match" in one.err


def test_pruning_asks_first_and_leaves_what_is_in_force(fleet: Program, task: str) -> None:
    revoke(fleet, task)
    refused = fleet.run("revokes", "prune")
    assert refused.code == 5 and "not confirmed" in refused.err
    assert fleet.ok("revokes", "prune", "--dry-run").out == "would prune: records that ended more than 7d ago\n"
    assert fleet.ok("revokes", "prune", "--older-than", "30d", "--yes", "--json").json["pruned"] == 0
    assert fleet.ok("revokes", "list", "--task", task).code == 0


def test_g32_each_change_has_an_entry_with_a_name_and_a_reason(fleet: Program, task: str) -> None:
    document = revoke(fleet, task, options=("--requester", "ann", "--reason", "INC-4"))
    fleet.ok("revokes", "undo", task, "--requester", "bob", "--reason", "INC-5")

    entries = fleet.ok("audit", "list", "--task", task, "--json").json["entries"]
    assert [(one["action"], one["requester"], one["reason"]) for one in entries] == [
        ("revoke", "ann", "INC-4"),
        ("undo", "bob", "INC-5"),
    ]
    assert entries[0]["request_id"] == document["request_id"]
    assert entries[0]["target"] == {"tasks": [task], "count": 1, "terminate": False}
    assert entries[0]["verified"] is None
    lines = fleet.ok("audit", "list", "--action", "und*", "--requester", "bob", "-o", "jsonl").out.splitlines()
    found = [json.loads(line) for line in lines]
    outcome = found[-1]
    assert (outcome["action"], outcome["after"]["outcome"]["lifted"]) == ("undo", 1)
    assert all(one["requester"] == "bob" for one in found)
    text = fleet.ok("audit", "list", "--task", task).out.splitlines()
    assert text[0].split() == ["SEQ", "AT", "ACTION", "BY", "HOST", "VERIFIED", "TARGET", "REASON"]
    told = fleet.ok("audit", "list", "--action", "undo", "--requester", "bob").out.splitlines()
    assert "outcome: lifted=1" in told[-1]
    whole = fleet.ok("audit", "verify", "--json").json
    assert whole["problems"] == []
    assert whole["last"] == whole["entries"]
    assert "whole: " in fleet.ok("audit", "verify").out


def test_g32_a_purge_has_an_entry(fleet: Program, task: str) -> None:
    queue = f"typo-{task}"
    fleet.send("shop.add", "--queue", queue, a=1)

    done = fleet.ok("queue", "purge", queue, "--yes", "--requester", "ann", "--reason", "INC-6", "--json")

    assert done.json["audited"] is True
    (entry,) = [
        one
        for one in fleet.ok("audit", "list", "--action", "purge", "--json").json["entries"]
        if one["target"] == {"queues": [queue]}
    ]
    assert (entry["requester"], entry["reason"]) == ("ann", "INC-6")
