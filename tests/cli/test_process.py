"""The process of ``stem worker start``: its signals, its logging, and how many children it has."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.testing.gates import Gate
from tests.cli.program import Program
from tests.waiting import eventually


@pytest.mark.parametrize("signals", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM,) * 3, (signal.SIGHUP,)])
def test_g20_a_stop_that_comes_twice_within_a_second_is_one_and_running_work_ends(
    embedded: Program, tmp_path: Path, signals: tuple[signal.Signals, ...]
) -> None:
    worker = embedded.start_worker("-c", "1")
    gate = Gate(tmp_path / "gate")
    task = embedded.send("shop.render", gate=gate.path)
    gate.wait_reached()
    for number in signals:
        worker.signal(number)
    eventually(lambda: "is draining" in worker.err, 30)
    gate.open()
    assert worker.wait_code() == 0
    assert (embedded.record(task)["state"], embedded.record(task)["attempt"]) == ("succeeded", 1)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_while_the_application_is_imported_ends_the_worker_in_order(
    embedded: Program, tmp_path: Path, number: signal.Signals
) -> None:
    gate = Gate(tmp_path / "gate")
    worker = embedded.begin_worker("-A", "slow:app", "-c", "1", env={"SLOW_GATE": gate.path})
    gate.wait_reached()
    worker.signal(number)
    assert worker.wait_code() == 0
    assert worker.out == ""


@pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="a process id namespace of its own needs root"
)
def test_a_containers_first_process_hears_a_signal_while_the_application_is_imported(
    embedded: Program, tmp_path: Path
) -> None:
    gate = Gate(tmp_path / "gate")
    box = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    worker = embedded.begin_worker("-A", "slow:app", "-c", "1", env={"SLOW_GATE": gate.path}, prefix=box)
    assert gate.wait_reached() == 1
    (inner,) = Path(f"/proc/{worker.process.pid}/task/{worker.process.pid}/children").read_text().split()
    os.kill(int(inner), signal.SIGTERM)
    assert worker.wait_code() == 0


def test_usr1_writes_the_stacks_of_worker_and_child_and_usr2_is_ignored_and_said(
    embedded: Program, tmp_path: Path
) -> None:
    worker = embedded.start_worker("-c", "1")
    gate = Gate(tmp_path / "gate")
    task = embedded.send("shop.render", gate=gate.path)
    child = gate.wait_reached()
    worker.signal(signal.SIGUSR1)
    eventually(lambda: "stem_kombu/execution/pool/pool.py" in worker.err and "Thread 0x" in worker.err, 30)
    os.kill(child, signal.SIGUSR1)
    eventually(lambda: "shop.py" in worker.err, 30)
    worker.signal(signal.SIGUSR2)
    eventually(lambda: "SIGUSR2" in worker.err, 30)
    gate.open()
    assert embedded.ended(task)["state"] == "succeeded"
    assert worker.terminate() == 0


LINE = (
    r"\d{{4}}-\d\d-\d\d \d\d:\d\d:\d\d,\d{{3}} {level} noisy\.work"
    r" \[{mode}\.speaks {task} attempt 1\]: {message}\n"
)


def spoken(program: Program, *arguments: str, env: dict[str, str] | None = None) -> tuple[dict[str, str], str]:
    """Ids of a task in a child and one in a thread, and what the worker's process and children have written."""
    worker = program.start_worker("-A", "noisy:app", "-c", "1", "--name", "alpha", *arguments, env=env)
    tasks = {mode: program.send(f"{mode}.speaks") for mode in ("isolate", "inline")}
    for mode, task in tasks.items():
        assert (program.ended(task)["result"] == worker.process.pid) is (mode == "inline")
    assert worker.terminate() == 0
    return tasks, worker.err


def test_children_log_as_their_worker_does_with_the_task_in_each_line(embedded: Program) -> None:
    tasks, err = spoken(embedded, "-l", "info")
    for mode, task in tasks.items():
        assert re.search(LINE.format(level="INFO", mode=mode, task=task, message="spoken 1"), err), err
        caught = LINE.format(level="ERROR", mode=mode, task=task, message="caught") + "Traceback"
        assert re.search(caught, err), err
    assert "too quiet" not in err


def test_json_lines_of_worker_and_children_carry_task_attempt_and_worker(embedded: Program) -> None:
    tasks, err = spoken(embedded, "--log-format", "json", "-l", "debug")
    lines: list[dict[str, Any]] = [json.loads(line) for line in err.splitlines()]
    for mode, task in tasks.items():
        of_task = [line for line in lines if line["task_id"] == task and line["logger"] == "noisy.work"]
        assert [line["message"] for line in of_task] == ["too quiet", "spoken 1", "caught"]
        assert {line["task_name"] for line in of_task} == {f"{mode}.speaks"}
        assert {(line["attempt"], line["worker"]) for line in of_task} == {(1, "alpha")}
        assert of_task[1]["tile"] == 3
        assert "ValueError: kaputt" in of_task[2]["exception"]
    assert not [line for line in lines if line["level"] == "DEBUG" and line["logger"].startswith(("kombu", "amqp"))]


def test_a_configuration_of_logging_counts_for_worker_and_children(embedded: Program, tmp_path: Path) -> None:
    config = {
        "version": 1,
        "formatters": {"own": {"format": "OWN %(task_id)s %(worker)s %(message)s"}},
        "handlers": {"file": {"class": "logging.FileHandler", "filename": str(tmp_path / "log"), "formatter": "own"}},
        "root": {"level": "INFO", "handlers": ["file"]},
    }
    (tmp_path / "logging.json").write_text(json.dumps(config))
    tasks, _ = spoken(embedded, env={"STEM_LOG_CONFIG": str(tmp_path / "logging.json")})
    log = (tmp_path / "log").read_text()
    assert all(f"OWN {task} alpha spoken 1\n" in log for task in tasks.values()), log


def test_an_application_may_set_up_logging_itself(embedded: Program) -> None:
    _, err = spoken(embedded, env={"NOISY_TAKES_OVER": "1"})
    assert all(f"MINE {mode}.speaks spoken 1\n" in err for mode in ("isolate", "inline")), err


@pytest.mark.parametrize(
    ("text", "said"),
    [("[]", "holds no JSON object"), ("{", "can't be read as JSON"), ('{"version": 7}', "logging refuses it")],
)
def test_a_configuration_that_logging_can_not_take_is_exit_code_2(
    embedded: Program, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "logging.json").write_text(text)
    worker = embedded.begin_worker(env={"STEM_LOG_CONFIG": str(tmp_path / "logging.json")})
    assert worker.wait_code() == 2
    assert said in worker.err


@pytest.mark.skipif(shutil.which("taskset") is None or (os.cpu_count() or 1) < 2, reason="needs two processors")
def test_there_are_as_many_children_as_processors_that_may_be_used(embedded: Program) -> None:
    worker = embedded.begin_worker(prefix=["taskset", "-c", "0"]).wait_ready()
    assert "  concurrency 1  " in worker.out
