"""Stem in one Celery worker, stopped and started while that worker lives: each in a process of its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import celery

from tests.execution.programs import run_program

#: A whole Celery worker, with a board in a file as for children that are spawned, and somebody who stops its Stem.
PROGRAM = """
    import itertools, json, sys, tempfile, threading
    from pathlib import Path

    from celery import Celery, signals
    from celery.worker import state

    from stem_kombu.celery import install
    from stem_kombu.celery.configuration import host_of
    from stem_kombu.control.client.client import ControlClient
    from stem_kombu.settings import Settings
    from tests.waiting import eventually

    url, folder = sys.argv[1:]
    tempfile.tempdir = folder
    app = install(Celery("life", broker=url, backend=url))
    app.conf.update(worker_pool_start_method="spawn", broker_connection_retry_on_startup=True)
    said = {}

    def boards():
        return len(list(Path(folder).glob("stem-board-*")))

    def threads():
        # The worker's. app.control.revoke() below, a client in the same process, has these two for as long as the process.
        client = {"stem-celery-save", "stem-roster"}
        return sorted({one.name for one in threading.enumerate() if one.name.startswith("stem-")} - client)

    def told():
        client = ControlClient(Settings.from_env({}, host=host_of(app)))
        try:
            (reply,) = client.ping(timeout=10.0).replies
            return reply.payload["state"]
        finally:
            client.close()

    def churn(agent, order):
        for step in order * 3:
            (agent.start if step == "start" else agent.stop)()

    def steer(agent):
        agent.drain()
        said["drained"] = told()
        agent.stop()
        agent.stop()
        said["after the stop"] = [threads(), boards()]
        agent.start()
        said["again"] = told()
        orders = [["start", "stop"], ["stop", "start"]] * 2
        churning = [threading.Thread(target=churn, args=(agent, order)) for order in orders]
        for thread in churning:
            thread.start()
        for thread in churning:
            thread.join(60)
        agent.start()
        said["after many"] = [told(), boards()]
        app.control.revoke("late")
        eventually(lambda: "late" in agent.cache and "late" in state.revoked)

    def steered(agent):
        try:
            steer(agent)
        except BaseException as error:
            said["error"] = repr(error)
        finally:
            state.should_stop = 0

    signals.worker_ready.connect(
        lambda **_: threading.Thread(target=steered, args=(worker.stem,)).start(), weak=False
    )
    try:
        worker = app.Worker(pool="solo", hostname="life@here", without_mingle=True, loglevel="ERROR")
        worker.start()
    except SystemExit as leaving:
        said["code"] = leaving.code
    said["at the end"] = [threads(), boards()]
    Path(folder, "said").write_text(json.dumps(said))  # Celery's banner is on stdout
"""


#: Celery before 5.7 only forks, and children that inherit the stop table need no file.
FILES = 1 if celery.VERSION >= (5, 7) else 0


def _said(folder: Path, url: str) -> dict[str, Any]:
    boards = folder / "boards"
    boards.mkdir()
    done = run_program(PROGRAM, folder, url, str(boards))
    assert done.returncode == 0, done.stderr
    said: dict[str, Any] = json.loads((boards / "said").read_text())
    return said


def test_stem_in_a_celery_worker_stops_and_starts_again_as_often_as_it_is_told_to(
    tmp_path: Path, redis_url: str
) -> None:
    assert _said(tmp_path, redis_url) == {
        "drained": "draining",
        "after the stop": [[], FILES],  # its tasks may still be looking at the board
        "again": "running",
        "after many": ["running", FILES],
        "at the end": [[], 0],
    }


def test_a_celery_worker_whose_stem_can_not_mean_anything_leaves_no_board_behind(
    tmp_path: Path, redis_url: str, monkeypatch: Any
) -> None:
    monkeypatch.setenv("STEM_SIGNING_TASKS", "require")
    monkeypatch.setenv("STEM_SIGNING_KEYS", "ops:aGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gaGVsbG8gaGU=")
    monkeypatch.setenv("STEM_SIGNING_ACTIVE_KEY", "ops")
    said = _said(tmp_path, redis_url)
    assert said == {"code": 2, "at the end": [[], 0]}
