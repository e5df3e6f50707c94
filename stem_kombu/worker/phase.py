"""The phases of a delivery. They stand alone, as rate limits on a Celery worker need no more of a delivery than this."""

from __future__ import annotations

from enum import Enum


class Phase(str, Enum):
    """Where a delivery is."""

    ARRIVED = "arrived"  # it has just come, and nothing is decided
    HELD = "held"  # waits for its eta, or to be looked at again
    DEFERRED = "deferred"  # waits for a slot of its kind while tasks of another kind are fetched
    RESERVED = "reserved"  # waits for a slot in its executor
    RUNNING = "running"
    STOPPING = "stopping"  # runs, and a stop is requested
    SETTLING = "settling"  # the handler is out, or never went in; the outcome is being recorded
    DONE = "done"  # acknowledged, rejected, given back or left: not held any more

    def __init__(self, _: str) -> None:
        #: Its column; a list is quicker than a mapping, whose keys an enumeration hashes in Python.
        self.place = len(type(self).__members__)
