"""A pytest plugin for Celery's own tests: with ``STEM_SUITE_LINE=1`` each application has the line (scripts/celery_suite.py)."""

from __future__ import annotations

import os
import threading
import weakref
from typing import Any

import pytest
from celery import Celery

_applications: weakref.WeakSet[Celery] = weakref.WeakSet()

if os.environ.get("STEM_SUITE_LINE") == "1":
    from stem_kombu.celery import install

    made = Celery.__init__

    def with_the_line(self: Celery, *args: Any, **kwargs: Any) -> None:
        made(self, *args, **kwargs)
        install(self)
        _applications.add(self)

    Celery.__init__ = with_the_line


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown() -> None:
    """A program that revokes keeps a client until it ends; Celery's tests look for threads as soon as each has ended."""
    for app in list(_applications):
        if "control" in app.__dict__ and (held := app.control.__dict__.pop("_stem_held", None)) and held[1] is not None:
            held[1].close()
    for thread in threading.enumerate():
        if thread.name == "stem-roster":  # a client that is closed does not wait for it
            thread.join(20)
