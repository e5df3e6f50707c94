"""Time, processes and threads that one seed decides about: who runs next, when, and when somebody is interrupted.

A simulated thread is a greenlet. It runs until it waits, or until it is about to take a lock and the seed says that
another thread is quicker. When nobody can run, the clock moves to whatever is due next; so an hour costs nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from heapq import heappop, heappush
from typing import Any

from greenlet import GreenletExit, getcurrent, greenlet

#: Mean number of lock operations between two interruptions.
_FUEL = 12
#: Seconds that a wait takes at least.
_LEAST = 1e-9


class Killed(GreenletExit):
    """Ends a thread whose process is no more. Not an ``Exception``: no boundary of the product catches it for long."""


class Process:
    """What dies at once. ``skew`` is how far its wall clock is off, in seconds."""

    def __init__(self, name: str, pid: int, skew: float = 0.0) -> None:
        self.name = name
        self.pid = pid
        self.skew = skew
        self.alive = True
        self.paused = False
        self.parked: list[Thread] = []
        self.threads: list[Thread] = []
        self.on_exit: list[Callable[[], None]] = []
        self.status: int | None = None
        #: The incarnation of a worker that this process belongs to, and the command that a client is about.
        self.worker = name
        #: Its process group: its own, until it is given another one.
        self.group = pid
        self.operation: str | None = None


class Thread:
    """A thread of a process; looks like :class:`threading.Thread` to who started it."""

    __slots__ = ("_joiners", "args", "carrier", "daemon", "finished", "name", "process", "started", "target", "wait_no",
                 "waiting", "woken")  # fmt: skip

    def __init__(
        self,
        group: None = None,
        target: Callable[..., Any] | None = None,
        name: str = "",
        args: tuple[Any, ...] = (),
        kwargs: None = None,
        *,
        daemon: bool | None = None,
        process: Process | None = None,
    ) -> None:
        self.target = target
        self.name = name
        self.args = args
        self.daemon = daemon
        current = KERNEL.current
        self.process = process or (current.process if current is not None else NOWHERE)
        self.carrier: Carrier | None = None
        self.started = self.finished = False
        self.waiting = self.woken = False
        self.wait_no = 0
        self._joiners: list[Thread] | None = None

    def start(self) -> None:
        self.started = True
        self.process.threads.append(self)
        if self.process.alive:
            KERNEL.ready.append(self)

    def is_alive(self) -> bool:
        return self.started and not self.finished

    def join(self, timeout: float | None = None) -> None:
        if self.finished or not self.started:
            return
        if self._joiners is None:
            self._joiners = []
        self._joiners.append(KERNEL.thread)
        KERNEL.block(timeout)

    def end(self) -> None:
        self.finished = True
        self.target, self.args = None, ()  # else it and its owner hold each other until somebody looks for garbage
        try:
            self.process.threads.remove(self)
        except ValueError:
            pass
        for joiner in self._joiners or ():
            KERNEL.wake(joiner)


class Carrier(greenlet):
    """A greenlet that carries one thread after the other: making one costs as much as thirty switches."""

    thread: Thread | None

    def run(self) -> None:
        kernel = KERNEL
        while True:
            thread = self.thread
            assert thread is not None and thread.target is not None
            try:
                thread.target(*thread.args)
            except Killed:
                pass
            except Exception as error:  # noqa: BLE001 - as a thread would: told, and no harm to others
                kernel.failures.append((f"thread {thread.name}", error))
            except SystemExit:
                pass
            thread.end()
            self.thread = kernel.current = None
            kernel.carriers.append(self)
            kernel.dispatch(None)


class Kernel:
    """One world's time and scheduler. There is one kernel in a process, used for one schedule after the other."""

    def __init__(self) -> None:
        self.carriers: list[Carrier] = []
        self.hub = getcurrent()
        self.reset(0)

    def reset(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.draw = self.random.random
        self.now = 0.0
        self.timers: list[tuple[float, int, Any, int]] = []
        self.sequence = 0
        self.ready: list[Thread] = []
        self.current: Thread | None = None
        self.fuel = 5
        self.switches = 0
        self.horizon = float("inf")
        self.over = True
        self.failures: list[tuple[str, BaseException]] = []
        self.processes: list[Process] = []
        self.pids = 100

    # -- for threads ------------------------------------------------------------------------------------------------

    @property
    def thread(self) -> Thread:
        assert self.current is not None, "not in a simulated thread"
        return self.current

    def block(self, timeout: float | None = None) -> bool:
        """Wait until somebody wakes this thread; ``False`` when the time was up first."""
        me = self.current
        assert me is not None
        me.wait_no = number = me.wait_no + 1
        me.waiting, me.woken = True, False
        if timeout is not None:
            self.sequence = sequence = self.sequence + 1
            # Time goes on, however short the wait: a few clocks differ in their last digits.
            heappush(
                self.timers, (self.now + max(timeout, _LEAST) if timeout > 0.0 else self.now, sequence, me, number)
            )
        self.dispatch(me)
        return me.woken

    def sleep(self, seconds: float) -> None:
        self.block(seconds)

    def wake(self, thread: Thread) -> None:
        if thread.waiting:
            thread.waiting, thread.woken = False, True
            self.ready.append(thread)

    def checkpoint(self) -> None:
        """A place where another thread may be quicker."""
        self.fuel -= 1
        if self.fuel < 0:
            self.yield_now()

    def yield_now(self) -> None:
        draw = self.draw()
        self.fuel = int(draw * 2 * _FUEL)
        me = self.current
        if me is None or self.over:
            return
        if draw < 0.1:
            self.block(self.draw() ** 3 * 0.2)  # the machine is busy elsewhere for a while
        elif self.ready:
            me.waiting = False
            self.ready.append(me)
            self.dispatch(me)

    def spawn(self, process: Process, target: Callable[..., Any], *args: Any, name: str = "main") -> Thread:
        thread = Thread(target=target, args=args, name=name, process=process)
        thread.start()
        return thread

    def at(self, seconds: float, action: Callable[[], None]) -> None:
        """Call ``action``, which must not wait, that many seconds from now."""
        self.sequence += 1
        heappush(self.timers, (self.now + seconds, self.sequence, action, -1))

    # -- processes --------------------------------------------------------------------------------------------------

    def process(self, name: str, skew: float = 0.0) -> Process:
        self.pids += 1
        process = Process(name, self.pids, skew)
        self.processes.append(process)
        return process

    def kill(self, process: Process, status: int = -9) -> None:
        """The process is gone, with all of its threads, wherever they are."""
        if not process.alive:
            return
        process.alive = False
        process.status = status
        for action in process.on_exit:
            action()
        if self.current is not None and self.current.process is process and not self.over:
            self.current.waiting = False
            self.dispatch(self.current)

    def pause(self, process: Process) -> None:
        process.paused = True

    def resume(self, process: Process) -> None:
        process.paused = False
        self.ready.extend(process.parked)
        process.parked = []

    # -- the scheduler ----------------------------------------------------------------------------------------------

    def dispatch(self, me: Thread | None) -> None:
        """Go on with whoever is next; returns when it is this thread's turn again."""
        ready, timers = self.ready, self.timers
        while True:
            if self.over:
                if me is not None and getcurrent() is not self.hub:
                    self.hub.switch()
                    self.current = me  # it is still the one that it was, for what asks on the way out
                    raise Killed
                if getcurrent() is not self.hub:
                    self.hub.switch()
                    return
                return
            if ready:
                chosen = last = ready.pop()
                if ready:
                    place = int(self.draw() * (len(ready) + 1))
                    if place < len(ready):
                        chosen = ready[place]
                        ready[place] = last
            elif timers:
                due, _, what, number = heappop(timers)
                if due > self.horizon:
                    self.over = True
                    continue
                if number < 0:
                    self.now = due
                    self.current = None  # an action is nobody's
                    what()
                    continue
                if not what.waiting or what.wait_no != number:
                    continue
                self.now = due
                what.waiting = False
                chosen = what
            else:
                self.over = True
                continue
            process = chosen.process
            if not process.alive:
                continue
            if process.paused:
                process.parked.append(chosen)
                continue
            self.switches += 1
            self.current = chosen
            if chosen is me:
                return
            carrier = chosen.carrier
            if carrier is not None:
                carrier.switch()
            else:
                self._begin(chosen)
            if me is None:
                # A carrier that was idle has been given its next thread, or the hub is back in charge.
                if getcurrent() is not self.hub:
                    return
                continue
            if self.over:
                self.current = me
                raise Killed
            return

    def _begin(self, chosen: Thread) -> None:
        # The carrier that has just ended a thread may go on with the next one, without a switch.
        carrier = self.carriers.pop() if self.carriers else Carrier()
        carrier.thread = chosen
        chosen.carrier = carrier
        if carrier is not getcurrent():
            carrier.switch()

    def run(self, horizon: float) -> None:
        """Let everybody run until there is nothing more to come, or until the time is up."""
        self.hub = getcurrent()
        self.horizon = horizon
        self.over = False
        self.dispatch(None)

    def finish(self) -> None:
        """End every thread that is still somewhere, so that its carrier can be used again."""
        self.over = True
        for process in self.processes:
            for thread in list(process.threads):
                carrier = thread.carrier
                if carrier is None or thread.finished:
                    continue
                while carrier.thread is thread:
                    carrier.switch()  # where it waits it sees that all is over; to throw it there costs twice as much
            process.on_exit.clear()
            process.threads.clear()
            process.parked.clear()
        self.current = None


#: Where nothing runs.
NOWHERE = Process("nowhere", 1)
NOWHERE.alive = False
KERNEL = Kernel()
