"""A process that forks has its worker, its clients and its connections to itself; the child opens its own."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.control.client.client import ControlClient
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually

#: Exit status of a child in which something was raised.
_RAISED = 9


def in_child(run: Callable[[], Any]) -> Any:
    """What the function returns (JSON) in a process that is forked off here; that ends without any clean-up."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.write(writer, json.dumps(run()).encode())
            os._exit(0)
        finally:
            os._exit(_RAISED)
    os.close(writer)
    with os.fdopen(reader, "rb") as told:
        said = told.read()
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    return json.loads(said)


def sockets() -> set[str]:
    found = set()
    for entry in Path("/proc/self/fd").iterdir():
        try:
            target = str(entry.readlink())
        except FileNotFoundError:
            continue
        if target.startswith("socket:"):
            found.add(target)
    return found


def test_a_child_of_a_hosts_process_lets_go_of_its_worker_at_once_and_the_parent_goes_on(
    worker: Worker, app: Stem, control: ControlClient
) -> None:
    generation = worker.ownership.generation

    def leave() -> Any:
        worker.release()
        worker.stop()
        worker.__exit__(None, None, None)
        return worker.state

    in_child(leave)

    assert control.ping(timeout=30).complete
    assert [beat.worker for beat in worker.resources.roster.view("stem").heartbeats] == ["alpha"]
    assert app.send_task("inline.add", [1]).get(timeout=30) == 1
    assert app.send_task("isolate.add", [1]).get(timeout=30) == 1
    assert worker.ownership.generation == generation
    assert worker.state == "running"


@pytest.mark.parametrize("library", ["multiprocessing", "billiard"])
def test_what_a_task_forks_keeps_the_pipes_that_the_task_has_opened(tmp_path: Path, library: str) -> None:
    """A child that was forked from the worker closes the worker's pipes, so the task's own get the same numbers."""
    program = textwrap.dedent(
        """
        import sys
        from stem_kombu.worker.worker import Worker
        from tests.execution.children_app import app

        with Worker(app, name="forking", concurrency=1, start_method="fork"):
            print(app.send_task("terminates_processes", [sys.argv[1]]).get(timeout=45), flush=True)
        """
    )
    settings = {"STEM_BROKER_URL": f"sqlite://{tmp_path}/b.db", "STEM_RESULT_BACKEND_URL": f"sqlite://{tmp_path}/s.db"}

    done = subprocess.run(
        [sys.executable, "-c", program, library], env=os.environ | settings, capture_output=True, text=True, timeout=60
    )

    assert done.stdout.strip() == "[-15, [1, 4, 9]]", done.stderr[-2000:]


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="this system does not list descriptors")
def test_a_child_keeps_none_of_the_connections_of_its_parent(
    worker: Worker, app: Stem, control: ControlClient, broker_url: str
) -> None:
    """Kept open there they would hide the death of the parent from the broker, which would give its messages to nobody."""
    before = sockets()
    assert app.send_task("inline.add", [1]).get(timeout=30) == 1
    assert control.ping(timeout=30).complete
    if not broker_url.startswith("sqlite"):
        assert sockets() - before, "there are connections to be let go of"

    assert set(in_child(lambda: sorted(sockets() - before))) == set()
    assert control.ping(timeout=30).complete


def test_a_client_made_before_a_fork_hears_the_worker_at_once_in_each_child(
    worker: Worker, control: ControlClient
) -> None:
    assert control.ping(timeout=30).complete
    over = threading.Event()
    silent: list[Any] = []

    def keep_asking() -> None:
        while not over.is_set():
            if not control.ping(timeout=30).complete:
                silent.append("the parent heard nobody")

    threads = [threading.Thread(target=keep_asking) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(5):
            complete, elapsed = in_child(lambda: [(report := control.ping(timeout=30)).complete, report.elapsed])
            assert complete
            assert elapsed < 15, "it waited for an answer that went to its parent"
    finally:
        over.set()
        for thread in threads:
            thread.join()
    assert silent == []


def _ask(control: ControlClient, answers: Any) -> None:
    answers.put([reply.worker for reply in control.ping(timeout=30).replies])


def test_a_client_in_a_process_of_multiprocessing_is_its_own(worker: Worker, control: ControlClient) -> None:
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    assert control.ping(timeout=30).complete

    process = context.Process(target=_ask, args=(control, answers))
    process.start()

    assert answers.get() == ["alpha"]
    process.join()
    assert process.exitcode == 0
    assert control.ping(timeout=30).complete


def test_what_an_application_has_opened_is_used_on_in_a_child(
    worker: Worker, app: Stem, control: ControlClient
) -> None:
    result = app.send_task("inline.add", [1])
    assert result.get(timeout=30) == 1
    control.revoke(["one"])

    def use() -> Any:
        again = app.send_task("inline.add", [2])
        control.revoke(["two"])
        return [result.get(timeout=30), again.get(timeout=30), len(control.inspect(revoked=True, timeout=30).replies)]

    assert in_child(use) == [1, 2, 1]
    assert app.send_task("inline.add", [3]).get(timeout=30) == 3


HOST = """
    import os, signal, sys, time
    from stem_kombu import Stem, Worker
    app = Stem("host", broker="sqlite:///{folder}/broker.db", backend="sqlite:///{folder}/state.db")

    @app.task("isolate", isolate=True, max_retries=0)
    def isolate(ctx):
        with open("{folder}/pid", "w") as file: file.write(str(os.getpid()))
        while not os.path.exists("{folder}/go-on"):
            time.sleep(0.01); ctx.heartbeat()
        return "done"
"""


@pytest.fixture
def host(tmp_path: Path) -> Callable[[str], subprocess.Popen[str]]:
    def run(code: str) -> subprocess.Popen[str]:
        (tmp_path / "forkinghost.py").write_text(textwrap.dedent(HOST).replace("{folder}", str(tmp_path)))
        program = "from forkinghost import *\n" + textwrap.dedent(code).replace("{folder}", str(tmp_path))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
        environment["PYTHONPATH"] = os.pathsep.join([str(tmp_path), *sys.path])
        return subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )

    return run


def test_a_child_that_leaves_the_interpreter_leaves_the_parents_tasks_and_children_alone(
    host: Callable[[str], subprocess.Popen[str]],
) -> None:
    process = host("""
        with Worker(app, concurrency=1, name="parent") as worker:
            result = app.send_task("isolate")
            while not os.path.exists("{folder}/pid"): time.sleep(0.01)
            pid = os.fork()
            if pid == 0: sys.exit(0)
            print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), worker.state)
            open("{folder}/go-on", "w").close()
            print(result.get(timeout=30))
    """)
    said, _ = process.communicate(timeout=90)
    assert (process.returncode, said) == (0, "0 running\ndone\n")


def test_g18_isolates_end_with_their_worker_though_a_child_of_the_host_lives_on(
    host: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = host("""
        worker = Worker(app, concurrency=1, name="parent").start()
        result = app.send_task("isolate")
        while not os.path.exists("{folder}/pid"): time.sleep(0.01)
        pid = os.fork()
        if pid == 0:
            os.close(1); os.close(2)
            time.sleep(300)
        print(pid, flush=True)
        signal.pause()
    """)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        isolate = int((tmp_path / "pid").read_text())
        process.kill()
        process.wait()
        eventually(lambda: not _alive(isolate), 30)
    finally:
        os.kill(child, signal.SIGKILL)
        process.stdout.close()


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
