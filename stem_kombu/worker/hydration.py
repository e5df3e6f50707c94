"""Store to cache: before the first task, after every reconnect, and every sync interval (G2).

Broadcasts are a doorbell; this is how a worker learns of revocations even if every broadcast is lost. What is read
here takes the same way as what is heard: ``apply``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import islice

from stem_kombu.background import Background
from stem_kombu.broker.connections import backoff
from stem_kombu.clock import Clock
from stem_kombu.errors import StoreError, StoreUnavailable
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.stores.base import RevokeStore

logger = logging.getLogger(__name__)

_CHUNK = 1000
#: Seconds between prunings of the store, and between looks at its clock.
_HOUSEKEEPING = 300.0


class Hydration:
    """Keeps a cache in step with a store, in a thread of its own and on request.

    ``apply`` takes revocations into the cache and stops what they concern.
    """

    def __init__(
        self,
        store: RevokeStore,
        namespace: str,
        cache: RevocationCache,
        apply: Callable[[Sequence[Revocation]], object],
        *,
        interval: float,
        clock: Clock,
    ) -> None:
        self._store = store
        self._namespace = namespace
        self._cache = cache
        self._apply = apply
        self._interval = interval
        self._clock = clock
        self._sync_lock = threading.Lock()
        self._nudged = threading.Event()
        self._stopped = threading.Event()
        self._told = threading.Condition()
        self._gave_up = False
        self._background = Background(self._run, "stem-hydration", begin=self._stopped.clear, wake=self._end_soon)
        self._synced_mono: float | None = None
        self._kept_house_mono: float | None = None
        self._loaded = False
        #: The store's last failure while it is down, else ``None``; shown by ``inspect``.
        self.trouble: str | None = None

    @property
    def synced_ago(self) -> float | None:
        """Seconds since the cache last held everything the store held; ``None`` before the first time."""
        return None if self._synced_mono is None else self._clock.monotonic() - self._synced_mono

    def start(self, *, timeout: float, allow_unsynced: bool = False) -> None:
        """Return once the store has been read; then stay in step.

        Raises :class:`~stem_kombu.errors.StoreUnavailable` when that can't be done within ``timeout`` seconds, unless
        ``allow_unsynced``, or when :meth:`give_up` or meanwhile :meth:`stop` was called; a store that holds garbage raises
        :class:`~stem_kombu.errors.StoreCorrupt` at once.
        """
        stops = self._background.stops
        if self._background.runs:
            return
        deadline = self._clock.monotonic() + timeout
        attempt = 0
        while not self.sync():
            attempt += 1
            if allow_unsynced:
                logger.warning("starting without having read the revoke store: %s", self.trouble)
                break
            left = deadline - self._clock.monotonic()
            if left > 0:
                self._wait(min(left, backoff(attempt)), stops)
            if self._is_told(stops):
                raise StoreUnavailable(f"told to stop before the revoke store could be read: {self.trouble}")
            if left <= 0:
                raise StoreUnavailable(
                    f"the revoke store could not be read within {timeout:g} s: {self.trouble}",
                    hint="start it, or pass --allow-unsynced to run tasks that may have been revoked",
                )
        if not self._background.start(stops):
            raise StoreUnavailable("told to stop while the revoke store was read")

    def give_up(self) -> None:
        """Don't wait for the store any longer: :meth:`start` raises, unless it has read the store already."""
        with self._told:
            self._gave_up = True
            self._told.notify_all()

    @property
    def gave_up(self) -> bool:
        """Whether :meth:`give_up` was called."""
        return self._gave_up

    def nudge(self) -> None:
        """Sync soon, in the thread of this object: the control connection was lost for a while."""
        self._nudged.set()

    def ensure_fresh(self) -> bool:
        """Sync in the calling thread when the last sync is older than the interval, as after a suspended process.

        While the store is known to be down this returns at once: the worker goes on with what it knows. Says whether it
        looked, which may have taken as long as the store took to answer.
        """
        ago = self.synced_ago
        if overdue := (ago is None or ago > 1.5 * self._interval) and self.trouble is None:
            self.sync()
        return overdue

    def sync(self) -> bool:
        """Whether the cache now holds everything that the store held when this was called.

        Raises :class:`~stem_kombu.errors.StoreCorrupt` before anything was read; later that is logged and shown.
        """
        with self._sync_lock:
            began = self._clock.monotonic()
            try:
                self._keep_house(began)
                if self._loaded:
                    self._take(self._store.since(self._namespace, self._cache.revision))
                else:
                    # The revision is read first: whatever commits while the load runs is newer, and the next look gets it.
                    revision = self._store.revision(self._namespace)
                    self._take(self._store.load(self._namespace), advance=False)
                    self._cache.advance(revision)
                    self._loaded = True
            except StoreUnavailable as error:
                self._failed(error)
                return False
            except StoreError as error:
                if not self._loaded:
                    raise
                self._failed(error)
                return False
            if self.trouble is not None:
                logger.info("the revoke store answers again; in step at revision %d", self._cache.revision)
            self.trouble = None
            self._synced_mono = began
            return True

    def stop(self) -> None:
        self._background.stop()
        with self._told:
            self._told.notify_all()  # a start that still waits gives up

    # -- inside -------------------------------------------------------------------------------------------------------

    def _end_soon(self) -> None:
        self._stopped.set()
        self._nudged.set()

    def _wait(self, seconds: float, stops: int) -> None:
        with self._told:
            self._told.wait_for(lambda: self._is_told(stops), seconds)

    def _is_told(self, stops: int) -> bool:
        return self._gave_up or self._background.stops != stops

    def _take(self, records: Iterator[Revocation], *, advance: bool = True) -> None:
        records = iter(records)
        while chunk := list(islice(records, _CHUNK)):
            self._apply(chunk)
            if advance:
                self._cache.advance(chunk[-1].version)

    def _keep_house(self, now: float) -> None:
        if self._kept_house_mono is not None and now - self._kept_house_mono < _HOUSEKEEPING:
            return
        self._cache.set_store_time(self._store.now())
        self._store.prune(self._namespace)
        self._cache.prune(self._cache.now())
        self._kept_house_mono = now

    def _failed(self, error: StoreError) -> None:
        if self.trouble is None:
            logger.warning("the revoke store can't be read, working with revision %d: %s", self._cache.revision, error)
        self.trouble = str(error)

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            wait = self._interval if not failures else min(self._interval, backoff(failures))
            self._nudged.wait(wait)
            self._nudged.clear()
            if self._stopped.is_set():
                return
            try:
                failures = 0 if self.sync() else failures + 1
            except Exception as error:
                # The boundary of the thread that keeps this worker in step: it must outlive whatever a store raises.
                failures += 1
                if self.trouble is None:
                    logger.exception("the revoke store can't be read")
                self.trouble = str(error) or type(error).__name__
