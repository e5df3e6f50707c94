"""What a probe concludes from a page, and the program that says it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from stem_kombu import health_page
from stem_kombu.agent.starvation import StarvationWatch
from stem_kombu.control.server.worker_view import WorkerSummary
from stem_kombu.health_page import CONSUMES_WITHIN, Health, Page, health_of
from stem_kombu.settings import Settings
from stem_kombu.state_folder import state_folder
from stem_kombu.variables import Variables
from stem_kombu_cli.stem_health import Question, WrongUsage, answer, asked, document

NOW = 1000.0
ROOT = Path(__file__).resolve().parents[2]


def page(alive: bool = True, queues: tuple[str, ...] = ("mail", "images"), **given: float) -> Page:
    """A worker that consumes, but for what is given: a cell by its name, or the stamp of a thread."""
    threads = {"main": 0.5, "consumer": 0.9}
    data = bytearray(health_page.SIZE)
    data[:8] = health_page.MAGIC
    cells = memoryview(data)[: health_page.TEXT_AT].cast("d")
    text = health_page.text_of("alpha", list(threads), queues)
    data[health_page.TEXT_AT : health_page.TEXT_AT + len(text)] = text
    values = {
        "PID": 7.0,
        "STATE": health_page.RUNNING,
        "CONSUMED": NOW - 1,
        "SYNCED": NOW - 4,
        "TEXT": float(len(text)),
    }
    for name, value in {**values, **{key: value for key, value in given.items() if key.isupper()}}.items():
        cells[getattr(health_page, name)] = value
    for number, (name, age) in enumerate(threads.items()):
        cells[health_page.THREADS_AT + 2 * number] = given.get(name, NOW - age)
        cells[health_page.THREADS_AT + 2 * number + 1] = 5.0
    if "paused" in given:
        cells[health_page.QUEUES_AT] = given["paused"]
    return Page(bytes(data), alive)


@pytest.mark.parametrize(
    ("given", "state", "live", "ready", "words"),
    [
        ({}, "ok", True, True, "consumes"),
        ({"alive": False}, "gone", False, False, "process 7"),
        ({"main": NOW - 15.1}, "stuck", False, False, "thread main has not moved for 15 s (limit 15 s)"),
        ({"main": NOW - 14.9}, "ok", True, True, ""),
        ({"main": 0.0}, "ok", True, True, ""),
        ({"main": NOW + 5}, "ok", True, True, ""),
        ({"STATE": health_page.DRAINING, "CONSUMED": NOW - 90}, "draining", True, True, "finishes"),
        ({"STATE": health_page.DRAINING, "main": NOW - 90}, "stuck", False, False, "main"),
        ({"STATE": health_page.STARTING}, "starting", True, False, "not consume yet"),
        ({"SYNCED": 0.0}, "starting", True, False, "revoke store"),
        ({"CONSUMED": 0.0}, "starting", True, False, "not consume yet"),
        ({"CONSUMED": NOW - CONSUMES_WITHIN - 1}, "disconnected", True, False, "16 s ago"),
        ({"CONSUMED": NOW - 90, "paused": 1.0}, "disconnected", True, False, ""),
        ({"paused": 1.0}, "paused", True, True, "1 of its 2 queues"),
        ({"paused": 1.0, "STARVING": NOW - 20}, "paused", True, True, ""),
        ({"STARVING": NOW - 20}, "starving", True, False, "20 s"),
        ({"SYNCED": NOW - 9000}, "ok", True, True, ""),
    ],
)
def test_g34_a_probe_concludes(given: dict[str, Any], state: str, live: bool, ready: bool, words: str) -> None:
    health = health_of(page(**given), NOW)
    assert (health.state, health.live, health.ready) == (state, live, ready), health.message
    assert words in health.message


def test_g34_not_ready_within_45_s_of_ceasing_to_consume() -> None:
    """py-amqp takes a broker for silent after twice the heartbeat; every other end of a connection is noticed sooner."""
    from stem_kombu import timeouts
    from stem_kombu.settings import DEFAULT_HEARTBEAT_INTERVAL

    # Heartbeats are looked at once a second; a busy machine and a probe's period take their part.
    tick, reserve = 1.0, 5.0
    assert 2 * timeouts.BROKER_HEARTBEAT + tick + CONSUMES_WITHIN <= 45 - reserve
    beats = DEFAULT_HEARTBEAT_INTERVAL
    looks_apart = -(-timeouts.STARVING_LOOKS // beats) * beats  # a look is taken with a heartbeat
    assert 2 * beats + looks_apart <= 45
    assert 3 * timeouts.MOVES > 2 * timeouts.BROKER_HEARTBEAT + timeouts.BROKER_REPLY, (
        "a silent broker must not look like a stuck thread"
    )


def test_a_paused_queue_is_not_consumed_and_the_others_are() -> None:
    assert health_of(page(paused=1.0), NOW).queues == {"mail": False, "images": True}
    assert health_of(page(alive=False), NOW).queues == {"mail": False, "images": False}


def test_names_of_queues_that_have_no_room_are_left_out() -> None:
    names = tuple(f"{number:04d}-" + "q" * 60 for number in range(200))
    health = health_of(page(queues=names), NOW)
    assert health.worker == "alpha"
    assert 20 < len(health.queues) < 40
    assert [name for name, _, _ in health.threads] == ["main", "consumer"]


@pytest.mark.parametrize("data", [b"", b"x" * 4095, b"x" * 4096])
def test_a_file_of_another_kind_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match="no health file"):
        Page(data, True)


def test_the_document_is_json_whatever_a_queue_is_called() -> None:
    health = Health("wörker-\U0001f33f", "stuck", 'a "thread"\n\\ has not moved')
    health.threads = [("main", 17.25, 15.0)]
    health.queues = {'q"1\t': True}
    assert json.loads(document(health)) == {
        "schema": "stem.probe/1",
        "worker": "wörker-\U0001f33f",
        "state": "stuck",
        "live": False,
        "ready": False,
        "threads": [{"name": "main", "age_s": 17.25, "limit_s": 15.0}],
        "queues": {'q"1\t': {"consuming": True}},
        "store_age_s": None,
        "pid": None,
        "message": 'a "thread"\n\\ has not moved',
    }


@pytest.mark.parametrize("worker", ["alpha", "stem@host-1-ab12", "a/../b", ".hidden", "wörker", "x" * 255, "a%b"])
def test_each_id_has_a_file_name_of_its_own(worker: str) -> None:
    name = health_page.file_name(worker)
    assert "/" not in name
    assert not name.startswith(".")
    assert name.endswith(".health")
    assert len(name.encode()) <= 250
    assert name != health_page.file_name(f"{worker[:-1]}!")


def test_the_folder_is_beside_the_embedded_broker() -> None:
    for environ in ({"XDG_STATE_HOME": "/state", "HOME": "/home/me"}, {"HOME": "/home/me"}):
        assert health_page.folders(environ, "shop") == [f"{state_folder(Variables(environ))}/shop"]
    both = health_page.folders({"XDG_RUNTIME_DIR": "/run/user/7", "XDG_STATE_HOME": "/state"}, "shop")
    assert both == ["/run/user/7/stem/shop", "/state/stem/shop"]


def test_the_variable_and_the_flag() -> None:
    assert Settings.from_env({}).health_file is None
    assert Settings.from_env({"STEM_HEALTH_FILE": "/run/a"}).health_file == "/run/a"
    assert Settings.from_env({"STEM_HEALTH_FILE": "/run/a"}, health_file="off").health_file == "off"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--name"], "--name needs a value"),
        (["--file="], "--file needs a value"),
        (["--json=yes"], "--json takes no value"),
        (["--wat"], "'--wat'"),
        (["worker-a"], "'worker-a'"),
    ],
)
def test_wrong_usage_is_named(arguments: list[str], words: str) -> None:
    with pytest.raises(WrongUsage, match=words):
        asked(arguments)


def test_two_questions_or_two_workers_are_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in ((["--live", "--ready"], "two questions"), (["--name", "a", "--file", "b"], "give one")):
        question = asked(arguments)
        assert question is not None
        assert answer(question, {}) == 2
        assert words in capsys.readouterr().err


def test_where_nothing_is_the_answer_is_4(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    environ = {"XDG_STATE_HOME": str(tmp_path)}
    for worker, at in (("alpha", "alpha.health"), ("", "*.health")):
        question = Question()
        question.worker = worker
        assert answer(question, environ) == 4
        assert f"{tmp_path}/stem/stem/{at}" in capsys.readouterr().out
    question.file = str(tmp_path / "absent")
    question.as_json = True
    assert answer(question, environ) == 4
    told = json.loads(capsys.readouterr().out)
    assert (told["worker"], told["state"], told["live"], told["ready"]) == (None, "gone", False, False)


def test_g34_a_probe_loads_nothing_but_a_few_small_modules() -> None:
    """What it costs is measured by ``make bench``; this is why it costs so little."""
    program = "import sys; before = set(sys.modules)\n{}\nprint(*sorted(set(sys.modules) - before))"

    def loaded(statement: str) -> list[str]:
        # -S: what this environment loads at each start hides nothing.
        code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{program.format(statement)}"
        run = [sys.executable, "-I", "-S", "-c", code]
        done = subprocess.run(run, capture_output=True, text=True, timeout=60, check=True)
        return done.stdout.splitlines()[-1].split()

    ours = loaded("from stem_kombu_cli.stem_health import main; main(['--name', 'nobody', '--json'])")
    python = loaded("import os, time, fcntl, __future__")
    assert [name for name in ours if name not in python] == [
        "stem_kombu",
        "stem_kombu.health_page",
        "stem_kombu.transport_alias",
        "stem_kombu.version",
        "stem_kombu_cli",
        "stem_kombu_cli.stem_health",
    ]


class Scene:
    """A worker as its starvation watch sees it, and a clock."""

    def __init__(self) -> None:
        self.now, self.received, self.in_flight, self.state, self.consuming = 100.0, 3, 0, "running", True
        self.depth: int | None = 5
        self.looks = 0
        self.shown = -1.0
        self.watch = StarvationWatch(self, self.show, lambda: None, self)  # type: ignore[arg-type]

    def monotonic(self) -> float:
        return self.now

    def show(self, since: float) -> None:
        self.shown = since

    def standing(self) -> WorkerSummary:
        return WorkerSummary(self.state, 1.0, 2, self.in_flight, 0, self.consuming, {"mail": True})

    def totals(self) -> dict[str, int]:
        return {"received": self.received}

    def queue_depths(self) -> dict[str, int | None]:
        self.looks += 1
        return {"mail": self.depth}

    def ticks(self, count: int) -> float:
        for _ in range(count):
            self.watch.tick()
            self.now += 10
        return self.shown


def test_g34_a_worker_starves_when_two_looks_find_messages_and_it_gets_none() -> None:
    scene = Scene()
    assert scene.ticks(2) == 0.0, "one look is not enough"
    assert scene.looks == 1
    assert scene.ticks(2) == 110.0, "since the first look that found messages"
    scene.received += 1
    assert scene.ticks(1) == 0.0


@pytest.mark.parametrize(
    "changed",
    [{"depth": 0}, {"depth": None}, {"in_flight": 2}, {"state": "draining"}, {"consuming": False}],
    ids=lambda changed: next(iter(changed)),
)
def test_g34_a_worker_does_not_starve_that_is_full_or_has_nothing_to_get(changed: dict[str, Any]) -> None:
    scene = Scene()
    for name, value in changed.items():
        setattr(scene, name, value)
    assert scene.ticks(8) == 0.0


def test_g34_a_worker_that_takes_less_on_purpose_does_not_starve() -> None:
    scene = Scene()
    scene.ticks(4)
    scene.watch.is_excused = True
    assert scene.ticks(4) == 0.0
    assert scene.looks == 2


def test_an_idle_worker_asks_for_depths_every_fifteen_seconds_at_most() -> None:
    scene = Scene()
    scene.depth = 0
    scene.ticks(13)
    assert scene.looks == 6


def test_a_page_with_a_lock_that_nothing_holds_is_of_a_dead_worker(tmp_path: Path) -> None:
    path = tmp_path / "dead.health"
    data = bytearray(health_page.SIZE)
    data[:8] = health_page.MAGIC
    memoryview(data)[: health_page.TEXT_AT].cast("d")[health_page.PID] = float(os.getpid())
    path.write_bytes(data)
    assert not Page.at(str(path)).alive, "though a process of its number runs"
