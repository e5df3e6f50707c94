"""Whether a store still is what a worker has read, and what it has lost of that.

A store is set back when an older replica is promoted, a backup is restored, a key or a file is deleted. Its versions don't
tell: they follow the clock, and one write after the loss hides it. So a look asks who answers, how far it is, and whether
the last records that this worker holds are still there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.stores.base import Glance

#: How many of the last records are looked for. All must have been revoked again for a loss to be missed.
SAMPLE = 8
#: How many when another server answers; a worker that holds no more than that reads the store anew.
LARGE_SAMPLE = 1000
#: Records that end sooner are not looked for: by the store's clock they may have ended, and be pruned.
_LASTING = timedelta(minutes=1)
#: Ends that are nearer to each other are the same: to put a record back takes its time.
_SAME_END = timedelta(seconds=5)


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
        soon = self._cache.now() + _LASTING
        return [record for record in newest if record.expires_at is None or record.expires_at > soon]

    def broken(self, glance: Glance, sample: Sequence[Revocation]) -> str | None:
        """Why this is not the store that was read, or ``None``."""
        if glance.revision < self._highest:
            return f"its revision went back from {self._highest} to {glance.revision}"
        for mine in sample if glance.held is not None else ():
            theirs = glance.held.get(mine.task_id) if glance.held is not None else None
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

    def still_lost(self, batch: Sequence[Revocation]) -> list[Revocation]:
        """Those that no other worker has put back meanwhile, as far as this one has read."""
        now, held = self._cache.now(), self._cache.known(record.task_id for record in batch)
        return [
            mine
            for mine in batch
            if (there := held.get(mine.task_id)) is None or there.version <= mine.version or is_weaker(there, mine, now)
        ]


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
    return mine.expires_at is None or mine.expires_at - record.expires_at > _SAME_END
