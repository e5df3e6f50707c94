"""The memory that a Celery worker shares with the processes of its tasks."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from typing import Any

import pytest

from stem_kombu.celery import shared_stop_table
from stem_kombu.celery.held_requests import snapshot
from stem_kombu.celery.shared_stop_table import SharedStopTable
from stem_kombu.revocation import Revocation

NOW = datetime(2026, 11, 1, tzinfo=timezone.utc)


class Interrupted:
    """The layout of an entry's head, with something done once that it was read."""

    def __init__(self, head: struct.Struct, then: Callable[[], None]) -> None:
        self._head, self._then = head, [then]
        self.size, self.pack_into = head.size, head.pack_into

    def unpack_from(self, *given: Any) -> Any:
        read = self._head.unpack_from(*given)
        if self._then:
            self._then.pop()()
        return read


def test_an_entry_that_is_written_anew_while_a_task_reads_it_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoke waited for its store, and the task was stopped without it; then the store has it, and who asked for it."""
    table = SharedStopTable(4)
    first = Revocation("shop", "t1", 0, NOW, True, "x" * 500)
    later = Revocation("shop", "t1", 7, NOW, True, "stored", "an operator")
    table.mark(first, ["t1"])
    head = Interrupted(shared_stop_table._HEAD, lambda: table.mark(later, ["t1"]))
    monkeypatch.setattr(shared_stop_table, "_HEAD", head)
    assert table.find("t1") == later


def test_a_set_that_changes_while_another_thread_looks_is_looked_at_again() -> None:
    running = {1, 2}

    class Changing:
        """As a ``WeakSet``, of which each look is more than one step."""

        def __iter__(self) -> Iterator[int]:
            for number in running:
                yield number
                if len(running) < 3:
                    running.add(3)

    assert sorted(snapshot(Changing())) == [1, 2, 3]
