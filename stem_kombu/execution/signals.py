"""What children, and the process that forks them, do about signals: when to stop is the worker's to say.

A new process starts with SIGINT and SIGTERM blocked, so that neither ends it before its first line of ours. From then on
a handler that does nothing meets them. It is not SIG_IGN: a program that a task starts would inherit that, and
``Popen.terminate()`` would have no effect on it. A handler is reset by ``exec``; a plain fork resets it here.
"""

from __future__ import annotations

import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

#: Ctrl-C, and what systemd sends to each process of a service.
_TO_THE_GROUP = (signal.SIGINT, signal.SIGTERM)
#: What would end a child though it is for its worker. One that is ignored from outside (``nohup``) stays ignored.
_FOR_THE_WORKER = (*_TO_THE_GROUP, signal.SIGHUP, signal.SIGUSR2)


_TIMERS = (signal.ITIMER_REAL, signal.ITIMER_VIRTUAL, signal.ITIMER_PROF)


@contextmanager
def held_back() -> Iterator[None]:
    """Start processes in here: they inherit the mask of this thread. What comes meanwhile another thread takes, or this one
    afterwards."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TO_THE_GROUP)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def leave_signals_to_the_worker() -> None:
    """In the main thread of a child: nothing that is sent to a worker ends it, and no signal is blocked.

    May be called again, after an application has put handlers of its own in the way. SIGUSR1 writes the stacks of all threads.
    """
    for number in _FOR_THE_WORKER:
        if number in _TO_THE_GROUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _take_no_notice)
            signal.siginterrupt(number, False)  # a library's system calls go on
    write_stacks_on_request()
    # Not only what held_back() blocked: a thread of the host that blocks signals may have started this process.
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def restore_in_forks() -> None:
    """In a child, once: what a task forks ends by SIGTERM and SIGINT, as a process of ``multiprocessing`` has to.

    They are blocked meanwhile: one that is sent right after the fork is met by the default, and not by nothing.
    """
    mask = threading.local()

    def before() -> None:
        mask.held = signal.pthread_sigmask(signal.SIG_BLOCK, _FOR_THE_WORKER)

    def in_parent() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.held)

    def in_child() -> None:
        _restore()
        signal.pthread_sigmask(signal.SIG_SETMASK, mask.held)

    os.register_at_fork(before=before, after_in_parent=in_parent, after_in_child=in_child)


def unset_timers() -> list[int]:
    """Those of this process's interval timers that are not set: what a task sets of them is the task's own."""
    return [which for which in _TIMERS if not signal.getitimer(which)[0]]


def stop_timers(timers: Iterable[int]) -> None:
    """Have no alarm that a task has left go off in the next one, which it would fail or end."""
    for which in timers:
        if signal.getitimer(which)[0]:
            signal.setitimer(which, 0.0)


def write_stacks_on_request() -> None:
    """SIGUSR1 writes the stacks of all threads to stderr, also while the main thread is stuck, and the process goes on."""
    if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
        with suppress(OSError, ValueError, RuntimeError, AttributeError):  # no stderr, or one without a descriptor
            faulthandler.register(signal.SIGUSR1, file=sys.stderr, all_threads=True)


def _take_no_notice(_number: int, _frame: FrameType | None) -> None:
    """The signal is for the worker."""


def _restore() -> None:
    for number in _FOR_THE_WORKER:
        if signal.getsignal(number) is _take_no_notice:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
