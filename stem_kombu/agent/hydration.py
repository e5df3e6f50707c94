"""Store to cache: before the first task, after every reconnect, and every sync interval (G2).

A worker learns of revocations here even if every broadcast is lost. Both go the same way: ``apply``. A store that was set back is
read anew, and this worker gives back what the store has lost and the worker holds (:mod:`stem_kombu.agent.store_history`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from functools import partial
from itertools import islice

from stem_kombu import timeouts
from stem_kombu.agent.record_sync import RecordSync
from stem_kombu.agent.store_clock import StoreClock
from stem_kombu.agent.store_history import LARGE_SAMPLE, History
from stem_kombu.clock import Clock
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service, pulses_here
from stem_kombu.control.server.worker_view import RevocationFacts, SetBack
from stem_kombu.errors import ConfigurationError, StoreError, StoreRefused, StoreUnavailable
from stem_kombu.revocation import Revocation
from stem_kombu.revocation_cache import RevocationCache
from stem_kombu.revocation_page import ids_of
from stem_kombu.stores.base import Glance, RevokeStore
from stem_kombu.transports.connections import backoff
from stem_kombu.transports.outages import Outage

logger = logging.getLogger(__name__)

_CHUNK = 1000
#: After a store was set back it is looked at this often within one interval: other workers are putting back.
_LOOKS = 16
#: Ids that a warning names.
_NAMED = 10


class Hydration:
    """Keeps a cache in step with a store, in a thread of its own and on request.

    ``apply`` takes revocations into the cache and stops what they concern. ``records`` hands out the control records.
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
        worker: str = "",
        records: RecordSync | None = None,
    ) -> None:
        self._worker = worker
        self._records = records or RecordSync(store, namespace, {})
        self._history = History(cache)
        self._another = False
        self._hurry_until = float("-inf")
        self._set_back: SetBack | None = None
        self._store_clock = StoreClock(store, cache, clock)
        self._store = store
        self._namespace = namespace
        self._cache = cache
        self._apply = apply
        self._interval = interval
        self._clock = clock
        self._sync_lock = threads.Lock()
        self._nudged = threads.Event()
        self._stopped = threads.Event()
        self._told = threads.Condition()
        self._gave_up = False
        self._background = Service(
            self._run,
            "stem-hydration",
            begin=self._stopped.clear,
            wake=self._end_soon,
            period=interval + timeouts.MOVES,
        )
        self._synced = pulses_here().synced
        self._synced_mono: float | None = None
        self._kept_house_mono: float | None = None
        self._loaded = False
        self._outage = Outage("the revoke store can't be read", store.url, clock)
        #: The store's last failure while it is down, else ``None``; shown by ``inspect``.
        self.trouble: str | None = None
        self._refusal: StoreRefused | None = None

    @property
    def synced_ago(self) -> float | None:
        """Seconds since the cache last held everything the store held; ``None`` before the first time."""
        return None if self._synced_mono is None else self._clock.monotonic() - self._synced_mono

    def facts(self) -> RevocationFacts:
        """How cache and store stand, for ``inspect``."""
        return RevocationFacts(
            count=len(self._cache),
            revision=self._cache.highest,
            synced_ago=self.synced_ago,
            store_error=self.trouble,
            set_aside=self._store.quarantine.of(self._namespace),
            set_back=self._set_back,
            clock_ahead=self._store_clock.ahead,
        )

    def start(self, *, timeout: float, allow_unsynced: bool = False) -> None:
        """Return once the store has been read; then stay in step.

        Raises :class:`~stem_kombu.errors.StoreUnavailable` when that can't be done within ``timeout`` seconds, unless
        ``allow_unsynced``, or when :meth:`give_up` or meanwhile :meth:`stop` was called; at once for a store that will go on
        refusing this user (:class:`~stem_kombu.errors.StoreRefused`), and :class:`~stem_kombu.errors.StoreCorrupt` for
        one that can't be read.
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
            if self._refusal is not None:
                raise self._refusal
            left = deadline - self._clock.monotonic()
            if left > 0:
                self._wait(min(left, backoff(attempt)), stops)
            if self._is_told(stops):
                raise StoreUnavailable(f"stop requested before the revoke store could be read: {self.trouble}")
            if left <= 0:
                raise StoreUnavailable(
                    f"the revoke store could not be read within {timeout:g} s: {self.trouble}",
                    hint="start it, or pass --allow-unsynced to run tasks that may have been revoked",
                )
        if not self._background.start(stops):
            raise StoreUnavailable("stop requested while the revoke store was read")

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
        synced = self._synced_mono
        if synced is not None and self._clock.monotonic() - synced <= 1.5 * self._interval:
            return False
        if overdue := self.trouble is None:
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
                self._look()
            except StoreUnavailable as error:
                self._failed(error)
                return False
            except StoreError as error:
                if not self._loaded:
                    raise
                self._failed(error)
                return False
            self.trouble = None
            self._outage.worked()
            self._synced_mono = began
            self._synced.beat()
            return True

    def stop(self) -> None:
        self._background.stop()
        with self._told:
            self._told.notify_all()  # a start that still waits gives up

    def _end_soon(self) -> None:
        self._stopped.set()
        self._nudged.set()

    def _wait(self, seconds: float, stops: int) -> None:
        with self._told:
            self._told.wait_for(partial(self._is_told, stops), seconds)

    def _is_told(self, stops: int) -> bool:
        return self._gave_up or self._background.stops != stops

    def _look(self) -> None:
        sample = self._history.sample()
        glance = self._store.glance(self._namespace, [record.task_id for record in sample])
        if self._loaded and glance.revision > self._cache.revision:
            self._records.look(glance.revision)  # what was undone is not lost
            sample = self._history.still_held(sample)
        if not self._loaded:
            # The revision was read first: whatever commits while the load runs is newer, and the next look gets it.
            self._take(self._store.pages(self._namespace), advance=False)
        elif (why := self._why_anew(glance, sample)) is not None:
            self._read_anew(why)
        elif glance.revision > self._cache.revision:
            self._take(self._store.pages(self._namespace, self._cache.revision))
        self._cache.advance(glance.revision)
        self._records.look(glance.revision)
        self._loaded, self._another, self._history.identity = True, False, glance.identity
        if self._history.lost:
            self._put_back()

    def _why_anew(self, glance: Glance, sample: Sequence[Revocation]) -> str | None:
        """Why all of the store has to be read again, empty where nothing is known to be lost; ``None`` when it need not."""
        if self._another:
            return ""
        if (why := self._history.broken(glance, sample)) is not None or not self._history.is_another(glance):
            return why
        logger.info("another server, or another copy of the data, answers for the revoke store %s", self._store.url)
        if len(self._cache) <= LARGE_SAMPLE:
            return ""
        sample = self._history.sample(LARGE_SAMPLE)
        return self._history.broken(self._store.glance(self._namespace, [one.task_id for one in sample]), sample)

    def _read_anew(self, why: str) -> None:
        """Read everything, and find out what the store has lost of what is held here. Nothing ceases to be in force."""
        if why:
            logger.warning("the revoke store %s was set back: %s; reading all of it again", self._store.url, why)
        self._another = True  # until this has come to its end
        self._hurry_until = self._clock.monotonic() + self._interval
        self._cache.restart()
        self._records.read_anew()
        for page in self._store.pages(self._namespace, 0):
            held = self._cache.known(ids_of(page))
            self._history.compare(page, held, self._cache.now())
            self._apply(page)
        self._apply(self._history.read_to_the_end(self._store, self._namespace))

    def _put_back(self) -> None:
        """Give the store back what it has lost, under new versions; what another worker was quicker with is left out."""
        history, found = self._history, 0
        named = list(islice(history.lost, _NAMED))
        while history.lost:
            batch = list(islice(history.lost.values(), _CHUNK))
            self._take(self._store.pages(self._namespace, self._cache.revision))
            if wanted := history.still_lost(batch):
                try:
                    self._apply(self._store.put_back(self._namespace, wanted))
                except ConfigurationError as error:
                    logger.error("%d revocations can't be put back into the revoke store: %s", len(wanted), error)
                else:
                    found += len(wanted)
            for record in batch:
                history.lost.pop(record.task_id, None)
        if not found:
            return
        self._set_back = SetBack(self._cache.now(), found, tuple(named))
        logger.warning(
            "the revoke store %s had lost %d revocations that worker %s held and put back: %s%s",
            self._store.url,
            found,
            self._worker,
            ", ".join(named),
            ", …" if found > len(named) else "",
            extra={"worker": self._worker, "namespace": self._namespace},
        )

    def _take(self, pages: Iterable[Sequence[Revocation]], *, advance: bool = True) -> None:
        for page in pages:
            self._apply(page)
            if advance:
                self._cache.advance(page[-1].version)

    def _keep_house(self, now: float) -> None:
        if self._kept_house_mono is not None and now - self._kept_house_mono < timeouts.STORE_HOUSEKEEPING:
            if self._store_clock.is_moved:
                self._read_clock()
            return
        self._read_clock()
        self._store.prune_after(self._namespace, timeouts.REVOCATION_GRACE)
        self._store.prune_records(self._namespace, self._cache.now() - timedelta(seconds=timeouts.REVOCATION_GRACE))
        self._cache.prune(self._cache.now())
        if self._store.quarantine.of(self._namespace) and not self._another:
            self._loaded = False  # what was mended meanwhile is read, and no longer counted
        self._kept_house_mono = now

    def _read_clock(self) -> None:
        """Expiry is judged by the store's clock; what had expired by the old time may be live by the new one."""
        if self._store_clock.read():
            self._another = self._loaded

    def _failed(self, error: StoreError) -> None:
        self.trouble = str(error)
        self._refusal = error if isinstance(error, StoreRefused) else None
        self._outage.failed(error)

    def _run(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            # Sooner than promised: what one worker puts back, others must have read within the interval as well.
            wait = self._interval * timeouts.SYNC_SHARE
            wait = wait if not failures else min(wait, backoff(failures))
            if self._clock.monotonic() < self._hurry_until:
                wait = min(wait, self._interval / _LOOKS)
            self._background.pulse.beat()
            self._nudged.wait(wait)
            self._nudged.clear()
            while not self._stopped.is_set() and (wait := self._outage.turn()) > 0:
                self._background.pulse.beat()
                self._stopped.wait(wait)
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
