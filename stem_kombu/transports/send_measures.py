"""How many tasks this process has sent, by queue, and how long that took. Off until something wants to report it."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.measures import MOST_WAITS, OTHER, Histogram


class Sent(NamedTuple):
    """Messages of one queue that were sent with one result: ``error`` names the failure's class, ``None`` for success.
    ``durations`` is of calls, which may send many messages each."""

    queue: str
    error: str | None
    messages: int
    durations: Mapping[str, object]


class SendMeasures:
    """Of one process, whatever producers it has. Safe from any thread; a call that is not measured costs a look at ``is_on``."""

    def __init__(self, clock: Clock = SYSTEM) -> None:
        self.is_on = False
        self._clock = clock
        self._lock = threading.Lock()
        self._rows: dict[tuple[str, str | None], tuple[int, Histogram]] = {}

    @contextmanager
    def measured(self, queues: Iterable[str]) -> Iterator[None]:
        """Count what is sent within, one queue for each message, and time it."""
        counts, began, error = Counter(queues), self._clock.monotonic(), None
        try:
            yield
        except BaseException as failure:
            error = type(failure).__name__
            raise
        finally:
            seconds = self._clock.monotonic() - began
            with self._lock:
                for queue, count in counts.items():
                    self._add(queue, error, count, seconds)

    def _add(self, queue: str, error: str | None, count: int, seconds: float) -> None:
        key = queue, error
        if key not in self._rows and len(self._rows) >= MOST_WAITS:
            key = OTHER, error
        messages, durations = self._rows.get(key) or (0, Histogram())
        durations.observe(seconds)
        self._rows[key] = messages + count, durations

    def rows(self) -> list[Sent]:
        with self._lock:
            return [
                Sent(queue, error, messages, durations.to_dict())
                for (queue, error), (messages, durations) in self._rows.items()
            ]


#: Of this process.
SENT = SendMeasures()
