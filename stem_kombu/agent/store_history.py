"""Whether a store still is what a worker has read, and what it has lost of that.

A store is set back when an older replica is promoted, a backup is restored, a key or a file is deleted. Its versions don't
tell: they follow the clock, and one write after the loss hides it. So a look asks who answers, how far it is, and whether
the last records that this worker holds are still there.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from stem_kombu import timeouts
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.stores.base import Glance, RevokeStore
from stem_kombu.undone import is_undo

logger = logging.getLogger(__name__)

#: How many of the last records are looked for. All must have been revoked again for a loss to be missed.
SAMPLE = 8
#: How many when another server answers; a worker that holds no more than that reads the store anew.
LARGE_SAMPLE = 1000


class History:
    """What was seen of one store, and what it has lost: ``lost`` by task id, in the order in which it was revoked."""

    def __init__(self, cache: RevocationCache) -> None:
        self._cache = cache
        self._highest = 0
        self.identity: str | None = None
        self.lost: dict[str, Revocation] = {}

    def sample(self, most: int = SAMPLE) -> list[Revocation]:
        """The last records that this worker holds: what a store that was set back has lost first. Take it before the glance:
        what was broadcast is in the store already (G1)."""
        self._highest = self._cache.highest
        newest, _ = self._cache.newest(most)
        soon = self._cache.now() + timedelta(seconds=timeouts.SAMPLE_LEAST_LIFE)
        lasting = [record for record in newest if record.expires_at is None or record.expires_at > soon]
        return [*lasting, *self._cache.undos(most)]

    def still_held(self, sample: Sequence[Revocation]) -> list[Revocation]:
        """Without what was undone since: that is not lost."""
        return [record for record in sample if record.task_id in self._cache or is_undo(record)]

    def broken(self, glance: Glance, sample: Sequence[Revocation]) -> str | None:
        """Why this is not the store that was read, or ``None``."""
        if glance.revision < self._highest:
            return f"its revision went back from {self._highest} to {glance.revision}"
        for mine in sample if glance.held is not None else ():
            theirs = glance.held.get(mine.task_id) if glance.held is not None else None
            if is_undo(mine):
                if theirs is not None and is_before(theirs, mine, self._cache.now()):
                    return f"it has lost the undo of the revocation of task {mine.task_id}"
                continue
            if theirs is None:
                return f"it has lost the revocation of task {mine.task_id}"
            if theirs.version < mine.version or (theirs.version == mine.version and theirs.issued_at != mine.issued_at):
                return f"it holds an older revocation of task {mine.task_id}"
        return None

    def is_another(self, glance: Glance) -> bool:
        """Whether another server, or another copy of the data, answers than before."""
        return self.identity is not None and glance.identity != self.identity

    def compare(self, found: Iterable[Revocation], held: Mapping[str, Revocation], now: datetime) -> None:
        """Remember which of the records are weaker than what is held from before, as ``lost``."""
        for record in found:
            mine = held.get(record.task_id)
            if mine is not None and is_weaker(record, mine, now):
                self.lost[mine.task_id] = mine

    def read_to_the_end(self, store: RevokeStore, namespace: str) -> list[Revocation]:
        """Say that the store was read anew: what it does not hold is lost. What was undone in the history that it has lost is
        taken back in it again; returned are the ends. Left out is what another worker was quicker with, and an undo whose
        signature is not known here."""
        self.lost.update((record.task_id, record) for record in self._cache.left_over())
        ended: list[Revocation] = []
        undone = self._cache.undos() if store.keeps_records else []
        for start in range(0, len(undone), LARGE_SAMPLE):
            batch = undone[start : start + LARGE_SAMPLE]
            held = store.glance(namespace, [one.task_id for one in batch]).held
            for mine in batch:
                theirs = store.get(namespace, mine.task_id) if held is None else held.get(mine.task_id)
                if theirs is None or not is_before(theirs, mine, self._cache.now()):
                    continue
                if theirs.proofs and not mine.proofs:
                    logger.warning("task %s was undone, which the revoke store has lost: undo it again", mine.task_id)
                    continue
                ended += store.undo_again(namespace, theirs, mine)
        return ended

    def still_lost(self, batch: Sequence[Revocation]) -> list[Revocation]:
        """Those that no other worker has put back meanwhile, as far as this one has read."""
        now, held = self._cache.now(), self._cache.known(record.task_id for record in batch)
        return [
            mine
            for mine in batch
            if (there := held.get(mine.task_id)) is None or there.version <= mine.version or is_weaker(there, mine, now)
        ]


def is_before(record: Revocation, undo: Revocation, now: datetime) -> bool:
    """Whether a store that holds ``record`` in force has lost that undo of it."""
    return not record.is_expired(now) and record.issued_at <= undo.issued_at


def is_weaker(record: Revocation, mine: Revocation, now: datetime) -> bool:
    """Whether a store that holds ``record`` has lost something of ``mine``, which a worker holds from before."""
    if mine.is_expired(now):
        return False
    if record.is_expired(now):
        return record.issued_at < mine.issued_at  # a later one that has ended was meant to end it
    if mine.terminate and not record.terminate:
        return True
    if record.expires_at is None:
        return False
    return mine.expires_at is None or mine.expires_at - record.expires_at > timedelta(seconds=timeouts.SAMPLE_SAME_END)
