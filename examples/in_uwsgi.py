"""A WSGI application under uWSGI, with a worker inside each of its processes.

uwsgi --http-socket 127.0.0.1:8000 --master --processes 2 --enable-threads --die-on-term --module examples.in_uwsgi:web

uWSGI forks after it has imported this module, and has hooks for what is to follow. ``--enable-threads`` is needed: without it no
thread of Python runs. Isolates get their interpreter from ``sys.prefix``, as ``sys.executable`` is uWSGI there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from typing import Any

from stem_kombu import Stem, TaskContext, Worker

stem = Stem("shop")
worker = Worker(stem, concurrency=1)  # it is decided in start() which worker it is: each process has one of its own


@stem.task("shop.double")
def double(n: int) -> list[int]:
    return [2 * n, os.getpid()]


@stem.task("shop.halve", isolate=True)
def halve(ctx: TaskContext, n: int) -> list[int]:
    return [n // 2, os.getpid()]


def web(environ: dict[str, Any], start_response: Callable[[str, list[tuple[str, str]]], object]) -> Iterable[bytes]:
    kind, _, number = str(environ["PATH_INFO"]).strip("/").partition("/")
    task = halve if kind == "halve" else double
    answer = str(task.delay(int(number or 0)).get(timeout=30))
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [answer.encode()]


def install_hooks() -> None:
    """Leave it out, and start workers beside:  stem worker start -A examples.in_uwsgi:stem"""
    try:
        import uwsgi  # type: ignore[import-not-found,import-untyped,unused-ignore]  # there in a uWSGI process only
    except ImportError:
        return
    hooks: Any = uwsgi
    hooks.post_fork_hook = worker.start
    hooks.atexit = lambda: worker.stop(timeout=10)


install_hooks()
