"""One place where a handler runs, as ``stats`` shows it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SlotView:
    """``state`` is ``starting``, ``idle``, ``running`` or ``stopping``; ``rss_bytes`` is the process's resident memory, ``None``
    where nothing tells it."""

    slot: int
    pid: int
    state: str
    task_id: str | None
    tasks_done: int
    rss_bytes: int | None
