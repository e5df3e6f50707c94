"""``stem task send`` and ``show``."""

from __future__ import annotations

import signal
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from tests.cli.program import Program
from tests.waiting import eventually

FORMS = pytest.mark.parametrize("form", [(), ("--json",)], ids=["text", "json"])


def test_send_prints_the_id_and_nothing_else(fleet: Program) -> None:
    done = fleet.ok("task", "send", "shop.add", "--args", "[1]", "--kwargs", '{"b": 41}')
    task = done.out.strip()
    assert done.out == f"{task}\n"
    assert fleet.ended(task)["result"] == 42
    named = fleet.ok("task", "send", "shop.add", "--args", "[1]", "--id", "of-my-own", "--json").json
    assert named == {"schema": "stem.task/1", "id": "of-my-own", "name": "shop.add", "queue": "default"}
    assert fleet.ended("of-my-own")["result"] == 1


def test_arguments_are_read_from_stdin_where_nobody_sees_them_in_the_list_of_processes(fleet: Program) -> None:
    task = fleet.ok("task", "send", "shop.add", "--args", "[1]", "--kwargs", "-", input='{"b": 2}').out.strip()
    assert fleet.ended(task)["result"] == 3
    both = fleet.run("task", "send", "shop.add", "--args", "-", "--kwargs", "-", input="[]")
    assert both.code == 2, both
    assert "only one of --args and --kwargs" in both.err


