"""``/livez`` and ``/readyz`` of a worker (G34)."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.request import urlopen

import pytest

from stem_kombu import health_page
from stem_kombu.clock import monotonic
from stem_kombu.errors import ConfigurationError
from stem_kombu.health_page import Page
from stem_kombu.testing.ports import free_port
from stem_kombu_cli.health_server import HealthServer
from stem_kombu_cli.http_server import checked_address
from tests.cli.program import Program
from tests.waiting import eventually


class Scene:
    """The page of a worker, as the test sets its cells, and a server of it."""

    def __init__(self) -> None:
        self.data = bytearray(health_page.SIZE)
        self.data[:8] = health_page.MAGIC
        text = health_page.text_of("alpha", ["main"], ["mail"])
        self.data[health_page.TEXT_AT : health_page.TEXT_AT + len(text)] = text
        self.cells = memoryview(self.data)[: health_page.TEXT_AT].cast("d")
        self.cells[health_page.TEXT] = float(len(text))
        self.server = HealthServer(("127.0.0.1", 0), lambda: Page(bytes(self.data), True))

    def get(self, path: str, method: str = "GET") -> tuple[int, bytes]:
        connection = HTTPConnection("127.0.0.1", self.server.port, timeout=30)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()


@pytest.fixture
def scene() -> Iterator[Scene]:
    made = Scene()
    with made.server:
        yield made


def test_g34_livez_and_readyz_answer_two_questions(scene: Scene) -> None:
    assert scene.get("/livez")[0] == 200
    assert scene.get("/readyz")[0] == 503, "it is starting"
    now = monotonic()
    scene.cells[health_page.STATE] = health_page.RUNNING
    scene.cells[health_page.CONSUMED] = scene.cells[health_page.SYNCED] = now
    status, body = scene.get("/readyz?verbose")
    assert (status, json.loads(body)["state"]) == (200, "ok")
    scene.cells[health_page.THREADS_AT], scene.cells[health_page.THREADS_AT + 1] = now - 60, 5.0
    assert scene.get("/livez")[0] == scene.get("/readyz")[0] == 503


def test_nothing_else_is_there(scene: Scene) -> None:
    assert scene.get("/")[0] == scene.get("/../etc/passwd")[0] == 404
    assert scene.get("/livez", "HEAD") == (200, b"")
    assert scene.get("/livez", "POST")[0] == 501


def test_clients_that_say_nothing_keep_no_probe_waiting(scene: Scene) -> None:
    silent = [socket.create_connection(("127.0.0.1", scene.server.port), 30) for _ in range(8)]
    try:
        assert scene.get("/livez")[0] == 200
    finally:
        for one in silent:
            one.close()


def test_a_port_that_is_taken_is_named(scene: Scene) -> None:
    with pytest.raises(ConfigurationError, match=rf"127.0.0.1:{scene.server.port} can't be listened on"):
        HealthServer(("127.0.0.1", scene.server.port), lambda: Page(b"", True))


@pytest.mark.parametrize("text", ["127.0.0.1:80", "localhost:0", "[::1]:8080", "127.1.2.3:65535"])
def test_addresses_of_this_machine(text: str) -> None:
    host, port = checked_address(text, public=False)
    assert f"{host}:{port}" == text.replace("[", "").replace("]", "")


@pytest.mark.parametrize("text", ["", "8080", ":8080", "localhost", "localhost:x", "localhost:70000", "localhost:-1"])
def test_what_is_no_address_is_named(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is not HOST:PORT"):
        checked_address(text, public=True)


@pytest.mark.parametrize("text", ["0.0.0.0:8080", "[::]:8080", "10.0.0.7:8080", "worker-host:8080"])
def test_other_machines_must_be_asked_for(text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"--health-listen: .* other machines") as refused:
        checked_address(text, public=False)
    assert "--health-public" in str(refused.value.hint)
    checked_address(text, public=True)


def test_g34_a_worker_answers_probes_by_http_and_by_its_file(
    program_on: Callable[[str], Program], tmp_path: Path
) -> None:
    program = program_on("embedded")
    port, file = free_port(), tmp_path / "alpha.health"
    given = ("--health-listen", f"127.0.0.1:{port}", "--health-file", str(file))
    worker = program.start_worker("--name", "alpha", "-c", "1", *given)

    def get(path: str) -> tuple[int, str]:
        with urlopen(f"http://127.0.0.1:{port}{path}", timeout=30) as answer:
            return answer.status, json.load(answer)["worker"]

    assert get("/livez") == (200, "alpha")
    assert eventually(lambda: get("/readyz"), ignoring=OSError) == (200, "alpha")
    done = program.ok("worker", "healthcheck", "--file", str(file), "--json")
    assert (done.json["worker"], done.json["ready"]) == ("alpha", True)
    assert program.ok("worker", "healthcheck", "--file", str(file), "-q").out == ""
    worker.signal(signal.SIGTERM)
    assert worker.wait_code() == 0
    gone = program.run("worker", "healthcheck", "--file", str(file), "--json")
    assert (gone.code, gone.json["state"]) == (4, "gone")
    with pytest.raises(OSError, match="refused"):
        get("/livez")


def test_flags_of_probes_that_mean_nothing_are_wrong_usage(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    worker = program.begin_worker("--health-listen", "0.0.0.0:1")
    assert (worker.wait_code(), "--health-public" in worker.err) == (2, True), worker.err
    worker = program.begin_worker("--health-file", "/nowhere/alpha")
    assert (worker.wait_code(), "health file /nowhere/alpha" in worker.err) == (2, True), worker.err


def test_g34_a_worker_whose_queue_is_paused_says_so_and_is_ready(program_on: Callable[[str], Program]) -> None:
    program = program_on("embedded")
    program.start_worker("--name", "alpha", "-c", "1", "--heartbeat-interval", "200ms")

    def stands() -> tuple[str, bool, dict[str, object]]:
        told = program.run("worker", "healthcheck", "--json").json
        return told["state"], told["ready"], told["queues"]

    eventually(lambda: stands() == ("ok", True, {"default": {"consuming": True}}), 60)
    program.ok("queue", "pause", "default", "--reason", "INC-42", "--yes")
    eventually(lambda: stands() == ("paused", True, {"default": {"consuming": False}}), 60)
    program.ok("queue", "resume", "default", "--yes")
    eventually(lambda: stands() == ("ok", True, {"default": {"consuming": True}}), 60)
