"""Django's connections in tasks: one that the database has dropped is replaced before the next task, by hooks around each."""

from __future__ import annotations

import importlib

import pytest

from stem_kombu.execution.base import Executor, Job
from stem_kombu.execution.child.setup import ChildOptions, ChildSetup
from stem_kombu.execution.inline import InlineExecutor
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.outcome import Ending
from stem_kombu.task import TaskMessage
from stem_kombu.testing.executors import Recording

pytest.importorskip("django")


def test_inline_isolate_and_coroutine_tasks_work_after_the_database_has_dropped_their_connections(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch, observer: Recording
) -> None:
    import psycopg2

    monkeypatch.setenv("DJANGO_TEST_DATABASE", postgres_url)
    app = importlib.import_module("tests.execution.django_app").app
    inline, isolates = InlineExecutor(1, observer), IsolatePool(1, ChildSetup.of(app, ChildOptions()), observer)
    executors: dict[str, Executor] = {"inline": inline, "async": inline, "isolate": isolates}
    admin = psycopg2.connect(postgres_url)
    try:
        for executor in executors.values():
            executor.start()
        for kind, executor in executors.items():
            served = []
            for turn in range(6):
                job = Job(len(observer.calls) + 1, app.registry.get(f"{kind}.ask"), TaskMessage(kind, f"{kind}.ask"))
                executor.submit(job)
                outcome = observer.outcome(job, timeout=60)
                assert outcome.kind is Ending.SUCCEEDED, outcome.error
                served.append(outcome.result)
                if turn % 2:  # the next task finds its connection dropped
                    with admin.cursor() as cursor:
                        cursor.execute("SELECT pg_terminate_backend(%s, 10000)", (outcome.result,))
            assert served[0] == served[1] != served[2] == served[3] != served[4] == served[5], (
                "kept until it is dropped"
            )
    finally:
        admin.close()
        for executor in executors.values():
            executor.stop(0.0)
        from django.db import connections

        connections.close_all()
