"""Closing a connection at whose descriptors another thread waits.

They are closed once it has left: a moment later their numbers may be those of another connection, at which it would go on to
wait.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Lock
from typing import Protocol

from stem_kombu import timeouts


class HasDescriptor(Protocol):
    def fileno(self) -> int:
        """-1, or ``OSError``, once it is closed."""


@contextmanager
def ended_wait(held: Lock, places: Sequence[HasDescriptor]) -> Iterator[None]:
    """Within the block the lock is held, which a thread holds while it waits. One that does so finds an end of stream; if it
    does not leave within a second, the block begins all the same."""
    mine = held.acquire(blocking=False)
    if not mine:
        for place in places:
            _end_stream(place)
        mine = held.acquire(timeout=timeouts.CONTROL_WAIT_ENDS)
    try:
        yield
    finally:
        if mine:
            held.release()


def _end_stream(place: HasDescriptor) -> None:
    with suppress(OSError), socket.socket(fileno=os.dup(place.fileno())) as twin:
        twin.shutdown(socket.SHUT_RD)
