"""The worker's beats: into the roster, and onto the stream that ``stem worker status --follow`` listens to.

A beat that can't be written is logged once and tried again at the next interval; the worker goes on.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path

from stem_kombu.backends.base import Roster
from stem_kombu.backends.heartbeat import Heartbeat
from stem_kombu.background import Background
from stem_kombu.clock import Clock, from_epoch
from stem_kombu.control.base import Standing, WorkerIdentity
from stem_kombu.errors import ConfigurationError, StoreError

logger = logging.getLogger(__name__)


class Heartbeats:
    """Beats in a thread of its own.

    ``make()`` says how the worker stands; ``publish(beat)`` puts a beat on the stream and never blocks; ``tick()`` is
    called after each beat, for what must happen now and then. Where the fleet has keys, ``sign(beat, now)`` signs a beat, and
    ``believed(beat, now)`` says whether another's can be believed, at what age.
    """

    def __init__(
        self,
        roster: Roster,
        make: Callable[[], Heartbeat],
        publish: Callable[[Heartbeat], None],
        tick: Callable[[], None],
        *,
        interval: float,
        clock: Clock,
        sign: Callable[[Heartbeat, datetime], Heartbeat] | None = None,
        believed: Callable[[Heartbeat, datetime], Heartbeat | None] | None = None,
    ) -> None:
        self._roster = roster
        self._plain = make
        self._sign, self._believed = sign, believed
        self._publish = publish
        self._tick = tick
        self._interval = interval
        self._clock = clock
        self._offset = 0.0
        #: What the id was claimed with, until the roster is left.
        self._claimed: Heartbeat | None = None
        self._nudged = threading.Event()
        self._stopped = threading.Event()
        self._background = Background(
            self._run, "stem-heartbeats", begin=self._begin, wake=self._end_soon, end=self._leave
        )
        #: The roster's last failure while it is down, else ``None``.
        self.trouble: str | None = None
        #: When this worker took its id, in seconds by the roster's clock; ``None`` before. What was issued earlier was
        #: said to a predecessor.
        self.born: float | None = None

    def roster_now(self) -> float:
        """Seconds since the epoch by the roster's clock, as far as the last beat told."""
        return self._clock.now() + self._offset

    def claim(self) -> None:
        """Take the worker id, or raise :class:`ConfigurationError` when another live worker has it.

        A worker that was killed leaves its entry behind; when its process was on this host and is gone, its successor
        takes the id over at once instead of waiting for the entry to age.
        """
        plain = self._plain()
        before = self._clock.now()
        now = self._roster.view(plain.namespace).now
        self._note(before, now)
        beat = self._signed(plain)
        holder = self._roster.claim(beat)
        if holder is not None and self._believed is not None:
            holder = self._believed(holder, now)
            if holder is not None and not holder.holds_its_id(now):
                holder = None  # an old beat that somebody put back
        if holder is None or (
            holder.hostname == beat.hostname and (holder.pid == beat.pid or not _is_running(holder.pid))
        ):
            self._claimed = beat
            self.born = self._roster.beat(beat).timestamp()
            return
        raise ConfigurationError(
            f"worker id {beat.worker!r} is taken by a live worker: host {holder.hostname}, process {holder.pid}",
            hint="give this one another --name, or wait until the other's heartbeats have stopped",
        )

    def start(self) -> None:
        """Beat once now (a failure is raised to whoever starts the worker), then every interval."""
        self._background.start()

    def nudge(self) -> None:
        """Beat now: something changed that others should see."""
        self._nudged.set()

    def stop(self) -> None:
        """Leave the roster at once, so that nobody waits for this worker any more; also when it has claimed its id only."""
        self._background.stop()
        if self._claimed is not None:
            self._forget(self._claimed)

    def _begin(self) -> None:
        self._stopped.clear()
        self._beat(self._make())

    def _end_soon(self) -> None:
        self._stopped.set()
        self._nudged.set()

    def _leave(self) -> None:
        last = self._make()
        self._publish(last)
        self._forget(last)

    def _forget(self, last: Heartbeat) -> None:
        self._claimed = None
        try:
            self._roster.leave(last.namespace, last.worker, last.boot)
        except StoreError as error:
            logger.warning("worker %s could not leave the roster and will look stale: %s", last.worker, error)

    def _beat(self, beat: Heartbeat) -> None:
        before = self._clock.now()
        self._note(before, self._roster.beat(beat))
        self._publish(beat)

    def _note(self, before: float, roster_now: datetime) -> None:
        self._offset = roster_now.timestamp() - (before + self._clock.now()) / 2

    def _make(self) -> Heartbeat:
        return self._signed(self._plain())

    def _signed(self, beat: Heartbeat) -> Heartbeat:
        return beat if self._sign is None else self._sign(beat, from_epoch(self.roster_now()))

    def _run(self) -> None:
        while True:
            self._nudged.wait(self._interval)
            self._nudged.clear()
            if self._stopped.is_set():
                return
            try:
                self._beat(self._make())
                self.trouble = None
            except StoreError as error:
                if self.trouble is None:
                    logger.warning("heartbeats can't be recorded: %s", error)
                self.trouble = str(error)
                self._publish(self._make())
            except Exception:
                # The boundary of the thread by which others know that this worker lives.
                logger.exception("a heartbeat failed")
            try:
                self._tick()
            except Exception:
                # The same: what is done on the side must not end it.
                logger.exception("housekeeping failed")


def beat_of(
    who: WorkerIdentity,
    standing: Standing,
    totals: Mapping[str, int],
    *,
    inbox: str,
    interval: float,
    now: datetime,
) -> Heartbeat:
    """What a worker says of itself."""
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
        rss_bytes=rss_bytes(),
        load_avg=load_avg(),
        uptime=standing.uptime,
        totals=totals,
        timestamp=now,
    )


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def rss_bytes() -> int | None:
    """This process's resident memory in bytes, ``None`` where the platform doesn't tell cheaply."""
    try:
        return int(Path("/proc/self/statm").read_bytes().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return None


def load_avg() -> float | None:
    """The machine's load average over one minute."""
    try:
        return os.getloadavg()[0]
    except OSError:
        return None
