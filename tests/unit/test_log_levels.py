"""Levels that loggers have for a while."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from stem_kombu.logs import LogLevels


@pytest.fixture(autouse=True)
def _own_levels() -> Iterator[None]:
    names = ["", "kombu", "test.a", "test.b"]
    before = {name: logging.getLogger(name or None).level for name in names}
    yield
    for name, level in before.items():
        logging.getLogger(name or None).setLevel(level)


def test_what_is_not_named_any_more_has_its_own_level_again() -> None:
    a, b = logging.getLogger("test.a"), logging.getLogger("test.b")
    a.setLevel(logging.ERROR)
    levels = LogLevels()
    levels.set({"test.a": "debug", "test.b": "critical"})
    assert (a.level, b.level) == (logging.DEBUG, logging.CRITICAL)
    levels.set({"test.a": "info"})
    assert (a.level, b.level) == (logging.INFO, logging.NOTSET)
    levels.set({})
    assert a.level == logging.ERROR


def test_debug_for_all_spares_the_drivers() -> None:
    root, kombu = logging.getLogger(), logging.getLogger("kombu")
    before = root.level, kombu.level
    levels = LogLevels()
    levels.set({"": "debug"})
    assert (root.level, kombu.level) == (logging.DEBUG, logging.INFO)
    levels.set({"": "debug", "kombu": "debug"})
    assert kombu.level == logging.DEBUG
    levels.set({})
    assert (root.level, kombu.level) == before
