"""No revoke store: revocations of a fleet that has no place for them, in the memory of one process.

A worker puts what it receives in here too (:meth:`VolatileRevokeStore.keep`), so that it finds here what it holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from stem_kombu.revocation import Revocation
from stem_kombu.stores.memory import _LOCK, MemoryRevokeStore
from stem_kombu.volatile import NOT_DURABLE, NOWHERE


class VolatileRevokeStore(MemoryRevokeStore):
    """A revoke store of this process alone. It never claims to keep anything."""

    #: A directive or a rule would be of this process alone: commands that store one refuse it.
    keeps_records = False

    def __init__(self) -> None:
        super().__init__("volatile")
        self.url = NOWHERE.value

    def keep(self, namespace: str, records: Sequence[Revocation]) -> None:
        """Hold these records as they are, with the versions that their sender gave them. An older one changes nothing."""
        with _LOCK:
            shelf = self._shelf(namespace)
            for record in sorted(records, key=attrgetter("version")):
                held = shelf.revocations.get(record.task_id)
                if held is None or held.version < record.version:
                    shelf.revocations.pop(record.task_id, None)
                    shelf.revocations[record.task_id] = record
                    shelf.revision = max(shelf.revision, record.version)

    def check(self, namespace: str) -> list[str]:
        return [NOT_DURABLE]
