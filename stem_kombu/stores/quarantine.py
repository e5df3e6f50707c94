"""Records of a store that can't be read: kept where they are, counted and named, while everything else is obeyed (G37)."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterable
from dataclasses import dataclass

logger = logging.getLogger(__name__)

#: Most records that are named; all are counted.
_MOST_NAMED = 1000


@dataclass(frozen=True, slots=True)
class SetAside:
    """A record that can't be read: where it is (file and line, table and row, key and field), why it can't be read, and
    the task it is about where that is known."""

    place: str
    reason: str
    task_id: str | None = None


class Quarantine:
    """What one store has set aside, by namespace, as far as it was read. Each place is logged once. Thread-safe.

    ``url`` names the store in the log. A place whose namespace can't be read counts in every namespace.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = threading.Lock()
        self._held: dict[str | None, dict[str, SetAside]] = {}
        self._logged: set[str] = set()

    def add(self, namespace: str | None, place: str, reason: object, task_id: str | None = None) -> None:
        """Set the record at ``place`` aside."""
        found = SetAside(place, str(reason)[:300], task_id)
        with self._lock:
            held = self._held.setdefault(namespace, {})
            held[place] = found if len(held) < _MOST_NAMED else _UNNAMED
            if place in self._logged:
                return
            if len(self._logged) >= _MOST_NAMED:
                self._logged.clear()
            self._logged.add(place)
        logger.warning(
            "revoke store %s: %s can't be read and is set aside, everything else is obeyed: %s",
            self._url,
            place,
            found.reason,
            extra={"namespace": namespace, "task_id": task_id},
        )

    def of(self, namespace: str) -> tuple[SetAside, ...]:
        """What was set aside when the namespace was last read, in the order in which it was found."""
        with self._lock:
            return tuple(self._held.get(namespace, {}).values()) + tuple(self._held.get(None, {}).values())

    def forget(self, namespaces: Iterable[str | None]) -> None:
        """Before these namespaces are read as a whole: what was mended meanwhile is no longer counted."""
        with self._lock:
            for namespace in namespaces:
                self._held.pop(namespace, None)


_UNNAMED = SetAside("…", f"more than {_MOST_NAMED} records can't be read")
