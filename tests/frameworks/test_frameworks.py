"""The examples for web frameworks, each under the server that it names."""

from __future__ import annotations

import os
import sqlite3
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
def serving(folder: Path, broker: str, *command: str, by: str = "-m") -> Iterator[subprocess.Popen[bytes]]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STEM_")}
    places = {"STEM_BROKER_URL": broker, "STEM_RESULT_BACKEND_URL": broker, "PYTHONPATH": str(ROOT)}
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, *([by] if by else []), *command],
            cwd=folder,
            env={**kept, **places},
            stdout=log,
            stderr=subprocess.STDOUT,
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


def test_django_sends_what_is_committed_to_a_worker_beside_it(
    tmp_path: Path, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("django")
    pytest.importorskip("gunicorn")
    from stem_kombu import Stem

    database = tmp_path / "shop.db"
    monkeypatch.setenv("SHOP_DATABASE", str(database))
    with sqlite3.connect(database) as connection:
        connection.execute('CREATE TABLE shop_order (id INTEGER PRIMARY KEY AUTOINCREMENT, "paid" BOOL NOT NULL)')
    beside = tmp_path / "beside"
    beside.mkdir()
    port = free_port()
    app = Stem("asks", broker=redis_url, backend=redis_url, namespace="shop")
    with (
        serving(beside, redis_url, "stem_kombu_cli", "worker", "start", "-A", "examples.in_django:stem", "-c", "1"),
        serving(tmp_path, redis_url, "gunicorn", "--bind", f"127.0.0.1:{port}", "examples.in_django:application"),
    ):
        assert up(tmp_path, port, "/cancelled") == "nothing was sent: out of stock"
        result = app.result(get(port, "/order"))
        eventually(result.ready, 60, lambda: (beside / "log").read_text())
        assert str(result.get(timeout=1)).endswith(": 1 row")
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT COUNT(*), SUM(paid) FROM shop_order").fetchone() == (1, 1)
    app.close()


@pytest.mark.slow
def test_each_process_of_uwsgi_has_a_worker_of_its_own_with_children(tmp_path: Path, redis_url: str) -> None:
    pytest.importorskip("pyuwsgi")
    from stem_kombu import ControlClient, Stem

    port = free_port()
    app = Stem("asks", broker=redis_url, backend=redis_url)
    uwsgi = ("-c", "import pyuwsgi, sys; pyuwsgi.run(sys.argv[1:])")
    options = ("--master", "--processes", "2", "--enable-threads", "--die-on-term", "--module", "examples.in_uwsgi:web")
    with (
        serving(tmp_path, redis_url, *uwsgi, "--http-socket", f"127.0.0.1:{port}", *options, by="") as server,
        ControlClient(app) as control,
    ):
        assert up(tmp_path, port, "/double/21").startswith("[42,")
        assert get(port, "/halve/84").startswith("[42,")  # in a child, whose interpreter is not sys.executable
        eventually(lambda: len(control.ping(timeout=5).replies) == 2, 60, lambda: (tmp_path / "log").read_text())
    assert server.returncode == 0, (tmp_path / "log").read_text()
    app.close()


@pytest.mark.slow
def test_the_notebook_runs_a_worker_and_awaits_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    for name in ("JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR"):
        monkeypatch.setenv(name, str(tmp_path / name))
    notebook = nbformat.read(ROOT / "examples" / "in_jupyter.ipynb", as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=90, startup_timeout=300, resources={"metadata": {"path": str(ROOT)}}
    ).execute()
    said = ["".join(output.get("text", "") for output in cell.get("outputs", ())) for cell in notebook.cells]
    assert said == ["", "running\n", "[0, 1, 4, 9]\n", "27\n", "stopped\n"]
