"""``stem task list``, on each backend."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from stem_kombu.backends.registry import open_backend
from stem_kombu.clock import SYSTEM
from stem_kombu.outcome import TaskError, TaskRecord, TaskState
from tests.cli.program import Program


@pytest.fixture(params=["sqlite", "redis", "postgres"])
def recorded(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    """30 recorded tasks: each third failed, the higher the number the newer."""
    sqlite = request.param == "sqlite"
    url = f"sqlite://{tmp_path / 'state.db'}" if sqlite else request.getfixturevalue(f"{request.param}_url")
    backend = open_backend(url)
    now = SYSTEM.utcnow()
    backend.record(
        [
            TaskRecord(
                f"t{number:02}",
                "mail.send" if number % 2 else "shop.pay",
                TaskState.FAILED if number % 3 == 0 else TaskState.SUCCEEDED,
                queue="mail" if number % 2 else "shop",
                worker="alpha" if number < 15 else "bravo",
                error=TaskError("ValueError", "no such thing") if number % 3 == 0 else None,
                ended_at=now - timedelta(minutes=30 - number),
            )
            for number in range(30)
        ]
    )
    backend.close()
    program = Program(tmp_path, {"STEM_BROKER_URL": f"sqlite://{tmp_path / 'b.db'}", "STEM_RESULT_BACKEND_URL": url})
    yield program
    program.close()


def listed(program: Program, *conditions: str) -> list[str]:
    document = program.ok("task", "list", "--json", *conditions).json
    assert document["schema"] == "stem.tasks/1" and document["complete"]
    return [task["task_id"] for task in document["tasks"]]


def test_tasks_are_found_by_all_conditions_newest_first(recorded: Program) -> None:
    assert listed(recorded) == [f"t{number:02}" for number in reversed(range(30))]
    assert listed(recorded, "--state", "failed") == [f"t{number:02}" for number in reversed(range(0, 30, 3))]
    assert listed(recorded, "--state", "failed", "--name", "mail.*", "-w", "br*") == ["t27", "t21", "t15"]
    assert listed(recorded, "-q", "shop", "--since", "330s", "--limit", "2") == ["t28", "t26"]


def test_text_names_state_worker_and_error_and_says_what_was_cut(recorded: Program) -> None:
    done = recorded.ok("task", "list", "--state", "failed", "--limit", "1")
    header, line = done.out.splitlines()
    assert header.split() == ["TASK", "NAME", "STATE", "ATTEMPT", "QUEUE", "WORKER", "AGO", "ERROR"]
    assert line.split()[:6] == ["t27", "mail.send", "failed", "1", "mail", "bravo"]
    assert line.endswith("ValueError: no such thing")
    assert "1 of 10 tasks; raise --limit to see more" in done.err


def test_no_match_is_exit_code_4(recorded: Program) -> None:
    done = recorded.run("task", "list", "--name", "nothing", "--json")
    assert done.code == 4 and done.json["tasks"] == [] and "no recorded task matches" in done.err


def test_a_look_ends_with_its_time_and_says_so(recorded: Program) -> None:
    from stem_kombu.control.client.tasks import TaskClient
    from stem_kombu.settings import Settings

    settings = Settings.from_env(recorded.variables)
    backend = open_backend(recorded.variables["STEM_RESULT_BACKEND_URL"])
    backend.record([TaskRecord(f"more-{number}", "t", TaskState.QUEUED) for number in range(500)])
    backend.close()
    with TaskClient(settings) as client:
        found = client.find(timeout=0.000001)
        assert not found.complete and found.looked_at == 100
        assert client.find().looked_at == 530
        assert len(list(client.scan())) == 530


@pytest.mark.parametrize("arguments", [("--state", "gone"), ("--since", "soon"), ("--limit", "0")])
def test_a_condition_that_is_none_is_refused(embedded: Program, arguments: tuple[str, ...]) -> None:
    assert embedded.run("task", "list", *arguments).code == 2


def test_without_a_backend_there_is_nothing_to_list(tmp_path: Path) -> None:
    program = Program(tmp_path, {"STEM_BROKER_URL": f"sqlite://{tmp_path / 'b.db'}"})
    done = program.run("task", "list")
    assert done.code == 2 and "no result backend" in done.err
