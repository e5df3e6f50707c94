"""The tables of every command on terminals of 80, 120 and 200 columns, held against files in ``golden_widths/``.

The reports are made here, so that no host's name and no process id decides which columns fit. A change that is meant is written
by running this test with ``STEM_TEST_GOLDEN=write``, and read in the diff.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stem_kombu.backends.heartbeat import Heartbeat, Liveness
from stem_kombu.control.audit import Entry, Note
from stem_kombu.control.client.queues import QueueReport, QueueState, WaitingMessage
from stem_kombu.control.client.reports import Report, RevokeReport, StatusReport, WorkerReply, WorkerStatus
from stem_kombu.control.client.revocations import FoundRevocations
from stem_kombu.control.client.tasks import FoundTasks
from stem_kombu.directive import Directive, Kind
from stem_kombu.outcome import TaskError, TaskRecord, TaskState
from stem_kombu.revocation import Revocation
from stem_kombu_cli import render
from stem_kombu_cli.commands import (
    audit_list,
    directives_list,
    queue_list,
    queue_peek,
    revokes_list,
    task_list,
    worker_inspect,
    worker_ping,
    worker_revoke,
    worker_stats,
    worker_status,
)

GOLDEN = Path(__file__).with_name("golden_widths")
NOW = datetime(2026, 1, 31, 12, tzinfo=timezone.utc)
WORKERS = ("shop@web-1.example-4711-0c3f", "shop@web-2.example-4712-77aa")
IDS = ("5b3f6f0e-8f1d-4c3a-9a51-0d2f8a6f1c11", "9d0c7c9e-2b64-4f0e-8f0a-77f0c7a0be02")
WHY = "the supplier's pictures are broken since Friday noon"


class Standing:
    """A clock that stands at :data:`NOW`."""

    utcnow = staticmethod(lambda: NOW)


def report(payload: Callable[[int], dict[str, object]]) -> Report:
    replies = tuple(WorkerReply(worker, 0.0031, payload(number)) for number, worker in enumerate(WORKERS))
    return Report("any", "shop", "0" * 32, 5.0, 0.004, WORKERS, (), replies)


def ping() -> str:
    def payload(number: int) -> dict[str, object]:
        return {
            "state": "running",
            "in_flight": 3,
            "concurrency": 2,
            "slots": {"inline": {"running": 2, "idle": 14}, "isolate": {"running": 1, "idle": 1}} if number else None,
            "uptime_s": 86_500.0,
            "queues": ["images", "mail"],
        }

    return worker_ping.text(report(payload), False)


def inspect() -> str:
    def payload(number: int) -> dict[str, object]:
        task = {
            "id": IDS[number], "name": "tasks.render-image", "queue": "images", "mode": "isolate", "attempt": 1,
            "args": "'cat.png', width=1024, height=768", "started_at": "2026-01-31T11:59:00.000000Z", "runtime_s": 60.0,
            "progress": 0.25, "progress_data": {"tile": 3}, "checkpoint_s_ago": 0.05, "pid": 4800 + number,
            "terminate_requested_s_ago": 1.5 if number else None,
        }  # fmt: skip
        counts = {"reserved": 4, "revoked_count": 1200, "revision": 1795955748913788, "synced_s_ago": 3.1}
        return {"in_flight": [task], **counts, "store_error": None}

    return worker_inspect.text(report(payload), False)


def stats() -> str:
    def payload(number: int) -> dict[str, object]:
        slot = {
            "slot": 0,
            "pid": 4800,
            "state": "running",
            "tasks_done": 17,
            "rss_bytes": 23_800_000,
            "task_id": IDS[0],
        }
        return {
            "hostname": f"web-{number + 1}.example", "pid": 4711, "version": "0.2.0", "uptime_s": 86_500.0, "state": "running",
            "concurrency": 2, "prefetch": 18, "in_flight": 3, "reserved": 4, "load_avg": 0.42, "rss_bytes": 48_700_000,
            "slots": {"inline": {"idle": 13, "running": 3}, "isolate": {"idle": 1, "running": 1}},
            "totals": {
                "received": 900, "started": 890, "succeeded": 850, "failed": 20, "retried": 10, "cancelled": 10,
                "redelivered": 1,
            },
            "settling": {"count": 0, "waiting": {}, "oldest_s": None, "error": None, "not_storable": 0},
            "broker": "redis://:***@broker:6379/0", "transport": "redis", "backend": None, "control_link": "broker",
            "revoke_store": "redis://:***@broker:6379/0", "revoked_count": 1200, "bounds": {"sync_interval_s": 10.0},
            "queues": {"images": {"depth": 1400, "consuming": True}, "mail": {"depth": None, "consuming": False}},
            "pool": [slot],
        }  # fmt: skip

    return worker_stats.text(report(payload), False)


def status() -> str:
    beats = [
        Heartbeat(
            "shop", worker, "b", "i", 10.0, f"web-{number + 1}.example", 4711 + number, "0.2.0", concurrency=2, in_flight=3,
            queues=("images", "mail"), rss_bytes=48_700_000, load_avg=0.42, paused=("mail",) if number else (),
            slots={"inline": {"running": 2, "idle": 14}, "isolate": {"running": 1, "idle": 1}} if number else {},
        )
        for number, worker in enumerate(WORKERS)
    ]  # fmt: skip
    return worker_status.text(
        StatusReport("shop", tuple(WorkerStatus(beat, Liveness.LIVE, 1.5) for beat in beats)), False
    )


def revoke() -> str:
    payload = {"applied": list(IDS), "in_flight": [IDS[0]], "terminated": [IDS[0]]}
    return worker_revoke.text(RevokeReport.of(report(lambda number: payload), []), False)


def task_listing() -> str:
    error = TaskError("ValueError", "the picture has no pixels, and the one before had none either")
    tasks = tuple(
        TaskRecord(
            task_id, "tasks.render-image", state, 2, "images", WORKERS[0], error=error if number else None,
            enqueued_at=NOW - timedelta(minutes=9), ended_at=NOW - timedelta(minutes=5),
        )
        for number, (task_id, state) in enumerate(zip(IDS, (TaskState.SUCCEEDED, TaskState.FAILED), strict=True))
    )  # fmt: skip
    return task_list.text(FoundTasks(tasks, 2, 2, True), False)


def queues() -> str:
    states = (QueueState("images", 1400, 61.0, WORKERS), QueueState("typo-queue", 1, None, ()))
    return queue_list.text(QueueReport("shop", states), False)


def peek() -> str:
    waiting = WaitingMessage(IDS[0], "tasks.render-image", 1, NOW, 61.0, NOW)
    broken = WaitingMessage(None, None, problem="the body is no JSON: Expecting value: line 1 column 1 (char 0)")
    return queue_peek.text([waiting, broken], False)


def directives() -> str:
    pause = Directive("shop", Kind.PAUSE, "images", "*", True, 17, NOW - timedelta(hours=2), None, WHY, "ada@ops")
    scale = Directive(
        "shop", Kind.CONCURRENCY, None, "shop@web-*", 4, 18, NOW, NOW + timedelta(hours=1), None, "bob@desk"
    )
    return directives_list.text([pause, scale], NOW, None, False)


def revocations() -> str:
    found = tuple(Revocation("shop", task_id, 17, NOW, True, WHY, "ada@ops", None) for task_id in IDS)
    return revokes_list.text(FoundRevocations("shop", found, 2), False)


def audit() -> str:
    note = Note("revoke", {"tasks": list(IDS)}, "ada@ops", WHY)
    return audit_list.text([Entry(7, NOW, note, "desk.example", None, "", "", 17)], False)


TABLES = {
    "ping": ping, "inspect": inspect, "stats": stats, "status": status, "revoke": revoke, "task-list": task_listing,
    "queue-list": queues, "queue-peek": peek, "directives-list": directives, "revokes-list": revocations, "audit-list": audit,
}  # fmt: skip
#: Lines that are sentences and not rows of a table: they are as long as what they say.
SENTENCES = ("totals ", "revocations ", "fleet ")


@pytest.fixture(autouse=True)
def standing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(task_list, "SYSTEM", Standing)


@pytest.mark.parametrize("columns", [80, 120, 200])
@pytest.mark.parametrize("name", TABLES)
def test_a_table_fits_its_terminal(name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "terminal_columns", lambda: columns)
    written = TABLES[name]() + "\n"
    for line in written.splitlines():
        assert len(line) <= columns or line.startswith(SENTENCES), line
    path = GOLDEN / f"{name}.{columns}"
    if os.environ.get("STEM_TEST_GOLDEN") == "write":
        path.parent.mkdir(exist_ok=True)
        path.write_text(written)
    assert written == path.read_text(), f"{path.name} differs; is that meant?\n{written}"


@pytest.mark.parametrize("name", TABLES)
def test_wide_and_a_pipe_show_every_column(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(render, "terminal_columns", lambda: None)
    piped = TABLES[name]()
    monkeypatch.setattr(render, "terminal_columns", lambda: 80)
    monkeypatch.setattr(render, "wide", True)
    assert TABLES[name]() == piped
    assert "…" not in piped or name == "audit-list"  # whose targets are shortened anywhere


def test_every_golden_file_belongs_to_a_table() -> None:
    assert sorted(path.name for path in GOLDEN.iterdir()) == sorted(
        f"{name}.{columns}" for name in TABLES for columns in (80, 120, 200)
    )
