"""The only source of threads, locks and queues in the rooms that decide about tasks, as :mod:`stem_kombu.clock` is of time:
another scheduler can own them all, and so decide which thread goes on.

The names are Python's own and mean what they mean there.
"""

from __future__ import annotations

from queue import Empty, SimpleQueue
from threading import (
    Condition,
    Event,
    Lock,
    RLock,
    Thread,
    Timer,
    current_thread,
)

__all__ = [
    "Condition",
    "Empty",
    "Event",
    "Lock",
    "RLock",
    "SimpleQueue",
    "Thread",
    "Timer",
    "current_thread",
]
