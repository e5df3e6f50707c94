"""``stem worker ping``, ``inspect``, ``stats`` and ``call``: everyone is asked, and the answer is a table or JSON."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.waiting import eventually

WORKERS = ["alpha", "bravo"]


def asked(fleet: Program, *arguments: str) -> Any:
    """The document of a command that everyone answered, after a look at what all of them have in common."""
    document = fleet.ok("worker", *arguments, "--json").json
    assert document["schema"] == "stem.control/1"
    assert document["command"] == arguments[0]
    assert document["namespace"] == "stem"
    assert document["complete"] is True
    assert document["expected"] == WORKERS
    assert document["silent"] == []
    assert document["timeout_s"] == 30.0
    assert 0 < document["elapsed_s"] < document["timeout_s"]
    assert len(document["request_id"]) >= 16
    for reply in document["replies"]:
        assert (reply["status"], reply["error"]) == ("ok", None)
        assert reply["rtt_s"] > 0
    assert [reply["worker"] for reply in document["replies"]] == WORKERS
    return document


def payloads(document: Any) -> list[dict[str, Any]]:
    return [reply["payload"] for reply in document["replies"]]


def columns(text: str) -> list[str]:
    """The headers of the first table."""
    return re.split(r" {2,}", text.splitlines()[0].strip())


def test_g12_ping_as_json_has_every_field_of_the_contract(fleet: Program) -> None:
    for number, payload in enumerate(payloads(asked(fleet, "ping"))):
        worker = fleet.workers[number].process
        assert payload["pid"] == worker.pid
        assert payload["state"] == "running"
        assert payload["consuming"] is True
        assert payload["queues"] == ["default"]
        assert payload["concurrency"] == 2
        assert payload["in_flight"] == 0
        assert payload["uptime_s"] > 0
        assert {"timestamp", "hostname", "version"} <= payload.keys()


def test_ping_as_text_is_a_table_on_stdout_and_a_summary_on_stderr(fleet: Program) -> None:
    done = fleet.ok("worker", "ping")
    assert columns(done.out) == [
        "WORKER",
        "STATUS",
        "STATE",
        "RTT",
        "IN FLIGHT",
        "INLINE",
        "ISOLATE",
        "UPTIME",
        "QUEUES",
    ]
    assert [line.split()[:3] for line in done.out.splitlines()[1:]] == [[name, "ok", "running"] for name in WORKERS]
    assert re.search(r"^2 answered, 2 expected, in ", done.err, re.MULTILINE)
    assert fleet.ok("worker", "ping", "-o", "json").json["complete"]


def test_ping_asks_who_is_named_by_id_or_by_glob(fleet: Program) -> None:
    for target, expected in (("alpha", ["alpha"]), ("*vo", ["bravo"]), ("*", WORKERS)):
        document = fleet.ok("worker", "ping", "--worker", target, "--json").json
        assert [reply["worker"] for reply in document["replies"]] == expected
        assert document["expected"] == expected
    both = fleet.ok("worker", "ping", "-w", "alpha", "-w", "bravo", "--json").json
    assert both["expected"] == WORKERS


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
@pytest.mark.parametrize("command", ["ping", "inspect", "stats"])
def test_g13_a_worker_that_nobody_knows_is_silent_and_the_exit_code_is_4(
    fleet: Program, command: str, form: tuple[str, ...]
) -> None:
    done = fleet.run("worker", command, "-w", "ghost", "--timeout", "5s", *form)  # of which it waits for a second
    assert done.code == 4, done
    assert "silent: ghost (no worker of that name is known in namespace 'stem')" in done.err
    if form:
        assert (done.json["expected"], done.json["silent"], done.json["complete"]) == (["ghost"], ["ghost"], False)
    else:
        assert done.out == ""


def test_a_glob_that_matches_nobody_is_exit_code_4_and_says_so_while_others_are_alive(fleet: Program) -> None:
    done = fleet.run("worker", "ping", "-w", "render-*", "--timeout", "5s")
    assert done.code == 4, done
    assert "no live worker matches render-* in namespace 'stem'" in done.err
    assert done.out == ""


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_g13_a_worker_that_does_not_answer_is_named_and_the_exit_code_is_3(
    fleet: Program, form: tuple[str, ...]
) -> None:
    with fleet.workers[1].paused():
        done = fleet.run("worker", "ping", "--timeout", "2s", *form)
        assert done.code == 3, done
        assert "silent: bravo (no answer within 2s)" in done.err
        if form:
            assert (done.json["silent"], done.json["complete"]) == (["bravo"], False)
        # and nobody at all is another code
        nobody = fleet.run("worker", "ping", "-w", "bravo", "--timeout", "2s", *form)
        assert nobody.code == 69, nobody
    eventually(lambda: fleet.run("worker", "ping").code == 0)


def test_inspect_shows_what_runs_in_both_modes(fleet: Program, tmp_path: Path) -> None:
    # given an isolate and an inline task that run
    gates = {mode: Gate(tmp_path / mode) for mode in ("isolate", "inline")}
    render = fleet.send("shop.render", gate=gates["isolate"].path)
    report = fleet.send("shop.report", gate=gates["inline"].path)
    for gate in gates.values():
        gate.wait_reached()
    # when they are looked at, once they have reported
    running = eventually(lambda: both_reported(fleet, render, report))
    # then
    assert (running[render]["name"], running[render]["mode"]) == ("shop.render", "isolate")
    assert (running[report]["name"], running[report]["mode"]) == ("shop.report", "inline")
    for task in running.values():
        assert task["queue"] == "default"
        assert task["attempt"] == 1
        assert task["progress"] == 0.25
        assert task["progress_data"] == {"tile": 3}
        assert task["runtime_s"] > 0
        assert task["checkpoint_s_ago"] >= 0
        assert task["terminate_requested_s_ago"] is None
        assert task["started_at"].endswith("Z") or "+00:00" in task["started_at"]
        assert len(task["args"]) <= 60
    assert running[render]["pid"] not in {worker.process.pid for worker in fleet.workers}
    assert running[report]["pid"] in {worker.process.pid for worker in fleet.workers}
    text = fleet.ok("worker", "inspect").out
    assert columns(text)[:5] == ["WORKER", "TASK", "NAME", "QUEUE", "MODE"]
    assert render in text
    assert "25%" in text
    for gate in gates.values():
        gate.open()
    assert fleet.ended(render)["state"] == fleet.ended(report)["state"] == "succeeded"


def both_reported(fleet: Program, *task_ids: str) -> dict[str, Any] | None:
    found = {task["id"]: task for payload in payloads(asked(fleet, "inspect")) for task in payload["in_flight"]}
    reported = all(task_id in found and found[task_id]["progress"] is not None for task_id in task_ids)
    return {task_id: found[task_id] for task_id in task_ids} if reported else None


def test_inspect_says_how_much_is_held_and_how_fresh_it_is(fleet: Program) -> None:
    for payload in payloads(asked(fleet, "inspect")):
        assert payload["reserved"] == 0
        assert payload["revoked_count"] >= 0
        assert payload["revision"] >= 0
        assert payload["synced_s_ago"] >= 0
        assert "revoked" not in payload


def test_inspect_lists_revocations_newest_first_up_to_a_limit(fleet: Program) -> None:
    ids = [f"listed-{n}" for n in range(3)]
    for task_id in ids:
        fleet.ok("worker", "revoke", "-t", task_id, "--reason", "a list", "--requester", "ops@desk")
    for payload in payloads(asked(fleet, "inspect", "--revoked", "--limit", "2")):
        assert [record["task_id"] for record in payload["revoked"]] == ids[:0:-1]
        assert payload["revoked_truncated"] is True
        assert payload["revoked"][0].keys() == {
            "namespace", "task_id", "version", "issued_at", "terminate", "reason", "requested_by", "expires_at",
        }  # fmt: skip
    text = fleet.ok("worker", "inspect", "--revoked", "--limit", "2").out
    assert "ops@desk" in text
    assert "there are more; raise --limit" in text
    everything = payloads(asked(fleet, "inspect", "--revoked"))[0]
    assert (everything["revoked_truncated"], set(ids) <= {r["task_id"] for r in everything["revoked"]}) == (False, True)


def test_stats_as_json_has_every_field_of_the_contract(fleet: Program) -> None:
    done = fleet.send("shop.add", a=1)
    assert fleet.ended(done)["result"] == 1
    succeeded = 0
    for payload in payloads(asked(fleet, "stats")):
        assert {
            "timestamp", "namespace", "hostname", "pid", "version", "started_at", "uptime_s", "state", "concurrency",
            "prefetch", "in_flight", "reserved", "queues", "totals", "pool", "rss_bytes", "load_avg", "broker",
            "backend", "revoke_store", "transport", "revoked_count", "heartbeat_interval_s",
        } <= payload.keys()  # fmt: skip
        assert payload["totals"].keys() >= {
            "received", "started", "succeeded", "failed", "retried", "cancelled", "redelivered",
        }  # fmt: skip
        assert payload["queues"]["default"] == {"depth": 0, "consuming": True}
        assert payload["heartbeat_interval_s"] == 10.0
        assert payload["rss_bytes"] > 10_000_000
        isolates = [slot for slot in payload["pool"] if slot["pid"] != payload["pid"]]
        assert [slot["state"] for slot in isolates] == ["idle", "idle"]
        assert all(slot["rss_bytes"] > 1_000_000 for slot in isolates if slot["rss_bytes"] is not None)
        succeeded += payload["totals"]["succeeded"]
    assert succeeded >= 1


def test_stats_counts_what_waits_in_a_queue_and_names_it_in_text(fleet: Program) -> None:
    text = fleet.ok("worker", "stats").out
    assert "alpha" in text
    assert "bravo" in text
    assert "default" in text


def test_no_password_leaves_a_worker(fleet: Program) -> None:
    shown = fleet.ok("worker", "stats", "--json").out + fleet.ok("worker", "stats").out
    for url in fleet.variables.values():
        secret = re.search(r"://[^/@]*:([^@/]+)@", url)
        assert secret is None or secret[1] not in shown or secret[1] == "guest"


def test_a_command_of_the_application_is_called_by_name(fleet: Program) -> None:
    document = fleet.ok("worker", "call", "double", "--args", '{"number": 21}', "--json").json
    assert [reply["payload"] for reply in document["replies"]] == [{"doubled": 42}] * 2
    assert "42" in fleet.ok("worker", "call", "double", "--args", '{"number": 21}', "-w", "alpha").out


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])
def test_an_answer_that_is_an_error_is_exit_code_1(fleet: Program, form: tuple[str, ...]) -> None:
    done = fleet.run("worker", "call", "broken", *form)
    assert done.code == 1, done
    assert "ValueError: kaputt" in done.err
    if form:
        assert [reply["status"] for reply in done.json["replies"]] == ["error", "error"]
        assert done.json["replies"][0]["error"].keys() == {"code", "message"}
    unknown = fleet.run("worker", "call", "no-such-command", *form)
    assert unknown.code == 1, unknown
    assert "unknown-command" in unknown.err


@pytest.mark.parametrize("arguments", ["nonsense", "[1]", '"text"'])
def test_arguments_that_are_no_json_object_are_a_usage_error(stem: Program, arguments: str) -> None:
    done = stem.run("worker", "call", "double", "--args", arguments)
    assert done.code == 2
    assert "--args" in done.err
    assert done.out == ""


@pytest.mark.parametrize("name", ["two\nlines", "\udcff"], ids=["two lines", "no UTF-8"])
def test_a_command_of_no_name_is_not_asked_of_any_worker(embedded: Program, name: str) -> None:
    done = embedded.run("worker", "call", name)
    assert done.code == 2, done
    assert done.err.startswith(f"error: {name!r} is no name of a command")
