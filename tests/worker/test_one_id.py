"""G38: one id, one worker, in whatever processes and containers; and who was made before a fork is somebody else after it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stem_kombu.app import Stem
from stem_kombu.backends.base import Roster
from stem_kombu.backends.registry import open_roster
from stem_kombu.control.client.client import ControlClient
from stem_kombu.errors import ConfigurationError
from stem_kombu.worker.worker import Worker
from tests.waiting import eventually
from tests.worker.conftest import WorkerMaker, WorkerProcess

BOX = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
embedded = pytest.mark.parametrize("broker_url", ["embedded"], indirect=True)


def _boxes_work() -> bool:
    return shutil.which("unshare") is not None and subprocess.run([*BOX, "true"], capture_output=True).returncode == 0


boxed = pytest.mark.skipif(
    not _boxes_work(), reason="no process id namespace can be made here (it takes root on Linux)"
)


@pytest.fixture
def roster(backend_url: str) -> Iterator[Roster]:
    opened = open_roster(backend_url)
    yield opened
    opened.close()


def boots(roster: Roster) -> dict[str, str]:
    return {beat.worker: beat.boot for beat in roster.view("stem").heartbeats}


@embedded
def test_g38_a_second_worker_of_one_name_in_this_process_is_refused_until_the_first_has_stopped(
    app: Stem, make_worker: WorkerMaker, roster: Roster
) -> None:
    first = make_worker("same", concurrency=1)

    with pytest.raises(ConfigurationError, match="worker id 'same' is taken by a live worker"):
        Worker(app, name="same", concurrency=1).start()
    assert boots(roster) == {"same": first.identity.boot}

    first.stop()
    assert make_worker("same", concurrency=1).state == "running"


@embedded
def test_g38_the_id_of_a_worker_killed_on_this_host_is_free_at_once(
    spawn_worker: Callable[..., WorkerProcess], make_worker: WorkerMaker
) -> None:
    # An interval of minutes: had the successor to wait for the next heartbeat, this test would not end.
    killed = spawn_worker("same", heartbeat_interval=300.0)
    killed.kill()

    assert make_worker("same", concurrency=1).state == "running"


@boxed
@embedded
def test_g38_workers_of_one_name_in_two_containers_are_one_too_many(
    spawn_worker: Callable[..., WorkerProcess], roster: Roster, app: Stem
) -> None:
    first = spawn_worker("same", command=BOX)
    held = boots(roster)
    assert next(iter(roster.view("stem").heartbeats)).pid == 1

    second = spawn_worker("same", command=BOX, ready=False)
    eventually(lambda: second.process.poll() is not None, 60, lambda: second.output)
    assert "is taken by a live worker" in second.output
    assert boots(roster) == held

    first.kill()
    # Its successor can't look into the container that was; it waits for the heartbeat that does not come.
    spawn_worker("same", command=BOX)
    assert boots(roster).keys() == {"same"}
    assert boots(roster) != held


@embedded
def test_g38_two_live_workers_that_share_an_id_all_the_same_are_shown_as_a_conflict(
    app: Stem, make_worker: WorkerMaker, roster: Roster, control: ControlClient
) -> None:
    worker = make_worker("same", concurrency=1)
    (beat,) = roster.view("stem").heartbeats
    # As a version that does not look, in another container, would take the id over.
    rival = replace(beat, boot="rival", hostname="elsewhere", pid=1, process=None, interval=2.0)

    roster.beat(rival)
    worker.agent.heartbeats.nudge()

    eventually(lambda: roster.view("stem").heartbeats[0].conflict is not None)
    report = control.ping(timeout=30)
    assert report.conflicts.keys() == {"same"}
    assert "elsewhere" in report.conflicts["same"]
    assert not report.complete
    assert report.to_dict()["conflicts"] == dict(report.conflicts)
    assert control.inspect(timeout=30).conflicts
    (status,) = control.status().workers
    assert "elsewhere" in status.to_dict()["conflict"]

    # Once the other has gone for as long as its heartbeats count, the id is this worker's alone again.
    eventually(lambda: worker.agent.heartbeats.conflict is None, 30)
    eventually(lambda: control.ping(timeout=30).complete, 30)


def test_g38_a_worker_made_before_a_fork_is_another_one_in_each_child(
    broker_url: str, backend_url: str, app: Stem, control: ControlClient, tmp_path: Path
) -> None:
    made_before = Worker(app, concurrency=1, inline_slots=1)
    identity = made_before.identity
    children = [_forked(lambda: _serve(made_before, tmp_path)) for _ in range(3)]
    try:
        made_before.start()
        eventually(lambda: len(list(tmp_path.glob("up-*"))) == 3, 60)
        report = control.ping(timeout=30)
        assert len(report.replies) == 4
        assert {reply.payload["pid"] for reply in report.replies} == {os.getpid(), *children}
        assert len({reply.worker for reply in report.replies}) == 4
        assert made_before.identity == identity, "in the process that made it, it is who it was"
        assert report.complete
    finally:
        for child in children:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        made_before.stop(0.0)


@embedded
def test_g38_a_named_worker_made_before_a_fork_starts_in_one_process_only(app: Stem, tmp_path: Path) -> None:
    named = Worker(app, concurrency=1, inline_slots=1, name="named")
    named.start()
    child = _forked(lambda: _serve(Worker(app, concurrency=1, inline_slots=1, name="named"), tmp_path))
    try:
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
    finally:
        named.stop(0.0)


def _forked(run: Callable[[], Any]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        run()
    finally:
        os._exit(9)


def _serve(worker: Worker, folder: Path) -> None:
    try:
        worker.start()
    except ConfigurationError:
        os._exit(7)
    (folder / f"up-{os.getpid()}").touch()
    signal.pause()
