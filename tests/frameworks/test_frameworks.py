"""The examples for web frameworks, each under the server that it names."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stem_kombu.testing.ports import free_port
from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]


@contextmanager
def serving(folder: Path, broker: str, *command: str) -> Iterator[subprocess.Popen[bytes]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
    places = {"STEM_BROKER_URL": broker, "STEM_RESULT_BACKEND_URL": broker, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", *command], cwd=folder, env={**kept, **places}, stdout=log, stderr=subprocess.STDOUT
        )
    try:
        yield server
    finally:
        server.terminate()
        server.wait(60)


def get(port: int, path: str) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
        return str(answer.read().decode().strip())


def up(folder: Path, port: int, path: str) -> str:
    def answer() -> str | None:
        try:
            return get(port, path)
        except OSError:
            return None

    return str(eventually(answer, 60, lambda: (folder / "log").read_text()))


def test_fastapi_sends_and_waits_in_its_event_loop(tmp_path: Path, redis_url: str) -> None:
    pytest.importorskip("fastapi")
    pytest.importorskip("uvicorn")
    port = free_port()
    with serving(tmp_path, redis_url, "uvicorn", "examples.in_fastapi:web", "--port", str(port)) as server:
        assert up(tmp_path, port, "/double/21") == "42"
    assert server.returncode in (0, -15), (tmp_path / "log").read_text()
    assert "Traceback" not in (tmp_path / "log").read_text()


def test_each_process_of_a_preloading_gunicorn_has_a_worker_of_its_own(tmp_path: Path, redis_url: str) -> None:
    pytest.importorskip("flask")
    pytest.importorskip("gunicorn")
    from stem_kombu import ControlClient, Stem

    port = free_port()
    app = Stem("asks", broker=redis_url, backend=redis_url)
    with (
        serving(
            *(tmp_path, redis_url, "gunicorn", "--preload", "--workers", "2", "--bind", f"127.0.0.1:{port}"),
            *("--config", "python:examples.in_flask", "examples.in_flask:web"),
        ) as server,
        ControlClient(app) as control,
    ):
        assert up(tmp_path, port, "/double/21").startswith("[42,")
        eventually(lambda: len(control.ping(timeout=5).replies) == 2, 60, lambda: (tmp_path / "log").read_text())
    assert server.returncode == 0, (tmp_path / "log").read_text()
    app.close()
