"""Fixtures for applications: ``stem_app``, ``stem_worker`` and ``stem_broker``. Nothing is imported before one is used."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from stem_kombu.app import Stem
    from stem_kombu.control.client.client import ControlClient
    from stem_kombu.worker.worker import Worker


def pytest_addoption(parser: pytest.Parser, pluginmanager: pytest.PytestPluginManager) -> None:
    """``stem_app`` in pytest's configuration names the application that the fixture of that name gives."""
    _import_stem_as_python_does(pluginmanager)
    parser.addini("stem_app", "MODULE:ATTR of the Stem application, or of a function that makes it", default="")


@dataclass(frozen=True, slots=True)
class RunningWorker:
    """A worker of ``app`` in this process, and a client that controls it."""

    app: Stem
    worker: Worker
    control: ControlClient


@pytest.fixture
def stem_app(request: pytest.FixtureRequest) -> Iterator[Stem]:
    """The application that ``stem_app`` in pytest's configuration names, else an empty one. For one test its broker, backend
    and revoke store are in this process's memory, in a namespace of its own."""
    from stem_kombu.app import Stem
    from stem_kombu.control.client.queues import QueueClient

    target = str(request.config.getini("stem_app"))
    app = _application(target) if target else Stem("tests")
    one = uuid.uuid4().hex[:16]
    place = f"memory://{one}"
    with app.configured(broker=place, backend=place, revoke_store=place, namespace=f"test-{one}"):
        yield app
        # Memory is one place for all tests of the process: what a test left in a queue must not reach the next one.
        with QueueClient(app) as queues:
            for queue in queues_of(app):
                queues.purge(queue)


@pytest.fixture
def stem_worker(stem_app: Stem) -> Iterator[RunningWorker]:
    """A running worker of :func:`stem_app` on all queues that its tasks name, stopped after the test."""
    from stem_kombu.worker.worker import Worker

    with Worker(stem_app, queues=queues_of(stem_app), concurrency=1) as worker:
        yield RunningWorker(stem_app, worker, stem_app.control)


@pytest.fixture
def stem_broker(tmp_path: Path) -> str:
    """The URL of an embedded broker of this test's own, in a file: several processes can share it."""
    return f"sqlite://{tmp_path / 'stem-broker.db'}"


def _import_stem_as_python_does(pluginmanager: pytest.PytestPluginManager) -> None:
    """Pytest rewrites the asserts of every module of a distribution that has a plugin. The product has none to rewrite, and loads
    modules in several threads: CPython 3.11 then fails now and then, as it can't parse in two threads at once."""
    hook = getattr(pluginmanager, "rewrite_hook", None)
    marked = getattr(hook, "_must_rewrite", None)
    if isinstance(marked, set):
        marked.difference_update(("stem_kombu", "stem_kombu_cli"))
        getattr(hook, "_marked_for_rewrite_cache", {}).clear()


def queues_of(app: Stem) -> list[str]:
    """The default queue and those that tasks name."""
    named = [task.options.queue for task in app.registry]
    return list(dict.fromkeys([app.settings.default_queue, *(queue for queue in named if queue is not None)]))


def _application(target: str) -> Stem:
    from importlib import import_module
    from inspect import isroutine

    from stem_kombu.app import Stem
    from stem_kombu.errors import ConfigurationError
    from stem_kombu.locating import CALL, located

    name, _, attribute = target.partition(":")
    module = import_module(name)
    found = located(module, name, attribute)
    if isroutine(found):
        found = located(module, name, attribute.removesuffix(CALL) + CALL)
    if not isinstance(found, Stem):
        raise ConfigurationError(f"stem_app in pytest's configuration: {target!r} is no stem_kombu.Stem")
    found.load()
    return found
