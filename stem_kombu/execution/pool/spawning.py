"""Starting the children of a pool: which slots are due for one, and when to give up.

Used under the pool's lock only.
"""

from __future__ import annotations

import logging
from collections.abc import Container, Sequence

from stem_kombu import timeouts
from stem_kombu.clock import Clock
from stem_kombu.execution.child.setup import ChildSetup
from stem_kombu.execution.frames import LoadFailed
from stem_kombu.execution.pool.child_handle import ChildHandle
from stem_kombu.execution.pool.launcher import ChildLauncher

logger = logging.getLogger(__name__)

#: Deaths in a row while loading the application that make a start fail.
_DEATHS_AT_START = 3


class ChildSpawner:
    """Raises :class:`~stem_kombu.errors.ConfigurationError` for an unknown start method."""

    def __init__(self, setup: ChildSetup, start_method: str, clock: Clock) -> None:
        self._setup = setup
        self._clock = clock
        #: When the slots get their next child (monotonic).
        self.due: dict[int, float] = {}
        #: Why the application can't be loaded at all, as the last child reported.
        self.load_failure: str | None = None
        #: Why the last child did not start, though the next one may.
        self.trouble: str | None = None
        self._deaths = 0
        self._failed_starts = 0
        self._warned = False
        self._launcher = ChildLauncher(setup, start_method, clock)

    def begin(self) -> None:
        """Prepare for a new set of children: the failures of the last one are forgotten."""
        self.due, self.load_failure, self.trouble, self._deaths, self._failed_starts = {}, None, None, 0, 0
        self._launcher.begin()

    @property
    def descriptors(self) -> tuple[int, ...]:
        """What keeps the process alive that forks children."""
        return self._launcher.descriptors

    def end(self) -> None:
        """Free what the start of children needed; no child is left."""
        self._launcher.end()

    def spawn(self, slot: int, foreign: Sequence[int]) -> ChildHandle:
        """A new child in the slot. ``foreign`` are descriptors that a forked child must close."""
        return self._launcher.launch(slot, foreign)

    def fill(self, slots: int, taken: Container[int], now: float) -> None:
        """Have a child started in each of so many slots that has none, and in no other."""
        self.due = {slot: due for slot, due in self.due.items() if slot < slots}
        for slot in range(slots):
            if slot not in taken:
                self.due.setdefault(slot, now)

    def take_due(self, now: float) -> list[int]:
        """The slots that get their next child by now (monotonic), of which each is told once."""
        slots = [slot for slot, due in self.due.items() if due <= now]
        for slot in slots:
            del self.due[slot]
        return slots

    def try_spawn(self, slot: int, foreign: Sequence[int]) -> ChildHandle | None:
        """As :meth:`spawn`; ``None`` when no child could be started, and the slot is due again later."""
        try:
            return self.spawn(slot, foreign)
        except Exception as error:  # noqa: BLE001 - out of processes, memory or descriptors: the other children go on
            self._failed(slot, error)
            return None

    def loaded(self, rss: int | None) -> None:
        """A child has loaded the application, after which it has that many bytes of resident memory."""
        most = self._setup.max_rss
        if most is not None and rss is not None and rss >= most and not self._warned:
            self._warned = True
            logger.warning(
                "children have %.0f MB before their first task and are replaced from %.0f MB on, so that each task costs a new"
                " process: raise max_rss_per_child",
                rss / 1e6,
                most / 1e6,
            )
        self._deaths = self._failed_starts = 0
        self.trouble = None

    def _failed(self, slot: int, error: Exception) -> None:
        self._deaths += 1
        self.trouble = f"no child could be started: {error}"
        delay = self._delay()
        logger.error("no child could be started in slot %d, next try in %.1f s: %s", slot, delay, error)
        self.due[slot] = self._clock.monotonic() + delay

    def died(self, *, started: bool, load_failure: LoadFailed | None) -> None:
        """A child has died, before it had loaded the application unless ``started``."""
        if load_failure is not None and load_failure.again:
            self.trouble = load_failure.message
            self._failed_starts += 1
            self._deaths += load_failure.is_short
            logger.error("a child did not start, next try in %.1f s: %s", self._delay(), load_failure.message)
        elif load_failure is not None:
            self.load_failure = load_failure.message
            logger.error("a child can't load the application %s: %s", self._setup.target, load_failure.message)
        elif started:
            return
        else:
            self._deaths += 1

    def schedule_replacement(self, slot: int) -> None:
        """Schedule a new child for the slot of a dead one: the first at once, others later, as a child that dies while
        it starts is likely to do so again."""
        again_at_once = self._deaths < 2 and not self._failed_starts
        self.due[slot] = self._clock.monotonic() + (0.0 if again_at_once else self._delay())

    @property
    def is_given_up(self) -> bool:
        """Whether a start makes no sense any more."""
        return self.load_failure is not None or self._deaths >= _DEATHS_AT_START

    def problem(self, *, ready: bool) -> str | None:
        """Why the fleet is not complete, if it isn't; ``ready``: every child has loaded the application in time."""
        if self.load_failure is not None:
            return self.load_failure
        if self._deaths >= _DEATHS_AT_START:
            return self.trouble or "they end before the application is loaded"
        return (
            None
            if ready
            else f"not ready within {timeouts.CHILDREN_START:g} s{f': {self.trouble}' if self.trouble else ''}"
        )

    def explain(self, problem: str) -> str:
        """A sentence about what :meth:`problem` says."""
        what = "can't load" if self.load_failure is not None or self.trouble is None else "did not start with"
        return f"children {what} the application {self._setup.target}: {problem}"

    @property
    def hint(self) -> str:
        """What to try about it."""
        if self.load_failure is not None or self.trouble is None:
            return "the module must be importable by that name in a new process"
        return "the log has the error of each child"

    def _delay(self) -> float:
        return float(min(0.1 * 2.0 ** min(self._deaths + self._failed_starts, 10), 30.0))
