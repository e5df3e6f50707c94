"""Both kinds of executors behind one: a job goes where its task's mode says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from stem_kombu.clock import SYSTEM, Clock
from stem_kombu.execution.base import Job, Observer, Stop
from stem_kombu.execution.child.loading import refuse_start_while_loading
from stem_kombu.execution.child.setup import ChildOptions, ChildSetup
from stem_kombu.execution.inline import InlineExecutor
from stem_kombu.execution.pool.launcher import leave_to_parent
from stem_kombu.execution.pool.pool import IsolatePool
from stem_kombu.ladder import Ladder
from stem_kombu.revocation import Revocation
from stem_kombu.slots import SlotView
from stem_kombu.task import Mode

if TYPE_CHECKING:
    from stem_kombu.app import Stem


class Executors:
    """An :class:`~stem_kombu.execution.base.Executor` made of an inline one and, where there are isolates, a pool."""

    def __init__(self, inline: InlineExecutor, pool: IsolatePool | None) -> None:
        self._inline = inline
        self._pool = pool
        self._all: list[InlineExecutor | IsolatePool] = [inline] if pool is None else [pool, inline]

    @classmethod
    def build(
        cls,
        app: Stem,
        observer: Observer,
        *,
        isolates: int,
        inline: int,
        children: ChildOptions,
        clock: Clock = SYSTEM,
    ) -> Executors:
        """What the application's tasks need. Raises :class:`ConfigurationError` when children could not find it."""
        pool = None
        if isolates:
            pool = IsolatePool(
                isolates,
                ChildSetup.of(app, children),
                observer,
                max_tasks_per_child=children.max_tasks,
                max_rss_per_child=children.max_rss,
                start_method=children.start_method,
                clock=clock,
            )
        return cls(InlineExecutor(inline, observer, clock=clock), pool)

    @property
    def slots(self) -> int:
        return sum(executor.slots for executor in self._all)

    def start(self) -> None:
        refuse_start_while_loading()
        for executor in self._all:
            executor.start()

    def submit(self, job: Job) -> None:
        isolate = job.task.mode is Mode.ISOLATE and self._pool is not None
        (self._pool if isolate and self._pool is not None else self._inline).submit(job)

    def stop_job(
        self, token: int, why: Stop, revocation: Revocation | None = None, ladder: Ladder | None = None
    ) -> bool:
        pool = self._pool
        in_child = pool is not None and pool.stop_job(token, why, revocation, ladder)
        return in_child or self._inline.stop_job(token, why, revocation, ladder)

    def withdraw(self, token: int) -> bool:
        return (self._pool is not None and self._pool.withdraw(token)) or self._inline.withdraw(token)

    @property
    def isolates(self) -> int | None:
        """How many children there are to be, ``None`` where no task is an isolate."""
        return None if self._pool is None else self._pool.slots

    @property
    def retiring(self) -> int:
        """How many children are too many, and run something yet."""
        return 0 if self._pool is None else self._pool.retiring

    def is_about_to_begin(self, token: int) -> bool:
        """Whether the job was given its slot in this process, and its handler was not called yet. Children report their own."""
        return self._inline.is_about_to_begin(token)

    def resize(self, isolates: int) -> None:
        """Have so many children: new ones appear at once, and those that are too many go after what they run."""
        if self._pool is not None:
            self._pool.resize(isolates)

    def set_log_levels(self, levels: Mapping[str, str]) -> None:
        """Have these loggers of the children log from these levels on, and all others from their own."""
        if self._pool is not None:
            self._pool.set_log_levels(levels)

    def view(self) -> Sequence[SlotView]:
        return [slot for slots in self.views().values() for slot in slots]

    def views(self) -> dict[Mode, Sequence[SlotView]]:
        """The slots by mode: all children, and of inline slots those in use."""
        inline = {Mode.INLINE: self._inline.view()} if self._inline.slots else {}
        return inline if self._pool is None else {Mode.ISOLATE: self._pool.view(), **inline}

    @property
    def inline_slots(self) -> int:
        return self._inline.slots

    @property
    def children_lost(self) -> Mapping[str, int]:
        """How many children were lost, by what they were doing."""
        return {} if self._pool is None else self._pool.lost

    def stop(self, timeout: float | None = None) -> None:
        # Each waits for its own; with a bound, the second gets what the first didn't need only in the worst case twice.
        for executor in self._all:
            executor.stop(timeout)

    def runs_caller(self) -> bool:
        """Whether the calling thread or coroutine is a handler that runs in this process: a :meth:`stop` would wait for it."""
        return self._inline.runs_caller()

    def leave_to_parent(self) -> None:
        """In a process that was forked off by this one's: let go of the children, which are the parent's."""
        if self._pool is not None:
            leave_to_parent(self._pool.descriptors)

    def hurry(self) -> None:
        """While :meth:`stop` waits: release what runs now."""
        for executor in self._all:
            executor.hurry()
