"""The messages of failed tasks, kept so that an operator can have them run again; and the place for them in memory.

They hold the arguments of tasks. So they are kept for a bounded time, up to a bounded size each and in all, and an
application may switch that off (``STEM_KEEP_FAILED=off``). What is beyond the bounds goes, the oldest first.
"""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from stem_kombu.clock import SYSTEM, Clock

#: Bytes of one message, messages of a namespace, and bytes of all of them.
LARGEST, MOST, MOST_BYTES = 64 * 1024, 10_000, 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class FailedMessage:
    """The message of a failed task as text, which no backend reads, and until when it is kept (``None`` when offered)."""

    task_id: str
    text: str
    expires_at: datetime | None = None

    @property
    def size(self) -> int:
        """Bytes that count against the bounds."""
        return len(self.text.encode())


class FailedMessages(ABC):
    """Kept messages, by namespace and task id. Thread-safe; connects on first use; reconnects.

    Every method raises :class:`~stem_kombu.errors.StoreUnavailable` when the place can't be reached.
    """

    @abstractmethod
    def keep(self, namespace: str, messages: Sequence[FailedMessage], life: float) -> None:
        """Keep these for ``life`` seconds, each in place of what was kept under its id, and let go of what is beyond the
        bounds: expired, or older than the newest :data:`MOST` messages or :data:`MOST_BYTES` bytes."""

    @abstractmethod
    def get(self, namespace: str, task_id: str) -> FailedMessage | None:
        """The message of one task, ``None`` where none is kept."""

    @abstractmethod
    def scan(self, namespace: str) -> Iterator[FailedMessage]:
        """Every message that is kept, the newest first, streamed."""

    @abstractmethod
    def close(self) -> None:
        """Let connections go. May be called twice, and the place may be used again afterwards."""


_LOCK = threading.RLock()
_SHARED: dict[str, dict[tuple[str, str], FailedMessage]] = {}


class MemoryFailedMessages(FailedMessages):
    """In this process; places of the same name share what they hold."""

    def __init__(self, name: str = "", *, clock: Clock = SYSTEM) -> None:
        self._held = _SHARED.setdefault(name, {})
        self._clock = clock

    def keep(self, namespace: str, messages: Sequence[FailedMessage], life: float) -> None:
        expires_at = self._clock.utcnow() + timedelta(seconds=life)
        with _LOCK:
            for message in messages:
                self._held.pop((namespace, message.task_id), None)
                self._held[namespace, message.task_id] = FailedMessage(message.task_id, message.text, expires_at)
            count = size = 0
            for place, held in [entry for entry in reversed(self._held.items()) if entry[0][0] == namespace]:
                count, size = count + 1, size + held.size
                if count > MOST or size > MOST_BYTES or self._is_expired(held):
                    del self._held[place]

    def get(self, namespace: str, task_id: str) -> FailedMessage | None:
        with _LOCK:
            held = self._held.get((namespace, task_id))
        return None if held is None or self._is_expired(held) else held

    def scan(self, namespace: str) -> Iterator[FailedMessage]:
        with _LOCK:
            held = [message for (place, _), message in self._held.items() if place == namespace]
        return (message for message in reversed(held) if not self._is_expired(message))

    def close(self) -> None:
        """Nothing to let go."""

    def _is_expired(self, message: FailedMessage) -> bool:
        return message.expires_at is not None and message.expires_at <= self._clock.utcnow()
