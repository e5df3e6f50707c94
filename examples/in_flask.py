"""Flask under gunicorn, loaded before it forks; a worker inside each of its processes.

gunicorn --preload --config python:examples.in_flask examples.in_flask:web
"""

from __future__ import annotations

import os

from flask import Flask

from stem_kombu import Stem, Worker

web = Flask(__name__)
stem = Stem("shop", settings=web.config.get_namespace("STEM_"))


@stem.task("shop.double")
def double(n: int) -> list[int]:
    return [2 * n, os.getpid()]


worker = Worker(stem, concurrency=1)  # it is decided in start() which worker it is: each process has one of its own


def post_fork(arbiter: object, process: object) -> None:
    """A hook of gunicorn. Leave it out, and start workers beside:  stem worker start -A examples.in_flask:stem"""
    worker.start()


def worker_exit(arbiter: object, process: object) -> None:
    """A hook of gunicorn: tasks that run end, or go back to their queue, before the process does."""
    worker.stop(timeout=10)


@web.get("/double/<int:n>")
def doubled(n: int) -> list[int]:
    return double.delay(n).get(timeout=30)