def test_show_tells_state_attempt_worker_and_times(fleet: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    task = fleet.send("shop.render", gate=gate.path)
    gate.wait_reached()
    eventually(
        lambda: "state     running" in fleet.ok("task", "show", task).out, 60
    )  # it is recorded beside the handler
    text = fleet.ok("task", "show", task)
    assert "note:" not in text.err
    assert fleet.record(task)["worker_state"] == "live"
    gate.open()
    record = fleet.ended(task)
    assert record["schema"] == "stem.task/1"
    assert (record["task_id"], record["name"], record["state"]) == (task, "shop.render", "succeeded")
    assert (record["attempt"], record["result"], record["revocation"]) == (1, "rendered", None)
    assert record["worker"] in ("alpha", "bravo")
    assert record["worker_state"] is None  # of what has ended nobody asks
    assert record["enqueued_at"] <= record["started_at"] <= record["ended_at"]
    text = fleet.ok("task", "show", task).out
    for line in ("state     succeeded", 'result    "rendered"', "attempt   1"):
        assert line in text


def test_a_running_task_whose_worker_has_left_is_said_to_wait_for_its_next_delivery(
    embedded: Program, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    worker = embedded.start_worker("--name", "alpha", "--concurrency", "1")
    task = embedded.send("shop.render", gate=gate.path)
    gate.wait_reached()
    worker.signal(signal.SIGTERM)
    eventually(lambda: embedded.run("worker", "status", "--json").json["workers"][0]["state"] == "draining")
    assert embedded.record(task)["worker_state"] == "draining"
    # Two within a second are one, so it is asked again until it has left.
    eventually(lambda: worker.process.poll() is not None or worker.signal(signal.SIGTERM), 60, interval=0.3)
    worker.wait_code()
    # what is recorded is the last that was known of it: a worker that stops doesn't speak for whoever runs it next
    assert (embedded.record(task)["state"], embedded.record(task)["worker_state"]) == ("running", "absent")
    said = embedded.ok("task", "show", task).err
    assert "note: worker alpha is not on the roster any more" in said


def test_a_failure_is_shown_on_one_line_and_can_not_colour_the_terminal(fleet: Program) -> None:
    record = fleet.ended(fleet.send("shop.fails"))
    assert record["state"] == "failed"
    text = fleet.ok("task", "show", record["task_id"]).out
    (line,) = [line for line in text.splitlines() if line.startswith("error")]
    assert "ValueError: two" in line
    assert "\x1b" not in text


def test_a_result_that_json_can_not_hold_and_a_name_that_nobody_registered_are_failures(fleet: Program) -> None:
    no_json, unknown = fleet.send("shop.no_json"), fleet.send("shop.nobody")
    assert "JSON" in fleet.ended(no_json)["error"]["message"]
    assert fleet.ended(unknown)["error"]["type"] == "TaskNotRegistered"
    # and nothing else is lost by them
    assert fleet.ended(fleet.send("shop.add", a=1))["state"] == "succeeded"


@FORMS
def test_a_task_that_nobody_knows_is_exit_code_4(fleet: Program, form: tuple[str, ...]) -> None:
    done = fleet.run("task", "show", "no-such-task", *form)
    assert done.code == 4
    assert "task 'no-such-task' is unknown" in done.err
    if form:
        document = done.json
        assert (document["schema"], document["code"], document["revocation"]) == ("stem.error/1", 4, None)
    else:
        assert done.out == ""


@pytest.mark.parametrize("task_id", ["x" * 10_000, "two\nlines"], ids=["long", "two lines"])
def test_an_id_that_can_not_be_one_is_exit_code_2_and_not_printed_whole(embedded: Program, task_id: str) -> None:
    done = embedded.run("task", "show", task_id)
    assert done.code == 2, done
    assert done.err.startswith("error: task id ")
    assert len(done.err) < 300


@FORMS
def test_a_task_that_is_revoked_before_anybody_sent_it_is_said_to_be(fleet: Program, form: tuple[str, ...]) -> None:
    fleet.ok("worker", "revoke", "-t", "not-yet-sent", "--reason", "INC-42", "--requester", "ops@desk")
    done = fleet.run("task", "show", "not-yet-sent", *form)
    assert done.code == 4
    assert "and revoked" in done.err
    if form:
        assert (done.json["schema"], done.json["code"]) == ("stem.error/1", 4)
        assert done.json["revocation"]["requested_by"] == "ops@desk"
    else:
        assert "INC-42" in done.out
        assert "ops@desk" in done.out


def test_a_countdown_holds_a_task_and_a_revoke_reaches_it_there(fleet: Program, tmp_path: Path) -> None:
    gate = Gate(tmp_path / "gate")
    later = fleet.send("shop.render", "--countdown", "1h", gate=gate.path)
    soon = fleet.send("shop.add", "--countdown", "100ms", a=1)
    record = fleet.ended(soon)
    started, enqueued = (
        datetime.fromisoformat(record[name].replace("Z", "+00:00")) for name in ("started_at", "enqueued_at")
    )
    assert started - enqueued >= timedelta(milliseconds=100)
    fleet.ok("worker", "revoke", "-t", later)
    # The embedded broker keeps it until it is due, and nothing is recorded before.
    record = fleet.record(later) if "sqlite" in fleet.variables["STEM_BROKER_URL"] else fleet.ended(later)
    assert record["state"] in ("queued", "cancelled")
    assert record["revocation"]["task_id"] == later
    assert gate.reached() is None


@pytest.mark.parametrize(
    "arguments",
    [
        ("shop.add", "--args", "{}"),
        ("shop.add", "--args", "[1"),
        ("shop.add", "--kwargs", "[]"),
        ("shop.add", "--args", "[" * 100_000),
        ("shop.add", "--countdown", "later"),
        ("shop.add", "--countdown", "-1s"),
        ("shop.add", "--queue", " "),
        ("shop.add", "--queue", "\udcff"),  # a byte that is no UTF-8
        ("shop.add", "--id", ""),
        ("shop.add", "--id", "x" * 10_000),
        ("",),
        ("two\nlines",),
        ("\udcff",),
        (),
    ],
    ids=lambda arguments: ascii(" ".join(arguments)[:30]) if arguments else "nothing",
)
def test_what_can_not_be_meant_is_exit_code_2(embedded: Program, arguments: tuple[str, ...]) -> None:
    done = embedded.run("task", "send", *arguments)
    assert done.code == 2, done
    assert done.err.startswith("error: ")
    assert "Traceback" not in done.err
    assert done.out == ""


def test_servers_that_are_not_there_are_exit_code_74(embedded: Program) -> None:
    nowhere = f"127.0.0.1:{free_port()}"
    for url in (f"redis://:s3cret@{nowhere}/0", f"amqp://me:s3cret@{nowhere}//"):
        done = embedded.run("task", "send", "shop.add", "--broker", url)
        assert done.code == 74, done
        assert "s3cret" not in done.err
    for url in (f"redis://:s3cret@{nowhere}/0", f"postgresql://me:s3cret@{nowhere}/db"):
        done = embedded.run("task", "show", "any", "--backend", url)
        assert done.code == 74, done
        assert "s3cret" not in done.err


def test_without_a_backend_there_is_nothing_to_show(embedded: Program) -> None:
    embedded.variables["STEM_RESULT_BACKEND_URL"] = ""
    done = embedded.run("task", "show", "any")
    assert done.code == 2
    assert "STEM_RESULT_BACKEND_URL" in done.err
