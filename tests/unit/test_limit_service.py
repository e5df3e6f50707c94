"""What waited for a rate limit that is over goes on in the limits' own thread."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

from stem_kombu.clock import SYSTEM
from stem_kombu.worker.limit_service import LimitService
from tests.waiting import eventually


def test_g16_what_no_limit_holds_any_more_goes_on_without_the_lock_of_directives() -> None:
    """A start may read the revoke store. Its reader hands directives over, for which it needs the lock of who ends the limit:
    a worker hung for good where both came together."""
    threads: list[str] = []
    lock = threading.Lock()

    def release(token: int) -> None:
        with lock:
            threads.append(threading.current_thread().name)

    freed: list[Any] = [SimpleNamespace(token=1, task_id="t")]
    limits = SimpleNamespace(
        all=list, shared=list, live=False, next=lambda: (None, None), update=lambda *_: [freed.pop()] if freed else []
    )
    active = SimpleNamespace(limits=limits, rate_limits=lambda: ({}, {}))
    lifecycle = SimpleNamespace(facts=SimpleNamespace(clock=SYSTEM), holds=SimpleNamespace(release=release))
    resources = SimpleNamespace(roster=None, depths=None, directive_writer=None)
    service = LimitService(active, lifecycle, resources)  # type: ignore[arg-type]
    with lock:  # as by who obeys directives
        service.start()
    try:
        eventually(lambda: threads == ["stem-limits"], 30)
    finally:
        service.stop()
