"""The store's clock as a worker reads it, and what it says where that is not the time."""

from __future__ import annotations

import logging
from datetime import timedelta

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.stores.base import RevokeStore

logger = logging.getLogger(__name__)

_SKEW = timedelta(seconds=timeouts.SYNC_CLOCK_SKEW)


class StoreClock:
    """Tells a cache what the store's clock shows. Used by one thread at a time."""

    def __init__(self, store: RevokeStore, cache: RevocationCache, clock: Clock) -> None:
        self._store, self._cache, self._clock = store, cache, clock
        self._ahead: timedelta | None = None
        #: Seconds from the monotonic clock to the wall clock when the store's clock was read.
        self._wall_from_mono = 0.0

    @property
    def ahead(self) -> float | None:
        """Seconds that the store's clock is ahead of this host's; ``None`` before it was read."""
        return None if self._ahead is None else self._ahead.total_seconds()

    @property
    def is_moved(self) -> bool:
        """Whether this host was suspended, or its clock was set, since the store's clock was read: only that tells which."""
        return abs(self._clock.now() - self._clock.monotonic() - self._wall_from_mono) > timeouts.LEAST_SKEW

    def read(self) -> bool:
        """Whether the store's clock has stepped, or this host was suspended, so that expired records may be live again.

        Raises :class:`~stem_kombu.errors.StoreError`."""
        first, before, now = self._ahead is None, self._cache.now(), self._store.now()
        self._cache.set_store_time(now)
        self._wall_from_mono = self._clock.now() - self._clock.monotonic()
        ahead = now - self._clock.utcnow()
        if abs(ahead) > _SKEW and (self._ahead is None or abs(ahead - self._ahead) > _SKEW):
            logger.warning(
                "the clock of the revoke store %s is %.0f s ahead of this host's: revocations end by the store's",
                self._store.url,
                ahead.total_seconds(),
            )
        self._ahead = ahead
        if stepped := not first and abs(now - before) > _SKEW:
            seconds = (now - before).total_seconds()
            logger.warning(
                "the clock of the revoke store stepped by %.0f s, or this host was suspended for as long", seconds
            )
        return stepped
