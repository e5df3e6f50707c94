"""stop() from wherever it is called: it returns when the worker is down, or at once where it would wait for its own caller."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection

from stem_kombu.app import Stem
from stem_kombu.context import TaskContext
from stem_kombu.errors import BrokerError, StoreUnavailable
from stem_kombu.settings import Settings
from stem_kombu.testing.gates import Gate
from stem_kombu.testing.ports import free_port
from stem_kombu.transports.registry import open_transport
from stem_kombu.worker.lifecycle import Lifecycle, State
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker

embedded = pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)


class Owner:
    """What a life is the life of, with gates instead of work."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.during_start: Callable[[], object] = lambda: None
        self.during_drain: Callable[[], object] = lambda: None
        self.released = threading.Event()
        self.life = Lifecycle(self, "owner")

    def steps(self) -> Any:
        return [
            (lambda: self.done.append("one"), lambda: self.done.append("undo one")),
            (lambda: self.during_start(), lambda: self.done.append("undo two")),
            (lambda: self.done.append("three"), lambda: self.done.append("undo three")),
        ]

    def drain(self, timeout: float | None) -> None:
        self.done.append("drain")
        self.during_drain()
        self.done.append("drained")

    def release(self) -> None:
        self.released.set()

    def close(self) -> None:
        self.done.append("close")

    def give_up(self) -> None:
        """Nothing waits."""

    def is_own_thread(self) -> bool:
        return threading.current_thread().name == "own"


def test_a_stop_inside_a_start_undoes_it_and_the_start_returns() -> None:
    owner = Owner()
    owner.during_start = owner.life.stop

    owner.life.start()

    assert owner.life.state is State.STOPPED
    assert owner.done == ["one", "undo two", "undo one", "close"]
    assert owner.life.ended.is_set()


def test_a_stop_by_the_last_step_of_a_start_is_not_lost() -> None:
    owner = Owner()
    steps = owner.steps()
    owner.steps = lambda: [*steps, (owner.life.stop, lambda: owner.done.append("undo last"))]  # type: ignore[method-assign]

    owner.life.start()

    assert owner.life.state is State.STOPPED
    assert owner.done[-2:] == ["undo one", "close"]


def test_a_stop_inside_a_stop_returns_at_once_and_the_first_one_goes_on() -> None:
    owner = Owner()
    owner.life.start()
    owner.during_drain = lambda: (owner.life.stop(), owner.life.stop(), owner.life.start())

    owner.life.stop()

    assert owner.done[-2:] == ["drain", "drained"]
    assert owner.life.state is State.STOPPED


def test_a_second_stop_with_less_time_releases_what_the_first_one_waits_for() -> None:
    owner = Owner()
    owner.life.start()
    owner.during_drain = lambda: (owner.life.stop(0.01), owner.released.wait(30))

    owner.life.stop()

    assert owner.released.is_set()


def test_a_stop_in_a_thread_that_a_stop_waits_for_is_carried_out_by_another() -> None:
    owner = Owner()
    owner.life.start()
    own = threading.Thread(target=owner.life.stop, name="own")
    owner.during_drain = own.join

    own.start()

    assert owner.life.ended.wait(30)
    assert owner.done[-2:] == ["drain", "drained"]


@pytest.mark.parametrize("error", [StoreUnavailable("told to stop"), KeyError("a fault")], ids=repr)
def test_a_step_that_gives_up_because_its_own_thread_asked_to_stop_is_no_failure(error: Exception) -> None:
    owner = Owner()

    def interrupted() -> None:
        owner.life.stop()
        raise error

    owner.during_start = interrupted
    with nullcontext() if isinstance(error, StoreUnavailable) else pytest.raises(KeyError):
        owner.life.start()
    assert owner.life.state is State.STOPPED
    assert owner.done == ["one", "undo two", "undo one", "close"]


