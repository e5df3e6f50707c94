"""The ends of revocations: what was revoked before does not count again, whatever a late broadcast or an older copy of the
store says (G31)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta

from stem_kombu import timeouts
from stem_kombu.revocation import Revocation

#: Ends that are remembered; of more the oldest are forgotten.
_MOST = 10_000


def is_undo(record: Revocation) -> bool:
    """Whether the record is what an undo leaves, and not one that has expired by itself."""
    return record.expires_at is not None and record.issued_at - record.expires_at > timedelta(
        seconds=timeouts.UNDO_RECOGNISED
    )


class Undone:
    """The last end of each task, as a record that has ended. Not for several threads at once."""

    def __init__(self) -> None:
        self._ends: dict[str, Revocation] = {}
        #: Those of another history of the store, whose versions can't be compared with today's.
        self._earlier: dict[str, Revocation] = {}

    def __len__(self) -> int:
        return len(self._ends)

    def add(self, end: Revocation) -> None:
        """Remember that the task's revocations up to this one have ended."""
        before = self._ends.pop(end.task_id, None)
        if not end.proofs and before is not None:
            end = replace(end, proofs=before.proofs)
        self._ends[end.task_id] = end
        if len(self._ends) > _MOST:
            del self._ends[next(iter(self._ends))]

    def keep_proofs(self, record: Revocation) -> None:
        """Remember by whom an end was signed that was known already: the record of an undo tells it without."""
        end = self._ends.get(record.task_id)
        if end is not None and not end.proofs and record.proofs and is_undo(record):
            self._ends[record.task_id] = replace(end, proofs=record.proofs)

    def knows(self, task_ids: Iterable[str]) -> bool:
        """Whether the end of one of the tasks is remembered."""
        return any(ends and not ends.keys().isdisjoint(task_ids) for ends in (self._ends, self._earlier))

    def covers(self, record: Revocation) -> bool:
        """Whether the record is from before the end of its task's revocations."""
        end = self._ends.get(record.task_id)
        if end is not None and record.version <= end.version:
            return True
        earlier = self._earlier.get(record.task_id)
        return earlier is not None and record.issued_at <= earlier.issued_at

    def restart(self) -> None:
        """Say that the store's versions are those of another history; its times are compared instead."""
        self._earlier = dict(list({**self._earlier, **self._ends}.items())[-_MOST:])
        self._ends = {}

    def undos(self, most: int | None = None) -> list[Revocation]:
        """What undos have left, the newest ``most`` of them."""
        ends = [end for end in {**self._earlier, **self._ends}.values() if is_undo(end)]
        return ends if most is None else ends[-most:]
