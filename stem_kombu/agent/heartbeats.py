"""The worker's heartbeats: to the roster, and to the stream that ``stem worker status --follow`` reads.

A heartbeat that can't be written is logged once and tried again at the next interval; the worker goes on. It never silently
replaces that of another live worker: a worker that finds another with its id shows that in each heartbeat, and so does the other.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol

from stem_kombu import machine, timeouts
from stem_kombu.agent.claims import Claims, described
from stem_kombu.agent.resources import Resources
from stem_kombu.agent.roster_place import RosterPlace
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.backends.processes import Process
from stem_kombu.clock import from_epoch
from stem_kombu.concurrency import threads
from stem_kombu.concurrency.service import Service
from stem_kombu.control.server.worker_view import WorkerIdentity, WorkerSummary
from stem_kombu.errors import ConfigurationError, StoreCorrupt, StoreError, StoreUnavailable
from stem_kombu.transports.outages import Outage

logger = logging.getLogger(__name__)


class Stream(Protocol):
    """Where heartbeats go beside the roster."""

    @property
    def inbox(self) -> str:
        """The queue by which this worker is reached."""

    def publish_heartbeat(self, beat: Heartbeat) -> None:
        """Send it to those who follow; never blocks."""


class HeartbeatView(Protocol):
    """What a heartbeat tells of its worker."""

    @property
    def identity(self) -> WorkerIdentity: ...

    def standing(self) -> WorkerSummary: ...

    def totals(self) -> Mapping[str, int]: ...


@dataclass(frozen=True, slots=True)
class HeartbeatOptions:
    """``interval`` is in seconds. ``insists``: without its id the worker does not start."""

    interval: float
    insists: bool = True


class Heartbeats:
    """Sends heartbeats in a thread of its own, to the roster and to ``stream``, and keeps ``place`` up to date.

    ``tick()`` is called after each of them. With keys they are signed, and those of others count as far as they are verified.
    """

    def __init__(
        self,
        resources: Resources,
        view: HeartbeatView,
        stream: Stream,
        place: RosterPlace,
        options: HeartbeatOptions,
        *,
        tick: Callable[[], None],
    ) -> None:
        self._roster = resources.roster
        self._verifier = resources.verifier
        self._clock = resources.clock
        self._view = view
        self._stream = stream
        self._place = place
        self._tick = tick
        self._interval, self._insists = options.interval, options.insists
        self._process = Process.here()
        self._claims = Claims(self._process)
        self._giving_up, self._gave_up = threads.Condition(), False
        self._conflict_until = 0.0
        #: What the id was claimed with, until the roster is left.
        self._claimed: Heartbeat | None = None
        self._nudged = threads.Event()
        self._stopped = threads.Event()
        self._background = Service(
            self._run,
            "stem-heartbeats",
            begin=self._begin,
            wake=self._end_soon,
            end=self._leave,
            period=options.interval + timeouts.MOVES,
        )
        self._outage = Outage("heartbeats can't be recorded", self._roster.url, self._clock)
        #: The roster's last failure while it is down, else ``None``.
        self.trouble: str | None = None

    @property
    def conflict(self) -> str | None:
        """The other live worker that was last found under this worker's id, in words; ``None`` while there is none."""
        return self._place.conflict

    def roster_now(self) -> float:
        """Seconds since the epoch by the roster's clock, as far as the last heartbeat showed it."""
        return self._place.now()

    def claim(self) -> None:
        """Take the worker id, or raise :class:`ConfigurationError` when another live worker has it.

        A worker that was killed leaves its entry behind. Its successor takes the id over at once where it can see that the
        process has ended, else when the entry was due to be renewed and was not: after one interval of the other at most.
        Where this worker must start all the same (``insists`` is false) it does not wait: it looks again with each heartbeat.

        Raises :class:`StoreUnavailable` when :meth:`give_up` was called meanwhile.
        """
        told = False
        while (holder := self._take()) is not None:
            left = self._claims.left(holder, self._clock.monotonic())
            if not self._insists:
                self._place.hold_since(self._place.now())
                if left is None:
                    self._meet(holder)
                return
            if left is None:
                raise ConfigurationError(
                    f"worker id {holder.worker!r} is taken by a live worker: {described(holder)}",
                    hint="give this one another --name, or stop the other",
                )
            if not told:
                told = True
                logger.warning(
                    "worker id %s was last used by %s, which may live: waiting up to %.1f s for its next heartbeat",
                    holder.worker,
                    described(holder),
                    left,
                )
            with self._giving_up:
                if self._giving_up.wait_for(lambda: self._gave_up, min(timeouts.CLAIM_LOOK, left)):
                    raise StoreUnavailable(f"stop requested before worker id {holder.worker!r} was free")

    def give_up(self) -> None:
        """Don't wait for the id any longer. From any thread, and in a signal handler."""
        with self._giving_up:
            self._gave_up = True
            self._giving_up.notify_all()

    def start(self) -> None:
        """Send a heartbeat now, then every interval. Raises :class:`StoreError` when the first can't be written."""
        self._background.start()

    def nudge(self) -> None:
        """Send a heartbeat soon: something changed that operators should see."""
        self._nudged.set()

    def stop(self) -> None:
        """Leave the roster at once, so that no client waits for this worker; also when it has only claimed its id."""
        self._background.stop()
        if self._claimed is not None:
            self._forget(self._claimed)

    def _begin(self) -> None:
        self._stopped.clear()
        self._beat()

    def _end_soon(self) -> None:
        self._stopped.set()
        self._nudged.set()

    def _leave(self) -> None:
        last = self._make()
        self._stream.publish_heartbeat(last)
        self._forget(last)

    def _forget(self, last: Heartbeat) -> None:
        self._claimed = None
        self._claims.forget(last.boot)
        try:
            self._roster.leave(last.namespace, last.worker, last.boot)
        except StoreError as error:
            logger.warning(
                "worker %s could not remove its entry from the roster, which will show it as stale: %s",
                last.worker,
                error,
            )

    def _take(self) -> Heartbeat | None:
        """Beat, unless the id may be another live worker's: then its entry."""
        dead: Heartbeat | None = None
        while True:
            beat, before = self._make(), self._clock.now()
            try:
                now, holder = self._roster.offer(beat, dead=dead)
            except StoreCorrupt as error:
                logger.warning("%s; a heartbeat replaces it", error)
                now, holder = self._roster.beat(beat), None
            self._place.set_time(before, now)
            if holder is None:
                if self._claimed is None:
                    self._claims.add(beat.boot)
                    self._place.hold_since(now.timestamp())
                self._claimed = beat
                return None
            seen = self._verifier.verified(holder, now)
            if seen is not None and not self._claims.is_over(seen, holder, now, self._clock.monotonic()):
                return holder
            dead = holder

    def _beat(self) -> None:
        holder = self._take()
        now = self._clock.monotonic()
        if holder is not None:
            if self._claimed is None and self._claims.left(holder, now) is not None:
                return  # the id may be free soon
            self._meet(holder)
            before, beat = self._clock.now(), self._make()
            # Over the other's entry, as it does to ours: so both see it, and either shows it to an operator.
            self._place.set_time(before, self._roster.beat(beat))
            self._claimed = beat
        elif self._place.conflict is not None and now >= self._conflict_until:
            logger.warning("no other worker uses worker id %s any more", self._view.identity.worker)
            self._place.conflict = None
        if self._claimed is not None:
            self._stream.publish_heartbeat(self._claimed)

    def _meet(self, other: Heartbeat) -> None:
        """Remember another live worker under this worker's id for as long as it may live."""
        self._conflict_until = self._clock.monotonic() + timeouts.STALE_INTERVALS * other.interval
        if self._place.conflict is None:
            logger.error(
                "worker id %s is also used by %s: commands reach one of them at random; stop one, or give it another name",
                other.worker,
                described(other),
            )
        self._place.conflict = described(other)

    def _make(self) -> Heartbeat:
        beat = heartbeat_of(
            self._view,
            inbox=self._stream.inbox,
            interval=self._interval,
            now=self._clock.utcnow(),
            process=self._process,
        )
        return self._verifier.sign(beat, from_epoch(self._place.now()))

    def _run(self) -> None:
        while True:
            self._background.pulse.beat()
            self._nudged.wait(self._interval if self._claimed is not None else min(timeouts.CLAIM_LOOK, self._interval))
            self._nudged.clear()
            if self._stopped.is_set():
                return
            try:
                self._beat()
                self.trouble = None
                self._outage.worked()
            except StoreError as error:
                self.trouble = str(error)
                self._outage.failed(error)
                self._stream.publish_heartbeat(self._make())
            except Exception:
                # The boundary of the thread by which others know that this worker lives.
                logger.exception("a heartbeat failed")
            try:
                self._tick()
            except Exception:
                # The same: what is done on the side must not end it.
                logger.exception("housekeeping failed")


def heartbeat_of(
    view: HeartbeatView, *, inbox: str, interval: float, now: datetime, process: Process | None
) -> Heartbeat:
    """What a worker shows of itself on the roster. ``now`` is its own time."""
    who, standing = view.identity, view.standing()
    return Heartbeat(
        namespace=who.namespace,
        worker=who.worker,
        boot=who.boot,
        inbox=inbox,
        interval=interval,
        hostname=who.hostname,
        pid=who.pid,
        version=who.version,
        state=standing.state,
        concurrency=standing.concurrency,
        in_flight=standing.in_flight,
        queues=tuple(standing.queues),
        rss_bytes=machine.rss_bytes(),
        load_avg=machine.load_avg(),
        uptime=max(0.0, standing.uptime),  # by a wall clock, which may have stepped back
        totals=view.totals(),
        timestamp=now,
        process=process,
        conflict=standing.conflict,
        directives=standing.directives,
        ignores_directives=standing.ignores_directives,
        paused=tuple(sorted(standing.paused)),
        slots=standing.slots,
    )
