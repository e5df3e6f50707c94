"""What a worker logs of its tasks, as its operator reads it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.waiting import eventually


def test_the_life_of_each_task_is_in_the_log(embedded: Program, tmp_path: Path) -> None:
    worker = embedded.start_worker("--name", "alpha", "-c", "1", "--log-format", "json", "-l", "debug")
    gate, again = Gate(tmp_path / "gate"), Gate(tmp_path / "again")
    added, failed = embedded.send("shop.add", a=1), embedded.send("shop.fails")
    retried = embedded.send("shop.again", folder=str(tmp_path), gate=again.path)
    again.wait_reached(retried)
    again.open()
    assert embedded.ended(retried)["state"] == "succeeded"
    stopped = embedded.send("shop.report", gate=gate.path)
    gate.wait_reached()
    embedded.ok("worker", "revoke", "-t", stopped, "--terminate", "--reason", "INC-7", "--requester", "ada@host")
    for task in (added, failed, stopped):
        embedded.ended(task)
    eventually(lambda: "INC-7" in worker.err, 30)
    assert worker.terminate() == 0
    lines = [json.loads(line) for line in worker.err.splitlines()]
    of_tasks = [line for line in lines if line["logger"] == "stem_kombu.worker.task_log"]

    def steps(task: str) -> list[str]:
        mine = [line for line in of_tasks if line["task_id"] == task and line["task_name"]]
        assert {line["worker"] for line in mine} == {"alpha"}
        return [re.sub(r"task \S+ \(\S+\) |[\d.]+ s", "", line["message"]) for line in mine]

    assert steps(added) == ["received from queue default", "started, attempt 1", "succeeded in "]
    assert steps(failed)[-1] == "failed in , attempt 1: ValueError: two\\nlines and \\x1b[31mred"
    (trace,) = [line["exception"] for line in of_tasks if line["task_id"] == failed and "exception" in line]
    assert trace.startswith("Traceback (most recent call last)")
    assert [step.split(",")[0].split(" in")[0] for step in steps(retried)] == [
        "received from queue default", "started", "retries",
        "received from queue default", "started", "succeeded",
    ]  # fmt: skip
    assert steps(stopped)[-1] == "cancelled at a checkpoint,  after the request, by ada@host: INC-7"
    assert [line["message"] for line in of_tasks if line.get("revoked")] == [
        f"task {stopped} is revoked, by ada@host: INC-7"
    ]
    # debug speaks of Stem, and of nothing below it
    speaking = {line["logger"].split(".")[0] for line in lines if line["level"] == "DEBUG"}
    assert speaking == {"stem_kombu"}
    assert any(line["message"].startswith("command revoke of ") for line in lines)
