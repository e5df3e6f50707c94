"""The plugin as a developer's own pytest uses it, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

PLUGIN = "stem_kombu.testing.pytest_plugin"
SHOP = """
from stem_kombu import Stem
ran = []
app = Stem("shop", broker="redis://127.0.0.1:1/0")

@app.task("shop.double", queue="sums")
def double(n: int) -> int:
    ran.append(n)
    return 2 * n

def make_app():
    return app
"""


def run_pytest(folder: Path, tests: str, *, ini: str = "", shop: str = SHOP) -> subprocess.CompletedProcess[str]:
    (folder / "shop.py").write_text(shop)
    (folder / "test_shop.py").write_text(tests)
    (folder / "pytest.ini").write_text(f"[pytest]\n{ini}\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", PLUGIN, "-p", "no:cacheprovider"],
        cwd=folder,
        # As an installation that is not editable: found by its path.
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        timeout=100,
    )


@pytest.mark.parametrize("target", ["shop:app", "shop:make_app", "shop:make_app()"])
def test_a_worker_of_the_application_runs_in_the_test(tmp_path: Path, target: str) -> None:
    tests = """
from shop import app, double, ran

def test_it_runs(stem_worker):
    assert double.delay(4).get(timeout=60) == 8
    assert stem_worker.control.ping().complete
    assert stem_worker.worker.state == "running"

def test_one_leaves_a_task_in_a_queue(stem_app):
    assert stem_app is app
    double.delay(5)

def test_and_the_next_one_does_not_get_it(stem_worker):
    assert double.delay(6).get(timeout=60) == 12
    assert ran == [4, 6]

def test_afterwards_the_application_is_as_it_was():
    assert app.settings.broker.value == "redis://127.0.0.1:1/0"
"""
    done = run_pytest(tmp_path, tests, ini=f"stem_app = {target}")
    assert "4 passed" in done.stdout, done.stdout + done.stderr


def test_stem_itself_is_imported_as_without_pytest(tmp_path: Path) -> None:
    tests = """
def test_it(stem_app):
    import stem_kombu.app, stem_kombu.transports.producer, stem_kombu_cli.render
    for module in (stem_kombu.app, stem_kombu.transports.producer, stem_kombu_cli.render):
        assert type(module.__spec__.loader).__name__ == "SourceFileLoader", module
"""
    done = run_pytest(tmp_path, tests)
    assert "1 passed" in done.stdout, done.stdout


def test_without_a_named_application_there_is_an_empty_one(tmp_path: Path) -> None:
    tests = """
def test_it(stem_app, stem_broker):
    assert list(stem_app.registry) == []
    assert stem_broker.startswith("sqlite:///")
"""
    assert "1 passed" in run_pytest(tmp_path, tests).stdout


@pytest.mark.parametrize(("target", "said"), [("shop:double", "is no stem_kombu.Stem"), ("shop:no", "no")])
def test_what_is_no_application_is_an_error_of_the_fixture(tmp_path: Path, target: str, said: str) -> None:
    done = run_pytest(tmp_path, "def test_it(stem_app): ...", ini=f"stem_app = {target}")
    assert "1 error" in done.stdout
    assert said in done.stdout


def test_nothing_is_imported_where_no_fixture_is_used(tmp_path: Path) -> None:
    tests = """
import sys

def test_it():
    assert not {"kombu", "stem_kombu.app", "stem_kombu.worker"} & {*sys.modules}
"""
    assert "1 passed" in run_pytest(tmp_path, tests, shop="").stdout