HOST = """
    import os, signal, sys, threading, time
    from stem_kombu import Stem, Worker
    app = Stem("host", broker="sqlite:///{folder}/broker.db", backend="sqlite:///{folder}/state.db")

    @app.task("slow", max_retries=0)
    def slow(ctx):
        open("{folder}/running", "w").close()
        while not os.path.exists("{folder}/go-on"):
            time.sleep(0.01)
        open("{folder}/finished", "w").close()

    worker, stopped = Worker(app, concurrency=1, name="host"), []
    def bye(*_):
        os.write(1, b"handler\\n")  # as print() can't be called again while it runs
        worker.stop()
        worker.stop()
        stopped.append(1)
    signal.signal(signal.SIGTERM, bye)
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    made: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        program = (textwrap.dedent(HOST) + textwrap.dedent(code)).replace("{folder}", str(tmp_path))
        environment = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=environment,
        )
        made.append(process)
        return process

    yield run
    for process in made:
        process.kill()
        process.communicate()


def test_a_host_whose_signal_handler_stops_the_worker_twice_ends_when_the_task_has_ended(
    host: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = host("""
        worker.start()
        app.send_task("slow")
        open("{folder}/sent", "w").close()
        while not stopped: time.sleep(0.01)
        print(repr(worker))
    """)
    eventually(lambda: (tmp_path / "running").exists() and (tmp_path / "sent").exists(), 60)
    process.send_signal(signal.SIGTERM)
    assert process.stdout is not None
    assert process.stdout.readline() == "handler\n"
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "handler\n"
    (tmp_path / "go-on").touch()
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "<Worker host: stopped, queues default>\n")
    assert (tmp_path / "finished").exists()


def test_a_signal_handler_that_interrupts_a_call_into_stem_gets_control_back_and_the_worker_stops(
    host: Callable[[str], subprocess.Popen[str]],
) -> None:
    """The call goes on when the handler returns, and holds what the stop needs: a transaction on the file with the roster."""
    process = host("""
        worker.start()
        app.backend._database.write(lambda _: os.kill(os.getpid(), signal.SIGTERM))
        print(len(stopped), flush=True)
        worker.stop()
        print(worker.state)
    """)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "handler\n1\nstopped\n")


def test_a_signal_during_a_start_ends_in_a_worker_that_is_stopped(
    host: Callable[[str], subprocess.Popen[str]],
) -> None:
    process = host("""
        claim = worker.agent.heartbeats.claim
        def interrupted():
            os.kill(os.getpid(), signal.SIGTERM)
            claim()
        worker.agent.heartbeats.claim = interrupted
        worker.start()
        print(worker.state, len(stopped))
    """)
    said, _ = process.communicate(timeout=60)
    assert (process.returncode, said) == (0, "handler\nstopped 1\n")


def test_leaving_the_interpreter_without_a_stop_leaves_no_heartbeat_and_gives_back_what_runs(
    host: Callable[[str], subprocess.Popen[str]], tmp_path: Path
) -> None:
    process = host(
        """
        worker.start()
        app.send_task("slow", task_id="t")
        while not os.path.exists("{folder}/running"): time.sleep(0.01)
    """.replace("{folder}", str(tmp_path))
    )
    process.communicate(timeout=60)
    assert process.returncode == 0
    places = {"broker": f"sqlite:///{tmp_path}/broker.db", "backend": f"sqlite:///{tmp_path}/state.db"}
    app = Stem("reader", settings=Settings.from_env({}, **places))
    assert app.backend is not None
    assert app.backend.view("stem").heartbeats == ()
    (tmp_path / "go-on").touch()
    app.task("slow")(lambda ctx: None)
    with Worker(app, concurrency=1):
        eventually(lambda: app.result("t").state is not None and app.result("t").state.is_terminal, 30)
    app.close()


@embedded
@pytest.mark.parametrize("kind", ["thread", "coroutine", "to_thread", "control command"])
def test_a_worker_that_is_stopped_by_one_of_its_own_tasks_finishes_it_and_ends(
    kind: str, app: Stem, make_worker: WorkerMaker, tmp_path: Path
) -> None:
    import asyncio

    own = Stem("own", settings=app.settings)
    worker: list[Worker] = []
    gate = Gate(tmp_path / "own-gate")

    @own.task("thread")
    def thread(ctx: TaskContext) -> str:
        worker[0].stop()
        gate.wait_open()
        return "after the stop"

    @own.task("coroutine")
    async def coroutine(ctx: TaskContext) -> str:
        worker[0].stop()
        await asyncio.to_thread(gate.wait_open)
        return "after the stop"

    @own.task("to_thread")
    async def to_thread(ctx: TaskContext) -> str:
        await asyncio.to_thread(worker[0].stop)
        await asyncio.to_thread(gate.wait_open)
        return "after the stop"

    @own.control_command("leave")
    def leave(view: Any) -> dict[str, Any]:
        worker[0].stop()
        return {"leaves": True}

    worker.append(Worker(own, name="own", concurrency=1).start())
    if kind == "control command":
        from stem_kombu.control.client.client import ControlClient

        with ControlClient(own) as control:
            assert control.call("leave", timeout=30).replies[0].payload == {"leaves": True}
    else:
        result = own.send_task(kind)
        eventually(lambda: worker[0].state == "draining", 30)
        gate.open()
    eventually(lambda: worker[0].state == "stopped", 30)
    if kind != "control command":
        assert result.get(timeout=30) == "after the stop"
    own.close()


@embedded
def test_a_start_that_waits_for_its_queues_ends_when_it_is_stopped(app: Stem) -> None:
    worker = Worker(app, name="waits", concurrency=1, inline_slots=1)
    worker.consumer._transport = open_transport(Connection(f"redis://127.0.0.1:{free_port()}/0"))
    trouble: list[BaseException] = []

    def start() -> None:
        try:
            worker.start()
        except BrokerError as error:
            trouble.append(error)

    starting = threading.Thread(target=start)
    starting.start()
    eventually(lambda: worker.consumer.trouble is not None, 30)
    worker.stop()
    starting.join(30)
    assert worker.state == "stopped"
    assert "stop requested before the task queues were consumed" in str(trouble[0])


def test_running_a_worker_leaves_the_interpreters_switch_interval_as_it_was(app: Stem) -> None:
    before = sys.getswitchinterval()
    worker = Worker(app, name="run", concurrency=1)
    worker.run(lambda worker: worker.stop(), signals=False)
    assert sys.getswitchinterval() == before


@embedded
def test_the_state_and_the_text_of_a_worker_say_where_in_its_life_it_is(app: Stem) -> None:
    worker = Worker(app, name="life", concurrency=1)
    states = [worker.state]
    worker.start()
    states.append(worker.state)
    assert repr(worker) == "<Worker life: running, queues default>"
    worker.stop()
    states.append(worker.state)
    assert states == ["new", "running", "stopped"]
